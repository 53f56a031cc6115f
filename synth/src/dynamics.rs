//! What a face does over time: expressions that come and go, blinks, glances, head motion, a hand now and then.
//!
//! Everything is a pure function of a seed and a time, so any moment of a clip can be had without the ones before it.
//! Expressions come in episodes of a few seconds with an onset, an apex and an offset (Ekman & Friesen 1978); within
//! 1 s a face changes little, 3 s later it may show something else.

use crate::action_units::{
    AU2, AU10, AU12, AU14, AU17, AU20, AU24, AU25, AU26, AU43, Intensities, N, optional_units, prototype,
};
use crate::math::{lerp, noise1, sin, smoothstep};
use crate::random::{Draw, Stream, rng_for};
use crate::rig::{FaceState, Gaze, HeadPose};
use rand::Rng;
use semblance_face::labels::Expression;

/// An expression is named in the labels from this strength on; below it the face counts as neutral.
pub const SHOWN_FROM: f32 = 0.2;

/// How one person shows what they feel: range, side and resting face, for each action unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PersonalStyle {
    /// Factor on each unit's intensity, 0.35 to 1.4 (the result is held at 1).
    pub gain: Intensities,
    /// Habitual lopsidedness of each unit, as in [`FaceState::au_asymmetry`], within +-0.5.
    pub asymmetry: Intensities,
    /// Intensity of each unit at rest, 0 to 0.3.
    pub baseline: Intensities,
}

impl PersonalStyle {
    /// Shows exactly what is meant, on both sides alike, from a blank face.
    pub const fn plain() -> Self {
        Self { gain: [1.0; N], asymmetry: [0.0; N], baseline: [0.0; N] }
    }

    /// A random style; `strength` 0 gives [`PersonalStyle::plain`], 1 the full spread between people.
    pub fn sample(rng: &mut impl Rng, strength: f32) -> Self {
        let mut style = Self::plain();
        // People are expressive or reserved as a whole, and more so in some units than in others.
        let overall = 0.20 * rng.normal();
        for i in 0..N {
            let gain = (1.0 + strength * (overall + 0.22 * rng.normal())).clamp(0.35, 1.4);
            style.gain[i] = gain;
            style.asymmetry[i] = (strength * 0.14 * rng.normal()).clamp(-0.5, 0.5);
            let (rests, rest) = (rng.chance(0.15), 0.3 * rng.unit());
            if rests && ![AU25, AU26, AU43].contains(&i) {
                style.baseline[i] = strength * rest;
            }
        }
        // Everybody can close the eyes and open the mouth.
        for i in [AU43, AU26, AU25] {
            style.gain[i] = style.gain[i].max(0.9);
            style.asymmetry[i] = 0.0;
        }
        style.gain[AU43] = 1.0;
        style
    }

    /// What is seen of `meant`.
    pub fn show(&self, meant: &Intensities) -> Intensities {
        let mut shown = [0.0; N];
        for i in 0..N {
            shown[i] = (self.baseline[i] + self.gain[i] * meant[i]).clamp(0.0, 1.0);
        }
        shown
    }
}

/// What a face and its surroundings do at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) state: FaceState,
    /// Intensities before the personal style.
    pub(crate) meant: Intensities,
    pub(crate) expression: Expression,
    pub(crate) intensity: f32,
    /// Where the head is relative to its usual place, in face heights.
    pub(crate) drift: [f32; 2],
    /// Tracker's error of a crop, in face heights, and its scale's.
    pub(crate) jitter: [f32; 3],
    pub(crate) occlusion: Option<Occlusion>,
}

/// Something in front of the face.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occlusion {
    /// Chooses what it is and how it looks.
    pub(crate) kind: u32,
    /// Where it is relative to the middle of the face, cm.
    pub(crate) at: [f32; 2],
    /// Turn in the picture, radians.
    pub(crate) turn: f32,
}

/// The script of one clip.
pub(crate) struct Timeline {
    seed: u64,
    noise: u32,
    style: PersonalStyle,
    slot_secs: f64,
    base_pose: HeadPose,
    motion: HeadPose,
    liveliness: f32,
    talkative: f32,
    looks_at_camera: f32,
    occluded: f32,
}

/// One showing of an expression, in seconds from the clip's start.
struct Episode {
    expression: Expression,
    au: Intensities,
    asymmetry: Intensities,
    delay: Intensities,
    peak: f32,
    start: f64,
    onset: f32,
    apex: f32,
    offset: f32,
    talks: bool,
    pitch_deg: f32,
}

