//! Draws a sheet of faces: `cargo run -p semblance-synth --example contact_sheet -- people sheet.png [SEED]`.
//!
//! Sheets: `people` (random people), `units` (one action unit each, the first face is neutral), `expressions`
//! (prototypes on three people), `poses`, `clip` (one clip, four frames a second), `clips` (random clips).

use semblance_face::Frame;
use semblance_face::labels::{ACTION_UNITS, Expression};
use semblance_synth::{ClipSource, FaceState, HeadPose, Identity, RenderOptions, Renderer, draw, prototype};
use std::error::Error;

const SIDE_PX: u32 = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (kind, path) = match args.as_slice() {
        [kind, path, ..] => (kind.as_str(), path),
        _ => {
            return Err(
                "give a sheet (people, units, expressions, poses, clip or clips) and a file to write".into(),
            );
        }
    };
    let seed: u64 = args.get(2).map_or(Ok(1), |s| s.parse())?;
    let (columns, faces) = match kind {
        "people" => (
            6,
            (0..24)
                .map(|i| portrait(person(seed + i)?, &[FaceState::default()]))
                .collect::<Result<Vec<_>, _>>()?
                .concat(),
        ),
        "units" => (5, portrait(person(seed)?, &units())?),
        "expressions" => (
            8,
            (0..3)
                .map(|i| portrait(person(seed + i)?, &expressions()))
                .collect::<Result<Vec<_>, _>>()?
                .concat(),
        ),
        "poses" => (5, portrait(person(seed)?, &poses())?),
        "clip" => {
            let mut clip = ClipSource::new(seed, seed, RenderOptions::crop(SIDE_PX))?;
            (
                8,
                (0..40)
                    .map(|i| Ok(clip.frame_at(f64::from(i) * 0.25)?.0))
                    .collect::<Result<_, Box<dyn Error>>>()?,
            )
        }
        "clips" => {
            let one = |i: u64| -> Result<Frame, Box<dyn Error>> {
                Ok(ClipSource::new(seed, seed + i, RenderOptions::crop(SIDE_PX))?.frame_at(2.3 + i as f64)?.0)
            };
            (6, (0..24).map(one).collect::<Result<_, _>>()?)
        }
        other => return Err(format!("no sheet is called {other:?}").into()),
    };
    let sheet = arrange(columns, &faces)?;
    image::save_buffer(path, sheet.rgb(), sheet.width(), sheet.height(), image::ColorType::Rgb8)?;
    Ok(())
}

fn person(identity: u64) -> Result<Identity, Box<dyn Error>> {
    Ok(ClipSource::new(0, identity, RenderOptions::crop(16))?.identity().clone())
}

fn portrait(who: Identity, states: &[FaceState]) -> Result<Vec<Frame>, Box<dyn Error>> {
    let mut renderer = Renderer::studio(who, SIDE_PX, SIDE_PX, 0.66 * SIDE_PX as f32)?;
    let placement = renderer.centered();
    states.iter().map(|s| Ok(renderer.render(s, placement)?.frame)).collect()
}

fn units() -> Vec<FaceState> {
    let one = |i: usize| {
        let mut state = FaceState::default();
        state.au[i] = 1.0;
        state
    };
    std::iter::once(FaceState::default()).chain((0..ACTION_UNITS.len()).map(one)).collect()
}

fn expressions() -> Vec<FaceState> {
    let one = |&e: &Expression| {
        let lopsided = if e == Expression::Contempt { 0.9 } else { 0.0 };
        FaceState { au: prototype(e), au_asymmetry: [lopsided; ACTION_UNITS.len()], ..FaceState::default() }
    };
    Expression::ALL.iter().map(one).collect()
}

fn poses() -> Vec<FaceState> {
    let mut states = Vec::new();
    for pitch_deg in [20.0, 0.0, -20.0] {
        for yaw_deg in [-60.0, -30.0, 0.0, 30.0, 60.0] {
            states.push(FaceState {
                pose: HeadPose { yaw_deg, pitch_deg, roll_deg: 0.0 },
                ..FaceState::default()
            });
        }
    }
    states
}

fn arrange(columns: usize, faces: &[Frame]) -> Result<Frame, Box<dyn Error>> {
    let rows = faces.len().div_ceil(columns);
    let mut sheet = Frame::black(SIDE_PX * columns as u32, SIDE_PX * rows as u32)?;
    for (i, face) in faces.iter().enumerate() {
        let place = |k: usize| k as i64 * i64::from(SIDE_PX);
        draw::paste(&mut sheet, face, place(i % columns), place(i / columns));
    }
    Ok(sheet)
}
