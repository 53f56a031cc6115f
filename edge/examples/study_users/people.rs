//! Drawn people who sit before a camera, show what they are asked for in their own way, and rate what they felt.

use anyhow::Context;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_calib::session::{Phase, Protocol, Session, Sight};
use semblance_calib::{Dataset, Label, Moment};
use semblance_face::labels::Expression;
use semblance_face::landmarks::five_points;
use semblance_face::{Aligner, Bundle, Encoder};
use semblance_synth::{
    ACTION_UNIT_COUNT, FaceState, Gaze, HeadPose, Identity, Intensities, PersonalStyle, Placement, Renderer,
    prototype, valence_arousal,
};

const SIDE_PX: u32 = 128;
const FACE_PX: f32 = 88.0;
/// Strengths at which an expression is shown: asked for, and of itself.
const ASKED: [f32; 2] = [0.6, 1.0];
const SPONTANEOUS: [f32; 2] = [0.35, 1.0];
/// Standard deviation of a rating from what was felt.
const RATING_NOISE: f32 = 0.1;

/// What the scenes of the protocol `va` make a person feel: expressions and how strongly they are shown.
const SCENES: [&[(Expression, f32)]; 8] = [
    &[(Expression::Sad, 0.5)],
    &[(Expression::Happy, 1.0), (Expression::Surprise, 0.35)],
    &[(Expression::Angry, 0.9)],
    &[(Expression::Happy, 0.35)],
    &[(Expression::Fear, 1.0)],
    &[(Expression::Happy, 0.8)],
    &[(Expression::Sad, 0.35)],
    &[(Expression::Happy, 0.2)],
];

/// From a picture to an embedding, as the device has it.
pub(crate) struct Camera {
    aligner: Aligner,
    encoder: Encoder,
    crop: Vec<u8>,
    embedding: Vec<f32>,
}

impl Camera {
    pub(crate) fn new(bundle: &Bundle) -> anyhow::Result<Self> {
        let encoder = Encoder::from_bundle(bundle)?;
        let spec = *encoder.spec();
        Ok(Self {
            aligner: Aligner::new(bundle.manifest().crop, spec.side_px),
            encoder,
            crop: vec![0; (spec.side_px * spec.side_px * 3) as usize],
            embedding: vec![0.0; spec.embedding_size],
        })
    }

    pub(crate) fn dim(&self) -> usize {
        self.embedding.len()
    }

    /// The embedding of a face with these landmarks.
    pub(crate) fn embed(
        &mut self,
        frame: &semblance_face::Frame,
        landmarks: &[semblance_face::geometry::Point; 68],
    ) -> anyhow::Result<&[f32]> {
        let bbox = semblance_face::landmarks::face_box(landmarks);
        let seen = self.aligner.crop_into(frame, &bbox, Some(&five_points(landmarks)), &mut self.crop);
        anyhow::ensure!(seen, "the landmarks lie on each other");
        self.encoder.embed(&self.crop, &mut self.embedding)?;
        Ok(&self.embedding)
    }
}

/// One person in one place.
pub(crate) struct Sitter<'a> {
    camera: &'a mut Camera,
    renderer: Renderer,
    style: PersonalStyle,
    base: HeadPose,
    rng: ChaCha8Rng,
}

/// What is shown for a few seconds.
struct Showing {
    meant: Intensities,
    asymmetry: Intensities,
}

impl<'a> Sitter<'a> {
    /// The person of this number in the place of that one: the same person in another place sits in another light, before
    /// another camera. On another `visit` to a place all of that is as before, but for how the person sits and what is shown.
    pub(crate) fn new(camera: &'a mut Camera, person: u64, place: u64, visit: u64) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(0x5EED_0000 + person);
        let identity = Identity::sample(&mut rng);
        let style = PersonalStyle::sample(&mut rng, 1.0);
        let mut rng = ChaCha8Rng::seed_from_u64(person << 8 | place);
        let renderer = Renderer::new(identity, SIDE_PX, SIDE_PX, FACE_PX, rng.next_u64())?;
        if visit > 0 {
            rng = ChaCha8Rng::seed_from_u64(person << 16 | place << 8 | visit);
        }
        let base = pose(&mut rng, 5.0);
        Ok(Self { camera, renderer, style, base, rng })
    }

    fn showing(&mut self, parts: &[(Expression, f32)]) -> Showing {
        let mut meant = [0.0f32; ACTION_UNIT_COUNT];
        for (expression, strength) in parts {
            for (meant, au) in meant.iter_mut().zip(prototype(*expression)) {
                let weak = if self.rng.random_bool(0.1) { 0.5 } else { 1.0 };
                *meant = meant.max((au * strength * weak * self.rng.random_range(0.75..1.15)).min(1.0));
            }
        }
        let asymmetry = self.style.asymmetry.map(|a| (a + 0.09 * normal(&mut self.rng)).clamp(-1.0, 1.0));
        Showing { meant, asymmetry }
    }