impl Timeline {
    /// `pose_spread` 1 uses the whole range of poses (yaw +-60, pitch and roll +-30 degrees), 0 looks straight ahead.
    pub(crate) fn new(seed: u64, style: PersonalStyle, pose_spread: f32, occluded: f32) -> Self {
        let mut rng = rng_for(seed, Stream::Motion, 0);
        let p = pose_spread;
        let motion = rng.between(0.3, 1.0);
        Self {
            seed,
            noise: rng.next_u32(),
            style,
            slot_secs: f64::from(rng.between(3.4, 5.2)),
            base_pose: HeadPose {
                yaw_deg: p * 24.0 * rng.normal(),
                pitch_deg: p * (8.0 * rng.normal() - 1.0),
                roll_deg: p * 6.0 * rng.normal(),
            },
            motion: HeadPose {
                yaw_deg: p * 20.0 * motion,
                pitch_deg: p * 11.0 * motion,
                roll_deg: p * 8.0 * motion,
            },
            liveliness: rng.between(0.4, 1.0),
            talkative: 0.6 * rng.unit(),
            looks_at_camera: rng.unit(),
            occluded,
        }
    }

    fn episode(&self, slot: i64) -> Episode {
        let mut rng = rng_for(self.seed, Stream::Expression, slot as u64);
        let expression = Expression::ALL[rng.weighted(&[1.6, 1.3, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9])];
        let mut au = prototype(expression);
        let mut delay = [0.0; N];
        let mut asymmetry = [0.0; N];
        for i in 0..N {
            let weak = rng.chance(0.10);
            let vary = rng.between(0.72, 1.18) * if weak { rng.between(0.2, 0.7) } else { 1.0 };
            au[i] = (au[i] * vary).min(1.0);
            delay[i] = 0.14 * rng.unit();
            asymmetry[i] = 0.09 * rng.normal();
        }
        for &(i, probability, most) in optional_units(expression) {
            let (there, strength) = (rng.chance(probability), rng.between(0.3, 1.0));
            if there {
                au[i] = au[i].max(most * strength);
            }
        }
        if expression == Expression::Contempt {
            let side = if rng.chance(0.5) { 1.0 } else { -1.0 };
            for i in [AU14, AU12, AU10] {
                asymmetry[i] = side * rng.between(0.75, 1.0);
            }
        }
        let room = self.slot_secs as f32;
        let onset = rng.between(0.25, 0.75);
        let offset = rng.between(0.4, 1.1);
        Episode {
            peak: rng.between(0.45, 1.0),
            start: slot as f64 * self.slot_secs + f64::from(rng.between(0.0, 0.3) * room),
            onset,
            apex: rng.between(0.5, (room - onset - offset).max(0.9)),
            offset,
            talks: rng.chance(self.talkative),
            pitch_deg: 3.0 * rng.normal(),
            expression,
            au,
            asymmetry,
            delay,
        }
    }

    /// What is meant and seen at `t_secs` from the clip's start.
    pub(crate) fn at(&self, t_secs: f64) -> Moment {
        let slot = (t_secs / self.slot_secs).floor() as i64;
        let mut meant = [0.0f32; N];
        let mut asymmetry = self.style.asymmetry;
        let (mut expression, mut intensity, mut nod) = (Expression::Neutral, 0.0f32, 0.0f32);
        for episode in [slot - 1, slot].map(|s| self.episode(s)) {
            let since = (t_secs - episode.start) as f32;
            let strength = episode.peak * episode.envelope(since, self.noise);
            if strength <= 0.0 {
                continue;
            }
            for i in 0..N {
                let k = episode.peak * episode.envelope(since - episode.delay[i], self.noise) * episode.au[i];
                if k > meant[i] {
                    asymmetry[i] = self.style.asymmetry[i] + episode.asymmetry[i];
                    meant[i] = k;
                }
            }
            if episode.talks {
                self.talk(since, strength / episode.peak, &mut meant);
            }
            nod += episode.pitch_deg * strength;
            if strength >= SHOWN_FROM && strength > intensity && episode.expression != Expression::Neutral {
                (expression, intensity) = (episode.expression, strength);
            }
        }
        let blink = self.blink(t_secs);
        meant[AU43] = meant[AU43].max(blink);
        let mut shown = self.style.show(&meant);
        for (i, a) in shown.iter_mut().enumerate() {
            // Muscles are never quite still.
            let tremor = 0.012 * noise1(t_secs as f32 * 5.0 + i as f32 * 17.0, self.noise ^ 0x71);
            if *a > 0.02 {
                *a = (*a + tremor).clamp(0.0, 1.0);
            }
            asymmetry[i] = asymmetry[i].clamp(-1.0, 1.0);
        }
        let pose = self.pose(t_secs, nod);
        Moment {
            state: FaceState { au: shown, au_asymmetry: asymmetry, pose, gaze: self.gaze(t_secs, &pose) },
            meant,
            expression,
            intensity,
            drift: [0.10, 0.07].map(|k| k * self.liveliness).into_iter().enumerate().fold(
                [0.0; 2],
                |mut d, (i, k)| {
                    d[i] = k * self.wander(t_secs, 3.1, 40 + i as u32);
                    d
                },
            ),
            jitter: [0, 1, 2]
                .map(|i| self.wander(t_secs, 1.7, 50 + i) + 0.3 * self.wander(t_secs, 0.3, 60 + i)),
            occlusion: self.occlusion(t_secs),
        }
    }

