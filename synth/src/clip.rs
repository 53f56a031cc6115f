//! Endless labelled video of one person.

use crate::SynthError;
use crate::action_units::{Intensities, valence_arousal};
use crate::camera::Camera;
use crate::dynamics::{Moment, PersonalStyle, Timeline};
use crate::identity::Identity;
use crate::math::{mix64, v3};
use crate::random::{Draw, Stream, rng_for};
use crate::render::{Placement, Renderer, Shot};
use crate::rig::HeadPose;
use semblance_face::Frame;
use semblance_face::geometry::{Point, Rect};
use semblance_face::labels::Expression;

/// What the picture shows besides the face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A square-ish crop that a tracker holds on the face.
    Crop,
    /// A camera that stands still while the person moves before it.
    Webcam,
}

/// How clips look.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderOptions {
    /// Width of the picture, 16 to 8192 pixels.
    pub width: u32,
    /// Height of the picture, 16 to 8192 pixels.
    pub height: u32,
    /// What the picture shows besides the face.
    pub framing: Framing,
    /// Least and greatest height of the face box as a share of the picture's height; a clip draws one value in between.
    pub face_share: (f32, f32),
    /// Frames a second of [`ClipSource::next_frame`].
    pub fps: f64,
    /// How far heads turn: 1 uses yaw +-60, pitch +-30 and roll +-30 degrees, 0 looks straight ahead.
    pub pose_spread: f32,
    /// Whether the camera blurs, smears, adds noise and misjudges exposure and colour.
    pub camera_effects: bool,
    /// Share of the time that a hand or a thing is before the face, 0 to 0.5.
    pub occluded: f32,
    /// How much people differ in how they show an expression ([`PersonalStyle::sample`]), 0 to 1.
    pub personal_style: f32,
}

impl RenderOptions {
    /// Crops of `side` x `side`, as encoders are trained on.
    pub fn crop(side: u32) -> Self {
        Self {
            width: side,
            height: side,
            framing: Framing::Crop,
            face_share: (0.58, 0.80),
            fps: 25.0,
            pose_spread: 1.0,
            camera_effects: true,
            occluded: 0.06,
            personal_style: 0.6,
        }
    }

    /// A webcam's 640x480, as `--source demo` plays.
    pub fn webcam() -> Self {
        Self {
            width: 640,
            height: 480,
            framing: Framing::Webcam,
            face_share: (0.28, 0.5),
            fps: 30.0,
            pose_spread: 0.55,
            camera_effects: true,
            occluded: 0.03,
            personal_style: 0.6,
        }
    }
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self::crop(128)
    }
}

/// The truth about one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// The expression that the person means to show; neutral where it is weaker than [`crate::SHOWN_FROM`].
    pub expression: Expression,
    /// Strength of `expression`, 0 (neutral) to 1.
    pub intensity: f32,
    /// [`valence_arousal`] of `meant_au`: what the person feels, whatever their style shows of it. In `[-1, 1]`.
    pub valence: f32,
    /// As `valence`.
    pub arousal: f32,
    /// Action units as shown, on their stronger side, in `[0, 1]`.
    pub au: Intensities,
    /// Action units before the personal style, in `[0, 1]`. Equal to `au` but for tremor where the style is plain.
    pub meant_au: Intensities,
    /// How the head is held.
    pub pose: HeadPose,
    /// The 68 iBUG landmarks, pixels of the frame ([`crate::Rendered::landmarks`]).
    pub landmarks: [Point; 68],
    /// The face box, pixels of the frame ([`crate::Rendered::bbox`]).
    pub bbox: Rect,
    /// Share of the landmarks that are hidden, 0 to 1.
    pub hidden: f32,
    /// Who it is.
    pub identity: u64,
    /// Seconds from the clip's start.
    pub t_secs: f64,
}

/// An endless clip. The person depends on `identity` alone; light, place, camera and what happens depend on `seed` too.
pub struct ClipSource {
    renderer: Renderer,
    timeline: Timeline,
    style: PersonalStyle,
    options: RenderOptions,
    identity: u64,
    noise: u32,
    home: Point,
    face_px: f32,
    background_drift: [f32; 2],
    next: u64,
}

impl ClipSource {
    /// The clip of `identity` with `seed`.
    ///
    /// # Errors
    /// [`SynthError::Size`] or [`SynthError::Option`] for options out of range.
    pub fn new(seed: u64, identity: u64, options: RenderOptions) -> Result<Self, SynthError> {
        check(&options)?;
        let person = Identity::sample(&mut rng_for(identity, Stream::Identity, 0));
        let style = PersonalStyle::sample(&mut rng_for(identity, Stream::Style, 0), options.personal_style);
        let clip_seed = mix64(seed ^ mix64(identity));
        let mut rng = rng_for(clip_seed, Stream::Shape, 0);
        let (low, high) = options.face_share;
        let (w, h) = (options.width as f32, options.height as f32);
        let face_px = rng.between(low, high) * h;
        let home = match options.framing {
            Framing::Crop => Point::new((0.5 + 0.03 * rng.normal()) * w, (0.53 + 0.03 * rng.normal()) * h),
            Framing::Webcam => {
                let room = (0.5 * (w - 0.9 * face_px) / w).max(0.05);
                Point::new((0.5 + 0.45 * room * rng.normal()) * w, (0.5 + 0.04 * rng.normal()) * h)
            }
        };
        let mut renderer = Renderer::new(person, options.width, options.height, face_px, clip_seed)?;
        if !options.camera_effects {
            let distance_cm = renderer.camera_mut().distance_cm;
            *renderer.camera_mut() = Camera { distance_cm, ..Camera::ideal() };
        }
        Ok(Self {
            timeline: Timeline::new(clip_seed, style, options.pose_spread, options.occluded),
            noise: mix64(clip_seed) as u32,
            background_drift: [rng.between(-0.2, 0.2) * h, rng.between(-0.2, 0.2) * h],
            renderer,
            style,
            options,
            identity,
            home,
            face_px,
            next: 0,
        })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        self.renderer.identity()
    }

