//! Head pose from landmarks: perspective-n-point on a mean face.

use crate::Point;
use crate::landmarks::LANDMARKS;

/// How a head is held, in degrees. It is pitched first, then turned, then rolled; all three are 0 where it faces along the
/// camera's axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadPose {
    /// Positive where the face looks to the picture's right.
    pub yaw_deg: f32,
    /// Positive where it looks up.
    pub pitch_deg: f32,
    /// Positive where the head is tilted clockwise in the picture.
    pub roll_deg: f32,
}

/// The first landmark that pose is taken from: those of the jaw follow the outline of whatever view.
const FIRST: usize = 17;
const USED: usize = LANDMARKS - FIRST;

/// Landmarks 17 to 67 of the mean face: place in mm (x to the picture's right, y up, z towards the camera) and deviation
/// over people and expressions in mm. `cargo run -p semblance-synth --example mean_face` prints it.
#[rustfmt::skip]
const MEAN_FACE: [[f64; 4]; USED] = [
    [-57.0, 29.1, -23.9, 1.4], [-48.7, 35.9, -7.6, 1.6], [-38.5, 39.5, 3.9, 1.9],
    [-27.5, 38.1, 10.8, 1.8], [-17.9, 34.1, 13.6, 2.3], [17.8, 34.1, 13.6, 2.3],
    [27.4, 38.1, 10.8, 1.8], [38.5, 39.5, 3.9, 1.9], [48.7, 35.9, -7.6, 1.7],
    [57.0, 29.1, -23.9, 1.3], [0.0, 13.7, 16.3, 1.1], [0.0, 1.3, 23.3, 1.0],
    [0.0, -10.3, 28.8, 0.9], [0.0, -21.8, 35.7, 1.6], [-12.7, -28.0, 20.7, 1.4],
    [-6.8, -29.7, 12.1, 1.2], [0.0, -30.8, 16.8, 1.2], [6.8, -29.6, 12.1, 1.2],
    [12.7, -28.0, 20.7, 1.4], [-44.2, 15.4, -8.4, 1.2], [-35.6, 18.6, -1.3, 1.3],
    [-26.5, 18.5, 0.8, 1.3], [-17.5, 14.1, -1.9, 1.3], [-26.5, 11.5, 0.2, 1.3],
    [-35.6, 11.5, -1.9, 1.3], [17.5, 14.1, -1.9, 1.3], [26.5, 18.6, 0.8, 1.3],
    [35.6, 18.6, -1.3, 1.3], [44.2, 15.4, -8.4, 1.2], [35.6, 11.6, -1.9, 1.3],
    [26.5, 11.5, 0.2, 1.3], [-25.7, -50.6, 0.0, 3.6], [-16.9, -45.7, 10.9, 2.5],
    [-5.6, -42.5, 17.2, 2.0], [0.0, -43.7, 17.4, 2.0], [5.6, -42.5, 17.2, 2.0],
    [16.9, -45.7, 10.9, 2.5], [25.7, -50.5, 0.0, 3.6], [16.2, -56.5, 9.8, 4.0],
    [7.8, -60.0, 13.7, 4.2], [0.0, -61.0, 14.8, 4.3], [-7.8, -60.0, 13.7, 4.2],
    [-16.2, -56.5, 9.8, 4.0], [-23.9, -50.6, 2.5, 3.7], [-8.0, -50.5, 14.8, 2.4],
    [0.0, -50.5, 16.6, 2.1], [8.0, -50.5, 14.8, 2.4], [23.9, -50.6, 2.5, 3.8],
    [8.0, -50.5, 15.2, 4.0], [0.0, -50.5, 17.0, 4.1], [-8.0, -50.5, 15.2, 4.0],
];

