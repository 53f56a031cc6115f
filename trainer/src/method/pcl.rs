//! PCL (Liu et al. 2023): a picture's code is taken apart into a face and a pose, since a mirrored picture shows the same face in
//! another pose. Each is contrasted by itself.
//!
//! A step has three passes, as its authors' code has it: reconstruction (equation 4), contrast of faces (6) and of poses (5), each with
//! a move of the optimiser of its own; equation 7 has them as one weighted sum. The contrasts are means over all anchors, where the
//! equations add both directions. Their denominators have the positive, as a cross-entropy has it and the authors' code too;
//! equation 5, as printed, sums the negatives alone: `projection.denominator` offers that. Features are centred and scaled before
//! they are held to be orthogonal, of which equation 3 says nothing. Poses are contrasted on whole pictures.
//!
//! In a run of several processes or parts of a batch, reconstruction, what is orthogonal and the contrast of poses are each part's own.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn, nn::Module, no_grad};

use super::decoder::{Decoder, l1_each};
use super::simclr::{projection_head, side_by_side};
use super::views::noise;
use super::{
    Build, Contrast, Denominator, Done, Loss, Objective, Projection, Shown, Treatment, Unit, View, Views,
};
use crate::distributed::{DistributedError, Group};
use crate::nets::{CODE_CHANNELS, Encoder, Layer, Mlp, Phase, Precision, branch, code_side};
use crate::ntxent::{contrast, unit_rows};

/// What is to be orthogonal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Orthogonality {
    /// Face and pose of each picture (equation 3).
    #[default]
    Pictures,
    /// Every value of faces and every value of poses over the batch, as the authors' code has it (the difference loss of
    /// Bousmalis et al. 2016).
    Values,
}

/// What of a picture the two views of a face show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Crops {
    /// Two crops, each in a quadrant of its own, as the authors' code has it.
    #[default]
    Apart,
    /// Two crops as the augmentation draws them: the paper's, with `augment.crop_scale` below 1, which crops the views of poses, too.
    Random,
}

/// Settings of PCL. The switches are the rows of its table 5: without any, it is SimCLR on the code itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PclConfig {
    /// L_dis (equation 2): branches for face and pose, and the decoder that pictures are reconstructed with.
    pub disentangle: bool,
    /// L_orth (equation 3).
    pub orthogonal: bool,
    /// L_pose (equation 5); without, poses are contrasted as faces are.
    pub pose_contrast: bool,
    /// Dynamic weight average (Liu, Johns & Davison 2019) of both contrasts; without, each counts 1.
    pub dynamic_weights: bool,
    /// What is to be orthogonal.
    pub orthogonality: Orthogonality,
    /// What the two views of a face show.
    pub crops: Crops,
    /// Side of crops apart as a share of the picture's, at most a half.
    pub crop_share: f64,
    /// Negatives are mixed with others by shares of Beta(a, a) (the paper's reference 66); 0 for none.
    pub mixing: f64,
    /// Pictures whose poses are contrasted, the first ones of each process's part of a batch; 0 for all, as the paper's equation 5 has
    /// it. The default is ours: every one brings `pose_negatives` further pictures through the encoder.
    pub pose_batch: usize,
    /// Views of each one's mirrored picture that repel, M. The paper does not say how many; the default is ours.
    pub pose_negatives: usize,
    /// Temperature of the dynamic weights.
    pub weight_temperature: f64,
    /// Deviation of noise on the pictures that are reconstructed; the authors' code has 0.4.
    pub input_noise: f64,
}

impl Default for PclConfig {
    fn default() -> Self {
        Self {
            disentangle: true,
            orthogonal: true,
            pose_contrast: true,
            dynamic_weights: true,
            orthogonality: Orthogonality::Pictures,
            crops: Crops::Apart,
            crop_share: 0.4,
            mixing: 1.6,
            pose_batch: 10,
            pose_negatives: 100,
            weight_temperature: 2.0,
            input_noise: 0.0,
        }
    }
}

