//! Procedural, fully labelled face video: a software renderer of a true 3-D head.
//!
//! A face is an [`Identity`] (more than fifty parameters of skull, features, skin, hair and what is worn) in a
//! [`FaceState`] (18 action units of the Facial Action Coding System on both sides, head pose, gaze), drawn by a
//! [`Renderer`] under some light, before some background, through some camera. A [`ClipSource`] lets expressions come
//! and go over time and gives every frame with its [`Labels`]: expression, valence and arousal, action units, pose, 68
//! landmarks and the face box, all exact, since they are what the picture was drawn from.
//!
//! ```
//! use semblance_synth::{ClipSource, RenderOptions};
//!
//! let mut clip = ClipSource::new(7, 42, RenderOptions::crop(96))?;
//! let (frame, labels) = clip.next_frame()?;
//! assert_eq!((frame.width(), frame.height()), (96, 96));
//! assert!(labels.valence.abs() <= 1.0);
//! # Ok::<(), semblance_synth::SynthError>(())
//! ```
//!
//! # Conventions
//!
//! - **Sides** are the picture's: the left eye is the one on the picture's left (the person's right).
//! - **Head pose** in degrees: yaw is positive where the face looks to the picture's right, pitch where it looks up,
//!   roll where the head is tilted clockwise in the picture. The head is pitched first, then turned, then rolled.
//! - **Pixels** are as in [`semblance_face::geometry`]: y downwards, centres at half-integers.
//! - **Landmarks** are in iBUG order. Jaw points on the far side lie on the visible outline.
//!
//! # The same on every machine
//!
//! Random numbers come from ChaCha8 by seed, and everything is computed from operations that IEEE 754 fixes to the last
//! bit (see `math`): a seed gives the same labels and the same pixels everywhere.

mod action_units;
mod background;
mod camera;
mod clip;
pub mod draw;
mod dynamics;
mod head;
mod identity;
mod landmarks;
mod light;
mod math;
mod mesh;
mod occluder;
mod parts;
mod picture;
mod random;
mod raster;
mod render;
mod rig;
mod shade;
mod skin;

pub use action_units::{Intensities, N as ACTION_UNIT_COUNT, prototype, valence_arousal};
pub use camera::Camera;
pub use clip::{ClipSource, Framing, Labels, RenderOptions};
pub use dynamics::{PersonalStyle, SHOWN_FROM};
pub use identity::{FacialHair, Glasses, HairStyle, Headwear, Identity};
pub use render::{Placement, Rendered, Renderer, empty_scene};
pub use rig::{FaceState, Gaze, HeadPose};

use thiserror::Error;

/// Why a face cannot be drawn as asked.
#[derive(Debug, Error)]
pub enum SynthError {
    /// The picture is too small or too large.
    #[error("cannot draw a picture of {width}x{height} pixels: give 16 to {max} a side", max = semblance_face::Frame::MAX_SIDE)]
    Size {
        /// Width asked for, in pixels.
        width: u32,
        /// Height asked for, in pixels.
        height: u32,
    },
    /// An option is out of range.
    #[error("option {name} is {value}: give a value {range}")]
    Option {
        /// Its name in [`RenderOptions`].
        name: &'static str,
        /// The value given.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// A face's state or place cannot be drawn.
    #[error("cannot draw a face with {value} among its {place}")]
    State {
        /// The value given.
        value: f32,
        /// Where it stands.
        place: &'static str,
    },
    /// A clip has no such moment.
    #[error("a clip has no frame at {t_secs} s: give a time from 0 to 32,000,000 s")]
    Time {
        /// The time asked for.
        t_secs: f64,
    },
    /// The frame could not be made.
    #[error(transparent)]
    Frame(#[from] semblance_face::FrameError),
}
