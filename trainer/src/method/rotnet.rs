//! RotNet (Gidaris, Singh & Komodakis 2018), FAb-Net's second baseline (Wiles et al. 2018, supplement 2).

use tch::{Kind, Reduction, Tensor, nn, nn::Module};

use super::plateau::{Plateau, PlateauConfig};
use super::{Build, Done, Loss, Objective, View, Views};
use crate::distributed::{DistributedError, Group};
use crate::nets::{Encoder, Phase, Precision};

/// Quarter turns that are told apart.
const TURNS: i64 = 4;

/// An encoder and a linear classifier of how its input was turned.
#[derive(Debug)]
pub struct RotNet {
    encoder: Encoder,
    classifier: nn::Linear,
    plateau: Plateau,
    precision: Precision,
}

impl RotNet {
    /// Builds `encoder.*`, `classifier.*` and `plateau`.
    pub fn new(build: Build<'_>, plateau: PlateauConfig) -> Self {
        let root = build.vs.root();
        let encoder = build.architecture.build(&(&root / "encoder"));
        let classifier =
            nn::linear(&root / "classifier", encoder.embedding_size(), TURNS, Default::default());
        Self { encoder, classifier, plateau: Plateau::new(&root, plateau), precision: build.precision }
    }
}

/// Pictures `[N,3,S,S]` turned by 0, 1, 2 and 3 quarters, one after another: `[4N,3,S,S]`; and by how many each was turned.
pub(super) fn turned(pictures: &Tensor) -> (Tensor, Tensor) {
    let all: Vec<Tensor> = (0..TURNS).map(|turns| pictures.rot90(turns, [2, 3])).collect();
    let count = pictures.size()[0];
    let turns = Tensor::arange(TURNS, (Kind::Int64, pictures.device()));
    (Tensor::cat(&all, 0), turns.repeat_interleave_self_int(count, None::<i64>, None::<i64>))
}

impl Objective for RotNet {
    fn plan(&self) -> Vec<View> {
        vec![View::augmented(0, 0)]
    }

    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let (pictures, turns) = turned(views.first());
        let embeddings = self.encoder.forward(&pictures, Phase::Train(group), self.precision);
        let logits = self.classifier.forward(&embeddings);
        let right = logits.argmax(1, false).eq_tensor(&turns).to_kind(Kind::Float).mean(None::<Kind>);
        let total = logits.cross_entropy_loss(&turns, None::<Tensor>, Reduction::Mean, -100, 0.0);
        Ok(Loss { parts: vec![total.detach()], total, top1: Some(right) })
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn parts(&self, _pass: usize) -> &'static [&'static str] {
        &["cross_entropy"]
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

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
