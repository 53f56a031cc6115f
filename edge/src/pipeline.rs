//! One frame's way: find and follow, align, embed, heads.

use std::time::{Duration, Instant};

use semblance_calib::{Heads, HeadsError, argmax, softmax_in_place};
use semblance_face::{
    Aligner, Bundle, BundleError, Encoder, EncoderError, FollowError, Follower, Frame, head_pose,
};
use thiserror::Error;

use crate::prediction::{ExpressionPrediction, LandmarkPoints, Pose, Prediction, Probabilities, StageMillis};
use crate::stats::{Stage, Stats};

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
    heads: Heads,
    crop: Vec<u8>,
    embedding: Vec<f32>,
    probabilities: Vec<f32>,
    landmarks_wanted: bool,
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
            aligner: Aligner::new(manifest.crop, spec.side_px),
            encoder,
            crop: vec![0; side * side * 3],
            embedding: vec![0.0; spec.embedding_size],
            probabilities: vec![0.0; heads.expression().map_or(0, |head| head.labels().len())],
            heads,
        })
    }

    /// Whether predictions carry the 68 landmarks, where the bundle finds them.
    #[must_use]
    pub fn with_landmarks(mut self, wanted: bool) -> Self {
        self.landmarks_wanted = wanted;
        self
    }

    /// Processes one frame, which took `decode` to decode, and hands each prediction to `publish`.
    ///
    /// # Errors
    /// [`PipelineError`], or what `publish` returns.
    pub fn process<E: From<PipelineError>>(
        &mut self,
        frame: &Frame,
        decode: Duration,
        stats: &mut Stats,
        mut publish: impl FnMut(Prediction<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = Instant::now();
        let (faces, spent) = self.follower.update(frame).map_err(PipelineError::from)?;
        let find = start.elapsed();
        stats.frames += 1;
        stats.frames_with_face += u64::from(!faces.is_empty());
        stats.record(Stage::Decode, decode);
        if let Some(find) = spent.find {
            stats.record(Stage::Find, find);
        }
        if !spent.landmarks.is_zero() {
            stats.record(Stage::Landmarks, spent.landmarks);
        }
        for face in faces {
            let face_start = Instant::now();
            // A face that was not seen in this frame is taken to be where it was.
            let points = face.seen.as_ref().and_then(|seen| seen.landmarks.as_ref());
            if !self.aligner.crop_into(frame, &face.bbox, points, &mut self.crop) {
                continue;
            }
            let align = face_start.elapsed();
            self.encoder.embed(&self.crop, &mut self.embedding).map_err(PipelineError::from)?;
            let embed = face_start.elapsed() - align;
            let expression = self.heads.expression().map(|head| {
                head.logits_into(&self.embedding, &mut self.probabilities);
                softmax_in_place(&mut self.probabilities);
                let labels = head.labels();
                ExpressionPrediction {
                    label: &labels[argmax(&self.probabilities)],
                    p: Probabilities { labels, values: &self.probabilities },
                }
            });
            let heads = face_start.elapsed() - align - embed;
            let size = (frame.width(), frame.height());
            let pose = face.landmarks.and_then(|found| head_pose(&found.points, size.0, size.1));
            stats.record(Stage::Align, align);
            stats.record(Stage::Embed, embed);
            stats.record(Stage::Heads, heads);
            stats.faces += 1;
            let b = face.bbox;
            publish(Prediction {
                t: frame.t_secs,
                frame: frame.index,
                track: face.id,
                bbox: [b.x, b.y, b.w, b.h].map(tenth),
                score: face.score,
                pose: pose.map(|p| Pose {
                    yaw: tenth(p.yaw_deg),
                    pitch: tenth(p.pitch_deg),
                    roll: tenth(p.roll_deg),
                }),
                landmarks: face
                    .landmarks
                    .filter(|_| self.landmarks_wanted)
                    .map(|found| LandmarkPoints(found.points.map(|p| [tenth(p.x), tenth(p.y)]))),
                expression,
                adapted: false,
                truth: None,
                ms: StageMillis {
                    decode: millis(decode),
                    find: millis(find),
                    embed: millis(align + embed),
                    heads: millis(heads),
                    total: millis(decode + start.elapsed()),
                },
            })?;
        }
        stats.record(Stage::Total, start.elapsed());
        Ok(())
    }
}

/// To a tenth: finer than what is known of a pixel or a degree.
fn tenth(value: f32) -> f32 {
    (value * 10.0).round() / 10.0
}

/// Milliseconds to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
