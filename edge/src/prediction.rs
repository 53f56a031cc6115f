//! The contract of every sink: one JSON object a face a frame.

use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use semblance_calib::{HeadKind, Heads, MAX_LABELS, argmax};
use semblance_face::landmarks::LANDMARKS;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeStruct, Serializer};

/// What predictions of a run can hold, for those who have to know before the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// The bundle's name.
    #[serde(skip)]
    pub bundle: String,
    /// Expressions, in the order of the head; empty where there is none.
    pub expression: Vec<String>,
    /// Whether there are valence and arousal.
    pub valence_arousal: bool,
    /// Action units, in the order of the head; empty where there is none.
    pub au: Vec<String>,
    /// Whether there is a head pose.
    pub pose: bool,
    /// Whether there are landmarks: the bundle finds them and they are wanted.
    pub landmarks: bool,
}

impl Labels {
    /// Takes over what these heads tell.
    pub fn take_from(&mut self, heads: &Heads) {
        let of = |kind| heads.get(kind).map_or_else(Vec::new, |head| head.labels().to_vec());
        self.expression = of(HeadKind::Expression);
        self.valence_arousal = heads.get(HeadKind::ValenceArousal).is_some();
        self.au = of(HeadKind::ActionUnits);
    }
}

/// Everything about one frame, handed to every sink as it is. It holds no pixels.
#[derive(Clone, Debug)]
pub struct FrameReport {
    /// Seconds on the source's own clock.
    pub t: f64,
    /// Number of the frame in its source, from 0.
    pub frame: u64,
    /// Width and height of the frame in pixels.
    pub size: [u32; 2],
    /// When the frame was taken.
    pub taken: Instant,
    /// A prediction a face; empty where none is in view.
    pub faces: Vec<Prediction>,
    /// What the encoder made of each face, `[faces, values]`; empty where nobody asked for it.
    pub embeddings: Vec<f32>,
    /// How bright each face's crop is, from 0 for black to 1 for white; empty where `embeddings` is.
    pub light: Vec<f32>,
}

impl Default for FrameReport {
    fn default() -> Self {
        Self {
            t: 0.0,
            frame: 0,
            size: [0; 2],
            taken: Instant::now(),
            faces: Vec::new(),
            embeddings: Vec::new(),
            light: Vec::new(),
        }
    }
}

/// What is known of one face in one frame. The order of the fields is the order in which they are written.
///
/// What neither bundle nor profile provides is absent. Cloning allocates nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Prediction {
    /// Seconds on the source's own clock.
    pub t: f64,
    /// Number of the frame in its source, from 0.
    pub frame: u64,
    /// The face's number, from 1, the same for as long as the face is in view.
    pub track: u64,
    /// Whose face it is taken to be, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
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
    pub expression: Option<ExpressionPrediction>,
    /// From unpleasant, -1, to pleasant, 1; present where the bundle has a head for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valence: Option<f32>,
    /// From calm, -1, to excited, 1; present where the bundle has a head for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arousal: Option<f32>,
    /// Probability of each action unit, in `[0, 1]`; present where the bundle has a head for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub au: Option<Scores>,
    /// Whether heads adapted to the user were used.
    pub adapted: bool,
    /// The filter that smoothed the values over time, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<&'static str>,
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

/// Probabilities over the expressions, written as the most probable one's `label` and all of them, `p`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpressionPrediction {
    /// Probability of each; they sum to 1.
    pub p: Scores,
}

impl ExpressionPrediction {
    /// The most probable expression.
    pub fn label(&self) -> &str {
        &self.p.labels[argmax(&self.p.values)]
    }
}

impl Serialize for ExpressionPrediction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ExpressionPrediction", 2)?;
        fields.serialize_field("label", self.label())?;
        fields.serialize_field("p", &self.p)?;
        fields.end()
    }
}

/// Names and values, written as one JSON object in the order of the head.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    labels: Arc<[String]>,
    values: ArrayVec<f32, MAX_LABELS>,
}

impl Scores {
    /// A value for each label.
    ///
    /// # Panics
    /// Where there are not as many of both, or more than [`MAX_LABELS`], which no head has.
    pub fn new(labels: Arc<[String]>, values: &[f32]) -> Self {
        assert!(labels.len() == values.len() && values.len() <= MAX_LABELS, "{labels:?}: {values:?}");
        Self { labels, values: values.iter().copied().collect() }
    }

    /// The names.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// A value for each name.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Names and values, in the order of the head.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f32)> {
        self.labels.iter().map(String::as_str).zip(self.values.iter().copied())
    }
}

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.labels.len()))?;
        for (label, value) in self.iter() {
            map.serialize_entry(label, &value)?;
        }
        map.end()
    }
}

/// Milliseconds spent on each stage. `wait`, `decode` and `find` are the frame's; `embed` (with the crop) and `heads` are
/// the face's own; `total` is from the start of the frame's decoding to the end of this face's heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StageMillis {
    /// From when the frame was taken to when it was begun with: how old it was.
    pub wait: f64,
    /// Decoding of the frame.
    pub decode: f64,
    /// Finding and following: the finder, where it ran, and the landmark network.
    pub find: f64,
    /// Cropping and embedding.
    pub embed: f64,
    /// Heads.
    pub heads: f64,
    /// All of it, `wait` aside.
    pub total: f64,
}
