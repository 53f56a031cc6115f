//! Where an encoder looks: Grad-CAM (Selvaraju et al. 2017), as SSLFER's figure 6 has it, and attention maps (Zagoruyko & Komodakis
//! 2017).

use anyhow::Context;
use semblance_calib::LinearHead;
use semblance_face::labels::Expression;
use tch::{Kind, Tensor};

use super::{MEASURED, some_of};
use crate::checkpoint::Checkpoint;
use crate::eval::{ClassWeights, Loaded, checkpoint_head, classes, encoder_features, fit_probe};
use crate::nets::{Encoder, Precision};
use crate::store::{Split, Store};

/// Positions a side that a map has at least, so that there is something to see.
const LEAST_SIDE: i64 = 4;
/// Regularisation of the probe.
const L2: f64 = 1e-3;

/// What Grad-CAM asks for the sources of.
#[derive(Debug)]
pub(super) enum Target {
    /// The logit of an expression, by the run's own head.
    Head(LinearHead),
    /// The same by a linear probe, fitted on frozen embeddings of the store's training split.
    Probe(LinearHead),
    /// Where there are no expressions: how far the embedding lies from the mean `[1,D]` of a split.
    Difference(Tensor),
}

impl Target {
    /// The run's own head where it has one, else a probe where the store has expressions to fit it on.
    ///
    /// # Errors
    /// Names what cannot be read.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        loaded: &Loaded,
        store: &Store,
        split: Split,
    ) -> anyhow::Result<Self> {
        if !checkpoint.meta.labels.is_empty() {
            return Ok(Self::Head(checkpoint_head(checkpoint)?));
        }
        let Ok(classes) = classes(store) else {
            let embeddings = loaded.embed(store, &some_of(store, split, MEASURED))?.into_tensor();
            return Ok(Self::Difference(embeddings.mean_dim([0].as_slice(), true, None)));
        };
        let features = encoder_features(loaded, store, Split::Train, &classes)?;
        Ok(Self::Probe(fit_probe(&features, L2, ClassWeights::Balanced)?))
    }

    /// In words.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Head(_) => "the logit of the run's own head",
            Self::Probe(_) => "the logit of a linear probe",
            Self::Difference(_) => "the distance of the embedding from the split's mean",
        }
    }

    /// Scores of embeddings `[N,D]`, `[N]`: the logit of each picture's expression, or, where it is not known, of the likeliest.
    fn scores(&self, embeddings: &Tensor, truths: &[Option<Expression>]) -> Tensor {
        let head = match self {
            Self::Head(head) | Self::Probe(head) => head,
            Self::Difference(mean) => {
                return (embeddings - mean.to_device(embeddings.device())).square().sum_dim_intlist(
                    [1].as_slice(),
                    false,
                    None,
                );
            }
        };
        let device = embeddings.device();
        let weight = Tensor::from_slice(head.weight()).view([-1, head.dim() as i64]).to_device(device);
        let logits = embeddings.matmul(&weight.tr()) + Tensor::from_slice(head.bias()).to_device(device);
        let known: Vec<i64> = truths
            .iter()
            .map(|truth| truth.and_then(|e| head.row(e.name())).map_or(-1, |r| r as i64))
            .collect();
        let known = Tensor::from_slice(&known).to_device(device);
        let row = logits.argmax(1, false).where_self(&known.lt(0), &known);
        logits.gather(1, &row.unsqueeze(1), false).squeeze_dim(1)
    }
}

/// Two maps of each picture, `[N,1,S,S]` in `[0,1]`, the largest value of each being 1 where not all are 0.
#[derive(Debug)]
pub(super) struct Maps {
    /// Grad-CAM: where the score comes from.
    pub(super) cam: Tensor,
    /// Attention: where the last map is active, the sum over channels of squares.
    pub(super) attention: Tensor,
}

/// The maps of normalised crops `[N,3,S,S]`.
///
/// # Errors
/// Where the encoder has no map of positions.
pub(super) fn maps(
    loaded: &Loaded,
    crops: &Tensor,
    target: &Target,
    truths: &[Option<Expression>],
) -> anyhow::Result<Maps> {
    let (map, layers) = last_map(&loaded.encoder, crops)?;
    let slopes = slopes(&loaded.encoder, layers, &map, |embeddings| target.scores(embeddings, truths));
    let side = crops.size()[2];
    Ok(Maps {
        cam: as_pictures(&grad_cam(&map, &slopes), side),
        attention: as_pictures(&map.square().sum_dim_intlist([1].as_slice(), true, None), side),
    })
}

