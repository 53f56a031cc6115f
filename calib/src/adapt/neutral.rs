//! Where a face's embedding lies while it rests.

use std::cmp::Ordering;

use super::vector::{add_scaled, distance};

/// Moments at rest that are remembered.
const MOMENTS: usize = 32;
/// Moments at rest after which the place counts as known.
const ENOUGH: usize = 8;
/// Seconds between two of them: at first, and once there are as many as are remembered, which then span three minutes.
const SPACING_SECS: [f64; 2] = [1.0, 6.0];
/// Frames further apart than this tell nothing of how a face moves.
const MOTION_SECS: f64 = 0.5;
/// Least probability of the neutral expression: a face that is another one beyond doubt is not at rest, however long it lasts.
const NEUTRAL_P: f32 = 0.07;
/// Frames before which it is not known what a person mostly shows.
const WARM_UP: u32 = 50;
/// Factor by which a running median follows a frame (a stochastic quantile).
const MEDIAN_FACTOR: f32 = 1.05;
/// Moments next to each other in time are alike: so many of them tell as much as one.
const ALIKE: f32 = 2.0;
/// Steps of Weiszfeld's algorithm at an update; each update goes on from the one before.
const WEISZFELD_STEPS: usize = 4;

/// Rows of `dim` values that a [`Neutral`] takes.
pub(super) const ROWS: usize = MOMENTS + 3;

/// The geometric median of the embeddings of the last 32 moments at rest: moments that read as neutral as much as half of all
/// do, and in which the embedding moves less than it mostly does. Less than half of them being wrong moves it only a little
/// (its breakdown point is 1/2). What reads as neutral is compared with the person's own frames: a face that needs a
/// correction most reads as neutral least.
#[derive(Debug)]
pub struct Neutral {
    dim: usize,
    /// `[MOMENTS, dim]`, written in turn.
    moments: Vec<f32>,
    seen: usize,
    kept_secs: f64,
    previous: Vec<f32>,
    previous_secs: f64,
    /// Running median of the distance between two frames.
    motion: Option<f32>,
    /// Running median of the odds of the neutral expression, and the frames that it comes from.
    odds: Option<f32>,
    frames: u32,
    place: Vec<f32>,
    /// Median distance of the moments from the place.
    spread: f32,
    /// Whether the place goes on from an update before; the first one starts at the mean.
    started: bool,
    next: Vec<f32>,
}

impl Neutral {
    /// Nothing is known yet, of embeddings of `dim` values.
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            moments: vec![0.0; MOMENTS * dim],
            seen: 0,
            kept_secs: f64::NEG_INFINITY,
            previous: vec![0.0; dim],
            previous_secs: f64::NEG_INFINITY,
            motion: None,
            odds: None,
            frames: 0,
            place: vec![0.0; dim],
            spread: 0.0,
            started: false,
            next: vec![0.0; dim],
        }
    }

    /// Takes a frame of the face, in O(dim) without allocating; whether it is remembered as a moment at rest.
    /// `neutral_p` is the probability of the neutral expression in `[0, 1]`. Embeddings are finite, and `dim` long.
    pub fn observe(&mut self, t_secs: f64, embedding: &[f32], neutral_p: f32) -> bool {
        let still = self.is_still(t_secs, embedding);
        self.previous.copy_from_slice(embedding);
        self.previous_secs = t_secs;
        let odds = (neutral_p / (1.0 - neutral_p).max(1e-6)).clamp(1e-6, 1e6);
        let neutral = follow(&mut self.odds, odds) != Ordering::Less && neutral_p >= NEUTRAL_P;
        self.frames = self.frames.saturating_add(1);
        let spacing = SPACING_SECS[usize::from(self.seen >= MOMENTS)];
        let due = !(0.0..spacing).contains(&(t_secs - self.kept_secs));
        if !(still && due && neutral && self.frames >= WARM_UP) {
            return false;
        }
        let slot = self.seen % MOMENTS;
        self.moments[slot * self.dim..][..self.dim].copy_from_slice(embedding);
        self.seen += 1;
        self.kept_secs = t_secs;
        true
    }

    fn is_still(&mut self, t_secs: f64, embedding: &[f32]) -> bool {
        if !(0.0..=MOTION_SECS).contains(&(t_secs - self.previous_secs)) {
            return false;
        }
        let moved = distance(embedding, &self.previous);
        // A picture that stands still is no face that does.
        moved > 0.0 && follow(&mut self.motion, moved) != Ordering::Greater
    }

    /// Forgets everything, and takes these moments for rest: somebody says so who saw them.
    pub fn set<'a>(&mut self, moments: impl Iterator<Item = &'a [f32]>) {
        self.reset();
        for moment in moments {
            let slot = self.seen % MOMENTS;
            self.moments[slot * self.dim..][..self.dim].copy_from_slice(moment);
            self.seen += 1;
        }
    }

    /// Moments at rest that are remembered.
    pub fn len(&self) -> usize {
        self.seen.min(MOMENTS)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// Brings the place up to date: O(dim) times the moments at rest.
    pub fn update(&mut self) {
        if self.is_empty() {
            return;
        }
        let count = self.len();
        let moments = self.moments[..count * self.dim].chunks_exact(self.dim.max(1));
        if !self.started {
            self.started = count >= ENOUGH;
            self.place.fill(0.0);
            let share = 1.0 / count as f32;
            moments.clone().for_each(|moment| add_scaled(&mut self.place, share, moment));
        }
        for _ in 0..WEISZFELD_STEPS {
            let mut apart = [0.0; MOMENTS];
            for (apart, moment) in apart.iter_mut().zip(moments.clone()) {
                *apart = distance(moment, &self.place);
            }
            let mut sorted = apart;
            sorted[..count].sort_by(f32::total_cmp);
            // At a moment itself the weight would be infinite, and there would be no way on.
            self.spread = sorted[count / 2];
            let least = self.spread / 100.0;
            if least <= 0.0 {
                return; // Most moments lie exactly here.
            }
            self.next.fill(0.0);
            let mut weights = 0.0;
            for (apart, moment) in apart.iter().zip(moments.clone()) {
                let weight = 1.0 / apart.max(least);
                add_scaled(&mut self.next, weight, moment);
                weights += weight;
            }
            for (place, next) in self.place.iter_mut().zip(&self.next) {
                *place = next / weights;
            }
        }
    }

    /// The place `[dim]` as of the last update, and its standard error: the median distance of the moments from it over the
    /// root of half their number, as neighbours are alike. `None` before eight of them.
    pub fn place(&self) -> Option<(&[f32], f32)> {
        let known = self.started && self.len() >= ENOUGH;
        known.then(|| (self.place.as_slice(), self.spread / (self.len() as f32 / ALIKE).sqrt()))
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        (self.seen, self.started) = (0, false);
        self.kept_secs = f64::NEG_INFINITY;
        self.previous_secs = f64::NEG_INFINITY;
        (self.motion, self.odds, self.frames) = (None, None, 0);
    }
}

