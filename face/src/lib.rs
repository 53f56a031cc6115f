//! From a picture to faces, aligned crops and embeddings.
//!
//! Everything that training and the edge must compute identically lives here, once: [`Frame`]s, the face
//! [`finder`]s, the [`track`]er, [`align`]ment to a fixed template, the label sets, the [`bundle`] reader and the
//! [`encoder`].

pub mod align;
pub mod bundle;
pub mod encoder;
pub mod finder;
pub mod follow;
pub mod frame;
pub mod geometry;
pub mod labels;
pub mod landmarks;
mod network;
pub mod pose;
pub mod track;

pub use align::{Aligner, CropTemplate};
pub use bundle::{Bundle, BundleError, Manifest};
pub use encoder::{Encoder, EncoderError};
pub use finder::{Detection, FindError, Finder};
pub use follow::{Face, FollowError, FollowOptions, Follower};
pub use frame::{Frame, FrameError};
pub use geometry::{Point, Rect, Similarity};
pub use landmarks::{LandmarkError, Landmarker, Landmarks};
pub use pose::{HeadPose, head_pose};
pub use track::{Track, Tracker};
