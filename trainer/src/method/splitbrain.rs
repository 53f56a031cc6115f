//! Split-brain autoencoders (Zhang, Isola & Efros 2017), FAb-Net's third baseline (Wiles et al. 2018, supplement 2): one half
//! of the encoder sees lightness and gives colour, the other sees colour and gives lightness.
//!
//! The loss is the squared difference in Lab, the paper's regression; its classification of binned values is not built.

use tch::Kind;

use super::decoder::Decoder;
use super::fabnet::DECODER_WIDTHS;
use super::plateau::{Plateau, PlateauConfig};
use super::{Build, Done, Loss, Objective, Unit, View, Views};
use crate::distributed::{DistributedError, Group};
use crate::nets::{Encoder, Phase, Precision, scaled_lab};

/// The two halves and a decoder each.
#[derive(Debug)]
pub struct SplitBrain {
    encoder: Encoder,
    to_colour: Decoder,
    to_lightness: Decoder,
    plateau: Plateau,
    unit: Unit,
    precision: Precision,
}

impl SplitBrain {
    /// Builds `encoder.*`, which is to be [`crate::nets::Backbone::SplitBrain`], `to_colour.*`, `to_lightness.*` and `plateau`.
    pub fn new(build: Build<'_>, plateau: PlateauConfig) -> Self {
        let root = build.vs.root();
        let encoder = build.architecture.build(&(&root / "encoder"));
        let decoder = |name: &str, out: i64| {
            let widths: Vec<i64> = DECODER_WIDTHS.into_iter().map(|width| width / 2).chain([out]).collect();
            let path = &root / name;
            let half = encoder.embedding_size() / 2;
            Decoder::new(&path, half, &widths, build.architecture.side_px, build.precision)
        };
        let (to_colour, to_lightness) = (decoder("to_colour", 2), decoder("to_lightness", 1));
        let plateau = Plateau::new(&root, plateau);
        Self { encoder, to_colour, to_lightness, plateau, unit: build.unit(), precision: build.precision }
    }
}

impl Objective for SplitBrain {
    fn plan(&self) -> Vec<View> {
        vec![View::augmented(0, 0)]
    }

    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let phase = Phase::Train(group);
        let codes = self.encoder.forward(views.first(), phase, self.precision);
        let halves = codes.chunk(2, 1);
        let lab = scaled_lab(&self.unit.of(views.first()));
        let error = |decoder: &Decoder, code, first, channels| {
            let target = lab.narrow(1, first, channels);
            (decoder.forward(code, phase) - target).square().mean(None::<Kind>)
        };
        let colour = error(&self.to_colour, &halves[0], 1, 2);
        let lightness = error(&self.to_lightness, &halves[1], 0, 1);
        Ok(Loss { parts: vec![colour.detach(), lightness.detach()], total: colour + lightness, top1: None })
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn parts(&self, _pass: usize) -> &'static [&'static str] {
        &["colour", "lightness"]
    }

    fn after_step(&mut self, done: &Done<'_>) {
        self.plateau.follow(&done.parts.sum(None::<Kind>), done);
    }

    fn lr_factor(&self) -> f64 {
        self.plateau.rate()
    }

    fn restored(&mut self) {
        self.plateau.restored();
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
