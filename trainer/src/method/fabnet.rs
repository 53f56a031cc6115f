//! FAb-Net (Wiles, Koepke & Zisserman 2018): a target frame is put together from source frames of the same video. Decoders see
//! the embeddings of source and target alone, and say where in the source each pixel is to be looked for, and how much the
//! source is to be trusted there.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use super::decoder::{Decoder, l1_each, warp};
use super::plateau::{Plateau, PlateauConfig};
use super::{Build, Done, Loss, Objective, Shown, Unit, View, Views};
use crate::distributed::{DistributedError, Group};
use crate::nets::{Encoder, Phase, Precision};

/// Channels of the decoders but for the last layer, for 256 px (supplement 1.1).
pub(super) const DECODER_WIDTHS: [i64; 7] = [256, 256, 256, 256, 128, 64, 32];

/// Which of a batch is learnt from: those whose loss, sorted, lies in a band, which moves towards hard ones where the loss no
/// longer falls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Curriculum {
    /// Whether there is one.
    pub on: bool,
    /// Width of the band, which begins at the easiest, as a share of the batch.
    pub width: f64,
    /// By how much it moves.
    pub shift: f64,
    /// It stays once its upper end has reached this; from there on the learning rate falls instead.
    pub until: f64,
}

impl Default for Curriculum {
    fn default() -> Self {
        Self { on: true, width: 0.5, shift: 0.1, until: 0.85 }
    }
}

/// Settings of FAb-Net.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FabNetConfig {
    /// Source frames of each target.
    pub sources: usize,
    /// The curriculum.
    pub curriculum: Curriculum,
}

impl Default for FabNetConfig {
    fn default() -> Self {
        Self { sources: 1, curriculum: Curriculum::default() }
    }
}

/// Encoder, the decoder of flows and that of confidences.
#[derive(Debug)]
pub struct FabNet {
    encoder: Encoder,
    sampler: Decoder,
    /// Where there are several sources.
    confidence: Option<Decoder>,
    plateau: Plateau,
    /// `[1]`: where the curriculum's band begins, as checkpoints hold it; and the same, read once.
    band: Tensor,
    low: f64,
    unit: Unit,
    config: FabNetConfig,
    precision: Precision,
}

/// A target put together.
#[derive(Debug)]
pub struct Assembled {
    /// Targets `[N,3,S,S]` in `[0,1]`.
    pub target: Tensor,
    /// Sources, as many `[N,3,S,S]` as there are.
    pub sources: Vec<Tensor>,
    /// What the sources gave, `[N,3,S,S]`.
    pub reconstruction: Tensor,
    /// Each source's share in every pixel, `[N,1,S,S]`; they sum to 1.
    pub shares: Vec<Tensor>,
}

impl FabNet {
    /// What [`Objective::show`] calls the frame that is to be put together,
    pub const TARGET: &'static str = "target";
    /// that which was,
    pub const RECONSTRUCTION: &'static str = "from sources";
    /// and, before their numbers, those that it is put together from.
    pub const SOURCE: &'static str = "source";

    /// Builds `encoder.*`, `sampler.*`, `confidence.*` where there are several sources, `plateau` and `band`.
    pub fn new(build: Build<'_>, config: FabNetConfig, plateau: PlateauConfig) -> Self {
        let root = build.vs.root();
        let encoder = build.architecture.build(&(&root / "encoder"));
        let decoder = |name: &str, out: i64| {
            let widths: Vec<i64> = DECODER_WIDTHS.into_iter().chain([out]).collect();
            let joint = 2 * encoder.embedding_size();
            Decoder::new(&(&root / name), joint, &widths, build.architecture.side_px, build.precision)
        };
        let sampler = decoder("sampler", 2);
        let confidence = (config.sources > 1).then(|| decoder("confidence", 1));
        Self {
            plateau: Plateau::new(&root, plateau),
            band: root.zeros_no_train("band", &[1]),
            low: 0.0,
            unit: build.unit(),
            precision: build.precision,
            encoder,
            sampler,
            confidence,
            config,
        }
    }

