//! Learning from one label at a time.

use super::dual::{Problem, Solution};
use super::task::Task;
use super::{FitError, FitOptions, Fitted};
use crate::dataset::{Dataset, Moment};
use crate::heads::{HeadKind, Heads};

/// Up to so many moments the coordinates still move with the data, and a label refits everything.
const SETTLING: usize = 32;

/// Earlier moments that are visited again with each label.
const REVISITED: usize = 24;

/// Heads that follow each label at once, in a time that does not depend on how many there are.
///
/// A label costs one exact fit of its own dual variables and those of 24 earlier ones in turn. Each of these steps
/// brings the heads nearer to those that [`crate::fit::fit`] would find at the same strength, none leads away (see
/// the solver, `dual.rs`); [`Updater::settle`] goes all the way. The new heads are not judged: feedback is meant to
/// be seen at once, and `fit` decides what stays.
#[derive(Clone, Debug)]
pub struct Updater {
    heads: Heads,
    data: Dataset,
    options: FitOptions,
    learners: Vec<Learner>,
}

#[derive(Clone, Debug)]
struct Learner {
    task: Task,
    solution: Solution,
    strength: f64,
    /// Place in the task's rows from which earlier moments are visited next.
    next: usize,
}

impl Updater {
    /// Learns from `data` and goes on from there. `heads` is the prior, and not that of an earlier fit to the
    /// same labels. Each head's strength is that of `fitted` where it has one, and otherwise the
    /// middle one of the options'.
    ///
    /// # Errors
    /// [`FitError`] for what does not fit together.
    pub fn new(
        heads: &Heads,
        data: Dataset,
        fitted: Option<&Fitted>,
        options: &FitOptions,
    ) -> Result<Self, FitError> {
        options.check()?;
        super::check_dim(heads, &data)?;
        let mut strengths = options.strengths.clone();
        strengths.sort_unstable_by(f64::total_cmp);
        let middle = strengths[strengths.len() / 2];
        let mut learners = Vec::new();
        for kind in HeadKind::ALL {
            let labels = options.labels(heads, kind);
            if labels.is_empty() {
                continue;
            }
            let strength = fitted.and_then(|f| f.get(kind).strength).unwrap_or(middle);
            let task = Task::new(kind, labels, heads.get(kind), &data)?;
            let solution = Solution::start(&task, &data);
            learners.push(Learner { task, solution, strength, next: 0 });
        }
        let mut updater = Self { heads: heads.clone(), data, options: options.clone(), learners };
        updater.settle();
        Ok(updater)
    }

    /// Takes in a label.
    ///
    /// # Errors
    /// [`FitError::Moment`] and [`FitError::Label`]; nothing was learned then.
    pub fn push(&mut self, moment: Moment, embedding: &[f32]) -> Result<(), FitError> {
        for learner in &self.learners {
            learner.task.target_of(&moment.label)?;
        }
        self.data.push(moment, embedding)?;
        let row = self.data.len() - 1;
        if row < SETTLING {
            return self.restart();
        }
        for learner in &mut self.learners {
            learner.learn(&self.data, row)?;
        }
        Ok(())
    }

    /// Goes on to tolerance: the full refit, from where it stands. Returns whether all heads got there.
    pub fn settle(&mut self) -> bool {
        let mut all = true;
        for Learner { task, solution, strength, .. } in &mut self.learners {
            let problem = Problem::new(task, &self.data, &task.rows, *strength);
            all &= solution.solve(&problem, self.options.until()).is_some();
        }
        all
    }

    /// The heads as learned so far. Those that no label speaks of are unchanged.
    ///
    /// # Errors
    /// [`FitError::Heads`] where a value is beyond f32.
    pub fn heads(&self) -> Result<Heads, FitError> {
        let mut heads = Vec::new();
        for kind in HeadKind::ALL {
            let learner = self.learners.iter().find(|l| l.task.kind == kind && !l.task.rows.is_empty());
            let head = match learner {
                Some(l) => Some(l.task.frame.leave(kind, &l.task.labels, &l.solution.weights)?),
                None => self.heads.get(kind).cloned(),
            };
            heads.extend(head.map(|head| (kind, head)));
        }
        Ok(Heads::new(self.heads.dim(), heads)?.with_neutral(self.heads.neutral().cloned())?)
    }

