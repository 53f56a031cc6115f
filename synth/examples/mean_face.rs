//! The mean 3-D face that head pose is measured against: `cargo run -p semblance-synth --example mean_face`.
//!
//! Prints the table of `face/src/pose.rs`: for the landmarks 17 to 67 (the jaw's follow the outline of whatever view) the
//! mean place over neutral people in mm, x to the picture's right, y up, z towards the camera, and the deviation in mm over
//! people and expressions, which says how much a landmark is to be believed.

use std::error::Error;

use semblance_synth::{ClipSource, FaceState, HeadPose, Identity, RenderOptions, Renderer};

const PEOPLE: u64 = 200;
/// Far enough for the projection to be parallel.
const FAR_CM: f32 = 10_000.0;
const SIDE_PX: u32 = 256;
const FACE_PX: f32 = 150.0;
/// `FACE_PX` pixels are 15.4 cm in `semblance_synth`.
const MM_PER_PX: f64 = 154.0 / FACE_PX as f64;
const TURN_DEG: f32 = 25.0;
const FIRST: usize = 17;

fn main() -> Result<(), Box<dyn Error>> {
    let mut faces: Vec<Vec<[f64; 3]>> = Vec::new();
    let mut moved: Vec<Vec<[f64; 2]>> = Vec::new();
    for person in 0..PEOPLE {
        // People that no other seed draws.
        let clip = ClipSource::new(0, 0x6d65_616e_0000 + person, RenderOptions::crop(64))?;
        let who: Identity = clip.identity().clone();
        let mut renderer = Renderer::studio(who, SIDE_PX, SIDE_PX, FACE_PX)?;
        renderer.camera_mut().distance_cm = FAR_CM;
        let mut place = renderer.centered();
        place.face_px = FACE_PX;
        let mut shoot = |state: &FaceState| -> Result<Vec<[f64; 2]>, Box<dyn Error>> {
            let seen = renderer.render(state, place)?;
            let mm = |p: &semblance_face::Point| [f64::from(p.x) * MM_PER_PX, -f64::from(p.y) * MM_PER_PX];
            Ok(seen.landmarks[FIRST..].iter().map(mm).collect())
        };
        let front = shoot(&FaceState::default())?;
        let turned =
            |yaw_deg| FaceState { pose: HeadPose { yaw_deg, ..HeadPose::default() }, ..FaceState::default() };
        let (left, right) = (shoot(&turned(-TURN_DEG))?, shoot(&turned(TURN_DEG))?);
        // x(yaw) = x cos + z sin, so the difference of the two turned views is 2 z sin.
        let sine = 2.0 * f64::from(TURN_DEG).to_radians().sin();
        let face: Vec<[f64; 3]> = front
            .iter()
            .zip(left.iter().zip(&right))
            .map(|(f, (l, r))| [f[0], f[1], (r[0] - l[0]) / sine])
            .collect();
        faces.push(face);
        // One strong expression a person, in turn.
        let expression = semblance_face::labels::Expression::ALL[person as usize % 8];
        let state = FaceState { au: semblance_synth::prototype(expression), ..FaceState::default() };
        moved.push(shoot(&state)?);
    }
    // Every face about the middle of its outer eye corners and the base of its nose.
    let anchors = [36 - FIRST, 45 - FIRST, 33 - FIRST];
    for (face, moved) in faces.iter_mut().zip(&mut moved) {
        let middle: [f64; 3] =
            std::array::from_fn(|k| anchors.iter().map(|&i| face[i][k]).sum::<f64>() / 3.0);
        face.iter_mut().for_each(|p| (0..3).for_each(|k| p[k] -= middle[k]));
        moved.iter_mut().for_each(|p| (0..2).for_each(|k| p[k] -= middle[k]));
    }
    let n = faces.len() as f64;
    for i in 0..faces[0].len() {
        let mean: [f64; 3] = std::array::from_fn(|k| faces.iter().map(|f| f[i][k]).sum::<f64>() / n);
        let squared: f64 = faces
            .iter()
            .zip(&moved)
            .map(|(f, m)| {
                let rest: f64 = (0..3).map(|k| (f[i][k] - mean[k]).powi(2)).sum();
                let shown: f64 = (0..2).map(|k| (m[i][k] - mean[k]).powi(2)).sum();
                (rest + shown) / 5.0
            })
            .sum();
        let [x, y, z] = mean;
        println!("    [{x:.1}, {y:.1}, {z:.1}, {:.1}], // {}", (squared / n).sqrt(), i + FIRST);
    }
    Ok(())
}