/// Channels of the decoder after its linear layer, for 64 px.
const DECODER_WIDTHS: [i64; 6] = [256, 256, 256, 256, 128, 3];
const DECODER_CODE: i64 = 512;

/// What exists where face and pose are taken apart.
#[derive(Debug)]
struct Apart {
    face: [Box<dyn Layer>; 2],
    pose: [Box<dyn Layer>; 2],
    pose_head: Mlp,
    to_decoder: nn::Linear,
    decoder: Decoder,
    /// Side of a code as a map.
    side: i64,
}

impl Apart {
    /// Face and pose of codes `[N,D]`.
    fn features(&self, code: &Tensor, phase: Phase<'_>) -> FaceAndPose {
        FaceAndPose {
            face: self.through(&self.face, code, phase),
            pose: self.through(&self.pose, code, phase),
        }
    }

    /// A branch's features `[N,D]` of codes `[N,D]`.
    fn through(&self, branch: &[Box<dyn Layer>; 2], code: &Tensor, phase: Phase<'_>) -> Tensor {
        let map = code.view([-1, CODE_CHANNELS, self.side, self.side]);
        branch.iter().fold(map, |x, layer| layer.forward(&x, phase)).reshape(code.size().as_slice())
    }

    /// Projections of the pose of codes `[N,D]`.
    fn pose_projections(&self, code: &Tensor, phase: Phase<'_>) -> Tensor {
        self.pose_head.forward(&self.through(&self.pose, code, phase), phase)
    }

    /// Pictures `[N,3,S,S]` of faces in poses.
    fn decode(&self, face: &Tensor, pose: &Tensor, phase: Phase<'_>) -> Tensor {
        self.decoder.forward(&self.to_decoder.forward(&unit_rows(&(face + pose))), phase)
    }
}

/// Encoder, branches, decoder and projection heads.
#[derive(Debug)]
pub struct Pcl {
    encoder: Encoder,
    face_head: Mlp,
    apart: Option<Apart>,
    weights: Weights,
    unit: Unit,
    settings: Projection,
    config: PclConfig,
    precision: Precision,
}

/// Face and pose features `[N,D]` each.
#[derive(Debug)]
pub struct FaceAndPose {
    /// What a mirrored picture has as well.
    pub face: Tensor,
    /// What it has otherwise.
    pub pose: Tensor,
}

impl Pcl {
    /// What [`Objective::show`] calls the face put together of both codes...
    pub const RECONSTRUCTION: &'static str = "reconstruction";
    /// ...and that with the pose code of the mirrored picture.
    pub const POSE_FLIPPED: &'static str = "pose flipped";

    /// Builds `encoder.*`, `face.*`, `pose.*`, `face_head.*`, `pose_head.*`, `decoder.*` and `weights`. The encoder is to be
    /// [`crate::nets::Backbone::Pcl`].
    pub fn new(build: Build<'_>, settings: Projection, config: PclConfig) -> Self {
        let root = build.vs.root();
        let encoder = build.architecture.build(&(&root / "encoder"));
        let code = encoder.embedding_size();
        let face_head = projection_head(&(&root / "face_head"), code, settings);
        let side_px = build.architecture.side_px;
        let apart = config.disentangle.then(|| {
            let layers = |name: &str| branch(&(&root / name)).map(|layer| Box::new(layer) as Box<dyn Layer>);
            let decoder = &root / "decoder";
            Apart {
                face: layers("face"),
                pose: layers("pose"),
                pose_head: projection_head(&(&root / "pose_head"), code, settings),
                to_decoder: nn::linear(&decoder / "code", code, DECODER_CODE, Default::default()),
                decoder: Decoder::new(&decoder, DECODER_CODE, &DECODER_WIDTHS, side_px, build.precision),
                side: code_side(side_px),
            }
        });
        Self {
            encoder,
            face_head,
            apart,
            weights: Weights::new(&root, config.weight_temperature),
            unit: build.unit(),
            settings,
            config,
            precision: build.precision,
        }
    }