/// How a value lies to the running median of its kind, which then follows it.
fn follow(median: &mut Option<f32>, value: f32) -> Ordering {
    let median = median.get_or_insert(value);
    let order = value.total_cmp(median);
    // After a time without change the median has a way to go.
    let up = (*median * MEDIAN_FACTOR).max(value / 100.0);
    *median = if order == Ordering::Greater { up } else { *median / MEDIAN_FACTOR };
    order
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A neutral of these moments at rest, brought up to date until it stands.
    fn of(points: &[[f32; 2]]) -> Neutral {
        let mut neutral = Neutral::new(2);
        for (slot, point) in points.iter().enumerate() {
            neutral.moments[slot * 2..slot * 2 + 2].copy_from_slice(point);
        }
        neutral.seen = points.len();
        (0..500).for_each(|_| neutral.update());
        neutral
    }

    fn assert_near(neutral: &Neutral, x: f32, y: f32) {
        let place = neutral.place().unwrap().0;
        assert!((place[0] - x).hypot(place[1] - y) < 2e-3, "{place:?} is not ({x}, {y})");
    }

    #[test]
    fn it_is_the_geometric_median() {
        // Fermat's point of an isosceles right triangle sees its sides under 120 degrees: (t, t) with
        // t = (1 - 1 / sqrt 3) / 2. Each corner stands three times.
        let corners = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]].repeat(3);
        let t = (1.0 - 1.0 / 3f32.sqrt()) / 2.0;
        assert_near(&of(&corners), t, t);
        // Of four corners of a convex quadrangle it is where the diagonals cross.
        let middle = of(&[[0.0, 0.0], [4.0, 0.0], [4.0, 2.0], [0.0, 2.0]].repeat(2));
        assert_near(&middle, 2.0, 1.0);
        assert!((middle.place().unwrap().1 - (5.0 / 4f32).sqrt()).abs() < 1e-3, "all are root 5 away");
    }

    #[test]
    fn wrong_moments_move_it_little_however_far_they_are() {
        let mut points = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.5, 0.0]].repeat(4);
        points.extend([[1e6, 1e6]; 10]);
        let neutral = of(&points);
        let place = neutral.place().unwrap().0;
        assert!(place[0].hypot(place[1]) < 1.0, "{place:?}");
    }

    #[test]
    fn only_moments_at_rest_are_remembered() {
        let mut neutral = Neutral::new(1);
        // It moves on every other second, reads as happy in every third, and there are ten frames a second.
        let mut kept = Vec::new();
        for i in 0..600 {
            let (t_secs, second) = (f64::from(i) / 10.0, i / 10);
            let x = if second % 2 == 0 { (i % 3) as f32 * 0.01 } else { (i % 10) as f32 };
            let happy = second % 3 == 0;
            if neutral.observe(t_secs, &[x], if happy { 0.1 } else { 0.9 }) {
                kept.push(t_secs);
                assert!(!happy && x < 0.03, "kept {x} at {t_secs}");
            }
        }
        assert!(kept.windows(2).all(|pair| pair[1] - pair[0] >= SPACING_SECS[0]));
        assert!(neutral.len() >= ENOUGH, "{}", neutral.len());
    }

    #[test]
    fn it_follows_the_last_moments_and_knows_nothing_before_eight() {
        let mut neutral = Neutral::new(1);
        let mut frame = 0;
        let mut rest = |neutral: &mut Neutral, x: f32, moments: usize| {
            let before = neutral.seen;
            while neutral.seen < before + moments {
                neutral.observe(f64::from(frame) / 5.0, &[x + (frame % 2) as f32 * 1e-4], 1.0);
                frame += 1;
            }
            neutral.update();
        };
        rest(&mut neutral, 1.0, ENOUGH - 1);
        assert!(neutral.place().is_none());
        rest(&mut neutral, 1.0, 1);
        assert!((neutral.place().unwrap().0[0] - 1.0).abs() < 1e-3);
        rest(&mut neutral, 5.0, MOMENTS);
        (0..20).for_each(|_| neutral.update());
        assert!((neutral.place().unwrap().0[0] - 5.0).abs() < 1e-3);
    }
}
