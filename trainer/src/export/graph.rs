//! Writes ONNX graphs through the protobuf types of tract.

use prost::Message;
use tch::{TchError, Tensor};
use tract_onnx::pb;

use crate::checkpoint::floats;

/// ONNX's operator set; every operator written here has kept its meaning since.
const OPSET: i64 = 13;
const IR_VERSION: i64 = 8;
const PRODUCER: &str = "semblance-trainer";

/// The name of a tensor in a graph under way.
#[derive(Clone, Debug)]
pub struct Value(String);

/// A side of a graph's input or output.
#[derive(Clone, Copy, Debug)]
pub enum Dim {
    /// Always this.
    Fixed(i64),
    /// Whatever the user of the graph chooses; the same wherever the symbol stands.
    Symbol(&'static str),
}

/// An ONNX graph under way.
#[derive(Debug, Default)]
pub struct GraphWriter {
    graph: pb::GraphProto,
}

impl GraphWriter {
    /// A graph with one input in f32; and that input.
    pub fn new(name: &str, input: &str, dims: &[Dim]) -> (Self, Value) {
        let graph = pb::GraphProto {
            name: name.to_owned(),
            input: vec![value_info(input, dims)],
            ..Default::default()
        };
        (Self { graph }, Value(input.to_owned()))
    }

    fn node(&mut self, op: &str, inputs: Vec<String>, attribute: Vec<pb::AttributeProto>) -> Value {
        let name = format!("{}_{}", op.to_lowercase(), self.graph.node.len());
        self.graph.node.push(pb::NodeProto {
            input: inputs,
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op.to_owned(),
            attribute,
            ..Default::default()
        });
        Value(name)
    }

    fn weight(&mut self, tensor: &Tensor) -> Result<String, TchError> {
        let name = format!("weight_{}", self.graph.initializer.len());
        self.graph.initializer.push(pb::TensorProto {
            dims: tensor.size(),
            data_type: pb::tensor_proto::DataType::Float as i32,
            name: name.clone(),
            raw_data: floats(tensor)?.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
        Ok(name)
    }

    /// A convolution with the kernel `[out,in,k,k]` and the bias `[out]`.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn conv(
        &mut self,
        x: Value,
        kernel: &Tensor,
        bias: &Tensor,
        stride: i64,
        padding: i64,
    ) -> Result<Value, TchError> {
        let sides = kernel.size()[2..].to_vec();
        let inputs = vec![x.0, self.weight(kernel)?, self.weight(bias)?];
        let attributes = vec![
            ints("kernel_shape", sides),
            ints("strides", vec![stride; 2]),
            ints("pads", vec![padding; 4]),
        ];
        Ok(self.node("Conv", inputs, attributes))
    }

    /// `max(x, 0)`.
    pub fn relu(&mut self, x: Value) -> Value {
        self.node("Relu", vec![x.0], Vec::new())
    }

    /// The sum of two tensors of one shape.
    pub fn add(&mut self, x: Value, y: Value) -> Value {
        self.node("Add", vec![x.0, y.0], Vec::new())
    }

    /// Max pooling over squares.
    pub fn max_pool(&mut self, x: Value, kernel: i64, stride: i64, padding: i64) -> Value {
        let attributes = vec![
            ints("kernel_shape", vec![kernel; 2]),
            ints("strides", vec![stride; 2]),
            ints("pads", vec![padding; 4]),
        ];
        self.node("MaxPool", vec![x.0], attributes)
    }

    /// `[N,C,H,W] -> [N,C*H*W]`.
    pub fn flatten(&mut self, x: Value) -> Value {
        self.node("Flatten", vec![x.0], Vec::new())
    }

    /// `x w^T + b` for `[N,in]`, with the weights `[out,in]` and the bias `[out]`.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn linear(&mut self, x: Value, weight: &Tensor, bias: &Tensor) -> Result<Value, TchError> {
        let inputs = vec![x.0, self.weight(weight)?, self.weight(bias)?];
        let transposed = pb::AttributeProto {
            name: "transB".to_owned(),
            r#type: pb::attribute_proto::AttributeType::Int as i32,
            i: 1,
            ..Default::default()
        };
        Ok(self.node("Gemm", inputs, vec![transposed]))
    }

    /// `[N,C,H,W] -> [N,C]`, the mean over positions.
    pub fn global_average_pool(&mut self, x: Value) -> Value {
        let pooled = self.node("GlobalAveragePool", vec![x.0], Vec::new());
        self.flatten(pooled)
    }

    /// The model's bytes; each value becomes an output of that name and shape, in this order.
    pub fn finish(mut self, outputs: &[(&str, Value, &[Dim])]) -> Vec<u8> {
        for (output, value, dims) in outputs {
            for name in self.graph.node.iter_mut().flat_map(|n| n.output.iter_mut().chain(&mut n.input)) {
                if *name == value.0 {
                    (*output).clone_into(name);
                }
            }
            self.graph.output.push(value_info(output, dims));
        }
        pb::ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: PRODUCER.to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            ..Default::default()
        }
        .encode_to_vec()
    }
}

fn ints(name: &str, values: Vec<i64>) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: pb::attribute_proto::AttributeType::Ints as i32,
        ints: values,
        ..Default::default()
    }
}

/// A named f32 tensor.
fn value_info(name: &str, dims: &[Dim]) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |size: &Dim| Dimension {
        value: Some(match size {
            Dim::Fixed(size) => Value::DimValue(*size),
            Dim::Symbol(name) => Value::DimParam((*name).to_owned()),
        }),
        ..Default::default()
    };
    let tensor = pb::type_proto::Tensor {
        elem_type: pb::tensor_proto::DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    pb::ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
