//! A network on tract with its input kept from run to run, on one core.

use std::io::Cursor;
use std::sync::Arc;

use tract_onnx::prelude::{
    DatumExt, Framework, InferenceModelExt, IntoRunnable, TValue, TVec, Tensor, TractError,
    TypedRunnableModel, TypedSimpleState, tvec,
};

/// A network ready to run on one input of a fixed shape.
#[derive(Debug)]
pub(crate) struct Network {
    state: TypedSimpleState,
    input: Arc<Tensor>,
}

impl Network {
    /// Reads an ONNX model of one f32 input and prepares it for `shape`.
    pub(crate) fn load(onnx: &[u8], shape: [usize; 4]) -> Result<Self, TractError> {
        let plan: Arc<TypedRunnableModel> = tract_onnx::onnx()
            .model_for_read(&mut Cursor::new(onnx))?
            .with_input_fact(0, f32::fact(shape).into())?
            .into_optimized()?
            .into_runnable()?;
        Ok(Self { state: plan.spawn()?, input: Arc::new(Tensor::zero::<f32>(&shape)?) })
    }

    /// Runs on an input whose values `fill` sets; they are as the last run left them.
    pub(crate) fn run(&mut self, fill: impl FnOnce(&mut [f32])) -> Result<TVec<TValue>, TractError> {
        fill(Arc::make_mut(&mut self.input).try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
        self.state.run(tvec!(TValue::from_const(Arc::clone(&self.input))))
    }
}

/// tract's errors carry their causes on lines of their own.
pub(crate) fn one_line(error: &TractError) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