    /// Smooth motion within [-1, 1] that changes over `period` seconds.
    fn wander(&self, t_secs: f64, period: f32, channel: u32) -> f32 {
        // Reduced before the conversion, so that late times keep their precision.
        let x = (t_secs / f64::from(period)) % 65_536.0;
        noise1(x as f32, self.noise.wrapping_add(channel.wrapping_mul(0x9E37_79B1)))
    }

    fn talk(&self, since: f32, envelope: f32, meant: &mut Intensities) {
        let beat = 0.5 + 0.5 * sin(since * 21.0 + 3.0 * noise1(since * 1.3, self.noise ^ 0x7A));
        let open = envelope * beat * (0.55 + 0.45 * noise1(since * 2.6, self.noise ^ 0x7B));
        meant[AU25] = meant[AU25].max(0.8 * open);
        meant[AU26] = meant[AU26].max(0.42 * open);
        let shape = envelope * noise1(since * 4.0, self.noise ^ 0x7C);
        meant[AU20] = meant[AU20].max(0.25 * shape.max(0.0));
        meant[AU17] = meant[AU17].max(0.25 * (-shape).max(0.0));
        meant[AU24] =
            meant[AU24].max(0.3 * envelope * (noise1(since * 3.0, self.noise ^ 0x7D) - 0.4).max(0.0));
        meant[AU2] =
            meant[AU2].max(0.35 * envelope * (noise1(since * 1.1, self.noise ^ 0x7E) - 0.3).max(0.0));
    }

    fn blink(&self, t_secs: f64) -> f32 {
        const SLOT: f64 = 2.9;
        let slot = (t_secs / SLOT).floor() as i64;
        let mut shut = 0.0f32;
        for s in [slot - 1, slot] {
            let mut rng = rng_for(self.seed, Stream::Blink, s as u64);
            let start = s as f64 * SLOT + f64::from(rng.between(0.0, 2.6));
            let (close, hold, open) =
                (rng.between(0.07, 0.11), rng.between(0.02, 0.10), rng.between(0.13, 0.24));
            let skipped = rng.chance(0.2);
            let since = (t_secs - start) as f32;
            if !skipped && since > 0.0 {
                shut = shut.max(
                    smoothstep(0.0, close, since) * smoothstep(close + hold + open, close + hold, since),
                );
            }
        }
        shut
    }

    fn pose(&self, t_secs: f64, nod: f32) -> HeadPose {
        let swing = |channel: u32| {
            self.wander(t_secs, 2.9, channel)
                + 0.25 * self.wander(t_secs, 0.9, channel + 1)
                + 0.02 * self.wander(t_secs, 0.2, channel + 2)
        };
        HeadPose {
            yaw_deg: (self.base_pose.yaw_deg + self.motion.yaw_deg * swing(10)).clamp(-60.0, 60.0),
            pitch_deg: (self.base_pose.pitch_deg + self.motion.pitch_deg * swing(20) + nod)
                .clamp(-30.0, 30.0),
            roll_deg: (self.base_pose.roll_deg + self.motion.roll_deg * swing(30)).clamp(-30.0, 30.0),
        }
    }

    /// Eyes rest, then jump (saccades), partly making up for the head's turn.
    fn gaze(&self, t_secs: f64, pose: &HeadPose) -> Gaze {
        const SLOT: f64 = 0.8;
        let target = |s: i64| {
            let mut rng = rng_for(self.seed, Stream::Motion, s as u64 ^ 0x6A2E_0000_0000);
            let far = if rng.chance(0.3) { 1.0 } else { 0.25 };
            [far * 12.0 * rng.normal(), far * 6.0 * rng.normal()]
        };
        let slot = (t_secs / SLOT).floor() as i64;
        let f = smoothstep(0.0, 0.06, ((t_secs / SLOT - slot as f64) * SLOT) as f32);
        let (a, b) = (target(slot - 1), target(slot));
        let hold = lerp(0.3, 0.95, self.looks_at_camera);
        Gaze {
            yaw_deg: (lerp(a[0], b[0], f) - hold * pose.yaw_deg).clamp(-32.0, 32.0),
            pitch_deg: (lerp(a[1], b[1], f) - hold * pose.pitch_deg).clamp(-22.0, 20.0),
        }
    }

