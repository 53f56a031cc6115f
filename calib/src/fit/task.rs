//! One head to be fitted: its prior, its coordinates and what was said of each moment.

use std::sync::Arc;

use super::frame::{Frame, Weights};
use super::{FitError, action_units, expression, regression};
use crate::dataset::{Dataset, Label};
use crate::heads::{HeadKind, LinearHead, MAX_LABELS};

/// What a fit of one head works on.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) kind: HeadKind,
    pub(crate) labels: Arc<[String]>,
    /// The head that is in force, if any.
    pub(crate) shipped: Option<LinearHead>,
    pub(crate) frame: Frame,
    /// Where the prior is centred: the shipped head, or zero.
    pub(crate) prior: Weights,
    targets: Vec<f32>,
    /// Moments that carry a label for this head, in ascending order.
    pub(crate) rows: Vec<usize>,
}

impl Task {
    /// # Errors
    /// [`FitError::Label`] for a label that the head has no row for.
    pub(crate) fn new(
        kind: HeadKind,
        labels: Arc<[String]>,
        shipped: Option<&LinearHead>,
        data: &Dataset,
    ) -> Result<Self, FitError> {
        let frame = match kind {
            HeadKind::ActionUnits => Frame::standardised(data),
            HeadKind::Expression | HeadKind::ValenceArousal => Frame::isotropic(data),
        };
        let prior = shipped.map_or_else(|| Weights::zero(labels.len(), data.dim()), |head| frame.enter(head));
        let shipped = shipped.cloned();
        let mut task = Self { kind, labels, shipped, frame, prior, targets: Vec::new(), rows: Vec::new() };
        for (row, moment) in data.moments().iter().enumerate() {
            task.push(row, &moment.label)?;
        }
        Ok(task)
    }

    /// The same task over data that has grown, in coordinates of its own.
    pub(crate) fn renewed(&self, data: &Dataset) -> Result<Self, FitError> {
        Self::new(self.kind, Arc::clone(&self.labels), self.shipped.as_ref(), data)
    }

    /// Takes in the label of the next moment, the `row`-th.
    pub(crate) fn push(&mut self, row: usize, label: &Label) -> Result<(), FitError> {
        let target = self.target_of(label)?;
        let target = &target[..self.outputs()];
        self.targets.extend(target);
        if target.iter().any(|t| !t.is_nan()) {
            self.rows.push(row);
        }
        Ok(())
    }

    /// One value an output; NaN where nothing was said.
    ///
    /// # Errors
    /// [`FitError::Label`] for a label that the head has no row for.
    pub(crate) fn target_of(&self, label: &Label) -> Result<[f32; MAX_LABELS], FitError> {
        let outputs = self.outputs();
        let mut target = [f32::NAN; MAX_LABELS];
        match self.kind {
            HeadKind::Expression => {
                if let Some(class) = label.expression {
                    target[..outputs].fill(0.0);
                    target[usize::from(class).min(MAX_LABELS - 1)] = 1.0;
                }
            }
            HeadKind::ValenceArousal => {
                if let Some(both) = label.valence_arousal {
                    target[..2].copy_from_slice(&both);
                }
            }
            HeadKind::ActionUnits => target = label.action_units.unwrap_or(target),
        }
        match target[outputs..].iter().position(|t| !t.is_nan()) {
            Some(beyond) => {
                let (head, labels) = (self.kind.name(), self.labels.len());
                Err(FitError::Label { head, row: outputs + beyond, labels })
            }
            None => Ok(target),
        }
    }

    /// Whether anything was said of each output: an expression that was named, a value, an action unit.
    pub(crate) fn labelled(&self) -> Vec<bool> {
        let said = |t: f32| if self.kind == HeadKind::Expression { t > 0.0 } else { !t.is_nan() };
        (0..self.outputs()).map(|k| self.rows.iter().any(|&row| said(self.target(row)[k]))).collect()
    }

    pub(crate) fn outputs(&self) -> usize {
        self.labels.len()
    }

    /// The target of a moment; NaN where nothing was said.
    pub(crate) fn target(&self, row: usize) -> &[f32] {
        &self.targets[row * self.outputs()..(row + 1) * self.outputs()]
    }

    /// Bytes that it holds on to.
    pub(crate) fn bytes(&self) -> usize {
        let dim = self.prior.dim;
        let weights = (dim + 1) * self.outputs();
        4 * self.targets.len() + 8 * self.rows.len() + 8 * 2 * dim + 8 * weights + 4 * weights
    }

    /// What is added to the logits in training.
    pub(crate) fn offset(&self, rows: &[usize]) -> Vec<f64> {
        let mut counts = vec![0.0; self.outputs()];
        if self.kind == HeadKind::Expression {
            for &row in rows {
                counts.iter_mut().zip(self.target(row)).for_each(|(c, t)| *c += f64::from(*t));
            }
            expression::log_counts(&mut counts);
        }
        counts
    }

    /// Training loss of one moment at the logits `u`, over the outputs that something was said of.
    pub(crate) fn loss(&self, row: usize, u: &[f64], offset: &[f64]) -> f64 {
        let target = self.target(row);
        let each = |loss: fn(f64, f64) -> f64| {
            let said = target.iter().zip(u).filter(|(t, _)| !t.is_nan());
            said.map(|(t, u)| loss(f64::from(*t), *u)).sum()
        };
        match self.kind {
            HeadKind::Expression => {
                let mut buffers = [[0.0; MAX_LABELS]; 2];
                let [wide, p] = buffers.each_mut().map(|b| &mut b[..u.len()]);
                wide.iter_mut().zip(target).for_each(|(w, t)| *w = f64::from(*t));
                expression::loss(wide, u, offset, p)
            }
            HeadKind::ValenceArousal => each(regression::loss),
            HeadKind::ActionUnits => each(action_units::loss),
        }
    }

    /// The dual variables of a moment: `-loss'(u)` at the `u` that minimises `loss(u) + |u - u0|² / 2c`, into `u`, which
    /// holds a guess of that point, to within `precision`. 0 for outputs of which nothing was said.
    pub(crate) fn dual(&self, row: usize, offset: &[f64], c: f64, precision: f64, u0: &[f64], u: &mut [f64]) {
        let target = self.target(row);
        if self.kind == HeadKind::Expression {
            let mut wide = [0.0; MAX_LABELS];
            wide.iter_mut().zip(target).for_each(|(w, t)| *w = f64::from(*t));
            expression::dual(&wide[..target.len()], offset, c, precision, u0, u);
            return;
        }
        for ((u, u0), t) in u.iter_mut().zip(u0).zip(target) {
            *u = match self.kind {
                _ if t.is_nan() => 0.0,
                HeadKind::ActionUnits => action_units::dual(f64::from(*t), c, precision, *u0, *u),
                HeadKind::ValenceArousal | HeadKind::Expression => regression::dual(f64::from(*t), c, *u0),
            };
        }
    }

    /// What the head tells at these logits: probabilities, or values clamped to `[-1, 1]`.
    pub(crate) fn tell(&self, logits: &mut [f64]) {
        match self.kind {
            HeadKind::Expression => expression::softmax(logits),
            HeadKind::ValenceArousal => logits.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0)),
            HeadKind::ActionUnits => logits.iter_mut().for_each(|v| *v = action_units::probability(*v)),
        }
    }
}