    fn code(&self, views: &Tensor, phase: Phase<'_>) -> Tensor {
        self.encoder.forward(views, phase, self.precision)
    }

    /// Face and pose of views; `None` where they are not taken apart.
    pub fn face_and_pose(&self, views: &Tensor, phase: Phase<'_>) -> Option<FaceAndPose> {
        Some(self.apart.as_ref()?.features(&self.code(views, phase), phase))
    }

    /// Pictures `[N,3,S,S]` of a face in a pose, where they are taken apart: their features are added and scaled to length 1
    /// before they are decoded. Of one alone, give zeros for the other.
    pub fn reconstruct(&self, face: &Tensor, pose: &Tensor, phase: Phase<'_>) -> Option<Tensor> {
        Some(self.apart.as_ref()?.decode(face, pose, phase))
    }

    /// L_dis and L_orth (equations 2 and 3) of pictures and their mirror images.
    fn reconstruction(&self, apart: &Apart, views: &Views, group: &Group) -> Loss {
        let phase = Phase::Train(group);
        let (as_is, mirrored) = (&views.views[0], &views.views[1]);
        let count = as_is.size()[0];
        let pictures = Tensor::cat(&[as_is, mirrored], 0);
        let code = self.code(&self.noisy(&pictures, &views.seeds), phase);
        let FaceAndPose { face, pose } = apart.features(&code, phase);
        // Faces of a picture and of its mirror image, each in either pose.
        let halves = |x: &Tensor| (x.narrow(0, 0, count), x.narrow(0, count, count));
        let ((f, f_mirrored), (p, p_mirrored)) = (halves(&face), halves(&pose));
        let faces = Tensor::cat(&[&f, &f, &f_mirrored, &f_mirrored], 0);
        let poses = Tensor::cat(&[&p, &p_mirrored, &p, &p_mirrored], 0);
        let target = self.unit.of(&pictures);
        let targets = Tensor::cat(&[&target, &target], 0);
        let dis = l1_each(&apart.decode(&faces, &poses, phase), &targets).mean(None::<Kind>) * 4.0;
        let orth = orthogonality(&f, &p, self.config.orthogonality)
            + orthogonality(&f_mirrored, &p_mirrored, self.config.orthogonality);
        let parts = vec![dis.detach(), orth.detach()];
        let total = if self.config.orthogonal { dis + orth } else { dis };
        Loss { total, top1: None, parts }
    }

    /// Pictures and then their mirror images with noise, each with its own.
    fn noisy(&self, views: &Tensor, seeds: &[u64]) -> Tensor {
        if self.config.input_noise == 0.0 {
            return views.shallow_clone();
        }
        let noise = noise(&views.size(), seeds, 0, views.device());
        self.unit.normalised(&(self.unit.of(views) + noise.to_kind(views.kind()) * self.config.input_noise))
    }

    /// Contrast of two views of each picture (equation 6): by their faces, or, without, by the code itself.
    fn contrast(&self, views: &Views, pose: bool, group: &Group) -> Result<Contrast, DistributedError> {
        let phase = Phase::Train(group);
        let code = self.code(&Tensor::cat(&views.views[2..4], 0), phase);
        let projections = match &self.apart {
            Some(apart) if pose => apart.pose_projections(&code, phase),
            Some(apart) => self.face_head.forward(&apart.through(&apart.face, &code, phase), phase),
            None => self.face_head.forward(&code, phase),
        };
        let all = group.gather_with_local(&side_by_side(&projections))?;
        let all = Tensor::cat(&[all.select(1, 0), all.select(1, 1)], 0);
        let count = all.size()[0] as usize;
        let mixing = Mixing::draw(count, count - 2, self.config.mixing, views.seed, all.device());
        Ok(mixed_nt_xent(&all, mixing.as_ref(), self.settings.temperature, self.settings.denominator))
    }