    /// How this person shows what they feel.
    pub fn style(&self) -> &PersonalStyle {
        &self.style
    }

    /// How the clip looks.
    pub fn options(&self) -> &RenderOptions {
        &self.options
    }

    /// The next frame at the options' rate, from 0 on.
    ///
    /// # Errors
    /// As [`ClipSource::frame_at`].
    pub fn next_frame(&mut self) -> Result<(Frame, Labels), SynthError> {
        let index = self.next;
        self.next += 1;
        let (mut frame, labels) = self.frame_at(index as f64 / self.options.fps)?;
        frame.index = index;
        Ok((frame, labels))
    }

    /// The frame at a time in seconds from the clip's start; any time, in any order. Its index is the frame's number at
    /// the options' rate.
    ///
    /// # Errors
    /// [`SynthError::Time`] for a time that is not between 0 and a year.
    pub fn frame_at(&mut self, t_secs: f64) -> Result<(Frame, Labels), SynthError> {
        if !(0.0..=3.2e7).contains(&t_secs) {
            return Err(SynthError::Time { t_secs });
        }
        let now = self.timeline.at(t_secs);
        let step = 1.0 / self.options.fps;
        let before = self.timeline.at((t_secs - step).max(0.0));
        let here = self.placement(&now);
        let shot = Shot {
            placement: here,
            occlusion: now.occlusion,
            behind: self.behind(&now),
            smear: self.motion(&before, &now),
            noise: mix64(u64::from(self.noise) ^ t_secs.to_bits()) as u32,
        };
        let drawn = self.renderer.shoot(&now.state, &shot)?;
        let mut frame = drawn.frame;
        frame.t_secs = t_secs;
        frame.index = (t_secs * self.options.fps + 1e-6) as u64;
        let (valence, arousal) = valence_arousal(&now.meant);
        let labels = Labels {
            expression: now.expression,
            intensity: now.intensity,
            valence,
            arousal,
            au: now.state.au,
            meant_au: now.meant,
            pose: now.state.pose,
            landmarks: drawn.landmarks,
            bbox: drawn.bbox,
            hidden: drawn.hidden,
            identity: self.identity,
            t_secs,
        };
        Ok((frame, labels))
    }

    /// Share of its way across the room that a crop does not follow.
    fn slack(&self) -> f32 {
        match self.options.framing {
            Framing::Crop => 0.0,
            Framing::Webcam => 1.6,
        }
    }

    fn placement(&self, m: &Moment) -> Placement {
        let jitter = if self.options.framing == Framing::Crop { 0.018 } else { 0.004 };
        let k = self.slack();
        let f = self.face_px;
        Placement {
            center: Point::new(
                self.home.x + f * (k * m.drift[0] + jitter * m.jitter[0]),
                self.home.y + f * (k * m.drift[1] + jitter * m.jitter[1]),
            ),
            face_px: f * (1.0 + 1.5 * jitter * m.jitter[2]) * (1.0 + 0.3 * k * m.drift[1]),
        }
    }

    /// Shift of the background: it stands still before a webcam and moves against a tracked crop.
    fn behind(&self, m: &Moment) -> [f32; 2] {
        let moved = if self.options.framing == Framing::Crop { self.face_px } else { 0.0 };
        let limit = 0.28 * self.options.height as f32;
        [0, 1].map(|i| (self.background_drift[i] + moved * m.drift[i]).clamp(-limit, limit))
    }

    /// Motion of the nose's tip in the picture from one moment to the next, pixels.
    fn motion(&self, before: &Moment, now: &Moment) -> [f32; 2] {
        let tip = |m: &Moment| {
            let p = self.placement(m);
            let arm = 10.0 / 15.4 * p.face_px;
            let forward = m.state.pose.rotation().apply(v3(0.0, 0.0, arm));
            [p.center.x + forward.x, p.center.y - forward.y]
        };
        let (a, b) = (tip(before), tip(now));
        [b[0] - a[0], b[1] - a[1]]
    }
}

fn check(o: &RenderOptions) -> Result<(), SynthError> {
    let bad =
        |name: &'static str, value: f64, range: &'static str| Err(SynthError::Option { name, value, range });
    if !(o.fps > 0.0 && o.fps <= 1000.0) {
        return bad("fps", o.fps, "above 0, up to 1000");
    }
    let (low, high) = o.face_share;
    if !(low >= 0.02 && low <= high && high <= 2.0) {
        return bad("face_share", f64::from(low), "0.02 to 2, the lower first");
    }
    for (name, value, most) in [
        ("pose_spread", o.pose_spread, 1.0),
        ("occluded", o.occluded, 0.5),
        ("personal_style", o.personal_style, 1.0),
    ] {
        if !(0.0..=most).contains(&value) {
            return bad(name, f64::from(value), if most == 1.0 { "0 to 1" } else { "0 to 0.5" });
        }
    }
    Ok(())
}
