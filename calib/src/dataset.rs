//! What people said of moments, and the embeddings of those moments.

use thiserror::Error;

use crate::heads::MAX_LABELS;

/// What a person said of one moment. Rows are those of the heads that the labels are for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Label {
    /// Row of the expression head.
    pub expression: Option<u8>,
    /// Valence and arousal, each in `[-1, 1]`.
    pub valence_arousal: Option<[f32; 2]>,
    /// Intensity of each action unit in `[0, 1]`, by row of the action units' head; NaN where nothing was said of it.
    pub action_units: Option<[f32; MAX_LABELS]>,
}

/// A labelled moment, without its embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Seconds on the clock of the recording.
    pub t_secs: f64,
    /// Stretch of time that it belongs to: moments of one block are neighbours, and are left out together.
    pub block: u32,
    /// What was said of it.
    pub label: Label,
}

/// Why a moment was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum DatasetError {
    /// The embedding has another length.
    #[error("an embedding of {found} values where {dim} are expected")]
    Dim {
        /// Values that were given.
        found: usize,
        /// Values of the others.
        dim: usize,
    },
    /// The embedding, the time or the label holds NaN, an infinity or a value out of its range.
    #[error("the moment at {t_secs} s holds a value that is not finite, or out of its range")]
    Value {
        /// When it was.
        t_secs: f64,
    },
}

/// Whether valence and arousal lie in their range, `[-1, 1]` each.
pub fn is_rating(valence_arousal: [f32; 2]) -> bool {
    valence_arousal.iter().all(|v| (-1.0..=1.0).contains(v))
}

/// Labelled moments with their embeddings, in the order in which they were pushed.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    dim: usize,
    moments: Vec<Moment>,
    embeddings: Vec<f32>,
}

impl Dataset {
    /// An empty one for embeddings of `dim` values.
    pub const fn new(dim: usize) -> Self {
        Self { dim, moments: Vec::new(), embeddings: Vec::new() }
    }

    /// The same, with room for so many moments.
    pub fn with_capacity(dim: usize, moments: usize) -> Self {
        Self { dim, moments: Vec::with_capacity(moments), embeddings: Vec::with_capacity(moments * dim) }
    }

    /// Adds a moment.
    ///
    /// # Errors
    /// [`DatasetError`]; nothing was added then.
    pub fn push(&mut self, moment: Moment, embedding: &[f32]) -> Result<(), DatasetError> {
        self.check(&moment, embedding)?;
        self.moments.push(moment);
        self.embeddings.extend_from_slice(embedding);
        Ok(())
    }

    /// Whether a moment could be added.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn check(&self, moment: &Moment, embedding: &[f32]) -> Result<(), DatasetError> {
        if embedding.len() != self.dim {
            return Err(DatasetError::Dim { found: embedding.len(), dim: self.dim });
        }
        let unit = |v: &f32| v.is_nan() || (0.0..=1.0).contains(v);
        let label = &moment.label;
        let sound = moment.t_secs.is_finite()
            && embedding.iter().all(|v| v.is_finite())
            && label.valence_arousal.is_none_or(is_rating)
            && label.action_units.is_none_or(|au| au.iter().all(unit))
            && label.expression.is_none_or(|row| usize::from(row) < MAX_LABELS);
        if sound { Ok(()) } else { Err(DatasetError::Value { t_secs: moment.t_secs }) }
    }

    /// Takes a moment out; `None` where there is none at `index`. The others keep their order.
    pub fn remove(&mut self, index: usize) -> Option<Moment> {
        (index < self.len()).then(|| {
            self.embeddings.drain(index * self.dim..(index + 1) * self.dim);
            self.moments.remove(index)
        })
    }

    /// Bytes that are reserved for moments and embeddings.
    pub fn reserved_bytes(&self) -> usize {
        self.moments.capacity() * size_of::<Moment>() + self.embeddings.capacity() * size_of::<f32>()
    }

    /// Values of an embedding.
    pub const fn dim(&self) -> usize {
        self.dim
    }

    /// Number of moments.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    /// The moments.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Moments with their embeddings.
    pub fn iter(&self) -> impl Iterator<Item = (&Moment, &[f32])> {
        self.moments.iter().enumerate().map(|(i, moment)| (moment, self.embedding(i)))
    }

    /// Takes in all moments of another; its blocks follow those that are here.
    ///
    /// # Errors
    /// [`DatasetError`] where its embeddings are of another size; the moments before it are taken in.
    pub fn append(&mut self, other: &Self) -> Result<(), DatasetError> {
        let first = self.next_block();
        other.iter().try_for_each(|(moment, embedding)| {
            self.push(Moment { block: first.saturating_add(moment.block), ..*moment }, embedding)
        })
    }

    /// The first number that no block has.
    pub fn next_block(&self) -> u32 {
        self.moments.iter().map(|moment| moment.block.saturating_add(1)).max().unwrap_or(0)
    }

    /// The embedding of a moment. `index` is below [`Dataset::len`].
    pub fn embedding(&self, index: usize) -> &[f32] {
        &self.embeddings[index * self.dim..(index + 1) * self.dim]
    }

    /// All embeddings, row-major `[len, dim]`.
    pub fn embeddings(&self) -> &[f32] {
        &self.embeddings
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_sound_is_refused_and_changes_nothing() {
        let mut data = Dataset::new(2);
        let at = |label| Moment { t_secs: 1.0, block: 0, label };
        data.push(at(Label { expression: Some(3), ..Label::default() }), &[1.0, 2.0]).unwrap();
        let before = data.clone();
        assert_eq!(data.push(at(Label::default()), &[1.0]), Err(DatasetError::Dim { found: 1, dim: 2 }));
        let mut au = [f32::NAN; MAX_LABELS];
        au[0] = 1.5;
        for (label, embedding) in [
            (Label::default(), [f32::NAN, 0.0]),
            (Label { valence_arousal: Some([0.0, 1.01]), ..Label::default() }, [0.0; 2]),
            (Label { valence_arousal: Some([f32::NAN, 0.0]), ..Label::default() }, [0.0; 2]),
            (Label { action_units: Some(au), ..Label::default() }, [0.0; 2]),
            (Label { expression: Some(MAX_LABELS as u8), ..Label::default() }, [0.0; 2]),
        ] {
            assert_eq!(data.push(at(label), &embedding), Err(DatasetError::Value { t_secs: 1.0 }));
        }
        assert_eq!(data, before);
        assert_eq!(data.embedding(0), [1.0, 2.0]);
    }
}