    /// Contrast of poses (equation 5): two views of each picture against views of its mirror image.
    fn pose_contrast(&self, apart: &Apart, views: &Views, group: &Group) -> Loss {
        let phase = Phase::Train(group);
        let (first, second) = (&views.views[4], &views.views[5]);
        let negatives = &views.views[6..];
        let all: Vec<&Tensor> = [first, second].into_iter().chain(negatives).collect();
        let projections = apart.pose_projections(&self.code(&Tensor::cat(&all, 0), phase), phase);
        let count = first.size()[0];
        // [2+M,N,out]
        let projections = projections.view([all.len() as i64, count, -1]);
        let negatives = projections.narrow(0, 2, negatives.len() as i64).transpose(0, 1);
        let mixing = Mixing::draw(
            count as usize,
            negatives.size()[1] as usize,
            self.config.mixing,
            views.seed,
            first.device(),
        );
        let contrast = pose_nce(
            &projections.get(0),
            &projections.get(1),
            &negatives,
            mixing.as_ref(),
            self.settings.temperature,
            self.settings.denominator,
        );
        self.of_pose(contrast)
    }

    /// A contrast of poses, weighted; how well they are told apart is one of the parts, since top-1 is that of faces.
    fn of_pose(&self, Contrast { loss, top1 }: Contrast) -> Loss {
        let weight = self.weights.pose;
        let parts = vec![loss.detach(), Tensor::from(weight), top1];
        Loss { total: loss * weight, top1: None, parts }
    }
}

/// How far faces `[N,D]` and poses `[N,D]` are from orthogonal, each centred over the batch and scaled to length 1. Lengths are held
/// where slopes are taken, as the authors' code has it: equation 3 does not say.
pub(super) fn orthogonality(face: &Tensor, pose: &Tensor, what: Orthogonality) -> Tensor {
    let scaled = |x: &Tensor| {
        let centred = x - x.mean_dim([0].as_slice(), true, None);
        let length = centred.square().sum_dim_intlist([1].as_slice(), true, None).sqrt().detach();
        centred / (length + 1e-6)
    };
    let (face, pose) = (scaled(face), scaled(pose));
    match what {
        Orthogonality::Pictures => (face * pose).sum_dim_intlist([1].as_slice(), false, None).square(),
        Orthogonality::Values => face.tr().matmul(&pose).square(),
    }
    .mean(None::<Kind>)
}

/// How negatives are mixed: with which other one each, and by which share it stays itself.
#[derive(Debug)]
pub(super) struct Mixing {
    /// `[M]`: the other one, the same for every anchor.
    pub(super) other: Tensor,
    /// `[A,M]`.
    pub(super) share: Tensor,
}

impl Mixing {
    /// For so many anchors with so many negatives each; `None` where nothing is mixed.
    fn draw(anchors: usize, negatives: usize, alpha: f64, seed: u64, device: Device) -> Option<Self> {
        let beta = if alpha > 0.0 { Beta::new(alpha, alpha).ok()? } else { return None };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut other: Vec<i64> = (0..negatives as i64).collect();
        other.shuffle(&mut rng);
        let share = shares(&mut rng, beta, anchors * negatives);
        Some(Self {
            other: Tensor::from_slice(&other).to_device(device),
            share: Tensor::from_slice(&share).view([anchors as i64, negatives as i64]).to_device(device),
        })
    }
}

fn shares(rng: &mut impl Rng, beta: Beta<f64>, count: usize) -> Vec<f32> {
    (0..count).map(|_| beta.sample(rng) as f32).collect()
}

