//! CLP (Li & Shan): temporally contrastive learning within a video, and cross-identity reconstruction between videos.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn, no_grad};

use super::moco::{MocoConfig, Queue};
use super::momentum::Follower;
use super::{Build, Contrast, Denominator, Done, Loss, Objective, View, Views};
use crate::data::SequenceConfig;
use crate::distributed::{DistributedError, Group};
use crate::nets::{Encoder, Mlp, Phase, Precision};
use crate::ntxent::{contrast, unit_rows};

/// What the j-th triplet of a sequence counts, whose positive is the j-th frame (table IV). As equation 1 is printed, the anchor is the
/// first frame and sums begin with j = 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TripletWeight {
    /// `1 / sqrt(j)`.
    #[default]
    InverseRoot,
    /// `exp(-j)`.
    Exponential,
    /// `1 / j`.
    Inverse,
    /// 1.
    One,
}

impl TripletWeight {
    /// Of the triplet whose positive is this frame, counted from 1.
    pub fn of(self, j: f64) -> f64 {
        match self {
            Self::InverseRoot => 1.0 / j.sqrt(),
            Self::Exponential => (-j).exp(),
            Self::Inverse => 1.0 / j,
            Self::One => 1.0,
        }
    }
}

/// Settings of CLP. The paper does not state the temperature: it is MoCo's (He et al. 2020) here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClpConfig {
    /// L_tcl: whether sequences are contrasted within themselves.
    pub temporal: bool,
    /// L_cir: whether frames are reconstructed from other people's.
    pub cross_identity: bool,
    /// Whether sequences are looked at backwards as well.
    pub reversed: bool,
    /// What a triplet counts.
    pub weight: TripletWeight,
    /// By how much the nearer frame is to be nearer, m.
    pub margin: f64,
    /// Weight of L_cir beside L_tcl, beta; alone it counts 1.
    pub beta: f64,
    /// Temperature of L_cir.
    pub temperature: f64,
    /// Share of the memory that frames are reconstructed from, |C| / |M|; the rest repels.
    pub dictionary_share: f64,
    /// Whether all frames of a sequence are augmented alike. The paper does not say; apart, colour and place would tell frames
    /// apart that time does not.
    pub augment_together: bool,
}

impl Default for ClpConfig {
    fn default() -> Self {
        Self {
            temporal: true,
            cross_identity: true,
            reversed: true,
            weight: TripletWeight::InverseRoot,
            margin: 0.03,
            beta: 0.1,
            temperature: 0.07,
            dictionary_share: 0.5,
            augment_together: true,
        }
    }
}

/// Widths of the heads after the embedding.
const HIDDEN: i64 = 256;
const OUT: i64 = 128;

/// Encoder with a head for each loss, a slowly moving copy of it with that for reconstruction, and the memory.
#[derive(Debug)]
pub struct Clp {
    encoder: Encoder,
    temporal_head: Mlp,
    identity_head: Mlp,
    key_encoder: Encoder,
    key_head: Mlp,
    keys: Follower,
    memory: Queue,
    config: ClpConfig,
    sequence: SequenceConfig,
    momentum: f64,
    precision: Precision,
}

impl Clp {
    /// Builds `encoder.*`, `temporal.*`, `identity.*`, `key.encoder.*`, `key.identity.*`, `queue` and `place`; `moco` has the
    /// size of the memory and the momentum of equation 5.
    pub fn new(
        Build { vs, architecture, precision, .. }: Build<'_>,
        config: ClpConfig,
        moco: MocoConfig,
        sequence: SequenceConfig,
    ) -> Self {
        let root = vs.root();
        let encoder = architecture.build(&(&root / "encoder"));
        let head = |path: nn::Path<'_>| Mlp::projection(&path, architecture.embedding_size(), HIDDEN, OUT);
        let (temporal_head, identity_head) = (head(&root / "temporal"), head(&root / "identity"));
        let key_encoder = architecture.build(&(&root / "key" / "encoder"));
        let key_head = head(&root / "key" / "identity");
        let mut keys = Follower::new(vs, "encoder.", "key.encoder.");
        keys.join(Follower::new(vs, "identity.", "key.identity."));
        Self {
            encoder,
            temporal_head,
            identity_head,
            key_encoder,
            key_head,
            keys,
            memory: Queue::new(&root, moco.queue, OUT),
            config,
            sequence,
            momentum: moco.momentum,
            precision,
        }
    }

    /// Keys of the second views of the scattered frames, `[LN,128]`, rows of length 1, without gradient.
    pub(super) fn keys_of(&self, views: &Views, group: &Group) -> Tensor {
        let seconds = Tensor::cat(&views.views[self.sequence.length + self.sequence.scattered..], 0);
        no_grad(|| {
            let embeddings = self.key_encoder.forward(&seconds, Phase::Train(group), self.precision);
            unit_rows(&self.key_head.forward(&embeddings, Phase::Train(group)))
        })
    }