/// Distance of the outer corners of the eyes on the mean face, in mm.
const EYES_MM: f64 = 88.4;
/// An arm's length: a face that would be nearer is taken to be this far away, seen through a longer lens or cut out of a
/// larger picture. It bounds the perspective where the camera is not known.
const NEAREST_MM: f64 = 600.0;
const ITERATIONS: usize = 12;
/// A step that turns the head by less than this is the last.
const CONVERGED_RAD: f64 = 1e-5;
/// Faces fit better than this with landmarks off by a tenth of the distance of their eyes; points strewn at random do not.
const MOST_MISFIT_MM: f64 = 20.0;
/// Residuals in mm from which a landmark is believed less and less (Huber 1964): it slipped, or is hidden.
const HUBER_MM: f64 = 3.0;
/// A head pitched further than this shows the camera its back: the points are a mirrored face's.
const MOST_PITCH_DEG: f32 = 100.0;

type Vec3 = [f64; 3];
type Mat3 = [Vec3; 3];

/// The pose of the head with these landmarks (iBUG order, pixels) in a picture of this size, by least squares over the
/// perspective projection of the mean face, weighted by how much each landmark varies over people and expressions.
///
/// The camera is taken to look at the picture's middle with a focal length of the picture's longer side (a field of view
/// of 53 degrees), longer where the face would come nearer than 60 cm. Where the true focal length differs, a face far
/// from the middle is off by the difference of the angles at which either camera would see that place.
///
/// `None` where landmarks are not finite, coincide, are mirrored, or fit no pose to 20 mm.
pub fn head_pose(landmarks: &[Point; LANDMARKS], frame_width: u32, frame_height: u32) -> Option<HeadPose> {
    let seen: [[f64; 2]; USED] = std::array::from_fn(|i| {
        let p = landmarks[FIRST + i];
        // From the picture's middle, y up.
        [f64::from(p.x) - f64::from(frame_width) / 2.0, f64::from(frame_height) / 2.0 - f64::from(p.y)]
    });
    if !seen.as_flattened().iter().all(|v| v.is_finite() && v.abs() < 1e6) {
        return None;
    }
    let (mut rotation, scale, shift) = parallel_fit(&seen)?;
    let focal = f64::from(frame_width.max(frame_height)).max(NEAREST_MM * scale);
    // Points before the camera have negative z.
    let distance = focal / scale;
    let mut translation = [shift[0] / scale, shift[1] / scale, -distance];
    let mut misfit_mm = f64::INFINITY;
    for _ in 0..ITERATIONS {
        let step = gauss_newton_step(&seen, &rotation, &translation, focal)?;
        rotation = product(&rotation_of(step.turn), &rotation);
        translation = std::array::from_fn(|k| translation[k] + step.shift[k]);
        misfit_mm = step.misfit_mm;
        if norm(&step.turn) < CONVERGED_RAD {
            break;
        }
    }
    let pose = angles(&rotation);
    let finite = [pose.yaw_deg, pose.pitch_deg, pose.roll_deg].iter().all(|v| v.is_finite());
    let fits = misfit_mm < MOST_MISFIT_MM && pose.pitch_deg.abs() < MOST_PITCH_DEG;
    (finite && fits).then_some(pose)
}

