//! The labelled moments that a device keeps of a user: bounded, and balanced over what was said.

use std::mem;

use crate::dataset::{Dataset, DatasetError, Label, Moment};
use crate::heads::MAX_LABELS;

/// Moments kept of a user unless told otherwise. At 512 values they take some 0.6 MB ([`Labelled::bytes`]).
pub const CAPACITY: usize = 256;

/// Kinds of labels that are balanced against each other.
const CLASSES: usize = MAX_LABELS + 5;

/// What a label is counted as: its expression; else the quadrant of its valence and arousal; else action units.
fn class(label: &Label) -> usize {
    match (label.expression, label.valence_arousal) {
        (Some(row), _) => usize::from(row).min(MAX_LABELS - 1),
        (None, Some([v, a])) => MAX_LABELS + 2 * usize::from(v >= 0.0) + usize::from(a >= 0.0),
        (None, None) => MAX_LABELS + 4,
    }
}

/// At most so many labelled moments. Once it is full, a new moment takes the place of one of the commonest class: of the
/// oldest one in that class's largest block. So neither a class nor a stretch of time ever fills it.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    data: Dataset,
    capacity: usize,
}

impl Labelled {
    /// An empty one for embeddings of `dim` values, of at least one moment.
    pub fn new(dim: usize, capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { data: Dataset::with_capacity(dim, capacity), capacity }
    }

    /// Adds a moment; the moment that made place for it, where one had to.
    ///
    /// # Errors
    /// [`DatasetError`]; nothing has changed then.
    pub fn push(&mut self, moment: Moment, embedding: &[f32]) -> Result<Option<Moment>, DatasetError> {
        self.data.check(&moment, embedding)?;
        let gone =
            if self.data.len() < self.capacity { None } else { self.data.remove(self.leaving(&moment)) };
        self.data.push(moment, embedding)?;
        Ok(gone)
    }

    /// Which moment makes place for `coming`.
    fn leaving(&self, coming: &Moment) -> usize {
        let moments = self.data.moments();
        let mut counts = [0; CLASSES];
        moments.iter().for_each(|m| counts[class(&m.label)] += 1);
        // Of equally common classes it is that of the new moment, so that the others keep what they have.
        let coming = class(&coming.label);
        counts[coming] += 1;
        let commonest = (0..CLASSES).max_by_key(|&c| (counts[c], c == coming)).unwrap_or(coming);
        let members = |block| {
            let of_class = moments.iter().filter(move |m| class(&m.label) == commonest);
            of_class.filter(move |m| m.block == block).count()
        };
        let mut best: Option<(usize, usize)> = None;
        for (i, moment) in moments.iter().enumerate().filter(|(_, m)| class(&m.label) == commonest) {
            let crowd = members(moment.block);
            let older = |place: usize| moment.t_secs < moments[place].t_secs;
            if best.is_none_or(|(place, most)| crowd > most || crowd == most && older(place)) {
                best = Some((i, crowd));
            }
        }
        best.map_or(0, |(place, _)| place)
    }

    /// The moments.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Most moments that it holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that it takes at most.
    pub const fn bytes(dim: usize, capacity: usize) -> usize {
        mem::size_of::<Self>() + capacity * (mem::size_of::<Moment>() + dim * mem::size_of::<f32>())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(expression: u8, block: u32, t_secs: f64) -> Moment {
        Moment { t_secs, block, label: Label { expression: Some(expression), ..Label::default() } }
    }

    fn count(labelled: &Labelled, expression: u8) -> usize {
        labelled.data().moments().iter().filter(|m| m.label.expression == Some(expression)).count()
    }

    #[test]
    fn a_common_class_makes_place_and_a_rare_one_stays() {
        let mut labelled = Labelled::new(1, 12);
        for i in 0..3 {
            labelled.push(said(1, 0, f64::from(i)), &[1.0]).unwrap();
        }
        for i in 0..1000 {
            labelled.push(said(0, 1, f64::from(i)), &[0.0]).unwrap();
        }
        assert_eq!((count(&labelled, 0), count(&labelled, 1)), (9, 3));
        for i in 0..1000 {
            labelled.push(said(2, 2, f64::from(i)), &[2.0]).unwrap();
        }
        assert_eq!([0, 1, 2].map(|c| count(&labelled, c)), [5, 3, 4]);
        assert_eq!(labelled.data().len(), 12);
        let (moments, data) = (labelled.data().moments(), labelled.data());
        for (i, moment) in moments.iter().enumerate() {
            assert_eq!(data.embedding(i), [f32::from(moment.label.expression.unwrap())]);
        }
    }

    #[test]
    fn the_oldest_of_the_largest_block_goes_first() {
        let mut labelled = Labelled::new(0, 4);
        for (block, t_secs) in [(0, 1.0), (1, 5.0), (1, 4.0), (1, 6.0)] {
            assert_eq!(labelled.push(said(0, block, t_secs), &[]), Ok(None));
        }
        assert_eq!(labelled.push(said(0, 2, 7.0), &[]), Ok(Some(said(0, 1, 4.0))));
        assert_eq!(labelled.push(said(0, 3, 8.0), &[]), Ok(Some(said(0, 1, 5.0))));
        assert_eq!(labelled.push(said(0, 3, 9.0), &[]), Ok(Some(said(0, 0, 1.0))));
    }

    #[test]
    fn ratings_are_balanced_by_quadrant() {
        let rated = |v: f32, a: f32| Moment {
            t_secs: 0.0,
            block: 0,
            label: Label { valence_arousal: Some([v, a]), ..Label::default() },
        };
        let mut labelled = Labelled::new(0, 8);
        for (v, a) in [(0.5, 0.5), (0.5, -0.5), (-0.5, 0.5), (-0.5, -0.5)] {
            (0..50).for_each(|_| assert!(labelled.push(rated(v, a), &[]).is_ok()));
        }
        let mut quadrants = [0; CLASSES];
        labelled.data().moments().iter().for_each(|m| quadrants[class(&m.label)] += 1);
        assert!(quadrants[MAX_LABELS..MAX_LABELS + 4].iter().all(|&n| (1..=3).contains(&n)), "{quadrants:?}");
    }

    #[test]
    fn memory_stays_below_its_bound() {
        let mut labelled = Labelled::new(512, CAPACITY);
        for i in 0..2 * CAPACITY {
            labelled.push(said((i % 8) as u8, i as u32, i as f64), &[0.5; 512]).unwrap();
        }
        assert!(
            labelled.data().reserved_bytes() + mem::size_of::<Labelled>() <= Labelled::bytes(512, CAPACITY)
        );
        assert!(Labelled::bytes(512, CAPACITY) < 600_000);
    }

    #[test]
    fn a_refused_moment_costs_none() {
        let mut labelled = Labelled::new(1, 1);
        labelled.push(said(0, 0, 0.0), &[1.0]).unwrap();
        assert!(labelled.push(said(0, 0, 1.0), &[f32::NAN]).is_err());
        assert_eq!(labelled.data().moments(), [said(0, 0, 0.0)]);
    }
}