    /// What it has learned from.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Bytes that the labels, the embeddings and the solver's state take.
    pub fn bytes(&self) -> usize {
        let data = 4 * self.data.embeddings().len() + size_of::<Moment>() * self.data.len();
        data + self.learners.iter().map(|l| l.task.bytes() + l.solution.bytes()).sum::<usize>()
    }

    fn restart(&mut self) -> Result<(), FitError> {
        for learner in &mut self.learners {
            learner.task = learner.task.renewed(&self.data)?;
            learner.solution = Solution::start(&learner.task, &self.data);
        }
        self.settle();
        Ok(())
    }
}

impl Learner {
    fn learn(&mut self, data: &Dataset, row: usize) -> Result<(), FitError> {
        let Self { task, solution, strength, next } = self;
        let before = task.rows.len();
        task.push(row, &data.moments()[row].label)?;
        solution.grow(task, data);
        if task.rows.len() == before {
            return Ok(());
        }
        let problem = Problem::new(task, data, &task.rows, *strength);
        solution.visit(&problem, row, 0.0);
        for _ in 0..REVISITED.min(before) {
            solution.visit(&problem, task.rows[*next % before], 0.0);
            *next += 1;
        }
        solution.visit(&problem, row, 0.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fit::testing::{Person, largest_gap};

    #[test]
    fn labels_one_by_one_lead_near_the_full_fit_and_settle_on_it() {
        let person = Person::new(1, 16, 0.5);
        let data = person.session(3, 10);
        let mut one_by_one =
            Updater::new(&person.heads, Dataset::new(16), None, &FitOptions::default()).unwrap();
        for (i, moment) in data.moments().iter().enumerate() {
            one_by_one.push(*moment, data.embedding(i)).unwrap();
        }
        let options = FitOptions { tolerance: 1e-7, max_sweeps: 5000, ..FitOptions::default() };
        // The coordinates of the first moments stay, so that the reference has to start from them too.
        let mut settled = one_by_one.clone();
        settled.options = options;
        assert!(settled.settle());
        let settled = settled.heads().unwrap();
        for kind in HeadKind::ALL {
            let gap = |heads: &Heads| largest_gap(heads.get(kind), settled.get(kind), &data);
            let (near, far) = (gap(&one_by_one.heads().unwrap()), gap(&person.heads));
            eprintln!("{kind:?}: {near:.3} from the full fit; the shipped head {far:.3}");
            assert!(near < 0.2 * far, "{kind:?}: {near} of {far}");
        }
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let person = Person::new(2, 4, 0.5);
        let data = person.session(1, 2);
        let mut updater = Updater::new(&person.heads, data, None, &FitOptions::default()).unwrap();
        let before = (updater.data().len(), updater.heads().unwrap());
        let mut moment = updater.data().moments()[0];
        assert!(matches!(updater.push(moment, &[0.0; 3]), Err(FitError::Moment(_))));
        moment.label.expression = Some(30);
        assert!(matches!(updater.push(moment, &[0.0; 4]), Err(FitError::Label { row: 30, .. })));
        assert_eq!((updater.data().len(), updater.heads().unwrap()), before);
    }

    #[test]
    fn heads_without_labels_stay() {
        let person = Person::new(3, 4, 0.5);
        let mut updater = Updater::new(&person.heads, Dataset::new(4), None, &FitOptions::default()).unwrap();
        assert_eq!(updater.heads().unwrap(), person.heads);
        let data = person.session(1, 1);
        let mut moment = data.moments()[0];
        moment.label.valence_arousal = None;
        moment.label.action_units = None;
        updater.push(moment, data.embedding(0)).unwrap();
        let heads = updater.heads().unwrap();
        assert_ne!(heads.expression(), person.heads.expression());
        assert_eq!(heads.get(HeadKind::ValenceArousal), person.heads.get(HeadKind::ValenceArousal));
    }
}