fn last_map(encoder: &Encoder, crops: &Tensor) -> anyhow::Result<(Tensor, usize)> {
    encoder.last_map(crops, LEAST_SIDE, Precision::F32).with_context(|| {
        let name = encoder.architecture().backbone.to_string();
        format!("{name} has no map of {LEAST_SIDE}x{LEAST_SIDE} positions of pictures of this side")
    })
}

/// The slopes of the scores of what follows from a map, at each of its values.
fn slopes(encoder: &Encoder, layers: usize, map: &Tensor, scores: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let leaf = map.detach().set_requires_grad(true);
    let score = scores(&encoder.after(layers, &leaf, Precision::F32)).sum(Kind::Float);
    Tensor::run_backward(&[&score], &[&leaf], false, false).remove(0)
}

/// `ReLU(sum_k a_k A_k)`, `a_k` being the mean slope of channel `k` (equations 1 and 2), of maps `[N,C,H,W]` and the score's
/// slopes there.
fn grad_cam(map: &Tensor, slopes: &Tensor) -> Tensor {
    let weights = slopes.mean_dim([2, 3].as_slice(), true, None);
    (map * weights).sum_dim_intlist([1].as_slice(), true, None).relu()
}

/// Maps `[N,1,H,W]` that are not negative as large as pictures, the largest value of each being 1.
fn as_pictures(maps: &Tensor, side: i64) -> Tensor {
    let large = maps.upsample_bilinear2d([side, side], false, None, None);
    let most = large.amax([1, 2, 3].as_slice(), true);
    &large / most.clamp_min(f64::from(f32::MIN_POSITIVE))
}