/// NT-Xent of projections `[2N,d]`, first views and then second ones, with negatives that are mixed before they are scaled to
/// length 1. Nothing of the size of all mixed negatives is made: their products and lengths follow from those of the
/// projections.
pub(super) fn mixed_nt_xent(
    projections: &Tensor,
    mixing: Option<&Mixing>,
    temperature: f64,
    denominator: Denominator,
) -> Contrast {
    let count = projections.size()[0];
    let (anchors, negatives) = (count, count - 2);
    let device = projections.device();
    let products = projections.matmul(&projections.tr());
    let lengths = products.diagonal(0, 0, 1).clamp_min(1e-24).sqrt();
    let rows = Tensor::arange(count, (Kind::Int64, device));
    let partner = (&rows + count / 2).remainder(count);
    let cosine = |own: &Tensor, length: &Tensor| own / (length * lengths.unsqueeze(1));
    let positive = products.gather(1, &partner.unsqueeze(1), false)
        / (&lengths * lengths.index_select(0, &partner)).unsqueeze(1);
    // [A,M]: every view but the anchor's own two, in order.
    let own = Tensor::eye(count, (Kind::Bool, device));
    let own = own.logical_or(&own.index_select(1, &partner));
    let place = rows.unsqueeze(0).expand([count, count], false);
    let index = place.masked_select(&own.logical_not()).view([anchors, negatives]);
    let product = products.gather(1, &index, false);
    let similarity = match mixing {
        None => cosine(&product, &lengths.take(&index)),
        Some(Mixing { other, share }) => {
            let share = share.to_kind(projections.kind());
            let rest = 1.0 - &share;
            let other = index.index_select(1, other);
            let both = products.view([-1]).take(&(&index * count + &other));
            let mixed = &share * product + &rest * products.gather(1, &other, false);
            let square = |t: &Tensor| lengths.take(t).square();
            let length = share.square() * square(&index)
                + &share * &rest * both * 2.0
                + rest.square() * square(&other);
            cosine(&mixed, &length.clamp_min(1e-24).sqrt())
        }
    };
    contrast(&(positive / temperature), &(similarity / temperature), denominator)
}

/// Equation 5 for both views `[N,d]` of each picture as anchors, with negatives `[N,M,d]` of its own.
pub(super) fn pose_nce(
    first: &Tensor,
    second: &Tensor,
    negatives: &Tensor,
    mixing: Option<&Mixing>,
    temperature: f64,
    denominator: Denominator,
) -> Contrast {
    let negatives = match mixing {
        None => negatives.shallow_clone(),
        Some(Mixing { other, share }) => {
            let share = share.to_kind(negatives.kind()).unsqueeze(-1);
            negatives * &share + negatives.index_select(1, other) * (1.0 - &share)
        }
    };
    let (first, second, negatives) = (unit_rows(first), unit_rows(second), unit_rows(&negatives));
    let positive = (&first * &second).sum_dim_intlist([1].as_slice(), true, None) / temperature;
    let against = |anchor: &Tensor| negatives.bmm(&anchor.unsqueeze(-1)).squeeze_dim(-1) / temperature;
    let all = Tensor::cat(&[against(&first), against(&second)], 0);
    contrast(&Tensor::cat(&[&positive, &positive], 0), &all, denominator)
}

/// Dynamic weight average of the two contrasts: a weight is the larger, the less its loss fell from one epoch to the next.
#[derive(Debug)]
struct Weights {
    face: f64,
    pose: f64,
    temperature: f64,
    /// Sums of both losses and their count, both means of the epoch before (0 for none), both weights: a tensor, so that
    /// checkpoints hold it.
    state: Tensor,
}

impl Weights {
    fn new(path: &nn::Path<'_>, temperature: f64) -> Self {
        let mut state = path.zeros_no_train("weights", &[7]);
        no_grad(|| state.copy_(&Tensor::from_slice(&[0f32, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])));
        Self { face: 1.0, pose: 1.0, temperature, state }
    }

    fn add(&mut self, face: &Tensor, pose: &Tensor) {
        no_grad(|| {
            let one = Tensor::ones([], (self.state.kind(), self.state.device()));
            let added = Tensor::stack(&[&face.to_kind(one.kind()), &pose.to_kind(one.kind()), &one], 0);
            let mut sums = self.state.narrow(0, 0, 3);
            sums += added;
        });
    }