    /// A frame of it; no two are the same.
    fn look(&mut self, showing: &Showing) -> anyhow::Result<&[f32]> {
        let rng = &mut self.rng;
        let meant = showing.meant.map(|au| (au * (1.0 + 0.06 * normal(rng))).clamp(0.0, 1.0));
        let moved = pose(rng, 3.0);
        let state = FaceState {
            au: self.style.show(&meant),
            au_asymmetry: showing.asymmetry,
            pose: HeadPose {
                yaw_deg: self.base.yaw_deg + moved.yaw_deg,
                pitch_deg: self.base.pitch_deg + moved.pitch_deg,
                roll_deg: self.base.roll_deg + moved.roll_deg,
            },
            gaze: Gaze { yaw_deg: 6.0 * normal(rng), pitch_deg: 4.0 * normal(rng) },
        };
        let mut centre = self.renderer.centered().center;
        (centre.x, centre.y) = (centre.x + 2.0 * normal(rng), centre.y + 2.0 * normal(rng));
        let drawn = self.renderer.render(&state, Placement { center: centre, face_px: FACE_PX })?;
        self.camera.embed(&drawn.frame, &drawn.landmarks)
    }

    /// A guided calibration, with the state machine that guides real people. The labels that come of it.
    pub(crate) fn calibrate(&mut self, protocol: &str, expressions: &[String]) -> anyhow::Result<Dataset> {
        const GOOD: Sight = Sight {
            faces: 1,
            yaw_deg: Some(0.0),
            pitch_deg: Some(0.0),
            light: 0.5,
            centre: [64.0, 64.0],
            width: FACE_PX,
        };
        let protocol = Protocol::named(protocol).context("no such protocol")?;
        let mut session = Session::start(protocol, expressions, self.camera.dim(), 0.0)?;
        let (mut step, mut now) = (0, 0.0);
        let mut showing = self.showing(&[]);
        while !session.is_done() {
            let asked = session.snapshot(now);
            if asked.step != step {
                step = asked.step;
                let strength = self.rng.random_range(ASKED[0]..ASKED[1]);
                let expression = asked.expression.as_deref().and_then(Expression::from_name);
                showing = match expression {
                    Some(expression) => self.showing(&[(expression, strength)]),
                    None => self.showing(SCENES[scene(&asked.say)?]),
                };
            }
            match asked.phase {
                Phase::Hold => {
                    let embedding = self.look(&showing)?.to_vec();
                    session.observe(now, now, &GOOD, Some(&embedding));
                }
                Phase::Rate => {
                    let (valence, arousal) = valence_arousal(&showing.meant);
                    let mut said = |felt: f32| (felt + RATING_NOISE * normal(&mut self.rng)).clamp(-1.0, 1.0);
                    session.rate(now, said(valence), said(arousal))?;
                }
                _ => session.tick(now),
            }
            now += 0.2;
        }
        Ok(session.data().clone())
    }

    /// What the person shows of itself: each expression `times` times, `frames` frames each, with everything that is true of it.
    pub(crate) fn live(
        &mut self,
        expressions: &[String],
        times: usize,
        frames: usize,
    ) -> anyhow::Result<Dataset> {
        let mut data = Dataset::new(self.camera.dim());
        for block in 0..times * expressions.len() {
            let row = block % expressions.len();
            let expression = Expression::from_name(&expressions[row]).context("an unknown expression")?;
            let strength = self.rng.random_range(SPONTANEOUS[0]..SPONTANEOUS[1]);
            let showing = self.showing(&[(expression, strength)]);
            let (valence, arousal) = valence_arousal(&showing.meant);
            let label = Label {
                expression: Some(u8::try_from(row)?),
                valence_arousal: Some([valence, arousal]),
                ..Label::default()
            };
            for frame in 0..frames {
                let t_secs = block as f64 * 10.0 + frame as f64 / 3.0;
                let embedding = self.look(&showing)?.to_vec();
                data.push(Moment { t_secs, block: u32::try_from(block)?, label }, &embedding)?;
            }
        }
        Ok(data)
    }
}

/// The number of the scene that a prompt of `va` describes.
fn scene(say: &str) -> anyhow::Result<usize> {
    let va = Protocol::named("va").context("no protocol va")?;
    let scenes: Vec<_> = va.prompts.iter().filter(|prompt| prompt.rate).collect();
    anyhow::ensure!(scenes.len() == SCENES.len(), "the protocol va has other scenes than this study");
    scenes.iter().position(|prompt| prompt.say == say).context("a scene that this study does not know")
}

fn pose(rng: &mut impl Rng, deviation_deg: f32) -> HeadPose {
    let mut angle = || deviation_deg * normal(rng);
    HeadPose { yaw_deg: angle(), pitch_deg: angle(), roll_deg: 0.6 * angle() }
}

/// A standard normal value (Box and Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f32, f32) = (rng.random_range(f32::MIN_POSITIVE..1.0), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}
