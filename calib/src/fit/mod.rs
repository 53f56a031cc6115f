//! Fitting heads to one person: a candidate for each head, judged on labels that it was not fitted on.

mod action_units;
pub(crate) mod dual;
mod expression;
mod frame;
pub(crate) mod judge;
mod regression;
pub(crate) mod report;
mod rest;
pub(crate) mod task;
mod update;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use crate::dataset::{Dataset, DatasetError};
use crate::heads::{HeadKind, Heads, HeadsError, LinearHead, MAX_LABELS, VALENCE_AROUSAL};
use crate::metrics::Bootstrap;
use crate::validate;
pub use report::{Estimate, HeadFit, Metric, Verdict};
pub use rest::{Rest, relative, without};
pub use update::Updater;

/// How many times as much as all labels the shipped head weighs where an expression has none.
const UNJUDGED: f64 = 3.0;

/// Why nothing could be fitted. (Too few labels is no error but a [`Verdict`].)
#[derive(Debug, Error)]
pub enum FitError {
    /// Heads and embeddings do not belong together, or are empty.
    #[error("heads over {heads} values, but embeddings of {data}")]
    Dim {
        /// Values that the heads read.
        heads: usize,
        /// Values of an embedding.
        data: usize,
    },
    /// A label names a row that the head does not have.
    #[error("a label for row {row} of head '{head}', which has {labels} rows")]
    Label {
        /// The head.
        head: &'static str,
        /// The row, from 0.
        row: usize,
        /// Rows that it has.
        labels: usize,
    },
    /// A moment was refused.
    #[error(transparent)]
    Moment(#[from] DatasetError),
    /// The views of a fit show different moments.
    #[error("the moments to compare with are not those that heads are fitted to")]
    Views,
    /// An option is out of its range.
    #[error("fit option {0}")]
    Option(&'static str),
    /// The fitted values make no head.
    #[error(transparent)]
    Heads(#[from] HeadsError),
}

/// How heads are fitted and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct FitOptions {
    /// Strengths of the prior to choose from, each in `[1e-3, 1e9]`. Features are scaled to a mean squared length of
    /// one, so that a strength is about the number of labels that the shipped head outweighs. Where an expression has
    /// no label at all, weaker ones than three times the number of labels are raised to that.
    ///
    /// The default begins at 10. Weaker ones win wherever they are judged by stretches of the same session, and lose in
    /// another light: what they learn is the place.
    pub strengths: Vec<f64>,
    /// Fewer blocks with a label are not judged. At least 2.
    pub min_blocks: usize,
    /// Fewer labels are not judged.
    pub min_labels: usize,
    /// The solver stops where a sweep changes its variables by less than this share, in `(0, 1)`.
    pub tolerance: f64,
    /// The solver stops after this many sweeps in any case.
    pub max_sweeps: usize,
    /// How the intervals are drawn; the level is that of the guard too.
    pub bootstrap: Bootstrap,
    /// Names of the rows of an expression head, where the bundle has none.
    pub expression_labels: Vec<String>,
    /// Names of the rows of an action units' head, where the bundle has none.
    pub action_unit_labels: Vec<String>,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            strengths: vec![10.0, 30.0, 100.0, 300.0],
            min_blocks: 4,
            min_labels: 12,
            tolerance: 3e-3,
            max_sweeps: 200,
            bootstrap: Bootstrap::default(),
            expression_labels: Vec::new(),
            action_unit_labels: Vec::new(),
        }
    }
}

impl FitOptions {
    fn check(&self) -> Result<(), FitError> {
        let strength = |s: &f64| (1e-3..=1e9).contains(s);
        if self.strengths.is_empty() || !self.strengths.iter().all(strength) {
            return Err(FitError::Option("strengths: at least one, each in [1e-3, 1e9]"));
        }
        if self.min_blocks < 2 {
            return Err(FitError::Option("min_blocks: at least 2"));
        }
        let open = |v: f64| v > 0.0 && v < 1.0;
        if !open(self.tolerance) || self.max_sweeps == 0 {
            return Err(FitError::Option("tolerance: in (0, 1), max_sweeps: at least 1"));
        }
        if !open(self.bootstrap.level) || self.bootstrap.draws == 0 {
            return Err(FitError::Option("bootstrap: level in (0, 1), at least one draw"));
        }
        if self.expression_labels.len().max(self.action_unit_labels.len()) > MAX_LABELS {
            return Err(FitError::Option("labels: too many for a head"));
        }
        Ok(())
    }