    /// From the third epoch on, `2 softmax(r / T)` with `r = L(t-1) / L(t-2)`.
    fn end_of_epoch(&mut self) {
        let at = |i| self.state.double_value(&[i]);
        let mean = [at(0) / at(2).max(1.0), at(1) / at(2).max(1.0)];
        let before = [at(3), at(4)];
        if before.iter().all(|loss| *loss > 0.0) {
            let risen = [0, 1].map(|i| (mean[i] / before[i] / self.temperature).exp());
            // As a checkpoint holds them.
            let weight = |risen_one: f64| f64::from((2.0 * risen_one / (risen[0] + risen[1])) as f32);
            (self.face, self.pose) = (weight(risen[0]), weight(risen[1]));
        }
        let state = [0.0, 0.0, 0.0, mean[0], mean[1], self.face, self.pose].map(|v| v as f32);
        no_grad(|| self.state.copy_(&Tensor::from_slice(&state)));
    }

    fn restored(&mut self) {
        (self.face, self.pose) = (self.state.double_value(&[5]), self.state.double_value(&[6]));
    }
}

const RECONSTRUCT: usize = 0;
const FACE: usize = 1;

impl Objective for Pcl {
    fn plan(&self) -> Vec<View> {
        let PclConfig { crops, crop_share, pose_batch, pose_negatives, .. } = self.config;
        let face = |which: usize| {
            let view = View::augmented(0, which as u64);
            match crops {
                Crops::Apart => View { treatment: Treatment::Apart { which, share: crop_share }, ..view },
                Crops::Random => view,
            }
        };
        let mut plan = vec![View::plain(0), View::plain(0).mirrored(), face(0), face(1)];
        if self.apart.is_some() && self.config.pose_contrast {
            let tuples = (pose_batch > 0).then_some(pose_batch);
            let pose = |draw: usize| View { tuples, ..View::augmented(0, draw as u64) };
            plan.extend([pose(2), pose(3)]);
            plan.extend((0..pose_negatives).map(|number| pose(4 + number).mirrored()));
        }
        plan
    }

    fn passes(&self) -> usize {
        if self.apart.is_some() { 3 } else { 1 }
    }

    fn loss(&mut self, pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let of_face = |Contrast { loss, top1 }: Contrast, weight: f64| Loss {
            parts: vec![loss.detach(), Tensor::from(weight)],
            total: loss * weight,
            top1: Some(top1),
        };
        Ok(match (&self.apart, pass) {
            (None, _) => of_face(self.contrast(views, false, group)?, 1.0),
            (Some(apart), RECONSTRUCT) => self.reconstruction(apart, views, group),
            (Some(_), FACE) => of_face(self.contrast(views, false, group)?, self.weights.face),
            (Some(apart), _) if self.config.pose_contrast => self.pose_contrast(apart, views, group),
            (Some(_), _) => self.of_pose(self.contrast(views, true, group)?),
        })
    }

    fn joins_batches(&self, pass: usize) -> bool {
        match (&self.apart, pass) {
            (Some(_), RECONSTRUCT) => false,
            (None, _) | (Some(_), FACE) => true,
            (Some(_), _) => !self.config.pose_contrast,
        }
    }

    fn moves(&self, pass: usize, parameter: &str) -> bool {
        let parts: &[&str] = match (&self.apart, pass) {
            (None, _) => &["encoder.", "face_head."],
            (Some(_), RECONSTRUCT) => &["encoder.", "face.", "pose.", "decoder."],
            (Some(_), FACE) => &["encoder.", "face.", "face_head."],
            (Some(_), _) => &["encoder.", "pose.", "pose_head."],
        };
        parts.iter().any(|part| parameter.starts_with(part))
    }

