//! One frame's way: find, track, align, embed, heads.

use std::time::{Duration, Instant};

use semblance_calib::{Heads, HeadsError, argmax, softmax_in_place};
use semblance_face::{
    Aligner, Bundle, BundleError, Detection, Encoder, EncoderError, FindError, Finder, Frame, Tracker,
};
use thiserror::Error;

use crate::prediction::{ExpressionPrediction, Prediction, Probabilities, StageMillis};
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
    /// The finder failed.
    #[error(transparent)]
    Find(#[from] FindError),
}

/// Everything between a frame and its predictions, with every buffer kept from frame to frame.
pub struct Pipeline {
    finder: Box<dyn Finder>,
    tracker: Tracker,
    aligner: Aligner,
    encoder: Encoder,
    heads: Heads,
    detections: Vec<Detection>,
    crop: Vec<u8>,
    embedding: Vec<f32>,
    probabilities: Vec<f32>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("finder", &self.finder.name()).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A pipeline with a bundle's models, warm.
    ///
    /// # Errors
    /// [`PipelineError`], which names the file.
    pub fn new(bundle: &Bundle, finder: Box<dyn Finder>) -> Result<Self, PipelineError> {
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
            finder,
            tracker: Tracker::new(),
            aligner: Aligner::new(manifest.crop, spec.side_px),
            encoder,
            detections: Vec::new(),
            crop: vec![0; side * side * 3],
            embedding: vec![0.0; spec.embedding_size],
            probabilities: vec![0.0; heads.expression().map_or(0, |head| head.labels().len())],
            heads,
        })
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
        mut publish: impl FnMut(&Prediction<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = Instant::now();
        self.finder.find(frame, &mut self.detections).map_err(PipelineError::from)?;
        let tracks = self.tracker.update(frame.t_secs, &self.detections);
        let find = start.elapsed();
        stats.frames += 1;
        stats.frames_with_face += u64::from(!tracks.is_empty());
        stats.record(Stage::Decode, decode);
        stats.record(Stage::Find, find);
        for track in tracks {
            let face_start = Instant::now();
            if !self.aligner.crop_into(frame, &track.bbox, track.landmarks.as_ref(), &mut self.crop) {
                continue;
            }
            self.encoder.embed(&self.crop, &mut self.embedding).map_err(PipelineError::from)?;
            let embed = face_start.elapsed();
            let expression = self.heads.expression().map(|head| {
                head.logits_into(&self.embedding, &mut self.probabilities);
                softmax_in_place(&mut self.probabilities);
                let labels = head.labels();
                ExpressionPrediction {
                    label: &labels[argmax(&self.probabilities)],
                    p: Probabilities { labels, values: &self.probabilities },
                }
            });
            let heads = face_start.elapsed() - embed;
            stats.record(Stage::Embed, embed);
            stats.record(Stage::Heads, heads);
            stats.faces += 1;
            let b = track.bbox;
            publish(&Prediction {
                t: frame.t_secs,
                frame: frame.index,
                track: track.id,
                bbox: [b.x, b.y, b.w, b.h].map(|v| (v * 10.0).round() / 10.0),
                score: track.score,
                expression,
                adapted: false,
                ms: StageMillis {
                    decode: millis(decode),
                    find: millis(find),
                    embed: millis(embed),
                    heads: millis(heads),
                    total: millis(decode + start.elapsed()),
                },
            })?;
        }
        stats.record(Stage::Total, start.elapsed());
        Ok(())
    }
}

/// Milliseconds to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
