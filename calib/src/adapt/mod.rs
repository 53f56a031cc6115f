//! Adaptation without labels: a face's own neutral place, and a projection that learns from time.

mod budget;
mod correction;
mod neutral;
mod projection;
mod vector;

pub use budget::{Budget, Share, ShareError};
pub use correction::{Correction, CorrectionError, MAX_RANK};
pub use neutral::Neutral;
pub use projection::{Projection, ProjectionConfig, StepReport};
