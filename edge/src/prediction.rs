//! The contract of every sink: one JSON object a face a frame.

use semblance_face::landmarks::LANDMARKS;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// What is known of one face in one frame. The order of the fields is the order in which they are written.
///
/// Valence, arousal, action units and user are absent until a bundle or a profile provides them.
#[derive(Debug, Serialize)]
pub struct Prediction<'a> {
    /// Seconds on the source's own clock.
    pub t: f64,
    /// Number of the frame in its source, from 0.
    pub frame: u64,
    /// The face's number, from 1, the same for as long as the face is in view.
    pub track: u64,
    /// `[x, y, width, height]` in pixels of the source.
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
    /// The finder's score, in `[0, 1]`.
    pub score: f32,
    /// Head pose, where the bundle finds landmarks and the face was seen in this frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pose: Option<Pose>,
    /// The 68 landmarks as `[x, y]` in pixels of the source, iBUG order; present where they were asked for and seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub landmarks: Option<LandmarkPoints>,
    /// Present where the bundle has an expression head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<ExpressionPrediction<'a>>,
    /// Whether heads adapted to the user were used.
    pub adapted: bool,
    /// What the face really shows, where the source drew it: `demo` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truth: Option<Truth>,
    /// Where the time went.
    pub ms: StageMillis,
}

/// The labels of a drawn face, in the terms of the prediction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// The expression that the person means to show.
    pub expression: &'static str,
    /// In `[-1, 1]`.
    pub valence: f32,
    /// In `[-1, 1]`.
    pub arousal: f32,
    /// `[x, y, width, height]` in pixels of the source.
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
    /// Head pose.
    pub pose: Pose,
}

/// Head pose in degrees, as [`semblance_face::HeadPose`] defines it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pose {
    /// Positive where the face looks to the picture's right.
    pub yaw: f32,
    /// Positive where it looks up.
    pub pitch: f32,
    /// Positive where the head is tilted clockwise in the picture.
    pub roll: f32,
}

/// 68 landmarks, `[x, y]` each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LandmarkPoints(pub [[f32; 2]; LANDMARKS]);

impl Serialize for LandmarkPoints {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0)
    }
}

/// Probabilities over the expressions.
#[derive(Debug, Serialize)]
pub struct ExpressionPrediction<'a> {
    /// The most probable expression.
    pub label: &'a str,
    /// Probability of each; they sum to 1.
    pub p: Probabilities<'a>,
}

/// Names and values, written as one JSON object in the order of the head.
#[derive(Clone, Copy, Debug)]
pub struct Probabilities<'a> {
    /// The names.
    pub labels: &'a [String],
    /// A value for each.
    pub values: &'a [f32],
}

impl Serialize for Probabilities<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.labels.len()))?;
        for (label, value) in self.labels.iter().zip(self.values) {
            map.serialize_entry(label, value)?;
        }
        map.end()
    }
}

/// Milliseconds spent on each stage. `decode` and `find` are the frame's; `embed` (with the crop) and `heads` are the
/// face's own; `total` is from the start of the frame's decoding to the end of this face's heads.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StageMillis {
    /// Decoding of the frame.
    pub decode: f64,
    /// Finding and following: the finder, where it ran, and the landmark network.
    pub find: f64,
    /// Cropping and embedding.
    pub embed: f64,
    /// Heads.
    pub heads: f64,
    /// All of it.
    pub total: f64,
}
