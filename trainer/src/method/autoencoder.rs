//! An autoencoder, FAb-Net's first baseline (Wiles et al. 2018, supplement 2): the picture from the vector that its encoder
//! gives, by FAb-Net's decoder.

use tch::{Kind, Tensor};

use super::decoder::{Decoder, l1_each};
use super::fabnet::DECODER_WIDTHS;
use super::plateau::{Plateau, PlateauConfig};
use super::{Build, Done, Loss, Objective, Shown, Unit, View, Views};
use crate::distributed::{DistributedError, Group};
use crate::nets::{Encoder, Phase, Precision};

/// Encoder and decoder. The supplement does not name the loss: it is the mean absolute difference, as FAb-Net's.
#[derive(Debug)]
pub struct Autoencoder {
    encoder: Encoder,
    decoder: Decoder,
    plateau: Plateau,
    unit: Unit,
    precision: Precision,
}

impl Autoencoder {
    /// Builds `encoder.*`, `decoder.*` and `plateau`.
    pub fn new(build: Build<'_>, plateau: PlateauConfig) -> Self {
        let root = build.vs.root();
        let encoder = build.architecture.build(&(&root / "encoder"));
        let widths: Vec<i64> = DECODER_WIDTHS.into_iter().chain([3]).collect();
        let decoder = Decoder::new(
            &(&root / "decoder"),
            encoder.embedding_size(),
            &widths,
            build.architecture.side_px,
            build.precision,
        );
        let plateau = Plateau::new(&root, plateau);
        Self { encoder, decoder, plateau, unit: build.unit(), precision: build.precision }
    }

    /// Views again, in `[-1,1]`.
    fn reconstruct(&self, views: &Tensor, phase: Phase<'_>) -> Tensor {
        self.decoder.forward(&self.encoder.forward(views, phase, self.precision), phase)
    }
}

impl Objective for Autoencoder {
    fn plan(&self) -> Vec<View> {
        vec![View::augmented(0, 0)]
    }

    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        // The decoder's tanh reaches from -1 to 1.
        let target = self.unit.of(views.first()) * 2.0 - 1.0;
        let total =
            l1_each(&self.reconstruct(views.first(), Phase::Train(group)), &target).mean(None::<Kind>);
        Ok(Loss { parts: vec![total.detach()], total, top1: None })
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn parts(&self, _pass: usize) -> &'static [&'static str] {
        &["reconstruction"]
    }

    fn after_step(&mut self, done: &Done<'_>) {
        self.plateau.follow(&done.parts.get(0), done);
    }

    fn lr_factor(&self) -> f64 {
        self.plateau.rate()
    }

    fn restored(&mut self) {
        self.plateau.restored();
    }

    fn show(&self, frames: &[Tensor]) -> Vec<Shown> {
        let made = (self.reconstruct(&frames[0], Phase::Eval) + 1.0) / 2.0;
        vec![Shown::new("picture", &self.unit.of(&frames[0])), Shown::new("reconstruction", &made)]
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
