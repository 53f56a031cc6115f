//! SSLFER (Shu et al. 2022): SimCLR whose pairs are drawn by TimeAug, HardNeg and FaceSwap ([`crate::data::PairConfig`])
//! and whose false negatives are cancelled by MaskFN.
//!
//! The paper's equations 1 and 2, as printed, leave the positive out of the denominator. Our default keeps it, as SimCLR, which the
//! paper builds on, and a cross-entropy over similarities have it; [`super::Denominator`] offers both.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::simclr::side_by_side;
use super::{Build, Loss, Objective, Projection, SimClr, Views};
use crate::descriptor::Descriptor;
use crate::distributed::{DistributedError, Group};
use crate::nets::Encoder;
use crate::ntxent::{FalseNegatives, nt_xent_cancelling};

/// False-negative cancellation (section 3.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskFn {
    /// Views a batch that become further positives of an anchor, N_FN; 0 for none.
    pub count: i64,
    /// Weight of their loss. The paper has 1/2, its authors' code 0.8.
    pub weight: f64,
    /// ResNet-18's ImageNet weights, a safetensors file with torchvision's names, for the paper's descriptor of eyes
    /// and mouth; empty for histograms of oriented gradients.
    pub weights: PathBuf,
}

impl Default for MaskFn {
    fn default() -> Self {
        Self { count: 0, weight: 0.5, weights: PathBuf::new() }
    }
}

/// SimCLR with MaskFN.
#[derive(Debug)]
pub struct Sslfer {
    contrast: SimClr,
    mask_fn: MaskFn,
    descriptor: Descriptor,
}

impl Sslfer {
    /// Builds `encoder.*` and `projection.*` with fresh weights, and reads the descriptor's.
    ///
    /// # Errors
    /// Names the file of descriptor weights that cannot be read.
    pub fn new(build: Build<'_>, settings: Projection, mask_fn: MaskFn) -> anyhow::Result<Self> {
        let weights = (!mask_fn.weights.as_os_str().is_empty()).then_some(mask_fn.weights.as_path());
        let descriptor = Descriptor::open(weights, build.vs.device())?;
        Ok(Self { contrast: SimClr::new(build, settings), mask_fn, descriptor })
    }

    /// Those of the views of all processes.
    fn false_negatives(
        &self,
        views: &Views,
        group: &Group,
    ) -> Result<Option<FalseNegatives>, DistributedError> {
        let MaskFn { count, weight, .. } = self.mask_fn;
        if count < 1 {
            return Ok(None);
        }
        let ours = self.descriptor.describe(&views.pictures, &views.landmarks);
        let all = group.all_gather(&side_by_side(&ours))?;
        let descriptors = Tensor::cat(&[all.select(1, 0), all.select(1, 1)], 0);
        Ok(false_negatives(&descriptors, &group.all_gather(&views.quadruples)?, count, weight))
    }
}

/// The `count` views that look most like each anchor, `[2N,count]`, by the cosine of `descriptors` `[2N,D]`, whose rows
/// have length 1, or 0 where nothing is known. Neither the anchor's pair nor that pair's hard negatives are chosen;
/// `quadruples` `[N]` tells them. `None` where a batch is too small.
pub(super) fn false_negatives(
    descriptors: &Tensor,
    quadruples: &Tensor,
    count: i64,
    weight: f64,
) -> Option<FalseNegatives> {
    let quadruple = Tensor::cat(&[quadruples, quadruples], 0);
    let related = quadruple.unsqueeze(1).eq_tensor(&quadruple.unsqueeze(0));
    let described = descriptors.square().sum_dim_intlist([1].as_slice(), false, Kind::Float).gt(0.0);
    let eligible = related.logical_not().logical_and(&described.unsqueeze(0));
    let similarity =
        descriptors.matmul(&descriptors.tr()).masked_fill(&eligible.logical_not(), f64::NEG_INFINITY);
    if similarity.size()[0] <= count {
        return None;
    }
    let (values, rows) = similarity.topk(count, 1, true, true);
    let known = values.isfinite().all_dim(1, false).logical_and(&described);
    Some(FalseNegatives { rows, known, weight })
}

impl Objective for Sslfer {
    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let (first, second) = self.contrast.project(views, group)?;
        let chosen = self.false_negatives(views, group)?;
        let Projection { temperature, denominator, .. } = self.contrast.settings();
        Ok(nt_xent_cancelling(&first, &second, temperature, denominator, chosen.as_ref()).into())
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        true
    }

    fn encoder(&self) -> &Encoder {
        self.contrast.encoder()
    }
}
