//! Adaptation without labels: a face's own neutral place, and a projection that learns from time.
//!
//! [`Adapter`] takes frames in, works in slices within a [`Budget`], and gives a [`Correction`] that is folded into the
//! heads. Every correction that it gives has passed the [`Bounds`] on frames that were held out; one that fails is
//! brought back towards the identity until it passes.

mod budget;
mod correction;
mod guard;
mod neutral;
mod projection;
mod sampling;
mod vector;

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

pub use budget::{Budget, Share, ShareError};
pub use correction::{Correction, CorrectionError, MAX_RANK};
pub use guard::{Alarm, Bounds, Check};
pub use neutral::Neutral;
pub use projection::{Projection, ProjectionConfig, StepReport};

use crate::dataset::{Label, Moment};
use crate::heads::{Heads, HeadsError, LinearHead, NEUTRAL};
use crate::labelled::Labelled;
use crate::temporal::{Buffers, TemporalError};
use projection::Set;
use sampling::{Classes, probability};
use vector::distance;

/// Anchors of a step.
const ANCHORS: usize = 16;
/// Steps of a slice.
const STEPS: usize = 4;
/// Frames that are held out, to judge corrections on.
const HELD_OUT: usize = 32;
/// Seconds between two frames that are held out.
const HELD_OUT_SECS: f64 = 1.5;
/// Held-out frames without which nothing is changed.
const ENOUGH_HELD_OUT: usize = 16;
/// The user's face has left once it was silent for so long; the next face to be seen is then the user's.
const SILENT_SECS: f64 = 10.0;
/// Seconds without learning after an alarm.
const PAUSE_SECS: f64 = 30.0;
/// Attempts to keep a part of a correction after an alarm, each half of the one before.
const DECAYS: usize = 4;
/// Everything is given up at so many alarms in a row, each at most [`PAUSE_SECS`] after learning went on.
const ALARMS: u32 = 3;
/// Factor by which the neutral shift regains its strength, a slice.
const REGAIN: f32 = 1.02;
/// How long to wait where no frame has come since the last slice.
const IDLE: Duration = Duration::from_millis(200);

/// Why an adapter could not be made or a frame was refused.
#[derive(Debug, Error)]
pub enum AdaptError {
    /// The heads tell no expression.
    #[error("heads without expressions: adaptation is guarded by them")]
    NoExpressions,
    /// Something has another size than the heads.
    #[error("{what} of {found} values where the heads have {expected}")]
    Size {
        /// What it is.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The heads'.
        expected: usize,
    },
    /// The heads overflow with a correction.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The frame was refused.
    #[error(transparent)]
    Frame(#[from] TemporalError),
}

/// How an adapter learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptConfig {
    /// Whether the embedding is taken off by how far the user's neutral place lies from the population's.
    pub neutral: bool,
    /// How the projection is trained; `None`, the default, to leave it at the identity: on labelled clips the neutral place
    /// alone was worth as much.
    pub projection: Option<ProjectionConfig>,
    /// Whether a face that comes after another has left is the same person's: otherwise what was learned is forgotten then.
    pub one_person: bool,
    /// What corrections are held to.
    pub bounds: Bounds,
    /// Decides every draw.
    pub seed: u64,
}

impl Default for AdaptConfig {
    fn default() -> Self {
        Self { neutral: true, projection: None, one_person: true, bounds: Bounds::default(), seed: 0 }
    }
}

/// How a correction was brought back after an alarm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Return {
    /// It was made weaker.
    Decayed {
        /// What is left of it, in `(0, 1)`.
        share: f32,
    },
    /// It was given up: the correction is the identity.
    Reset,
}

/// What a slice did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SliceReport {
    /// How long to wait before the next one.
    pub wait: Duration,
    /// Steps of the projection.
    pub steps: usize,
    /// What the last of them did.
    pub step: StepReport,
    /// What the correction that is now in force does to held-out frames.
    pub check: Check,
    /// Why the correction was brought back, and how far.
    pub returned: Option<(Alarm, Return)>,
    /// Whether the correction is another one than before.
    pub changed: bool,
}

/// Learns from one user's stream, in memory of fixed size ([`Adapter::bytes`]).
#[derive(Debug)]
pub struct Adapter {
    config: AdaptConfig,
    heads: Heads,
    /// What is known before anything is learned: where the profile says that the face rests.
    base: Correction,
    /// The heads' expressions with that, by which everything is guarded.
    expressions: LinearHead,
    neutral_row: Option<usize>,
    buffers: Buffers,
    held_out: Labelled,
    held_out_secs: f64,
    /// The face that is taken for the user's, and when it was seen last.
    user: Option<(u64, f64)>,
    neutral: Neutral,
    /// The population's neutral place; where it is unknown, the first one that is found.
    reference: Option<Vec<f32>>,
    shift: Vec<f32>,
    /// Share of the neutral shift that is applied.
    trust: f32,
    projection: Projection,
    classes: Classes,
    set: Set,
    now_secs: f64,
    /// Whether a frame has come since the last slice.
    fresh: bool,
    paused_until_secs: f64,
    alarms: u32,
    correction: Correction,
    rng: ChaCha8Rng,
}

