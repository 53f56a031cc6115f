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

    /// `max(x, slope x)`.
    pub fn leaky_relu(&mut self, x: Value, slope: f64) -> Value {
        self.node("LeakyRelu", vec![x.0], vec![float("alpha", slope)])
    }

    /// Softmax along one dimension.
    pub fn softmax(&mut self, x: Value, dim: i64) -> Value {
        self.node("Softmax", vec![x.0], vec![int("axis", dim)])
    }

    /// The same values in another shape, row-major; 0 keeps a side.
    pub fn reshape(&mut self, x: Value, shape: &[i64]) -> Value {
        let name = format!("shape_{}", self.graph.initializer.len());
        self.graph.initializer.push(pb::TensorProto {
            dims: vec![shape.len() as i64],
            data_type: pb::tensor_proto::DataType::Int64 as i32,
            name: name.clone(),
            raw_data: shape.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
        self.node("Reshape", vec![x.0, name], Vec::new())
    }

    /// Dimensions in another order.
    pub fn transpose(&mut self, x: Value, order: &[i64]) -> Value {
        self.node("Transpose", vec![x.0], vec![ints("perm", order.to_vec())])
    }

    /// Products of matrices, the last two dimensions.
    pub fn matmul(&mut self, x: Value, y: Value) -> Value {
        self.node("MatMul", vec![x.0, y.0], Vec::new())
    }

    /// Tensors side by side along one dimension.
    pub fn concat(&mut self, parts: &[Value], dim: i64) -> Value {
        self.node("Concat", parts.iter().map(|part| part.0.clone()).collect(), vec![int("axis", dim)])
    }

    fn constant(&mut self, value: f64) -> Result<String, TchError> {
        self.weight(&Tensor::from(value as f32))
    }

    /// `scale x + shift`.
    ///
    /// # Errors
    /// Those of reading the constants.
    pub fn affine(&mut self, x: Value, scale: f64, shift: f64) -> Result<Value, TchError> {
        let scale = self.constant(scale)?;
        let x = self.node("Mul", vec![x.0, scale], Vec::new());
        let shift = self.constant(shift)?;
        Ok(self.node("Add", vec![x.0, shift], Vec::new()))
    }

    /// `x^exponent`.
    ///
    /// # Errors
    /// Those of reading the constant.
    pub fn power(&mut self, x: Value, exponent: f64) -> Result<Value, TchError> {
        let exponent = self.constant(exponent)?;
        Ok(self.node("Pow", vec![x.0, exponent], Vec::new()))
    }

    /// `max(x, least)`.
    ///
    /// # Errors
    /// Those of reading the constant.
    pub fn max_with(&mut self, x: Value, least: f64) -> Result<Value, TchError> {
        let least = self.constant(least)?;
        Ok(self.node("Max", vec![x.0, least], Vec::new()))
    }

    /// `above` where `x > limit`, else `below`.
    ///
    /// # Errors
    /// Those of reading the constant.
    pub fn where_greater(
        &mut self,
        x: Value,
        limit: f64,
        above: Value,
        below: Value,
    ) -> Result<Value, TchError> {
        let limit = self.constant(limit)?;
        let greater = self.node("Greater", vec![x.0, limit], Vec::new());
        Ok(self.node("Where", vec![greater.0, above.0, below.0], Vec::new()))
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
        Ok(self.node("Gemm", inputs, vec![int("transB", 1)]))
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

fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        i: value,
        ..Default::default()
    }
}

fn float(name: &str, value: f64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: pb::attribute_proto::AttributeType::Float as i32,
        f: value as f32,
        ..Default::default()
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