    /// The loss (equation 6), given the keys.
    pub(super) fn loss_with(&self, views: &Views, keys: &Tensor, group: &Group) -> Loss {
        let SequenceConfig { length, scattered, .. } = self.sequence;
        let ClpConfig { temporal, cross_identity, beta, .. } = self.config;
        let phase = Phase::Train(group);
        let seen = Tensor::cat(&views.views[..length + scattered], 0);
        let tuples = views.views[0].size()[0];
        let embeddings = self.encoder.forward(&seen, phase, self.precision);
        let split = length as i64 * tuples;
        let rest = embeddings.size()[0] - split;
        let sequences = unit_rows(&self.temporal_head.forward(&embeddings.narrow(0, 0, split), phase));
        let tcl = temporal_loss(&sequences.view([length as i64, tuples, OUT]), &self.config);
        let queries = self.identity_head.forward(&embeddings.narrow(0, split, rest), phase);
        let (dictionary, negatives) = self.split_memory(views.seed);
        let Contrast { loss: cir, top1 } =
            cross_identity_loss(&queries, keys, &dictionary, &negatives, self.config.temperature);
        let parts = vec![tcl.detach(), cir.detach()];
        let total = match (temporal, cross_identity) {
            (true, true) => tcl + cir * beta,
            (true, false) => tcl,
            (false, _) => cir,
        };
        Loss { total, top1: Some(top1), parts }
    }

    /// The memory, shuffled and split into what is reconstructed from and what repels.
    fn split_memory(&self, seed: u64) -> (Tensor, Tensor) {
        let keys = self.memory.keys();
        let length = keys.size()[0];
        let mut order: Vec<i64> = (0..length).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let shuffled = keys.index_select(0, &Tensor::from_slice(&order).to_device(keys.device()));
        let dictionary = (self.config.dictionary_share * length as f64).round() as i64;
        let dictionary = dictionary.clamp(1, length - 1);
        (shuffled.narrow(0, 0, dictionary), shuffled.narrow(0, dictionary, length - dictionary))
    }
}

/// L_tcl (equation 1 and its reversal) of sequences `[J,N,d]` with rows of length 1, the mean over sequences: from a fixed
/// anchor, each frame is to be nearer than the next one. The brackets of equation 1 are a hinge.
pub(super) fn temporal_loss(sequences: &Tensor, config: &ClpConfig) -> Tensor {
    let length = sequences.size()[0];
    let forward = |sequences: &Tensor| {
        let anchor = sequences.get(0);
        let away = |j: i64| {
            let square = (sequences.get(j) - &anchor).square().sum_dim_intlist([1].as_slice(), false, None);
            // The root has no slope at 0.
            square.clamp_min(1e-12).sqrt()
        };
        let distances: Vec<Tensor> = (1..length).map(away).collect();
        let triplets = distances.windows(2).enumerate().map(|(i, pair)| {
            let hinge = (&pair[0] - &pair[1] + config.margin).relu();
            // The positive of the first triplet is the second frame.
            hinge.mean(None::<Kind>) * config.weight.of(i as f64 + 2.0)
        });
        let zero = Tensor::zeros([], (sequences.kind(), sequences.device()));
        triplets.fold(zero, |sum, triplet| sum + triplet)
    };
    let loss = forward(sequences);
    if config.reversed { loss + forward(&sequences.flip([0])) } else { loss }
}

/// L_cir (equations 2 to 4) of queries `[Q,d]`, their keys `[Q,d]`, the dictionary `[C,d]` and the negatives `[M,d]`, the last
/// three with rows of length 1; and the share of queries whose reconstruction is nearer to its key than to every negative.
pub(super) fn cross_identity_loss(
    queries: &Tensor,
    keys: &Tensor,
    dictionary: &Tensor,
    negatives: &Tensor,
    temperature: f64,
) -> Contrast {
    let similarity = unit_rows(queries).matmul(&dictionary.tr()) / temperature;
    let reconstructed = unit_rows(&similarity.softmax(1, None::<Kind>).matmul(dictionary));
    let positive = (&reconstructed * keys).sum_dim_intlist([1].as_slice(), true, None) / temperature;
    let others = reconstructed.matmul(&negatives.tr()) / temperature;
    contrast(&positive, &others, Denominator::WithPositive)
}

impl Objective for Clp {
    fn plan(&self) -> Vec<View> {
        let SequenceConfig { length, scattered, .. } = self.sequence;
        let together = self.config.augment_together;
        let sequence = (0..length).map(|i| View::augmented(i, if together { 0 } else { i as u64 }));
        let first = length as u64;
        let view = |i: usize, second: u64| View::augmented(length + i, first + 2 * i as u64 + second);
        let queries = (0..scattered).map(|i| view(i, 0));
        let keys = (0..scattered).map(|i| view(i, 1));
        sequence.chain(queries).chain(keys).collect()
    }

    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let keys = self.keys_of(views, group);
        let loss = self.loss_with(views, &keys, group);
        self.memory.collect(&keys, group)?;
        Ok(loss)
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn parts(&self, _pass: usize) -> &'static [&'static str] {
        &["temporal", "cross_identity"]
    }

    fn after_step(&mut self, _done: &Done<'_>) {
        self.keys.follow(self.momentum);
        self.memory.turn();
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
