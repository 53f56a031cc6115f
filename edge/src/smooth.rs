//! Smoothing over time by the One-Euro filter (Casiez, Roussel and Vogel 2012): little lag while a value moves fast, little
//! jitter while it rests.

use arrayvec::ArrayVec;
use semblance_calib::MAX_LABELS;

use crate::pipeline::Told;
use crate::prediction::Pose;

/// The filter's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneEuro {
    /// Cut-off frequency of a value at rest, in Hz: lower is smoother.
    pub min_cutoff_hz: f64,
    /// By how much the cut-off rises with the value's speed: higher lags less.
    pub beta: f64,
    /// Cut-off frequency of the speed, in Hz.
    pub speed_cutoff_hz: f64,
}

impl Default for OneEuro {
    /// Set for probabilities and for angles in units of 30 degrees, which both change by about 1.
    fn default() -> Self {
        Self { min_cutoff_hz: 1.0, beta: 1.0, speed_cutoff_hz: 1.0 }
    }
}

impl OneEuro {
    /// Its name in predictions.
    pub const NAME: &str = "one-euro";

    /// Weight of a new value, after so long, for a cut-off frequency.
    fn gain(dt_secs: f64, cutoff_hz: f64) -> f64 {
        let r = std::f64::consts::TAU * cutoff_hz * dt_secs;
        r / (r + 1.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Value {
    value: f64,
    speed: f64,
}

impl Value {
    fn update(&mut self, filter: &OneEuro, raw: f64, dt_secs: f64) -> f64 {
        let speed = (raw - self.value) / dt_secs;
        self.speed += OneEuro::gain(dt_secs, filter.speed_cutoff_hz) * (speed - self.speed);
        let cutoff = filter.min_cutoff_hz + filter.beta * self.speed.abs();
        self.value += OneEuro::gain(dt_secs, cutoff) * (raw - self.value);
        self.value
    }
}

/// Expressions, valence and arousal, action units, and three angles.
const MAX_VALUES: usize = 2 * MAX_LABELS + 2 + 3;

#[derive(Debug)]
struct Track {
    id: u64,
    t_secs: f64,
    values: ArrayVec<Value, MAX_VALUES>,
}

/// A face that was not seen for this long starts anew.
const FORGET_SECS: f64 = 1.0;
/// Angles in these units change about as much as probabilities do.
const ANGLE_UNIT_DEG: f32 = 30.0;

/// The filters of every face in view.
#[derive(Debug)]
pub struct Smoother {
    filter: OneEuro,
    tracks: Vec<Track>,
}

impl Smoother {
    /// Without a past.
    pub fn new(filter: OneEuro) -> Self {
        Self { filter, tracks: Vec::new() }
    }

    /// Replaces what was told of the face `id` at `t_secs` by its smoothed values. Probabilities of expressions still sum
    /// to 1.
    pub fn smooth(&mut self, id: u64, t_secs: f64, told: &mut Told, pose: &mut Option<Pose>) {
        let track = match self.tracks.iter().position(|track| track.id == id) {
            Some(at) => &mut self.tracks[at],
            None => {
                self.tracks.push(Track { id, t_secs: f64::NEG_INFINITY, values: ArrayVec::new() });
                let last = self.tracks.len() - 1;
                &mut self.tracks[last]
            }
        };
        let dt_secs = t_secs - track.t_secs;
        let fresh = dt_secs <= 0.0 || dt_secs > FORGET_SECS;
        track.t_secs = t_secs;
        let mut place = 0;
        each_value(told, pose, |value| {
            let raw = f64::from(*value);
            match track.values.get_mut(place) {
                Some(kept) if !fresh => *value = kept.update(&self.filter, raw, dt_secs) as f32,
                Some(kept) => *kept = Value { value: raw, speed: 0.0 },
                None => {
                    let _ = track.values.try_push(Value { value: raw, speed: 0.0 });
                }
            }
            place += 1;
        });
        // A value that comes late, as an angle does whose landmarks were lost, starts anew.
        track.values.truncate(place);
        if let Some(expression) = &mut told.expression {
            let p = expression.p.values_mut();
            let sum: f32 = p.iter().sum();
            if sum > 0.0 {
                p.iter_mut().for_each(|v| *v /= sum);
            }
        }
    }

    /// Forgets faces that are gone.
    pub fn forget_before(&mut self, t_secs: f64) {
        self.tracks.retain(|track| (t_secs - track.t_secs).abs() <= FORGET_SECS);
    }
}

/// Every value in an order that stays: those that may be missing come last.
fn each_value(told: &mut Told, pose: &mut Option<Pose>, mut visit: impl FnMut(&mut f32)) {
    if let Some(expression) = &mut told.expression {
        expression.p.values_mut().iter_mut().for_each(&mut visit);
    }
    if let Some(values) = &mut told.valence_arousal {
        values.iter_mut().for_each(&mut visit);
    }
    if let Some(au) = &mut told.au {
        au.values_mut().iter_mut().for_each(&mut visit);
    }
    if let Some(pose) = pose {
        for angle in [&mut pose.yaw, &mut pose.pitch, &mut pose.roll] {
            *angle /= ANGLE_UNIT_DEG;
            visit(angle);
            *angle *= ANGLE_UNIT_DEG;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::prediction::{ExpressionPrediction, Scores};

    fn told(happy: f32) -> Told {
        let labels: Arc<[String]> = ["neutral".to_owned(), "happy".to_owned()].into();
        let expression = ExpressionPrediction { p: Scores::new(labels, &[1.0 - happy, happy]) };
        Told { expression: Some(expression), valence_arousal: Some([happy, 0.0]), au: None }
    }

    /// The filter as its paper writes it: a low-pass whose cut-off follows the low-passed derivative.
    fn reference(filter: &OneEuro, rate: f64, values: &[f64]) -> Vec<f64> {
        let alpha = |cutoff: f64| 1.0 / (1.0 + (1.0 / (2.0 * std::f64::consts::PI * cutoff)) / (1.0 / rate));
        let (mut x, mut dx) = (values[0], 0.0);
        let mut out = vec![x];
        for v in &values[1..] {
            let a = alpha(filter.speed_cutoff_hz);
            dx = a * ((v - x) * rate) + (1.0 - a) * dx;
            let a = alpha(filter.min_cutoff_hz + filter.beta * f64::abs(dx));
            x = a * v + (1.0 - a) * x;
            out.push(x);
        }
        out
    }

    #[test]
    fn values_follow_the_papers_filter() {
        let filter = OneEuro::default();
        let raw: Vec<f64> = (0..60).map(|i| 0.5 + 0.4 * (f64::from(i) * 0.3).sin()).collect();
        let expected = reference(&filter, 30.0, &raw);
        let mut smoother = Smoother::new(filter);
        for (i, (raw, expected)) in raw.iter().zip(&expected).enumerate() {
            let mut now = told(*raw as f32);
            smoother.smooth(1, i as f64 / 30.0, &mut now, &mut None);
            let valence = f64::from(now.valence_arousal.unwrap()[0]);
            assert!((valence - expected).abs() < 1e-5, "{i}: {valence} {expected}");
            let sum: f32 = now.expression.unwrap().p.values().iter().sum();
            assert!((sum - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn faces_are_apart_and_start_anew_after_a_gap() {
        let mut smoother = Smoother::new(OneEuro::default());
        let mut at = |id, t, happy: f32| {
            let mut now = told(happy);
            smoother.smooth(id, t, &mut now, &mut None);
            now.valence_arousal.unwrap()[0]
        };
        assert_eq!(at(1, 0.0, 0.0), 0.0);
        assert!(at(1, 0.04, 1.0) < 0.9);
        assert_eq!(at(2, 0.04, 1.0), 1.0);
        assert_eq!(at(1, 5.0, 1.0), 1.0);
    }

    #[test]
    fn an_angle_that_was_lost_starts_where_it_comes_back() {
        let mut smoother = Smoother::new(OneEuro::default());
        let pose = |yaw| Some(Pose { yaw, pitch: 0.0, roll: 0.0 });
        let mut seen = pose(30.0);
        smoother.smooth(1, 0.0, &mut told(0.5), &mut seen);
        smoother.smooth(1, 0.04, &mut told(0.5), &mut None);
        let mut back = pose(-30.0);
        smoother.smooth(1, 0.08, &mut told(0.5), &mut back);
        assert_eq!(back, pose(-30.0));
        let mut next = pose(30.0);
        smoother.smooth(1, 0.12, &mut told(0.5), &mut next);
        assert!(next.unwrap().yaw < 30.0 && next.unwrap().yaw > -30.0);
    }
}