/// Rotation, pixels a mm and shift in pixels of the weighted least-squares fit under parallel projection; the rows of the
/// affine map are brought to a rotation (as POS, DeMenthon and Davis 1995).
fn parallel_fit(seen: &[[f64; 2]; USED]) -> Option<(Mat3, f64, [f64; 2])> {
    let mut normal = [[0.0; 4]; 4];
    let mut right = [[0.0; 4]; 2];
    for ([x, y, z, deviation], p) in MEAN_FACE.iter().zip(seen) {
        let weight = 1.0 / (deviation * deviation);
        let row = [*x, *y, *z, 1.0];
        for i in 0..4 {
            for j in 0..4 {
                normal[i][j] += weight * row[i] * row[j];
            }
            right[0][i] += weight * row[i] * p[0];
            right[1][i] += weight * row[i] * p[1];
        }
    }
    let across = solve(normal, right[0])?;
    let up = solve(normal, right[1])?;
    let (a, b) = ([across[0], across[1], across[2]], [up[0], up[1], up[2]]);
    let scale = (norm(&a) * norm(&b)).sqrt();
    // Smaller than a face of 2 pixels is none, and so is one of a line.
    if scale * EYES_MM <= 2.0 || norm(&a) < 0.05 * norm(&b) || norm(&b) < 0.05 * norm(&a) {
        return None;
    }
    // The two unit vectors nearest to both rows that are at right angles: their sum and difference are.
    let (a, b) = (scaled(&a, 1.0 / norm(&a)), scaled(&b, 1.0 / norm(&b)));
    let sum = unit(&std::array::from_fn(|k| a[k] + b[k]))?;
    let difference = unit(&std::array::from_fn(|k| a[k] - b[k]))?;
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let a: Vec3 = std::array::from_fn(|k| half * (sum[k] + difference[k]));
    let b: Vec3 = std::array::from_fn(|k| half * (sum[k] - difference[k]));
    Some(([a, b, cross(&a, &b)], scale, [across[3], up[3]]))
}

/// What [`gauss_newton_step`] finds.
struct Step {
    /// A rotation vector in radians, to be applied after the rotation at hand.
    turn: Vec3,
    /// What the translation grows by, in mm.
    shift: Vec3,
    /// Root mean square of the reprojection error before the step, in mm at the face.
    misfit_mm: f64,
}

/// The step that reduces the weighted squares of the reprojection error most, to first order.
fn gauss_newton_step(
    seen: &[[f64; 2]; USED],
    rotation: &Mat3,
    translation: &Vec3,
    focal: f64,
) -> Option<Step> {
    let mut squares = 0.0;
    let mut normal = [[0.0; 6]; 6];
    let mut right = [0.0; 6];
    for ([x, y, z, deviation], p) in MEAN_FACE.iter().zip(seen) {
        let turned = apply(rotation, &[*x, *y, *z]);
        let q: Vec3 = std::array::from_fn(|k| turned[k] + translation[k]);
        let depth = -q[2];
        if depth < 1.0 {
            return None;
        }
        // Residuals in mm at the face's distance, so that weights are those of the deviations.
        let mm = depth / focal;
        let residual = [p[0] * mm - q[0], p[1] * mm - q[1]];
        let error = residual[0].hypot(residual[1]);
        squares += error * error;
        let weight = (HUBER_MM / error.max(HUBER_MM)) / (deviation * deviation);
        // d(q_x f / depth) = (dq_x + q_x dq_z / depth) f / depth; a turn by w moves q by w x turned.
        for axis in 0..2 {
            let slope = q[axis] / depth;
            let mut row = [0.0; 6];
            for k in 0..3 {
                let mut w = [0.0; 3];
                w[k] = 1.0;
                let moved = cross(&w, &turned);
                row[k] = moved[axis] + slope * moved[2];
            }
            row[3 + axis] = 1.0;
            row[5] = slope;
            for i in 0..6 {
                for j in 0..6 {
                    normal[i][j] += weight * row[i] * row[j];
                }
                right[i] += weight * row[i] * residual[axis];
            }
        }
    }
    // The depth of a small face is hardly known; this keeps the system well away from singular.
    (0..6).for_each(|i| normal[i][i] *= 1.0 + 1e-6);
    let [a, b, c, x, y, z] = solve(normal, right)?;
    Some(Step { turn: [a, b, c], shift: [x, y, z], misfit_mm: (squares / USED as f64).sqrt() })
}

/// Yaw, pitch and roll of `R = Rz(-roll) Ry(yaw) Rx(-pitch)`.
fn angles(r: &Mat3) -> HeadPose {
    let degrees = |radians: f64| radians.to_degrees() as f32;
    HeadPose {
        yaw_deg: degrees((-r[2][0]).clamp(-1.0, 1.0).asin()),
        pitch_deg: degrees((-r[2][1]).atan2(r[2][2])),
        roll_deg: degrees((-r[1][0]).atan2(r[0][0])),
    }
}

