//! The last half minute of a person's embeddings, for labels that come after the moment.

use std::collections::VecDeque;

/// Moments that are kept.
const MOMENTS: usize = 300;
/// Seconds between two of them: neighbours hardly differ.
const SPACING_SECS: f64 = 0.1;

#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(f64, Vec<f32>)>);

impl Recent {
    /// Takes a moment, unless it follows the last one too soon. Once full, nothing is allocated.
    pub(super) fn push(&mut self, t_secs: f64, embedding: &[f32]) {
        if let Some((last, _)) = self.0.back() {
            // The source's clock may begin anew.
            if t_secs < *last {
                self.0.clear();
            } else if t_secs - last < SPACING_SECS {
                return;
            }
        }
        let mut room = if self.0.len() < MOMENTS { None } else { self.0.pop_front() }.unwrap_or_default();
        room.0 = t_secs;
        room.1.clear();
        room.1.extend_from_slice(embedding);
        self.0.push_back(room);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// First and last time that is held.
    pub(super) fn span_secs(&self) -> Option<[f64; 2]> {
        Some([self.0.front()?.0, self.0.back()?.0])
    }

    /// Moments from one time to another, both included.
    pub(super) fn between(&self, [from, to]: [f64; 2]) -> impl Iterator<Item = (f64, &[f32])> {
        let held = self.0.iter().filter(move |(t, _)| (from..=to).contains(t));
        held.map(|(t, embedding)| (*t, embedding.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_half_minute_is_held_ten_times_a_second() {
        let mut recent = Recent::default();
        assert!(recent.span_secs().is_none());
        for i in 0..3000 {
            recent.push(f64::from(i) / 30.0, &[i as f32]);
        }
        let [first, last] = recent.span_secs().unwrap();
        assert!((29.0..=41.0).contains(&(last - first)) && last > 99.8, "{first} to {last}");
        let held: Vec<f64> = recent.between([95.0, 96.0]).map(|(t, _)| t).collect();
        assert!(held.windows(2).all(|w| w[1] - w[0] >= SPACING_SECS - 1e-9) && held.len() >= 7, "{held:?}");
        for (t, embedding) in recent.between([0.0, 1e9]) {
            assert_eq!(f64::from(embedding[0]) / 30.0, t);
        }
        // The clock begins anew: times of before would be mistaken for those of now.
        recent.push(1.0, &[7.0]);
        assert_eq!(recent.between([0.0, 1e9]).collect::<Vec<_>>(), [(1.0, [7.0].as_slice())]);
    }
}
