//! Finding faces in a picture.

mod conv;
mod seeta;

use thiserror::Error;

use crate::{Frame, Point, Rect};

pub use conv::{CELL_VALUES, ConvFinder, STRIDES};
pub use seeta::SeetaFinder;

/// A face that a finder saw in one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Its box in pixels of the picture.
    pub bbox: Rect,
    /// How sure the finder is, in `[0, 1]`.
    pub score: f32,
    /// Left eye, right eye, nose tip, left and right corner of the mouth, left and right as seen in the picture, where
    /// the finder gives them.
    pub landmarks: Option<[Point; 5]>,
}

/// Why a finder gave no answer.
#[derive(Debug, Error)]
pub enum FindError {
    /// Its model cannot be read.
    #[error("the finder's model cannot be read: {0}")]
    Model(String),
    /// The picture could not be brought to the finder's size.
    #[error("the picture could not be resized for the finder: {0}")]
    Resize(String),
}

/// Finds faces.
pub trait Finder {
    /// Replaces the content of `out` by the faces in `frame`, best first.
    ///
    /// # Errors
    /// [`FindError`]; a picture without faces is no error.
    fn find(&mut self, frame: &Frame, out: &mut Vec<Detection>) -> Result<(), FindError>;

    /// Its name, as on the command line.
    fn name(&self) -> &'static str;
}
