//! One frame's way: find and follow, align, embed, heads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use semblance_calib::{HeadKind, Heads, HeadsError, LinearHead, MAX_LABELS, sigmoid, softmax_in_place};
use semblance_face::{Aligner, Bundle, BundleError, Encoder, EncoderError, FollowError, Follower, head_pose};
use thiserror::Error;

use crate::prediction::{
    ExpressionPrediction, FrameReport, Labels, LandmarkPoints, Pose, Prediction, Scores, StageMillis,
};
use crate::smooth::{OneEuro, Smoother};
use crate::source::Capture;
use crate::stats::{FrameTimes, Stage};
use crate::users::InForce;

/// Why a pipeline could not be built or a frame not be processed.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// The bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle's encoder cannot be used.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// The bundle's heads cannot be read.
    #[error("{file}: {source}")]
    Heads {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: HeadsError,
    },
    /// Heads and encoder do not fit together.
    #[error("{file}: the heads read embeddings of {heads} values, but the encoder gives {encoder}")]
    Embedding {
        /// The heads' file.
        file: String,
        /// What the heads read.
        heads: usize,
        /// What the encoder gives.
        encoder: usize,
    },
    /// The finder or the landmark network failed.
    #[error(transparent)]
    Follow(#[from] FollowError),
}

/// Everything between a frame and its predictions, with every buffer kept from frame to frame.
pub struct Pipeline {
    follower: Follower,
    aligner: Aligner,
    encoder: Encoder,
    in_force: Arc<InForce>,
    crop: Vec<u8>,
    embedding: Vec<f32>,
    landmarks_wanted: bool,
    embeddings_wanted: bool,
    has_landmarks: bool,
    bundle: String,
    smoother: Option<Smoother>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("follower", &self.follower).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A pipeline with a bundle's models, warm.
    ///
    /// # Errors
    /// [`PipelineError`], which names the file.
    pub fn new(bundle: &Bundle, follower: Follower) -> Result<Self, PipelineError> {
        let manifest = bundle.manifest();
        let encoder = Encoder::from_bundle(bundle)?;
        let file = bundle.dir().join(&manifest.heads.file).display().to_string();
        let heads = match Heads::from_safetensors(bundle.heads_safetensors()) {
            Ok(heads) => heads,
            Err(source) => return Err(PipelineError::Heads { file, source }),
        };
        let spec = *encoder.spec();
        if heads.dim() != spec.embedding_size {
            return Err(PipelineError::Embedding { file, heads: heads.dim(), encoder: spec.embedding_size });
        }
        let side = spec.side_px as usize;
        Ok(Self {
            follower,
            landmarks_wanted: false,
            embeddings_wanted: false,
            has_landmarks: bundle.landmarks_onnx().is_some(),
            bundle: manifest.name.clone(),
            smoother: None,
            aligner: Aligner::new(manifest.crop, spec.side_px),
            encoder,
            crop: vec![0; side * side * 3],
            embedding: vec![0.0; spec.embedding_size],
            in_force: Arc::new(InForce::new(heads)),
        })
    }

    /// What it reads faces with: the shipped heads, until it is told of others.
    pub fn in_force(&self) -> &Arc<InForce> {
        &self.in_force
    }

    /// Reads faces with what is in force there, and takes them for the user of there. The heads are over this encoder's
    /// embeddings.
    #[must_use]
    pub fn reading(mut self, in_force: Arc<InForce>) -> Self {
        self.in_force = in_force;
        self
    }

    /// Whether predictions carry the 68 landmarks, where the bundle finds them.
    #[must_use]
    pub fn with_landmarks(mut self, wanted: bool) -> Self {
        self.landmarks_wanted = wanted;
        self
    }

    /// Whether reports carry embeddings, and how bright the faces are.
    #[must_use]
    pub fn with_embeddings(mut self, wanted: bool) -> Self {
        self.embeddings_wanted = wanted;
        self
    }

    /// Smooths what the heads tell over time, where `filter` is some.
    #[must_use]
    pub fn with_smoothing(mut self, filter: Option<OneEuro>) -> Self {
        self.smoother = filter.map(Smoother::new);
        self
    }

    /// What its predictions can hold.
    pub fn labels(&self) -> Labels {
        let mut labels = Labels {
            bundle: self.bundle.clone(),
            pose: self.has_landmarks,
            landmarks: self.has_landmarks && self.landmarks_wanted,
            ..Labels::default()
        };
        labels.take_from(&self.in_force.now().heads);
        labels
    }

    /// Frames from one run of the finder to the next, from the next frame on.
    pub fn set_find_every(&mut self, frames: u32) {
        self.follower.set_find_every(frames);
    }