    fn parts(&self, pass: usize) -> &'static [&'static str] {
        match (&self.apart, pass) {
            (Some(_), RECONSTRUCT) => &["reconstruction", "orthogonality"],
            (None, _) | (Some(_), FACE) => &["face", "face_weight"],
            (Some(_), _) => &["pose", "pose_weight", "pose_top1"],
        }
    }

    fn after_step(&mut self, done: &Done<'_>) {
        if self.apart.is_none() || !self.config.dynamic_weights {
            return;
        }
        // In the order of the passes: reconstruction, orthogonality, face, its weight, pose, ..
        self.weights.add(&done.parts.get(2), &done.parts.get(4));
        if done.epoch_done {
            self.weights.end_of_epoch();
        }
    }

    fn restored(&mut self) {
        self.weights.restored();
    }

    fn show(&self, frames: &[Tensor]) -> Vec<Shown> {
        let (frames, phase) = (&frames[0], Phase::Eval);
        let (Some(own), Some(mirrored)) =
            (self.face_and_pose(frames, phase), self.face_and_pose(&frames.flip([3]), phase))
        else {
            return Vec::new();
        };
        let nothing = own.face.zeros_like();
        // Figure 4 of the paper.
        let made = [
            (Self::RECONSTRUCTION, &own.face, &own.pose),
            (Self::POSE_FLIPPED, &own.face, &mirrored.pose),
            ("face alone", &own.face, &nothing),
            ("pose alone", &nothing, &own.pose),
            ("flipped alone", &nothing, &mirrored.pose),
        ];
        let made = made
            .into_iter()
            .filter_map(|(name, face, pose)| Some(Shown::new(name, &self.reconstruct(face, pose, phase)?)));
        std::iter::once(Shown::new("picture", &self.unit.of(frames))).chain(made).collect()
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn negatives_are_mixed_with_others_by_shares_of_beta() {
        assert!(Mixing::draw(4, 6, 0.0, 1, Device::Cpu).is_none());
        for alpha in [0.4, 1.6] {
            let mixing = Mixing::draw(100, 500, alpha, 7, Device::Cpu).unwrap();
            let mut other = Vec::<i64>::try_from(&mixing.other).unwrap();
            assert_ne!(other, (0..500).collect::<Vec<_>>());
            other.sort_unstable();
            assert_eq!(other, (0..500).collect::<Vec<_>>());
            let share = mixing.share.to_kind(Kind::Double);
            // Of Beta(a,a): mean 1/2, variance 1/(4(2a+1)).
            let (mean, variance) = (share.mean(None::<Kind>), share.var(true));
            assert!((mean.double_value(&[]) - 0.5).abs() < 0.01);
            assert!((variance.double_value(&[]) - 0.25 / (2.0 * alpha + 1.0)).abs() < 0.003, "{alpha}");
        }
    }

    #[test]
    fn weights_follow_the_fall_of_the_losses_from_the_third_epoch_on() {
        let vs = nn::VarStore::new(Device::Cpu);
        let mut weights = Weights::new(&vs.root(), 2.0);
        let mut epoch = |face: [f64; 2], pose: [f64; 2]| {
            for (f, p) in face.into_iter().zip(pose) {
                weights.add(&Tensor::from(f), &Tensor::from(p));
            }
            weights.end_of_epoch();
            (weights.face, weights.pose)
        };
        assert_eq!(epoch([4.0, 2.0], [1.0, 1.0]), (1.0, 1.0), "of the second epoch");
        // Of the third: faces fell to a half, poses stayed.
        let (face, pose) = epoch([2.0, 1.0], [1.0, 1.0]);
        let (a, b) = (0.25f64.exp(), 0.5f64.exp());
        assert!((face - 2.0 * a / (a + b)).abs() < 1e-6 && (face + pose - 2.0).abs() < 1e-6, "{face} {pose}");
        weights.face = 0.0;
        weights.restored();
        assert!((weights.face - face).abs() < 1e-6, "a checkpoint has them");
    }
}
