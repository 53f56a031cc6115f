//! Head pose from the landmarks of drawn faces, whose pose is known.

#![allow(clippy::unwrap_used)]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_face::labels::Expression;
use semblance_face::{Point, head_pose};
use semblance_synth::{ClipSource, RenderOptions};

/// People that the mean face was not made of: it took other identities.
const PEOPLE: std::ops::Range<u64> = 900_000..900_036;
const FRAMES_EACH: usize = 14;
const FRAMES_APART_SECS: f64 = 1.7;
/// Poses judged: yaw, pitch and roll within this.
const MOST_DEG: f32 = 40.0;
/// Deviation of each landmark in both directions, in distances of the outer corners of the eyes.
const NOISE: f32 = 0.015;

/// Yaw, pitch and roll: mean absolute error over the frames that were judged, and the mean of the true angle's size.
struct Judged {
    frames: usize,
    expressive: usize,
    error_deg: [f32; 3],
    true_deg: [f32; 3],
}

fn judge(options: RenderOptions) -> Judged {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut sums = Judged { frames: 0, expressive: 0, error_deg: [0.0; 3], true_deg: [0.0; 3] };
    for identity in PEOPLE {
        let mut clip = ClipSource::new(5, identity, options.clone()).unwrap();
        for i in 0..FRAMES_EACH {
            let (frame, labels) = clip.frame_at(i as f64 * FRAMES_APART_SECS).unwrap();
            let truth = [labels.pose.yaw_deg, labels.pose.pitch_deg, labels.pose.roll_deg];
            if truth.iter().any(|angle| angle.abs() > MOST_DEG) {
                continue;
            }
            let [left, right] = [labels.landmarks[36], labels.landmarks[45]];
            let deviation_px = NOISE * (right.x - left.x).hypot(right.y - left.y);
            let seen = labels.landmarks.map(|p| {
                let [x, y] = normal_pair(&mut rng);
                Point::new(p.x + deviation_px * x, p.y + deviation_px * y)
            });
            let found = head_pose(&seen, frame.width(), frame.height()).unwrap();
            let found = [found.yaw_deg, found.pitch_deg, found.roll_deg];
            for k in 0..3 {
                sums.error_deg[k] += (found[k] - truth[k]).abs();
                sums.true_deg[k] += truth[k].abs();
            }
            sums.frames += 1;
            sums.expressive += usize::from(labels.expression != Expression::Neutral);
        }
    }
    let n = sums.frames as f32;
    Judged { error_deg: sums.error_deg.map(|v| v / n), true_deg: sums.true_deg.map(|v| v / n), ..sums }
}

/// Two independent standard normal numbers (Box and Muller 1958).
fn normal_pair(rng: &mut ChaCha8Rng) -> [f32; 2] {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
    [radius * cos, radius * sin]
}

#[test]
fn the_pose_of_people_never_measured_is_known_to_a_few_degrees() {
    // Landmarks do not depend on the number of pixels: small pictures are drawn faster.
    let webcam = RenderOptions { width: 160, height: 120, ..RenderOptions::webcam() };
    for (view, options) in [("crops", RenderOptions::crop(64)), ("webcam", webcam)] {
        let Judged { frames, expressive, error_deg, true_deg } =
            judge(RenderOptions { pose_spread: 1.0, camera_effects: false, ..options });
        println!("{view}: MAE of yaw, pitch, roll {error_deg:.2?} degrees (n = {frames})");
        assert!(
            frames >= 300 && 3 * expressive >= frames,
            "{view}: {expressive} of {frames} with expression"
        );
        // A constant answer would be off by as much.
        assert!(true_deg[0] > 12.0 && true_deg[1] > 6.0 && true_deg[2] > 4.0, "{view}: {true_deg:?}");
        let [yaw, pitch, roll] = error_deg;
        assert!(yaw <= 4.0 && pitch <= 4.0 && roll <= 3.0, "{view}: {error_deg:?}");
    }
}