    /// Puts targets, the first views, together from sources, the others.
    pub fn assemble(&self, views: &[Tensor], phase: Phase<'_>) -> Assembled {
        let embeddings = self.encoder.forward(&Tensor::cat(views, 0), phase, self.precision);
        let embeddings = embeddings.chunk(views.len() as i64, 0);
        let pictures: Vec<Tensor> = views.iter().map(|view| self.unit.of(view)).collect();
        let joint = |source: &Tensor| Tensor::cat(&[source, &embeddings[0]], 1);
        let joints: Vec<Tensor> = embeddings[1..].iter().map(joint).collect();
        let warped =
            |(joint, source): (&Tensor, &Tensor)| warp(source, &self.sampler.forward(joint, phase), true);
        let warped: Vec<Tensor> = joints.iter().zip(&pictures[1..]).map(warped).collect();
        let shares = match &self.confidence {
            // sum(img exp(conf)) / sum exp(conf)
            Some(confidence) => {
                let maps: Vec<Tensor> = joints.iter().map(|joint| confidence.forward(joint, phase)).collect();
                Tensor::stack(&maps, 0).softmax(0, None::<Kind>).unbind(0)
            }
            None => vec![warped[0].narrow(1, 0, 1).ones_like()],
        };
        let weighted: Vec<Tensor> =
            warped.iter().zip(&shares).map(|(w, share)| w * share.to_kind(w.kind())).collect();
        let reconstruction = Tensor::stack(&weighted, 0).sum_dim_intlist([0].as_slice(), false, None);
        let mut pictures = pictures.into_iter();
        let target = pictures.next().unwrap_or_else(|| reconstruction.shallow_clone());
        Assembled { target, sources: pictures.collect(), reconstruction, shares }
    }

    /// The mean of those of `losses` `[N]` that the curriculum has learn.
    fn of_band(&self, losses: &Tensor) -> Tensor {
        let Curriculum { on, width, .. } = self.config.curriculum;
        if !on {
            return losses.mean(None::<Kind>);
        }
        let (start, length) = band(losses.size()[0], self.low, width);
        losses.sort(0, false).0.narrow(0, start, length).mean(None::<Kind>)
    }
}

/// First of a band of `count` sorted losses that begins at this share, and how many are in it: at least one.
pub(super) fn band(count: i64, low: f64, width: f64) -> (i64, i64) {
    // What is stored in 32 bits falls short of the next whole number by less than this.
    const SLACK: f64 = 1e-4;
    let place = |share: f64| ((share * count as f64 + SLACK) as i64).clamp(0, count);
    let start = place(low).min(count - 1);
    (start, (place(low + width) - start).max(1))
}

impl Objective for FabNet {
    fn plan(&self) -> Vec<View> {
        (0..=self.config.sources).map(|frame| View::augmented(frame, frame as u64)).collect()
    }

    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let Assembled { target, sources, reconstruction, .. } =
            self.assemble(&views.views, Phase::Train(group));
        let losses = l1_each(&reconstruction, &target);
        let copies: Vec<Tensor> = sources.iter().map(|source| l1_each(source, &target)).collect();
        let copy = Tensor::stack(&copies, 0).mean(None::<Kind>);
        let parts = vec![losses.detach().mean(None::<Kind>), copy, self.band.get(0).copy()];
        Ok(Loss { total: self.of_band(&losses), top1: None, parts })
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn parts(&self, _pass: usize) -> &'static [&'static str] {
        &["reconstruction", "copying_the_source", "curriculum_begins"]
    }

    fn after_step(&mut self, done: &Done<'_>) {
        self.plateau.add(&done.parts.get(0));
        if !(done.epoch_done && self.plateau.end_of_epoch()) {
            return;
        }
        let Curriculum { on, width, shift, until } = self.config.curriculum;
        if on && self.low + width < until {
            // As a checkpoint holds it.
            self.low = f64::from((self.low + shift).min(1.0 - width) as f32);
            no_grad(|| {
                let _ = self.band.fill_(self.low);
            });
            self.plateau.forget();
        } else {
            self.plateau.lower();
        }
    }

    fn lr_factor(&self) -> f64 {
        self.plateau.rate()
    }

    fn restored(&mut self) {
        self.plateau.restored();
        self.low = self.band.double_value(&[0]);
    }

    fn show(&self, frames: &[Tensor]) -> Vec<Shown> {
        let Assembled { target, sources, reconstruction, shares } = self.assemble(frames, Phase::Eval);
        let mut shown =
            vec![Shown::new(Self::TARGET, &target), Shown::new(Self::RECONSTRUCTION, &reconstruction)];
        for (number, (source, share)) in (1..).zip(sources.iter().zip(&shares)) {
            shown.push(Shown::new(format!("{} {number}", Self::SOURCE), source));
            if shares.len() > 1 {
                shown.push(Shown::new(format!("confidence {number}"), share));
            }
        }
        shown
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