    /// Processes a frame that is decoded and writes what it shows into `report`, and what it took into `times`, keeping
    /// their allocations. `wait` is how old the frame was when it was begun with, `decode` what it took until it was
    /// decoded.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn process(
        &mut self,
        capture: &Capture,
        [wait, decode]: [Duration; 2],
        times: &mut FrameTimes,
        report: &mut FrameReport,
    ) -> Result<(), PipelineError> {
        let start = Instant::now();
        let frame = &capture.frame;
        let size = [frame.width(), frame.height()];
        (report.t, report.frame, report.size) = (frame.t_secs, frame.index, size);
        report.taken = capture.taken;
        report.faces.clear();
        report.embeddings.clear();
        report.light.clear();
        let reading = self.in_force.now();
        let (faces, spent) = self.follower.update(frame)?;
        let find = start.elapsed();
        times.clear();
        times.record(Stage::Wait, wait);
        times.record(Stage::Decode, decode);
        if let Some(find) = spent.find {
            times.record(Stage::Find, find);
        }
        if !spent.landmarks.is_zero() {
            times.record(Stage::Landmarks, spent.landmarks);
        }
        for face in faces {
            let face_start = Instant::now();
            // A face that was not seen in this frame is taken to be where it was.
            let points = face.seen.as_ref().and_then(|seen| seen.landmarks.as_ref());
            if !self.aligner.crop_into(frame, &face.bbox, points, &mut self.crop) {
                continue;
            }
            let align = face_start.elapsed();
            self.encoder.embed(&self.crop, &mut self.embedding)?;
            let embed = face_start.elapsed() - align;
            let mut told = read_heads(&reading.heads, &self.embedding);
            let mut pose = face
                .landmarks
                .and_then(|found| head_pose(&found.points, size[0], size[1]))
                .map(|p| Pose { yaw: p.yaw_deg, pitch: p.pitch_deg, roll: p.roll_deg });
            if let Some(smoother) = &mut self.smoother {
                smoother.smooth(face.id, frame.t_secs, &mut told, &mut pose);
            }
            let heads = face_start.elapsed() - align - embed;
            times.record(Stage::Align, align);
            times.record(Stage::Embed, embed);
            times.record(Stage::Heads, heads);
            if self.embeddings_wanted {
                report.embeddings.extend_from_slice(&self.embedding);
                report.light.push(brightness(&self.crop));
            }
            let b = face.bbox;
            report.faces.push(Prediction {
                t: frame.t_secs,
                frame: frame.index,
                track: face.id,
                user: reading.user.clone(),
                bbox: [b.x, b.y, b.w, b.h].map(tenth),
                score: face.score,
                pose: pose.map(|p| Pose { yaw: tenth(p.yaw), pitch: tenth(p.pitch), roll: tenth(p.roll) }),
                landmarks: face
                    .landmarks
                    .filter(|_| self.landmarks_wanted)
                    .map(|found| LandmarkPoints(found.points.map(|p| [tenth(p.x), tenth(p.y)]))),
                expression: told.expression,
                valence: told.valence_arousal.map(|[valence, _]| valence),
                arousal: told.valence_arousal.map(|[_, arousal]| arousal),
                au: told.au,
                adapted: reading.adapted,
                smoothing: self.smoother.as_ref().map(|_| OneEuro::NAME),
                truth: capture.truth,
                ms: StageMillis {
                    wait: millis(wait),
                    decode: millis(decode),
                    find: millis(find),
                    embed: millis(align + embed),
                    heads: millis(heads),
                    total: millis(decode + start.elapsed()),
                },
            });
        }
        if let Some(smoother) = &mut self.smoother {
            smoother.forget_before(frame.t_secs);
        }
        times.record(Stage::Total, start.elapsed());
        Ok(())
    }
}

/// What the heads tell of a face.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Probabilities of the expressions.
    pub expression: Option<ExpressionPrediction>,
    /// Valence and arousal, each in `[-1, 1]`.
    pub valence_arousal: Option<[f32; 2]>,
    /// Probabilities of the action units.
    pub au: Option<Scores>,
}

/// What `heads` tell of an embedding of their size.
pub fn read_heads(heads: &Heads, embedding: &[f32]) -> Told {
    let logits = |head: &LinearHead, all: &mut [f32; MAX_LABELS]| {
        let count = head.labels().len();
        head.logits_into(embedding, &mut all[..count]);
        count
    };
    let mut buffer = [0.0; MAX_LABELS];
    let expression = heads.expression().map(|head| {
        let count = logits(head, &mut buffer);
        softmax_in_place(&mut buffer[..count]);
        ExpressionPrediction { p: Scores::new(head.shared_labels(), &buffer[..count]) }
    });
    let valence_arousal = heads.get(HeadKind::ValenceArousal).map(|head| {
        logits(head, &mut buffer);
        [buffer[0].clamp(-1.0, 1.0), buffer[1].clamp(-1.0, 1.0)]
    });
    let au = heads.get(HeadKind::ActionUnits).map(|head| {
        let count = logits(head, &mut buffer);
        buffer[..count].iter_mut().for_each(|v| *v = sigmoid(*v));
        Scores::new(head.shared_labels(), &buffer[..count])
    });
    Told { expression, valence_arousal, au }
}

/// Mean of all channels of all pixels, from 0 to 1.
fn brightness(rgb: &[u8]) -> f32 {
    let sum: u32 = rgb.iter().map(|&v| u32::from(v)).sum();
    sum as f32 / (255.0 * rgb.len().max(1) as f32)
}

/// To a tenth: finer than what is known of a pixel or a degree.
fn tenth(value: f32) -> f32 {
    (value * 10.0).round() / 10.0
}

/// Milliseconds to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