impl Adapter {
    /// Learns a correction to `heads`. Where they do not know at which place the population rests ([`Heads::neutral`]), the
    /// user's first place is taken for it: the shift then follows what changes later, such as the light.
    ///
    /// # Errors
    /// [`AdaptError::NoExpressions`].
    pub fn new(heads: Heads, config: AdaptConfig) -> Result<Self, AdaptError> {
        let expressions = heads.expression().cloned().ok_or(AdaptError::NoExpressions)?;
        let dim = heads.dim();
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        Ok(Self {
            neutral_row: expressions.row(NEUTRAL),
            buffers: Buffers::new(dim),
            held_out: Labelled::new(dim, HELD_OUT),
            held_out_secs: f64::NEG_INFINITY,
            user: None,
            neutral: Neutral::new(dim),
            reference: heads.neutral().map(|place| place.to_vec()),
            shift: vec![0.0; dim],
            trust: 1.0,
            projection: Projection::new(dim, config.projection.unwrap_or_default(), &mut rng),
            classes: Classes::new(),
            set: Set::new(dim),
            now_secs: f64::NEG_INFINITY,
            fresh: false,
            paused_until_secs: f64::NEG_INFINITY,
            alarms: 0,
            base: Correction::identity(dim),
            correction: Correction::identity(dim),
            config,
            heads,
            expressions,
            rng,
        })
    }

    /// Goes on from a correction that is known to be right: it is in force at once, others are judged by how far they lead from it,
    /// and it is what comes back after an alarm.
    ///
    /// # Errors
    /// [`AdaptError::Size`] where it is for other embeddings, or of another rank; [`AdaptError::Heads`] where the heads overflow
    /// with it.
    pub fn resume(&mut self, correction: Correction) -> Result<(), AdaptError> {
        check_size("a correction", correction.dim(), self.heads.dim())?;
        if correction.rank() > 0 && !self.projection.resume(correction.up(), correction.down()) {
            let expected = self.projection.rank();
            return Err(AdaptError::Size { what: "a projection", found: correction.rank(), expected });
        }
        self.expressions = expressions_of(&self.heads, &correction)?;
        self.stand_on(correction);
        Ok(())
    }

    /// Makes a correction, with which the expressions are read already, what is known and in force.
    fn stand_on(&mut self, correction: Correction) {
        let held_out = std::mem::replace(&mut self.held_out, Labelled::new(self.heads.dim(), HELD_OUT));
        for (moment, embedding) in held_out.data().iter() {
            let kept = self.held_out.push(read_as(&self.expressions, moment.t_secs, embedding), embedding);
            debug_assert!(kept.is_ok(), "it was sound before");
        }
        self.shift.copy_from_slice(correction.shift());
        (self.trust, self.alarms) = (1.0, 0);
        self.correction = correction.clone();
        self.base = correction;
    }

    /// Takes a frame of the face that the tracker calls `track`, in O(dim) times the expressions and without allocating.
    /// Whether the frame was kept to learn from. What it reads as is told by the heads as they were given, not as they are
    /// corrected: a wrong correction does not choose what it learns from.
    ///
    /// # Errors
    /// [`AdaptError`]; nothing was learned from the frame then.
    pub fn observe(&mut self, track: u64, t_secs: f64, embedding: &[f32]) -> Result<bool, AdaptError> {
        check_size("an embedding", embedding.len(), self.heads.dim())?;
        let held_out = self.hold_out(t_secs, embedding);
        let kept = !held_out && self.buffers.push(track, t_secs, embedding)?;
        (self.now_secs, self.fresh) = (t_secs, true);
        // What corrections are judged on has no say in them.
        if self.is_user(track, t_secs)
            && !held_out
            && let Some(row) = self.neutral_row
        {
            self.neutral.observe(t_secs, embedding, probability(&self.expressions, embedding, row));
        }
        Ok(kept)
    }

    /// Takes a frame to judge on where it is time for one; whether it did. A frame that is not sound is left to the
    /// buffers to refuse.
    fn hold_out(&mut self, t_secs: f64, embedding: &[f32]) -> bool {
        if t_secs - self.held_out_secs < HELD_OUT_SECS {
            return false;
        }
        let moment = read_as(&self.expressions, t_secs, embedding);
        let taken = self.held_out.push(moment, embedding).is_ok();
        if taken {
            self.held_out_secs = t_secs;
        }
        taken
    }

