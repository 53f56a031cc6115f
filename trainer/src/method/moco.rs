//! MoCo v2 (He et al. 2020; Chen, Fan, Girshick & He 2020), without its shuffled batch normalisation.
//!
//! He et al. (2020, section 3.3) normalise each GPU's part of a batch by itself, and the keys in another order than the
//! queries, so that a query cannot be recognised by the statistics that it shares with its key. Here statistics are over
//! the whole batch of all processes, for queries and for keys each ([`crate::distributed::sync_batch_norm`]), so that a run
//! does not depend on how many processes share it. What a picture adds to the statistics of a whole batch is little, but it
//! is not nothing: top-1 may be higher than with the shuffle for the same encoder.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn, no_grad};

use super::momentum::Follower;
use super::simclr::projection_head;
use super::{Build, Contrast, Denominator, Done, Loss, Objective, Projection, Views};
use crate::distributed::{DistributedError, Group};
use crate::nets::{Encoder, Mlp, Phase, Precision};
use crate::ntxent::{contrast, unit_rows};

/// Queue and momentum; the defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MocoConfig {
    /// Keys of earlier steps that repel. It should be well below the number of training pictures, or a picture meets
    /// itself among its negatives.
    pub queue: i64,
    /// Momentum of the key encoder.
    pub momentum: f64,
}

impl Default for MocoConfig {
    fn default() -> Self {
        Self { queue: 65_536, momentum: 0.999 }
    }
}

/// Query encoder and head, their slowly moving copies, and a queue of keys.
#[derive(Debug)]
pub struct Moco {
    encoder: Encoder,
    head: Mlp,
    key_encoder: Encoder,
    key_head: Mlp,
    keys: Follower,
    queue: Queue,
    settings: Projection,
    momentum: f64,
    precision: Precision,
}

impl Moco {
    /// Builds `encoder.*`, `projection.*`, `key.encoder.*`, `key.projection.*`, `queue` and `place`. The queue starts
    /// with random keys, as the authors have it.
    pub fn new(
        Build { vs, architecture, precision, .. }: Build<'_>,
        settings: Projection,
        config: MocoConfig,
    ) -> Self {
        let root = vs.root();
        let encoder = architecture.build(&(&root / "encoder"));
        let embedding = encoder.embedding_size();
        let head = projection_head(&(&root / "projection"), embedding, settings);
        let key_encoder = architecture.build(&(&root / "key" / "encoder"));
        let key_head = projection_head(&(&root / "key" / "projection"), embedding, settings);
        let mut encoder_keys = Follower::new(vs, "encoder.", "key.encoder.");
        encoder_keys.join(Follower::new(vs, "projection.", "key.projection."));
        let queue = Queue::new(&root, config.queue, settings.out);
        Self {
            encoder,
            head,
            key_encoder,
            key_head,
            keys: encoder_keys,
            queue,
            settings,
            momentum: config.momentum,
            precision,
        }
    }

    /// Keys of the second views, `[N,out]`, rows of length 1, without gradient.
    pub(super) fn keys(&self, views: &Views, group: &Group) -> Tensor {
        no_grad(|| {
            let embeddings = self.key_encoder.forward(views.second(), Phase::Train(group), self.precision);
            unit_rows(&self.key_head.forward(&embeddings, Phase::Train(group)))
        })
    }

    /// Queries of the first views, `[N,out]`, rows of length 1.
    pub(super) fn queries(&self, views: &Views, group: &Group) -> Tensor {
        let embeddings = self.encoder.forward(views.first(), Phase::Train(group), self.precision);
        unit_rows(&self.head.forward(&embeddings, Phase::Train(group)))
    }

    /// The loss of the first views as queries, given the keys of the second (He et al. 2020, equation 1).
    pub(super) fn contrast_with(&self, views: &Views, keys: &Tensor, group: &Group) -> Contrast {
        let queries = self.queries(views, group);
        let positive = (&queries * keys).sum_dim_intlist([1].as_slice(), true, None);
        let negatives = queries.matmul(&self.queue.keys().tr());
        let over = |similarity: Tensor| similarity / self.settings.temperature;
        contrast(&over(positive), &over(negatives), Denominator::WithPositive)
    }
}

/// Keys of earlier steps, the oldest of which make room for new ones.
#[derive(Debug)]
pub(super) struct Queue {
    /// `[length,out]`, rows of length 1; the oldest is at `place`.
    keys: Tensor,
    /// `[1]`: a number, kept as a tensor so that checkpoints hold it.
    place: Tensor,
    /// Keys of all processes of this step, which join the queue when it ends.
    fresh: Option<Tensor>,
}

impl Queue {
    /// `length` random keys of `out` values, under `queue` and `place`.
    pub(super) fn new(path: &nn::Path<'_>, length: i64, out: i64) -> Self {
        let mut keys = path.zeros_no_train("queue", &[length, out]);
        let random = Tensor::randn([length, out], (Kind::Float, path.device()));
        no_grad(|| keys.copy_(&unit_rows(&random)));
        Self { keys, place: path.zeros_no_train("place", &[1]), fresh: None }
    }

    /// All keys.
    pub(super) fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// Keeps this process's keys, and those of the others, until the step ends.
    pub(super) fn collect(&mut self, keys: &Tensor, group: &Group) -> Result<(), DistributedError> {
        let keys = group.all_gather(keys)?;
        self.fresh = Some(match self.fresh.take() {
            Some(earlier) => Tensor::cat(&[earlier, keys], 0),
            None => keys,
        });
        Ok(())
    }

    /// Puts what was collected in the place of the oldest.
    pub(super) fn turn(&mut self) {
        let Some(fresh) = self.fresh.take() else { return };
        let length = self.keys.size()[0];
        let start = self.place.double_value(&[0]) as i64;
        let count = fresh.size()[0].min(length);
        let rows = (Tensor::arange(count, (Kind::Int64, self.keys.device())) + start).remainder(length);
        no_grad(|| {
            let _ = self.keys.index_copy_(0, &rows, &fresh.narrow(0, 0, count).to_kind(self.keys.kind()));
            let _ = self.place.fill_(((start + count) % length) as f64);
        });
    }
}

impl Objective for Moco {
    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let keys = self.keys(views, group);
        let contrast = self.contrast_with(views, &keys, group);
        self.queue.collect(&keys, group)?;
        Ok(contrast.into())
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn after_step(&mut self, _done: &Done<'_>) {
        self.keys.follow(self.momentum);
        self.queue.turn();
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
