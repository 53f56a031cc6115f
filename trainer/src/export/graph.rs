//! Writes ONNX graphs through the protobuf types of tract.

use prost::Message;
use tch::{TchError, Tensor};
use tract_onnx::pb;

use crate::checkpoint::floats;

/// ONNX's operator set; every operator written here has kept its meaning since.
const OPSET: i64 = 13;
const IR_VERSION: i64 = 8;
const PRODUCER: &str = "semblance-trainer";
/// The input of every graph.
pub const INPUT: &str = "crops";
/// The output of every encoder.
pub const OUTPUT: &str = "embedding";

/// The name of a tensor in a graph under way.
#[derive(Clone, Debug)]
pub struct Value(String);

/// An ONNX graph under way.
#[derive(Debug, Default)]
pub struct GraphWriter {
    graph: pb::GraphProto,
}

impl GraphWriter {
    /// A graph with one input, `[N,3,side,side]` in f32 with N symbolic; and that input.
    pub fn new(name: &str, side_px: u32) -> (Self, Value) {
        let side = Some(i64::from(side_px));
        let graph = pb::GraphProto {
            name: name.to_owned(),
            input: vec![value_info(INPUT, &[None, Some(3), side, side])],
            ..Default::default()
        };
        (Self { graph }, Value(INPUT.to_owned()))
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

    /// `[N,C,H,W] -> [N,C]`, the mean over positions.
    pub fn global_average_pool(&mut self, x: Value) -> Value {
        let pooled = self.node("GlobalAveragePool", vec![x.0], Vec::new());
        self.node("Flatten", vec![pooled.0], Vec::new())
    }

    /// The model's bytes; `y`, `[N,size]`, becomes the output [`OUTPUT`].
    pub fn finish(mut self, y: Value, size: i64) -> Vec<u8> {
        for name in self.graph.node.iter_mut().flat_map(|n| n.output.iter_mut().chain(&mut n.input)) {
            if *name == y.0 {
                OUTPUT.clone_into(name);
            }
        }
        self.graph.output = vec![value_info(OUTPUT, &[None, Some(size)])];
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

/// A named f32 tensor; `None` is the symbolic batch `N`.
fn value_info(name: &str, dims: &[Option<i64>]) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |size: &Option<i64>| Dimension {
        value: Some(match size {
            Some(size) => Value::DimValue(*size),
            None => Value::DimParam("N".to_owned()),
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