    fn is_user(&mut self, track: u64, t_secs: f64) -> bool {
        match &mut self.user {
            Some((user, seen_secs)) if *user == track => *seen_secs = t_secs,
            Some((_, seen_secs)) if (0.0..SILENT_SECS).contains(&(t_secs - *seen_secs)) => return false,
            user => {
                let is_another = user.replace((track, t_secs)).is_some_and(|(before, _)| before != track);
                if is_another && !self.config.one_person {
                    self.reset();
                }
            }
        }
        true
    }

    /// Learns for a while, unless the budget says to wait or nothing new was seen. `now` reads a monotonic clock with any
    /// origin.
    pub fn slice(&mut self, budget: &mut Budget, mut now: impl FnMut() -> Duration) -> SliceReport {
        let begin = now();
        let wait = budget.wait(begin);
        if !wait.is_zero() {
            return SliceReport { wait, ..SliceReport::default() };
        }
        if !std::mem::take(&mut self.fresh) {
            return SliceReport { wait: IDLE, ..SliceReport::default() };
        }
        let mut report = SliceReport::default();
        if self.held_out.data().len() >= ENOUGH_HELD_OUT && self.now_secs >= self.paused_until_secs {
            self.follow_neutral();
            self.learn(&mut report);
            self.publish(&mut report);
        }
        let end = now();
        budget.spend(begin, end);
        report.wait = budget.wait(end);
        report
    }

    fn follow_neutral(&mut self) {
        self.trust = (self.trust * REGAIN).min(1.0);
        if !self.config.neutral {
            return;
        }
        self.neutral.update();
        let Some((place, error)) = self.neutral.place() else { return };
        let base = self.base.shift();
        let reference = self
            .reference
            .get_or_insert_with(|| place.iter().zip(base).map(|(place, base)| place - base).collect());
        let away = distance(place, reference);
        // James and Stein's shrinkage: a place that is known badly counts little.
        let known = if away > error { 1.0 - (error / away).powi(2) } else { 0.0 };
        for (((shift, place), reference), base) in self.shift.iter_mut().zip(place).zip(reference).zip(base) {
            *shift = base + self.trust * (known * (place - *reference) - base);
        }
    }

    fn learn(&mut self, report: &mut SliceReport) {
        if self.config.projection.is_none() {
            return;
        }
        self.classes.read(&self.buffers, &self.expressions);
        // A face that shows one expression teaches nothing about what tells expressions apart.
        if self.classes.distinct() < 2 {
            return;
        }
        for _ in 0..STEPS {
            self.projection.begin();
            for _ in 0..ANCHORS {
                if self.classes.draw(&self.buffers, &self.shift, &mut self.set, &mut self.rng) {
                    self.projection.add(&self.set);
                }
            }
            report.step = self.projection.end();
            report.steps += usize::from(report.step.anchors > 0);
        }
    }

    /// Puts the newest correction in force if it keeps the bounds, or what is left of it once it does.
    fn publish(&mut self, report: &mut SliceReport) {
        let mut first = None;
        let mut share = 1.0;
        for _ in 0..=DECAYS {
            match self.candidate() {
                Ok((candidate, check)) => {
                    report.check = check;
                    let Some(alarm) = check.alarm(&self.config.bounds) else {
                        report.changed = candidate != self.correction;
                        self.correction = candidate;
                        break;
                    };
                    first.get_or_insert(alarm);
                }
                Err(alarm) => _ = first.get_or_insert(alarm),
            }
            share /= 2.0;
            self.projection.decay(0.5);
            let base = self.base.shift();
            self.shift.iter_mut().zip(base).for_each(|(v, base)| *v = base + 0.5 * (*v - base));
            self.trust *= 0.5;
        }
        let Some(alarm) = first else { return };
        let soon = self.now_secs - self.paused_until_secs <= PAUSE_SECS;
        self.alarms = if soon { self.alarms + 1 } else { 1 };
        let returned = if share < 0.5f32.powi(DECAYS as i32) || self.alarms >= ALARMS {
            self.reset();
            (report.changed, report.check) = (true, Check::default());
            Return::Reset
        } else {
            Return::Decayed { share }
        };
        self.paused_until_secs = self.now_secs + PAUSE_SECS;
        report.returned = Some((alarm, returned));
    }

