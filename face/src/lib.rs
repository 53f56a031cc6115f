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
pub mod url;
pub mod video;

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
pub use video::{VideoError, VideoNext, VideoReader};

/// An error and its causes in one line; a cause that the text before it already tells is not told again.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "no\nsuch file");
        let error = crate::BundleError::Io { path: PathBuf::from("models"), source };
        assert_eq!(crate::describe(&error), "models: no such file");
    }
}
