//! The 68 iBUG landmarks and the face box, from the posed mesh.
//!
//! Jaw points (0 to 16) on the far side of a turned head lie on the visible outline, as annotators place them
//! ("landmark marching", Zhu et al. 2015): the point of the same height of the skin that reaches furthest out in the
//! picture. Every other point stays on its tissue, whether it can be seen or not.

use crate::head::{SEAM, brow_line, lower_lip_border, upper_lip_border};
use crate::math::{Vec3, knots, lerp};
use crate::rig::{Posed, Rig};
use semblance_face::geometry::{Point, Rect};

/// Template coordinates of the jaw's right half in the picture: from the ear (landmark 16) to the chin (8).
const JAW: [(f32, f32); 9] = [
    (5.0, -1.2),
    (5.0, -3.6),
    (5.0, -5.9),
    (4.95, -8.1),
    (4.75, -10.0),
    (4.0, -10.6),
    (3.0, -10.9),
    (1.8, -11.0),
    (0.0, -11.0),
];

/// `u` and the height above the brow's middle line of landmarks 22 to 26.
const BROW: [(f32, f32); 5] = [(1.12, 0.10), (1.72, 0.26), (2.4, 0.26), (3.05, 0.20), (3.62, 0.06)];

/// The landmarks in the camera's frame; the outline depends on how points of that frame fall on the picture.
pub(crate) fn landmarks(rig: &Rig, posed: &Posed, project: &impl Fn(Vec3) -> Point) -> [Vec3; 68] {
    let skin = |u: f32, t: f32| rig.skin_point(posed, u, t);
    let mut out = [Vec3::ZERO; 68];
    let outline = |u: f32, t: f32| contour(rig, posed, project, u, t);
    for (i, &(u, t)) in JAW.iter().enumerate() {
        out[16 - i] = outline(u, t);
        out[i] = outline(-u, t);
    }
    out[8] = skin(0.0, -11.0);
    for (i, &(u, over)) in BROW.iter().enumerate() {
        let x = rig.template.sample(&rig.template.base, u, 2.0).x;
        let t = brow_line(x) + over;
        out[22 + i] = skin(u, t);
        out[21 - i] = skin(-u, t);
    }
    for (i, t) in [-0.1, -1.4, -2.7, -4.05].into_iter().enumerate() {
        out[27 + i] = skin(0.0, t);
    }
    for (i, (u, t)) in
        [(-0.78, -4.80), (-0.42, -4.98), (0.0, -5.10), (0.42, -4.98), (0.78, -4.80)].into_iter().enumerate()
    {
        out[31 + i] = skin(u, t);
    }
    let third = 0.34;
    let lid = |eye: usize, lid: usize, along: f32| rig.lid_point(posed, eye, lid, along);
    for (base, eye, start) in [(36, 0, 1.0f32), (42, 1, -1.0)] {
        out[base] = lid(eye, 0, start);
        out[base + 1] = lid(eye, 0, third * start);
        out[base + 2] = lid(eye, 0, -third * start);
        out[base + 3] = lid(eye, 0, -start);
        out[base + 4] = lid(eye, 1, -third * start);
        out[base + 5] = lid(eye, 1, third * start);
    }
    let lip = |l: usize, x: f32| rig.lip_point(posed, l, 0.5 + 0.5 * x);
    out[48] = lip(0, -1.0);
    out[54] = lip(0, 1.0);
    // `u` is about x / 1.5 on the lips.
    for (i, u) in [-1.1f32, -0.36, 0.0, 0.36, 1.1].into_iter().enumerate() {
        let ax = u.abs() * 1.5;
        out[49 + i] = skin(u, SEAM + upper_lip_border(ax));
        let (u, ax) = if u.abs() < 1.0 { (1.5 * u, 1.5 * ax) } else { (u, ax) };
        out[59 - i] = skin(u, SEAM - lower_lip_border(ax));
    }
    let inner = 0.93;
    out[60] = lip(0, -inner).lerp(lip(1, -inner), 0.5);
    out[64] = lip(0, inner).lerp(lip(1, inner), 0.5);
    for (i, x) in [-0.31, 0.0, 0.31].into_iter().enumerate() {
        out[61 + i] = lip(0, x);
        out[67 - i] = lip(1, x);
    }
    out
}

/// The jaw point at `(u, t)`, or the outline's point at its height where it is hidden behind the cheek.
fn contour(rig: &Rig, posed: &Posed, project: &impl Fn(Vec3) -> Point, u: f32, t: f32) -> Vec3 {
    let skin = |u: f32, t: f32| rig.skin_point(posed, u, t);
    let (middle, chin, brow) = (project(skin(0.0, -4.0)), project(skin(0.0, -11.0)), project(skin(0.0, 1.8)));
    // Outwards: across the line from brow to chin, on this side of the face.
    let (ax, ay) = (chin.x - brow.x, chin.y - brow.y);
    let sign = if u < 0.0 { -1.0 } else { 1.0 };
    let reach = |p: Point| sign * ((p.x - middle.x) * ay - (p.y - middle.y) * ax);
    let mut best = skin(u, t);
    let mut most = reach(project(best));
    for i in 1..=24 {
        let p = skin(lerp(u, u * 0.18, i as f32 / 24.0), t);
        let r = reach(project(p));
        if r > most {
            (most, best) = (r, p);
        }
    }
    best
}

/// The face box: the smallest upright box around the 68 landmarks and the forehead up to about the hairline.
pub(crate) fn face_box(
    rig: &Rig,
    posed: &Posed,
    landmarks: &[Point; 68],
    project: &impl Fn(Vec3) -> Point,
) -> Rect {
    let forehead = [(-2.6f32, 4.6f32), (-1.2, 5.0), (0.0, 5.1), (1.2, 5.0), (2.6, 4.6)]
        .map(|(u, t)| project(rig.skin_point(posed, u, t)));
    let mut low = Point::new(f32::MAX, f32::MAX);
    let mut high = Point::new(f32::MIN, f32::MIN);
    for p in landmarks.iter().chain(&forehead) {
        low = Point::new(low.x.min(p.x), low.y.min(p.y));
        high = Point::new(high.x.max(p.x), high.y.max(p.y));
    }
    Rect::new(low.x, low.y, high.x - low.x, high.y - low.y)
}

/// Heights of the upper lid's edge above the eyeball's middle, at seven places from -1.5 to 1.5 cm across, as
/// [`crate::shade::Shader`] wants them; in the head's own frame.
pub(crate) fn lid_edge(rig: &Rig, posed: &Posed, eye: usize, head_right: Vec3, head_up: Vec3) -> [f32; 7] {
    let e = &rig.eyes[eye];
    let (first, last) = (rig.lid_point(posed, eye, 0, -1.0), rig.lid_point(posed, eye, 0, 1.0));
    // The eyeball's middle, from the corners, which move with the head alone.
    let (rest_first, rest_last) = rig.lid_corners_at_rest(eye);
    let middle = first.lerp(last, 0.5);
    let up_rest = 0.5 * (rest_first.y + rest_last.y) - e.center.y;
    let across_rest = 0.5 * (rest_first.x + rest_last.x) - e.center.x;
    let mut samples = [(0.0f32, 0.0f32); 15];
    for (i, s) in samples.iter_mut().enumerate() {
        let d = rig.lid_point(posed, eye, 0, lerp(-1.0, 1.0, i as f32 / 14.0)) - middle;
        *s = (d.dot(head_right) + across_rest, d.dot(head_up) + up_rest);
    }
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    [0, 1, 2, 3, 4, 5, 6].map(|i| knots(&samples, -1.5 + 0.5 * i as f32))
}