    fn candidate(&self) -> Result<(Correction, Check), Alarm> {
        let projection = &self.projection;
        let correction = if self.config.projection.is_some() {
            let (up, down) = (projection.up().to_vec(), projection.down().to_vec());
            Correction::new(projection.rank(), self.shift.clone(), up, down)
        } else {
            Correction::shift_by(self.shift.clone())
        };
        let correction = correction.map_err(|_| Alarm::NotFinite)?;
        let folded = correction.fold(&self.heads).map_err(|_| Alarm::NotFinite)?;
        let expressions = folded.expression().ok_or(Alarm::NotFinite)?;
        let check = Check::of(&self.expressions, expressions, self.held_out.data(), projection.norm());
        Ok((correction, check))
    }

    /// Forgets what was learned, and the moments at rest that it came from: the correction is the one that was known before.
    pub fn reset(&mut self) {
        self.projection.reset(&mut self.rng);
        self.neutral.reset();
        self.shift.copy_from_slice(self.base.shift());
        self.trust = 1.0;
        self.alarms = 0;
        self.correction = self.base.clone();
    }

    /// The correction in force. It keeps the bounds.
    pub fn correction(&self) -> &Correction {
        &self.correction
    }

    /// The heads with the correction in force.
    ///
    /// # Errors
    /// [`HeadsError::NotFinite`] where they overflow.
    pub fn folded(&self) -> Result<Heads, HeadsError> {
        self.correction.fold(&self.heads)
    }

    /// The user's face is at rest in these embeddings, as somebody says who saw it: what was taken for rest before is forgotten.
    /// Those that are not sound are passed over.
    pub fn rest<'a>(&mut self, embeddings: impl Iterator<Item = &'a [f32]>) {
        let dim = self.heads.dim();
        let sound = |e: &&[f32]| e.len() == dim && e.iter().all(|v| v.is_finite());
        self.neutral.set(embeddings.filter(sound));
        self.fresh = true;
    }

    /// Goes on with other heads for the same embeddings, such as ones that were fitted to the user, and with the correction that
    /// they were fitted with. What the projection learned for the old ones is forgotten. Where the new heads do not know at which
    /// place the population rests, the user's place of now is taken for known to them.
    ///
    /// # Errors
    /// [`AdaptError`]; nothing has changed then.
    pub fn rebase(&mut self, heads: Heads, correction: Option<&Correction>) -> Result<(), AdaptError> {
        check_size("an embedding", heads.dim(), self.heads.dim())?;
        let base = correction.map_or_else(|| Correction::identity(heads.dim()), Correction::shift_alone);
        check_size("a correction", base.dim(), heads.dim())?;
        let expressions = expressions_of(&heads, &base)?;
        let here = || {
            let (place, _) = self.neutral.place()?;
            Some(place.iter().zip(base.shift()).map(|(place, base)| place - base).collect())
        };
        self.reference = heads.neutral().map(|place| place.to_vec()).or_else(here);
        self.neutral_row = expressions.row(NEUTRAL);
        self.projection.reset(&mut self.rng);
        (self.heads, self.expressions, self.fresh) = (heads, expressions, true);
        self.stand_on(base);
        Ok(())
    }

    /// The stream begins anew, perhaps with another clock: frames are forgotten, what was learned stays.
    pub fn restart(&mut self) {
        self.buffers.clear();
        self.user = None;
        self.held_out_secs = f64::NEG_INFINITY;
        self.now_secs = f64::NEG_INFINITY;
        self.paused_until_secs = f64::NEG_INFINITY;
    }

    /// Bytes that an adapter for embeddings of `dim` values and a projection of this rank takes, whatever the running
    /// time, but for its heads and what a slice needs while it runs.
    pub const fn bytes(dim: usize, rank: usize) -> usize {
        let rows = neutral::ROWS + projection::rows(rank) + 2 * rank + 3;
        size_of::<Self>()
            + Buffers::bytes(dim)
            + Labelled::bytes(dim, HELD_OUT)
            + rows * dim * size_of::<f32>()
    }
}

/// The expressions as read with a correction.
fn expressions_of(heads: &Heads, correction: &Correction) -> Result<LinearHead, AdaptError> {
    correction.fold(heads)?.expression().cloned().ok_or(AdaptError::NoExpressions)
}

/// A moment labelled with the expression that its embedding reads as.
fn read_as(head: &LinearHead, t_secs: f64, embedding: &[f32]) -> Moment {
    let label = Label { expression: Some(head.classify(embedding) as u8), ..Label::default() };
    Moment { t_secs, block: 0, label }
}

fn check_size(what: &'static str, found: usize, expected: usize) -> Result<(), AdaptError> {
    if found == expected { Ok(()) } else { Err(AdaptError::Size { what, found, expected }) }
}

#[cfg(test)]
mod tests;