    /// Names of the rows of a head that the bundle lacks.
    fn names(&self, kind: HeadKind) -> Vec<String> {
        match kind {
            HeadKind::Expression => self.expression_labels.clone(),
            HeadKind::ValenceArousal => VALENCE_AROUSAL.map(str::to_owned).to_vec(),
            HeadKind::ActionUnits => self.action_unit_labels.clone(),
        }
    }

    /// Why so many labels in so many stretches of time tell nothing.
    fn too_few(&self, labels: usize, blocks: usize) -> Option<Verdict> {
        let needed = self.min_labels.max(1);
        if labels < needed {
            return Some(Verdict::TooFewLabels { labels, needed });
        }
        (blocks < self.min_blocks).then_some(Verdict::TooFewBlocks { blocks, needed: self.min_blocks })
    }

    fn until(&self) -> dual::Until {
        dual::Until { tolerance: self.tolerance, sweeps: self.max_sweeps }
    }

    /// The labels of a head, in force or to be made.
    fn labels(&self, heads: &Heads, kind: HeadKind) -> Arc<[String]> {
        heads.get(kind).map_or_else(|| self.names(kind).into(), LinearHead::shared_labels)
    }
}

/// What came of a fit. `Display` prints it for people, `Serialize` for programs.
#[derive(Clone, Debug, Serialize)]
pub struct Fitted {
    /// One a kind, in the order of [`HeadKind::ALL`].
    #[serde(rename = "heads")]
    pub fits: Vec<HeadFit>,
    #[serde(skip)]
    heads: Heads,
}

impl Fitted {
    /// The heads in force, with the accepted candidates in place of those that they replace.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The outcome for one head.
    pub fn get(&self, kind: HeadKind) -> &HeadFit {
        &self.fits[kind as usize]
    }
}

impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fits.iter().try_for_each(|fit| writeln!(f, "{fit}"))
    }
}

/// Fits a candidate for each head to the labels in `data`, with the prior at `heads`, and takes those that are better
/// than the head in force on labels that they were not fitted on.
///
/// Where the bundle has no head of a kind, the prior is zero, and the candidate has to beat the mean of what was said.
///
/// # Errors
/// [`FitError`] for what does not fit together; too little data is a verdict.
pub fn fit(heads: &Heads, data: &Dataset, options: &FitOptions) -> Result<Fitted, FitError> {
    fit_views(heads, Views { before: data, fitted: data, held_out: data }, options)
}

/// The same moments three times: as they are, and relative to a face at rest.
#[derive(Clone, Copy, Debug)]
pub struct Views<'a> {
    /// What the head in force reads.
    pub before: &'a Dataset,
    /// What candidates are fitted to.
    pub fitted: &'a Dataset,
    /// What candidates read of a stretch that was left out: it had no say in where the face rests.
    pub held_out: &'a Dataset,
}