    fn occlusion(&self, t_secs: f64) -> Option<Occlusion> {
        const SLOT: f64 = 6.0;
        if self.occluded <= 0.0 {
            return None;
        }
        let slot = (t_secs / SLOT).floor() as i64;
        let mut rng = rng_for(self.seed, Stream::Occlusion, slot as u64);
        // An episode fills about half of its slot.
        if !rng.chance((2.0 * self.occluded).min(1.0)) {
            return None;
        }
        let start = f64::from(rng.between(0.0, 2.0));
        let length = rng.between(1.6, 3.8);
        let since = (t_secs - slot as f64 * SLOT - start) as f32;
        if !(0.0..length).contains(&since) {
            return None;
        }
        let there = smoothstep(0.0, 0.35, since) * smoothstep(length, length - 0.35, since);
        let kind = rng.next_u32();
        let side = if rng.chance(0.5) { 1.0 } else { -1.0 };
        let at = [side * rng.between(0.0, 6.0), rng.between(-8.5, 4.0)];
        let away = [side * 20.0, -26.0];
        Some(Occlusion {
            kind,
            at: [lerp(away[0], at[0], there), lerp(away[1], at[1], there)],
            turn: side * rng.between(-0.2, 1.1),
        })
    }
}

impl Episode {
    /// Strength in `[0, 1]`, `since` seconds after the start.
    fn envelope(&self, since: f32, noise: u32) -> f32 {
        let end = self.onset + self.apex + self.offset;
        if since <= 0.0 || since >= end {
            return 0.0;
        }
        let rise = smoothstep(0.0, self.onset, since);
        let fall = smoothstep(end, self.onset + self.apex, since);
        let sway = 1.0 - 0.07 * (0.5 + 0.5 * noise1(since * 1.5 + self.start as f32, noise));
        rise * fall * sway
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(a: &Intensities, b: &Intensities) -> f32 {
        a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt()
    }

    #[test]
    fn frames_within_a_second_are_more_alike_than_frames_three_seconds_apart() {
        let (mut near, mut far, mut n) = (0.0, 0.0, 0.0);
        for seed in 0..12 {
            let line = Timeline::new(seed, PersonalStyle::plain(), 1.0, 0.0);
            for i in 0..200 {
                let t = 10.0 + i as f64 * 0.31;
                let here = line.at(t).state.au;
                near += distance(&here, &line.at(t + 0.4).state.au);
                far += distance(&here, &line.at(t + 3.5).state.au);
                n += 1.0;
            }
        }
        assert!(near / n < 0.6 * far / n, "{} {}", near / n, far / n);
    }

    #[test]
    fn all_expressions_occur_and_labels_stay_in_range() {
        let line = Timeline::new(5, PersonalStyle::plain(), 1.0, 0.2);
        let mut seen = [0; 8];
        let mut occluded = 0;
        for i in 0..6000 {
            let m = line.at(i as f64 * 0.05);
            seen[m.expression.index()] += 1;
            occluded += usize::from(m.occlusion.is_some());
            assert!(m.state.au.iter().chain(&m.meant).all(|a| (0.0..=1.0).contains(a)));
            assert!((0.0..=1.0).contains(&m.intensity));
            assert!((m.expression == Expression::Neutral) == (m.intensity == 0.0));
            assert!(
                m.state.pose.yaw_deg.abs() <= 60.0
                    && m.state.pose.pitch_deg.abs() <= 30.0
                    && m.state.pose.roll_deg.abs() <= 30.0
            );
        }
        assert!(seen.iter().all(|&n| n > 60), "{seen:?}");
        assert!((300..2400).contains(&occluded), "{occluded}");
    }

    #[test]
    fn blinks_close_the_eyes_completely_and_briefly() {
        let line = Timeline::new(8, PersonalStyle::plain(), 0.0, 0.0);
        let shut: Vec<bool> = (0..6000).map(|i| line.blink(i as f64 * 0.01) > 0.98).collect();
        let blinks = shut.windows(2).filter(|w| !w[0] && w[1]).count();
        assert!((8..30).contains(&blinks), "{blinks} a minute");
        assert!(shut.iter().filter(|s| **s).count() < 600);
    }

    #[test]
    fn a_style_scales_what_is_meant() {
        let style = PersonalStyle::sample(&mut rng_for(2, Stream::Style, 0), 1.0);
        let none = style.show(&[0.0; N]);
        assert_eq!(none, style.baseline);
        let full = style.show(&[0.5; N]);
        assert!((0..N).any(|i| (full[i] - 0.5).abs() > 0.05));
        assert_eq!(PersonalStyle::sample(&mut rng_for(2, Stream::Style, 0), 0.0), PersonalStyle::plain());
    }
}
