//! Whether a frame shows the person well enough to learn from, and what to do about it where not.

use serde::Serialize;

/// Beyond, features of one side are hidden, and the landmarks of the other less sure.
const MAX_YAW_DEG: f32 = 25.0;
const MAX_PITCH_DEG: f32 = 20.0;
/// Mean brightness of a crop outside which details drown in noise or are burnt out.
const LIGHT: std::ops::RangeInclusive<f32> = 0.12..=0.92;
/// Widths of the face that it may move in a second: a head that nods at this pace is blurred at 30 frames a second.
const MAX_SPEED: f32 = 0.6;
/// Velocity is smoothed over about so many seconds, as boxes jitter.
const SMOOTHING_SECS: f32 = 0.3;

/// What a frame shows of the person: of the largest face.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// Faces in view.
    pub faces: usize,
    /// Head turned to a side, in degrees; none where it is not known.
    pub yaw_deg: Option<f32>,
    /// Head up or down, in degrees; none where it is not known.
    pub pitch_deg: Option<f32>,
    /// Mean brightness of the crop, from 0 to 1.
    pub light: f32,
    /// Centre of the face's box, pixels.
    pub centre: [f32; 2],
    /// Width of the face's box, pixels.
    pub width: f32,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// Nobody is there.
    NoFace,
    /// It is not sure who is meant.
    SeveralFaces,
    /// The face does not look into the camera.
    TurnedAway,
    /// There is too little light.
    TooDark,
    /// There is too much light.
    TooBright,
    /// The head moves.
    Moving,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::NoFace, Self::SeveralFaces, Self::TurnedAway, Self::TooDark, Self::TooBright, Self::Moving];

    /// What the person can do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NoFace => "Sit so that the camera sees your face.",
            Self::SeveralFaces => "Ask others to step out of the picture.",
            Self::TurnedAway => "Look straight into the camera.",
            Self::TooDark => "Turn on a light before you.",
            Self::TooBright => "Turn away from the bright light.",
            Self::Moving => "Hold your head still.",
        }
    }
}

/// Judges frame after frame.
#[derive(Clone, Debug, Default)]
pub struct QualityGate {
    last: Option<(f64, [f32; 2])>,
    /// In face widths a second, smoothed: a box that trembles goes nowhere.
    velocity: [f32; 2],
}

impl QualityGate {
    /// What is wrong with the frame of `now_secs`, if anything is.
    pub fn judge(&mut self, now_secs: f64, sight: &Sight) -> Option<Flaw> {
        if sight.faces == 0 {
            self.last = None;
            return Some(Flaw::NoFace);
        }
        self.follow(now_secs, sight);
        let beyond =
            |angle: Option<f32>, most: f32| angle.is_some_and(|angle| angle.is_nan() || angle.abs() > most);
        if sight.faces > 1 {
            Some(Flaw::SeveralFaces)
        } else if beyond(sight.yaw_deg, MAX_YAW_DEG) || beyond(sight.pitch_deg, MAX_PITCH_DEG) {
            Some(Flaw::TurnedAway)
        } else if sight.light < *LIGHT.start() || sight.light.is_nan() {
            Some(Flaw::TooDark)
        } else if sight.light > *LIGHT.end() {
            Some(Flaw::TooBright)
        } else {
            (self.velocity[0].hypot(self.velocity[1]) > MAX_SPEED).then_some(Flaw::Moving)
        }
    }

    fn follow(&mut self, now_secs: f64, sight: &Sight) {
        let Some((before, [x, y])) = self.last.replace((now_secs, sight.centre)) else {
            self.velocity = [0.0; 2];
            return;
        };
        let secs = (now_secs - before) as f32;
        if secs > 0.0 && sight.width > 0.0 {
            let share = secs / (secs + SMOOTHING_SECS);
            let moved = [sight.centre[0] - x, sight.centre[1] - y];
            for (velocity, moved) in self.velocity.iter_mut().zip(moved) {
                *velocity += share * (moved / sight.width / secs - *velocity);
                if !velocity.is_finite() {
                    *velocity = 0.0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Sight = Sight {
        faces: 1,
        yaw_deg: Some(3.0),
        pitch_deg: Some(-4.0),
        light: 0.5,
        centre: [320.0, 240.0],
        width: 100.0,
    };

    #[test]
    fn each_flaw_is_seen_and_its_absence_too() {
        let judge = |sight: Sight| QualityGate::default().judge(0.0, &sight);
        assert_eq!(judge(GOOD), None);
        assert_eq!(judge(Sight { yaw_deg: None, pitch_deg: None, ..GOOD }), None, "unknown is not bad");
        assert_eq!(judge(Sight { faces: 0, ..GOOD }), Some(Flaw::NoFace));
        assert_eq!(judge(Sight { faces: 2, ..GOOD }), Some(Flaw::SeveralFaces));
        assert_eq!(judge(Sight { yaw_deg: Some(-30.0), ..GOOD }), Some(Flaw::TurnedAway));
        assert_eq!(judge(Sight { pitch_deg: Some(f32::NAN), ..GOOD }), Some(Flaw::TurnedAway));
        assert_eq!(judge(Sight { light: 0.05, ..GOOD }), Some(Flaw::TooDark));
        assert_eq!(judge(Sight { light: f32::NAN, ..GOOD }), Some(Flaw::TooDark));
        assert_eq!(judge(Sight { light: 0.95, ..GOOD }), Some(Flaw::TooBright));
    }

    #[test]
    fn a_head_that_moves_is_told_from_a_box_that_jitters() {
        let run = |step: fn(usize) -> f32| {
            let mut gate = QualityGate::default();
            let frames = (0..60).map(|i| {
                let centre = [320.0 + step(i), 240.0];
                gate.judge(i as f64 / 30.0, &Sight { centre, ..GOOD })
            });
            frames.filter(|flaw| *flaw == Some(Flaw::Moving)).count()
        };
        assert_eq!(run(|i| if i % 2 == 0 { 0.0 } else { 3.0 }), 0, "three pixels to and fro");
        assert!(run(|i| 4.0 * i as f32) > 50, "a width in less than a second");
        let mut gate = QualityGate::default();
        for centre in [[0.0, 0.0], [f32::INFINITY, 0.0], [0.0, 0.0]] {
            let _ = gate.judge(1.0, &Sight { centre, ..GOOD });
        }
        // Time that stands still or runs backwards does no harm.
        assert_eq!(gate.judge(0.5, &GOOD), None);
    }
}