/// As [`fit`], where candidates read the moments relative to a face at rest and the head in force as they are: they have to be
/// better by both together.
///
/// # Errors
/// As [`fit`]; [`FitError::Views`] where these are not the same moments.
pub fn fit_views(heads: &Heads, views: Views<'_>, options: &FitOptions) -> Result<Fitted, FitError> {
    options.check()?;
    check_dim(heads, views.fitted)?;
    for other in [views.before, views.held_out] {
        check_dim(heads, other)?;
        let mut pairs = other.moments().iter().zip(views.fitted.moments());
        let is_same = pairs.all(|(a, b)| a.t_secs == b.t_secs && a.block == b.block);
        if other.len() != views.fitted.len() || !is_same {
            return Err(FitError::Views);
        }
    }
    let fits = HeadKind::ALL.iter().map(|kind| fit_head(*kind, heads, views, options));
    let fits = fits.collect::<Result<Vec<_>, _>>()?;
    let kept = HeadKind::ALL.iter().filter_map(|kind| Some((*kind, heads.get(*kind)?.clone())));
    let accepted = fits.iter().filter(|fit| fit.verdict == Verdict::Accepted);
    let accepted = accepted.filter_map(|fit| Some((fit.kind, fit.candidate.clone()?)));
    let heads = Heads::new(heads.dim(), kept.chain(accepted))?.with_neutral(heads.neutral().cloned())?;
    Ok(Fitted { fits, heads })
}

fn check_dim(heads: &Heads, data: &Dataset) -> Result<(), FitError> {
    if heads.dim() != data.dim() || data.dim() == 0 {
        return Err(FitError::Dim { heads: heads.dim(), data: data.dim() });
    }
    Ok(())
}

fn fit_head(
    kind: HeadKind,
    heads: &Heads,
    views: Views<'_>,
    options: &FitOptions,
) -> Result<HeadFit, FitError> {
    let data = views.fitted;
    let labels = options.labels(heads, kind);
    let mut outcome = HeadFit {
        kind,
        verdict: Verdict::Unnamed,
        labels: 0,
        blocks: 0,
        unlabelled: Vec::new(),
        strength: None,
        metrics: Vec::new(),
        candidate: None,
    };
    if labels.is_empty() {
        return Ok(outcome);
    }
    let task = task::Task::new(kind, labels, heads.get(kind), data)?;
    let blocks = validate::blocks_of(&task, data);
    let labelled = task.labelled();
    let names = task.labels.iter().zip(&labelled);
    outcome.unlabelled = names.filter(|(_, labelled)| !**labelled).map(|(name, _)| name.clone()).collect();
    outcome.labels = task.rows.len();
    outcome.blocks = blocks.len();
    let classes = labelled.iter().filter(|labelled| **labelled).count();
    if let Some(verdict) = options.too_few(outcome.labels, outcome.blocks) {
        outcome.verdict = verdict;
        return Ok(outcome);
    }
    if kind == HeadKind::Expression && classes < 2 {
        outcome.verdict = Verdict::OneClass;
        return Ok(outcome);
    }
    // A class that nobody showed cannot be judged, and loses where the others grow surer of themselves: then the
    // shipped head weighs several times as much as all labels together.
    let unjudged = kind == HeadKind::Expression && classes < labelled.len();
    let floor = if unjudged { UNJUDGED * outcome.labels as f64 } else { 0.0 };
    let mut strengths: Vec<f64> = options.strengths.iter().map(|s| s.max(floor)).collect();
    strengths.sort_unstable_by(f64::total_cmp);
    strengths.dedup();
    let validated =
        validate::leave_one_block_out(&task, data, views.held_out, &blocks, &strengths, options.until());
    let Some(mut validated) = validated else { return Ok(outcome) };
    // A strong prior leaves the scores smaller than they deserve; where an expression is not judged, they stay modest.
    let scale = if kind == HeadKind::Expression && !unjudged {
        validate::scale(&task, &blocks, &validated.held_out)
    } else {
        1.0
    };
    validated.held_out.iter_mut().flatten().for_each(|logit| *logit *= scale);
    validated.solution.weights.scale(scale);
    let before = validate::in_force(&task, views.before, &blocks);
    for block in &mut validated.held_out {
        block.chunks_exact_mut(task.outputs()).for_each(|logits| task.tell(logits));
    }
    outcome.metrics = validate::compare(&task, &blocks, &before, &validated.held_out, &options.bootstrap);
    outcome.strength = Some(validated.strength);
    outcome.candidate = Some(task.frame.leave(kind, &task.labels, &validated.solution.weights)?);
    if let Some(deciding) = outcome.metrics.first() {
        outcome.verdict = Verdict::by(deciding.gain);
    }
    Ok(outcome)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