/// The rotation about `w` by its length (Rodrigues).
fn rotation_of(w: Vec3) -> Mat3 {
    let angle = norm(&w);
    if angle < 1e-12 {
        return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    }
    let [x, y, z] = scaled(&w, 1.0 / angle);
    let (s, c) = angle.sin_cos();
    let k = 1.0 - c;
    [
        [c + x * x * k, x * y * k - z * s, x * z * k + y * s],
        [y * x * k + z * s, c + y * y * k, y * z * k - x * s],
        [z * x * k - y * s, z * y * k + x * s, c + z * z * k],
    ]
}

fn product(a: &Mat3, b: &Mat3) -> Mat3 {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

fn apply(r: &Mat3, p: &Vec3) -> Vec3 {
    std::array::from_fn(|i| r[i][0] * p[0] + r[i][1] * p[1] + r[i][2] * p[2])
}

fn cross(a: &Vec3, b: &Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn norm(a: &Vec3) -> f64 {
    (a[0] * a[0] + a[1] * a[1] + a[2] * a[2]).sqrt()
}

fn scaled(a: &Vec3, factor: f64) -> Vec3 {
    a.map(|v| v * factor)
}

fn unit(a: &Vec3) -> Option<Vec3> {
    let length = norm(a);
    (length > 1e-9).then(|| scaled(a, 1.0 / length))
}

/// Solves `m x = y` by elimination with pivoting; `None` where `m` is singular.
fn solve<const N: usize>(mut m: [[f64; N]; N], mut y: [f64; N]) -> Option<[f64; N]> {
    let size = m.as_flattened().iter().fold(0.0f64, |most, v| most.max(v.abs()));
    for i in 0..N {
        let pivot = (i..N).max_by(|&a, &b| m[a][i].abs().total_cmp(&m[b][i].abs()))?;
        if m[pivot][i].abs() <= 1e-14 * size {
            return None;
        }
        m.swap(i, pivot);
        y.swap(i, pivot);
        for row in i + 1..N {
            let factor = m[row][i] / m[i][i];
            let above = m[i];
            m[row].iter_mut().zip(above).skip(i).for_each(|(v, a)| *v -= factor * a);
            y[row] -= factor * y[i];
        }
    }
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|k| m[i][k] * y[k]).sum();
        y[i] = (y[i] - known) / m[i][i];
    }
    Some(y)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const SIZE: (u32, u32) = (640, 480);

    /// The mean face at a pose, `distance` mm before a camera with the focal length that [`head_pose`] assumes.
    fn project(pose: HeadPose, at: [f64; 2], distance: f64) -> [Point; LANDMARKS] {
        let [yaw, pitch, roll] =
            [pose.yaw_deg, pose.pitch_deg, pose.roll_deg].map(|v| f64::from(v).to_radians());
        let about = |axis: usize, angle: f64| {
            let mut w = [0.0; 3];
            w[axis] = angle;
            rotation_of(w)
        };
        let r = product(&about(2, -roll), &product(&about(1, yaw), &about(0, -pitch)));
        let focal = f64::from(SIZE.0);
        std::array::from_fn(|i| {
            let Some([x, y, z, _]) = i.checked_sub(FIRST).map(|i| MEAN_FACE[i]) else {
                return Point::default();
            };
            let q = apply(&r, &[x, y, z]);
            let k = focal / (distance - q[2]);
            let (u, v) = ((q[0] + at[0]) * k, (q[1] + at[1]) * k);
            Point::new((u + 320.0) as f32, (240.0 - v) as f32)
        })
    }

    #[test]
    fn poses_of_the_mean_face_are_recovered() {
        for yaw in [-60.0, -30.0, 0.0, 20.0, 45.0] {
            for pitch in [-30.0, -10.0, 0.0, 30.0] {
                for roll in [-30.0, 0.0, 25.0, 100.0, 180.0] {
                    for (at, distance) in
                        [([0.0, 0.0], 700.0), ([150.0, -80.0], 800.0), ([-40.0, 60.0], 3000.0)]
                    {
                        let truth = HeadPose { yaw_deg: yaw, pitch_deg: pitch, roll_deg: roll };
                        let found = head_pose(&project(truth, at, distance), SIZE.0, SIZE.1).unwrap();
                        let turn = (found.roll_deg - roll).rem_euclid(360.0);
                        let errors = [found.yaw_deg - yaw, found.pitch_deg - pitch, turn.min(360.0 - turn)];
                        assert!(
                            errors.iter().all(|e| e.abs() < 0.1),
                            "{truth:?} {at:?} {distance}: {found:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn one_landmark_that_slipped_hardly_matters() {
        let truth = HeadPose { yaw_deg: 20.0, pitch_deg: -10.0, roll_deg: 5.0 };
        let mut landmarks = project(truth, [0.0, 0.0], 700.0);
        landmarks[30].y += 15.0;
        let found = head_pose(&landmarks, SIZE.0, SIZE.1).unwrap();
        let errors = [found.yaw_deg - 20.0, found.pitch_deg + 10.0, found.roll_deg - 5.0];
        assert!(errors.iter().all(|e| e.abs() < 2.5), "{errors:?}");
    }

    #[test]
    fn pose_does_not_depend_on_the_pictures_scale() {
        let landmarks =
            project(HeadPose { yaw_deg: -35.0, pitch_deg: 12.0, roll_deg: 8.0 }, [90.0, 40.0], 900.0);
        let pose = head_pose(&landmarks, SIZE.0, SIZE.1).unwrap();
        for scale in [0.25, 3.0, 12.0] {
            let scaled = landmarks.map(|p| Point::new(p.x * scale, p.y * scale));
            let [width, height] = [SIZE.0, SIZE.1].map(|side| (side as f32 * scale) as u32);
            let found = head_pose(&scaled, width, height).unwrap();
            let errors = [
                found.yaw_deg - pose.yaw_deg,
                found.pitch_deg - pose.pitch_deg,
                found.roll_deg - pose.roll_deg,
            ];
            assert!(errors.iter().all(|e| e.abs() < 0.01), "{scale}: {found:?}, not {pose:?}");
        }
    }

    #[test]
    fn what_is_no_face_has_no_pose() {
        let same = [Point::new(10.0, 10.0); LANDMARKS];
        let nan = [Point::new(f32::NAN, 1.0); LANDMARKS];
        let huge = [Point::new(f32::MAX, f32::MIN); LANDMARKS];
        let line: [Point; LANDMARKS] = std::array::from_fn(|i| Point::new(i as f32 * 3.0, 50.0));
        let face = project(HeadPose { yaw_deg: 15.0, pitch_deg: -5.0, roll_deg: 10.0 }, [0.0, 0.0], 700.0);
        let mirrored = face.map(|p| Point::new(640.0 - p.x, p.y));
        let mut holed = face;
        holed[40].x = f32::INFINITY;
        for landmarks in [same, nan, huge, line, mirrored, holed] {
            assert_eq!(head_pose(&landmarks, 640, 480), None, "{:?}", &landmarks[..2]);
        }
        assert_eq!(head_pose(&same, 0, 0), None);
    }

    #[test]
    fn points_strewn_at_random_have_no_pose() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for side in [1e-3, 30.0, 200.0, 5e5] {
            for _ in 0..500 {
                let strewn: [Point; LANDMARKS] = std::array::from_fn(|_| {
                    Point::new(rng.random_range(0.0..side), rng.random_range(0.0..side))
                });
                assert_eq!(head_pose(&strewn, 640, 480), None, "{strewn:?}");
            }
        }
    }
}