/// A picture `[3,S,S]` under a map `[1,S,S]`, both in `[0,1]`: blue for 0, over green, to red for 1.
pub(super) fn overlay(picture: &Tensor, map: &Tensor) -> Tensor {
    let tone = |centre: f64| (-(map * 4.0 - centre).abs() + 1.5).clamp(0.0, 1.0);
    picture * 0.5 + Tensor::cat(&[tone(3.0), tone(2.0), tone(1.0)], 0) * 0.5
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::checkpoint::floats;
    use crate::nets::Backbone;
    use tch::Device;

    fn head(dim: usize) -> LinearHead {
        let names = vec!["neutral".to_owned(), "happy".to_owned()];
        let weight = (0..2 * dim).map(|i| ((i * 37 % 11) as f32 - 5.0) / 7.0).collect();
        LinearHead::new("expression", names, dim, weight, vec![0.0, 0.5]).unwrap()
    }

    #[test]
    fn before_global_pooling_grad_cam_is_the_class_activation_map() {
        // y = w mean(A), so that a_k = w_k / (H W): the map of Zhou et al. 2016 (section 3 of the Grad-CAM paper).
        let loaded = Loaded::random(Backbone::Edge, 64, 3);
        let crops = Tensor::randn([3, 3, 64, 64], (Kind::Float, loaded.vs.device()));
        let (map, layers) = last_map(&loaded.encoder, &crops).unwrap();
        assert_eq!(map.size(), [3, 256, 4, 4]);
        let head = head(256);
        let happy = Tensor::from_slice(&head.weight()[256..]).to_device(map.device()).view([1, 256, 1, 1]);
        let expected = (&map * happy).sum_dim_intlist([1].as_slice(), true, None).relu();
        let target = Target::Probe(head);
        let truths = [Some(Expression::Happy); 3];
        let ours = maps(&loaded, &crops, &target, &truths).unwrap();
        let difference = (ours.cam - as_pictures(&expected.detach(), 64)).abs().max().double_value(&[]);
        assert!(difference < 1e-4, "{difference}");
        assert_eq!(ours.attention.size(), [3, 1, 64, 64]);
        // What the map gives is what the encoder says.
        let direct = loaded.encoder.forward(&crops, crate::nets::Phase::Eval, Precision::F32);
        let embeddings = loaded.encoder.after(layers, &map, Precision::F32);
        assert!((direct - embeddings).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn slopes_are_those_of_finite_differences() {
        // Flattened maps have slopes of their own at each position.
        let loaded = Loaded::random(Backbone::Pcl, 32, 1);
        // Other tests draw from the generator of first weights: these have to be the same every time.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut drawn = |like: &Tensor, most: f64| {
            let values: Vec<f32> = (0..like.numel()).map(|_| rng.random_range(-1.0..1.0)).collect();
            (Tensor::from_slice(&values) * most).view_as(like).to_device(like.device())
        };
        let kernels = loaded.vs.variables().into_iter().filter(|(_, v)| v.dim() > 1);
        for (_, mut kernel) in kernels.collect::<BTreeMap<_, _>>() {
            let inputs = kernel.numel() / kernel.size()[0] as usize;
            let values = drawn(&kernel, (6.0 / inputs as f64).sqrt());
            tch::no_grad(|| kernel.copy_(&values));
        }
        let crops = drawn(&Tensor::zeros([1, 3, 32, 32], (Kind::Float, loaded.vs.device())), 1.0);
        let encoder = &loaded.encoder;
        let (map, layers) = last_map(encoder, &crops).unwrap();
        assert_eq!(map.size(), [1, 128, 4, 4]);
        let target = Target::Probe(head(encoder.embedding_size() as usize));
        let scores = |z: &Tensor| target.scores(z, &[Some(Expression::Neutral)]);
        let slopes = slopes(encoder, layers, &map, scores);
        const STEP: f64 = 1e-2;
        let mut compared = 0;
        for channel in 0..map.size()[1] {
            let score = |by: f64| {
                let moved = map.copy();
                let mut place = moved.narrow(1, channel, 1).narrow(2, 2, 1).narrow(3, 1, 1);
                let _ = place.g_add_scalar_(by);
                scores(&encoder.after(layers, &moved, Precision::F32)).double_value(&[0])
            };
            let (before, here, after) = (score(-STEP), score(0.0), score(STEP));
            let (left, right) = ((here - before) / STEP, (after - here) / STEP);
            // A leaky ReLU that bends within the step has two slopes.
            if (left - right).abs() > 1e-2 * left.abs().max(0.05) {
                continue;
            }
            let ours = slopes.double_value(&[0, channel, 2, 1]);
            let expected = (left + right) / 2.0;
            assert!(
                (ours - expected).abs() < 2e-2 * expected.abs().max(0.05),
                "{channel}: {ours}, {expected}"
            );
            compared += usize::from(ours != 0.0);
        }
        assert!(compared >= 16, "{compared} of {} slopes are straight", map.size()[1]);
    }

    #[test]
    fn without_a_label_the_likeliest_class_is_asked_for() {
        let head = LinearHead::new(
            "expression",
            vec!["neutral".to_owned(), "happy".to_owned()],
            1,
            vec![1.0, -1.0],
            vec![0.0, 0.0],
        );
        let target = Target::Head(head.unwrap());
        let embeddings = Tensor::from_slice(&[2f32, -3.0, 2.0]).view([3, 1]);
        let truths = [None, None, Some(Expression::Happy)];
        assert_eq!(floats(&target.scores(&embeddings, &truths)).unwrap(), [2.0, 3.0, -2.0]);
        // Of an expression that the head does not have, too.
        assert_eq!(
            floats(&target.scores(&embeddings, &[Some(Expression::Fear); 3])).unwrap(),
            [2.0, 3.0, 2.0]
        );
        let mean = 1.0 / 3.0f32;
        let target = Target::Difference(Tensor::from_slice(&[mean]).view([1, 1]));
        let apart = floats(&target.scores(&embeddings, &truths)).unwrap();
        assert!(apart.iter().zip([2.0, -3.0, 2.0]).all(|(d, z)| (d - (z - mean).powi(2)).abs() < 1e-5));
    }

    #[test]
    fn pictures_are_blue_where_nothing_is_and_red_where_most_is() {
        let black = Tensor::zeros([3, 1, 2], (Kind::Float, Device::Cpu));
        let map = Tensor::from_slice(&[0f32, 1.0]).view([1, 1, 2]);
        assert_eq!(floats(&overlay(&black, &map)).unwrap(), [0.0, 0.25, 0.0, 0.0, 0.25, 0.0]);
    }
}
