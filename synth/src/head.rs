//! The skin of head and neck: a grid of vertices over an average head, and how a person differs from it.
//!
//! The surface is lofted: [`STATIONS`] lists half-contours of an average adult head from the crown to the neck, and
//! cubics run through them in both directions. Nose, lips, eye sockets and the rest are displacements of that surface
//! ([`shape`]), each a function of *template coordinates*: `u` counts contours' control points from the median line
//! (0) over the ear (5 to 6) to the back of the head (8), negative on the picture's left, and `t` is the height in
//! centimetres at the median line, 0 at the eyes. Skin colour, brows and folds are painted in the same coordinates, so
//! they move with the tissue.
//!
//! The grid is cut open along the eyes (`t = 0`) and the mouth (`t =` [`SEAM`]): the vertices there exist twice, so
//! that lids and lips part for real.

use crate::identity::Identity;
use std::sync::OnceLock;

use crate::math::{Vec3, bump, bump2, exp, fractal2, hermite, lerp, smooth_max, smoothstep, spline, v3};

/// Height of the closed lips, in template coordinates.
pub(crate) const SEAM: f32 = -7.1;
/// `|u|` of the mouth corners.
pub(crate) const MOUTH_CORNER_U: f32 = 1.7;
/// `|x|` of the mouth corners in the template.
pub(crate) const MOUTH_CORNER_X: f32 = 2.55;
/// `|u|` of the inner corners of the eyes.
pub(crate) const EYE_INNER_U: f32 = 1.1;
/// `|u|` of the outer corners of the eyes.
pub(crate) const EYE_OUTER_U: f32 = 2.8;
/// `|x|` of the eyes' middle in the template.
pub(crate) const EYE_X: f32 = 3.08;
/// Heights below the eyes as the stations have them, and where they lie on an average face.
const LOWER_FACE: [(f32, f32); 9] = [
    (-19.0, -19.3),
    (-13.0, -13.3),
    (-11.1, -11.0),
    (-9.2, -8.7),
    (-7.1, -6.45),
    (-5.1, -4.5),
    (-2.0, -1.88),
    (0.0, 0.0),
    (0.5, 0.5),
];

const COLUMNS: usize = 9;

/// Contours from the crown down: height `t`, then points from the median line to the back.
#[rustfmt::skip]
const STATIONS: [(f32, [[f32; 3]; COLUMNS]); 15] = [
    (11.6, [[0.0, 11.6, -0.6], [0.05, 11.6, -0.65], [0.1, 11.6, -0.7], [0.15, 11.6, -0.8], [0.2, 11.6, -0.95], [0.2, 11.6, -1.1], [0.2, 11.6, -1.25], [0.1, 11.6, -1.4], [0.0, 11.6, -1.5]]),
        (11.0, [[0.0, 11.1, 3.0], [0.9, 11.1, 2.85], [1.75, 11.1, 2.4], [2.5, 11.1, 1.6], [3.05, 11.1, 0.5], [3.3, 11.1, -0.9], [3.2, 11.1, -2.3], [2.35, 11.1, -4.2], [0.0, 11.1, -5.1]]),
    (9.5, [[0.0, 9.6, 6.0], [1.4, 9.6, 5.8], [2.8, 9.6, 5.2], [4.0, 9.6, 4.0], [4.9, 9.6, 2.2], [5.4, 9.6, -0.2], [5.4, 9.6, -2.8], [4.1, 9.6, -6.2], [0.0, 9.6, -7.6]]),
    (6.5, [[0.0, 6.5, 9.1], [1.6, 6.5, 8.9], [3.2, 6.5, 8.15], [4.6, 6.5, 6.7], [5.9, 6.5, 4.2], [6.85, 6.5, 0.6], [7.2, 6.5, -2.7], [5.5, 6.5, -7.6], [0.0, 6.5, -9.6]]),
    (4.0, [[0.0, 4.0, 9.85], [1.6, 4.0, 9.65], [3.2, 4.0, 9.0], [4.75, 4.0, 7.6], [6.05, 4.0, 5.0], [7.05, 4.0, 1.0], [7.55, 4.0, -2.5], [5.8, 4.0, -7.8], [0.0, 4.0, -9.9]]),
    (2.0, [[0.0, 2.0, 9.95], [1.6, 2.0, 9.8], [3.2, 2.0, 9.3], [4.8, 2.0, 7.9], [6.15, 2.0, 5.2], [7.05, 2.0, 1.2], [7.55, 2.0, -2.5], [5.7, 2.0, -7.7], [0.0, 2.0, -9.7]]),
    (0.0, [[0.0, 0.0, 9.65], [1.6, 0.0, 9.3], [3.2, 0.0, 8.6], [4.75, 0.0, 7.2], [6.35, 0.0, 4.6], [7.3, 0.0, 1.0], [7.4, 0.0, -2.5], [5.5, 0.0, -7.5], [0.0, 0.0, -9.3]]),
    (-2.2, [[0.0, -2.2, 9.85], [1.6, -2.2, 9.4], [3.25, -2.2, 8.75], [5.0, -2.2, 7.2], [6.5, -2.0, 4.5], [7.3, -1.9, 1.1], [7.1, -1.8, -2.3], [5.2, -2.0, -7.0], [0.0, -2.2, -8.7]]),
    (-5.0, [[0.0, -5.0, 9.85], [1.6, -5.0, 9.45], [3.2, -5.0, 8.45], [4.85, -4.9, 6.6], [6.3, -4.6, 4.0], [7.0, -4.3, 0.9], [6.4, -4.0, -2.0], [4.9, -4.5, -5.5], [0.0, -4.8, -6.9]]),
    (-7.1, [[0.0, -7.1, 10.0], [1.5, -7.1, 9.5], [3.0, -7.1, 8.05], [4.5, -7.0, 6.2], [5.95, -6.6, 3.6], [6.75, -6.1, 0.7], [5.9, -5.6, -1.5], [4.6, -6.5, -4.5], [0.0, -7.0, -5.9]]),
    (-9.2, [[0.0, -9.2, 9.45], [1.35, -9.2, 9.0], [2.75, -9.2, 7.7], [4.2, -9.0, 5.7], [5.5, -8.4, 3.1], [6.3, -7.5, 0.6], [5.5, -7.0, -1.2], [4.4, -8.3, -3.9], [0.0, -9.0, -5.4]]),
    (-11.0, [[0.0, -11.15, 9.45], [1.2, -11.1, 9.0], [2.5, -10.9, 7.7], [3.85, -10.4, 5.5], [4.95, -9.5, 2.9], [5.8, -8.6, 0.5], [5.2, -8.3, -1.2], [4.3, -10.0, -3.7], [0.0, -11.0, -5.2]]),
    (-12.0, [[0.0, -11.9, 7.6], [1.0, -11.9, 7.3], [2.0, -11.75, 6.3], [3.2, -11.3, 4.4], [4.25, -10.6, 2.3], [4.95, -9.7, 0.2], [4.9, -9.8, -1.5], [4.3, -11.5, -3.7], [0.0, -12.4, -5.2]]),
    (-13.0, [[0.0, -12.8, 4.4], [1.2, -12.8, 4.2], [2.4, -12.8, 3.6], [3.4, -12.8, 2.5], [4.2, -12.7, 1.2], [4.8, -12.5, -0.3], [5.0, -12.6, -1.6], [4.5, -13.2, -3.9], [0.0, -14.0, -5.4]]),
    (-19.0, [[0.0, -19.0, 3.6], [1.6, -19.0, 3.5], [3.1, -19.0, 3.0], [4.4, -19.0, 2.2], [5.4, -19.0, 1.0], [6.0, -19.0, -0.6], [6.2, -19.0, -2.0], [5.2, -19.0, -4.6], [0.0, -19.0, -6.2]]),
];

/// The grid without a person: which vertices there are and how they hang together.
pub(crate) struct Template {
    /// `u` of each column, ascending.
    pub(crate) columns: Vec<f32>,
    /// `t` of each row, descending.
    pub(crate) rows: Vec<f32>,
    /// Template coordinates of each vertex; the grid by rows first, then the second copies along the cuts.
    pub(crate) uv: Vec<[f32; 2]>,
    /// The lofted surface at each vertex.
    pub(crate) base: Vec<Vec3>,
    /// Above (+1) or below (-1) the mouth, fading to 0 beside it.
    pub(crate) lip_side: Vec<f32>,
    /// Triangles, counter-clockwise seen from outside.
    pub(crate) triangles: Vec<[u32; 3]>,
    /// Vertices along the upper and the lower edge of the mouth, from the picture's left to its right, corners included.
    pub(crate) lips: [Vec<u32>; 2],
    /// Vertices along the upper and lower lid of the left and right eye (in the picture), from the inner corner out.
    pub(crate) lids: [[Vec<u32>; 2]; 2],
}

impl Template {
    /// The one template there is.
    pub(crate) fn get() -> &'static Self {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        TEMPLATE.get_or_init(Self::new)
    }

    fn new() -> Self {
        let columns = columns();
        let rows = rows();
        let (nc, nr) = (columns.len(), rows.len());
        let mut t = Self {
            uv: Vec::new(),
            base: Vec::new(),
            lip_side: Vec::new(),
            triangles: Vec::new(),
            lips: [Vec::new(), Vec::new()],
            lids: Default::default(),
            columns,
            rows,
        };
        for &row in &t.rows {
            for &u in &t.columns {
                t.uv.push([u, row]);
                t.base.push(loft(u, row));
            }
        }
        let seam_row = nearest(&t.rows, SEAM);
        let lid_row = nearest(&t.rows, 0.0);
        // second[c] is the lower copy of a cut vertex.
        let mut second_lip: Vec<Option<u32>> = vec![None; nc];
        let mut second_lid: Vec<Option<u32>> = vec![None; nc];
        for c in 0..nc {
            let a = t.columns[c].abs();
            for (row, open, second) in [
                (seam_row, a < MOUTH_CORNER_U - 1e-3, &mut second_lip),
                (lid_row, a > EYE_INNER_U + 1e-3 && a < EYE_OUTER_U - 1e-3, &mut second_lid),
            ] {
                if open {
                    let v = row * nc + c;
                    second[c] = Some(t.uv.len() as u32);
                    t.uv.push(t.uv[v]);
                    t.base.push(t.base[v]);
                }
            }
        }
        t.lip_side = t.base.iter().map(|p| lip_side(p, p.y > SEAM - 1e-3)).collect();
        for v in second_lip.iter().flatten() {
            t.lip_side[*v as usize] = lip_side(&t.base[*v as usize], false);
        }
        let main = |r: usize, c: usize| (r * nc + c) as u32;
        let lower = |r: usize, c: usize| {
            let copy = if r == seam_row { second_lip[c] } else { None };
            let copy = copy.or(if r == lid_row { second_lid[c] } else { None });
            copy.unwrap_or(main(r, c))
        };
        for r in 0..nr - 1 {
            for c in 0..nc - 1 {
                let (a, b) = (lower(r, c), lower(r, c + 1));
                let (d, e) = (main(r + 1, c), main(r + 1, c + 1));
                // Split along the diagonal that leaves both halves of the face mirror images.
                if t.columns[c] < -1e-3 {
                    t.triangles.push([a, d, e]);
                    t.triangles.push([a, e, b]);
                } else {
                    t.triangles.push([a, d, b]);
                    t.triangles.push([b, d, e]);
                }
            }
        }
        for c in 0..nc {
            let u = t.columns[c];
            if u.abs() < MOUTH_CORNER_U + 1e-3 {
                t.lips[0].push(main(seam_row, c));
                t.lips[1].push(lower(seam_row, c));
            }
            if u.abs() > EYE_INNER_U - 1e-3 && u.abs() < EYE_OUTER_U + 1e-3 {
                let eye = usize::from(u > 0.0);
                t.lids[eye][0].push(main(lid_row, c));
                t.lids[eye][1].push(lower(lid_row, c));
            }
        }
        // Columns ascend from the left, so the left eye was collected from its outer corner.
        t.lids[0][0].reverse();
        t.lids[0][1].reverse();
        t
    }

    /// The vertices and weights around template coordinates `(u, t)` (bilinear; below a cut where `lower`).
    pub(crate) fn locate(&self, u: f32, t: f32) -> [(u32, f32); 4] {
        let nc = self.columns.len();
        let c = self.columns.partition_point(|&x| x <= u).clamp(1, nc - 1) - 1;
        let r = self.rows.partition_point(|&x| x >= t).clamp(1, self.rows.len() - 1) - 1;
        let fu = ((u - self.columns[c]) / (self.columns[c + 1] - self.columns[c])).clamp(0.0, 1.0);
        let ft = ((t - self.rows[r]) / (self.rows[r + 1] - self.rows[r])).clamp(0.0, 1.0);
        let v = (r * nc + c) as u32;
        let below = v + nc as u32;
        [
            (v, (1.0 - fu) * (1.0 - ft)),
            (v + 1, fu * (1.0 - ft)),
            (below, (1.0 - fu) * ft),
            (below + 1, fu * ft),
        ]
    }

    /// A vertex attribute at template coordinates.
    pub(crate) fn sample(&self, values: &[Vec3], u: f32, t: f32) -> Vec3 {
        self.locate(u, t).iter().fold(Vec3::ZERO, |sum, &(v, w)| sum + values[v as usize] * w)
    }
}

fn columns() -> Vec<f32> {
    let mut half: Vec<f32> = (0..=32).map(|i| i as f32 * 0.1).collect();
    half.extend((1..=9).map(|i| 3.2 + 0.2 * i as f32));
    half.extend((1..=6).map(|i| 5.0 + 0.5 * i as f32));
    half.iter().skip(1).rev().map(|u| -u).chain(half.iter().copied()).collect()
}

fn rows() -> Vec<f32> {
    let mut rows = Vec::new();
    let mut span = |from: f32, to: f32, n: usize| {
        rows.extend((0..n).map(|i| lerp(from, to, i as f32 / n as f32)));
    };
    span(11.6, 9.5, 5);
    span(9.5, 3.2, 8);
    span(3.2, 1.5, 8);
    span(1.5, 0.0, 13);
    span(0.0, -1.2, 10);
    span(-1.2, -3.4, 8);
    span(-3.4, -5.6, 17);
    span(-5.6, SEAM, 12);
    span(SEAM, -8.6, 12);
    span(-8.6, -11.0, 9);
    span(-11.0, -13.0, 7);
    span(-13.0, -19.0, 6);
    rows.push(-19.0);
    rows
}

fn nearest(values: &[f32], x: f32) -> usize {
    let distance = |i: &usize| (values[*i] - x).abs();
    (0..values.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}

fn lip_side(p: &Vec3, above: bool) -> f32 {
    let hard = if above { 1.0 } else { -1.0 };
    let soft = ((p.y - SEAM) / 0.6).clamp(-1.0, 1.0);
    let q = p.x.abs() / MOUTH_CORNER_X;
    let round = (1.0 - q * q).max(0.0).sqrt();
    lerp(hard, soft, 1.0 - round)
}

/// The average head without features at template coordinates.
fn loft(u: f32, t: f32) -> Vec3 {
    let contour = |station: usize| {
        let point = |k: i32| {
            let last = COLUMNS as i32 - 1;
            let (i, mirrored) = if k < 0 {
                (-k, true)
            } else if k > last {
                (2 * last - k, true)
            } else {
                (k, false)
            };
            let [x, y, z] = STATIONS[station].1[i as usize];
            v3(if mirrored { -x } else { x }, y, z)
        };
        let a = u.abs();
        let k = (a.floor() as i32).min(COLUMNS as i32 - 2);
        cubic(point(k - 1), point(k), point(k + 1), point(k + 2), [1.0, 1.0, 1.0], a - k as f32)
    };
    let n = STATIONS.len();
    let mut i = 0;
    while i < n - 2 && STATIONS[i + 1].0 > t {
        i += 1;
    }
    let height = |k: usize| STATIONS[k].0;
    let (before, after) = (i.saturating_sub(1), (i + 2).min(n - 1));
    let steps = [
        (height(before) - height(i)).max(0.5),
        height(i) - height(i + 1),
        (height(i + 1) - height(after)).max(0.5),
    ];
    let f = ((height(i) - t) / steps[1]).clamp(0.0, 1.0);
    let p = cubic(contour(before), contour(i), contour(i + 1), contour(after), steps, f);
    if u < 0.0 { p.mirrored() } else { p }
}

/// The Catmull-Rom cubic between `b` and `c`, with the parameter's steps between the four points.
fn cubic(a: Vec3, b: Vec3, c: Vec3, d: Vec3, steps: [f32; 3], f: f32) -> Vec3 {
    let one = |a: f32, b: f32, c: f32, d: f32| {
        let sb = (c - a) / (steps[0] + steps[1]) * steps[1];
        let sc = (d - b) / (steps[1] + steps[2]) * steps[1];
        hermite(b, c, sb, sc, f)
    };
    v3(one(a.x, b.x, c.x, d.x), one(a.y, b.y, c.y, d.y), one(a.z, b.z, c.z, d.z))
}

/// Where a height of the stations lies on an average face.
pub(crate) fn lower_face(y: f32) -> f32 {
    if y < 0.0 { spline(&LOWER_FACE, y) + (y + 19.0).min(0.0) } else { y }
}

/// Height of the upper lip's red above the seam at `|x|`.
pub(crate) fn upper_lip_border(ax: f32) -> f32 {
    spline(&[(0.0, 0.68), (0.25, 0.74), (0.5, 0.80), (1.0, 0.70), (1.8, 0.40), (MOUTH_CORNER_X, 0.0)], ax)
}

/// Depth of the lower lip's red below the seam at `|x|`.
pub(crate) fn lower_lip_border(ax: f32) -> f32 {
    spline(&[(0.0, 1.02), (0.6, 0.98), (1.3, 0.76), (2.0, 0.38), (MOUTH_CORNER_X, 0.0)], ax)
}

/// Height of the brows' middle line at `|x|`, before any person's own.
pub(crate) fn brow_line(ax: f32) -> f32 {
    spline(&[(1.1, 1.72), (2.0, 1.95), (3.0, 2.16), (4.0, 2.22), (4.8, 1.96), (5.7, 1.36)], ax)
}

/// 1 around an eye, fading out over the socket.
fn eye_zone(ax: f32, y: f32) -> f32 {
    let (dx, dy) = ((ax - EYE_X) / 1.65, (y - 0.1) / 1.5);
    1.0 - smoothstep(1.0, 2.0, (dx * dx + dy * dy).sqrt())
}

/// Where the skin of a person lies at rest, lids aside: a vertex of the lofted surface, displaced.
pub(crate) fn shape(base: Vec3, t: f32, lip_side: f32, id: &Identity) -> Vec3 {
    let (x, y, ax) = (base.x, base.y, base.x.abs());
    let front = smoothstep(1.5, 4.5, base.z);
    let mut p = base;
    p.z += front * (relief(ax, y, id) + nose(ax, y, id) + lips(ax, y, lip_side, id));
    p += features_warp(x, ax, y, front, id);
    p = skull_warp(p, ax, y, t, front, id);
    p += asymmetry(x, y, front, id);
    p.y = lower_face(p.y);
    p
}

/// Sockets, cheeks, chin and the other soft forms of the face, as depth.
fn relief(ax: f32, y: f32, id: &Identity) -> f32 {
    let old = id.ageing();
    let lean = -0.5 * id.fat - 0.5 * id.cheek_fullness;
    let mut z = 0.0;
    // Eye sockets, deeper towards the nose.
    z -= (0.78 + 0.10 * id.eye_depth) * bump2(ax - 3.0, 1.55, y - 0.15, 1.0);
    z -= 0.62 * bump2(ax - 1.75, 0.75, y - 0.2, 0.85);
    // Brow ridge and glabella.
    z += (0.16 + 0.10 * id.brow_ridge) * bump2(ax - 2.6, 1.9, y - 1.75, 0.6);
    z += (0.10 + 0.07 * id.brow_ridge) * bump2(ax, 1.0, y - 1.6, 0.7);
    // Temples.
    z -= (0.20 + 0.14 * id.temple_hollow) * bump2(ax - 5.7, 0.9, y - 2.6, 1.6);
    // Cheekbones, and the cheeks below them.
    z += (0.30 + 0.17 * id.cheekbones) * bump2(ax - 4.5, 1.2, y + 2.0, 1.1);
    z += (0.22 - 0.16 * lean) * bump2(ax - 3.3, 1.5, y + 3.9, 1.6);
    z -= (0.05 + 0.16 * lean).max(-0.3) * bump2(ax - 4.6, 1.2, y + 5.8, 1.6);
    // The hollow below the inner eye.
    z -= (0.10 + 0.16 * id.eye_bags + 0.08 * old)
        * bump2(ax - 2.0 - (-1.0 - y).max(0.0) * 0.9, 0.45, y + 1.15, 0.55);
    z += (0.05 + 0.20 * id.eye_bags) * bump2(ax - 3.0, 1.1, y + 0.95, 0.32);
    // Fold between cheek and upper lip.
    let fold_x = lerp(1.85, 3.0, ((-4.3 - y) / 3.0).clamp(0.0, 1.2));
    let along = smoothstep(-3.9, -4.6, y) * smoothstep(-8.2, -7.0, y);
    z -= along * (0.06 + 0.16 * old) * bump(ax - fold_x, 0.30);
    z += along * (0.05 + 0.14 * old + 0.04 * id.fat) * bump(ax - fold_x - 0.75, 0.6);
    // Jowls.
    z += 0.35 * old * bump2(ax - 3.4, 1.0, y + 9.4, 1.1);
    // Groove below the lower lip, and the chin.
    z -= 0.34 * bump2(ax, 1.7, y + 8.75, 0.42);
    let chin = 0.42 + 0.10 * id.chin_projection;
    z += chin * bump2(ax, 1.25 + 0.18 * id.chin_width, y + 10.15, 0.95);
    // Groove from nose to lip, between two low ridges.
    let philtrum = smoothstep(-4.9, -5.4, y) * smoothstep(-6.6, -6.2, y);
    z -= 0.10 * philtrum * bump(ax, 0.24);
    z += 0.07 * philtrum * bump(ax - 0.48, 0.2);
    z
}

/// The nose above the face, as depth.
fn nose(ax: f32, y: f32, id: &Identity) -> f32 {
    if ax > 3.2 || !(-6.2..2.6).contains(&y) {
        return 0.0;
    }
    let bridge = 0.13 * id.nose_bridge;
    let tip = 0.20 * id.nose_projection;
    let hump = 0.12 * id.nose_hump;
    let ridge = spline(
        &[
            (-5.7, 0.0),
            (-5.35, 0.12),
            (-5.05, 0.45 + 0.1 * tip),
            (-4.82, 1.02 + 0.6 * tip),
            (-4.55, 1.72 + tip),
            (-4.2, 2.12 + tip),
            (-3.8, 2.05 + tip),
            (-3.1, 1.74 + 0.8 * tip + 0.2 * bridge),
            (-2.2, 1.38 + 0.5 * tip + 0.5 * bridge + 0.7 * hump),
            (-1.0, 0.98 + 0.2 * tip + bridge + hump),
            (0.0, 0.52 + bridge + 0.3 * hump),
            (0.8, 0.26 + 0.6 * bridge),
            (1.7, 0.08),
            (2.5, 0.0),
        ],
        y,
    );
    let width = spline(
        &[
            (-5.4, 0.42),
            (-4.95, 0.58),
            (-4.2, 0.86),
            (-3.4, 0.80),
            (-2.2, 0.82),
            (-1.0, 0.78),
            (0.2, 0.72),
            (1.5, 1.1),
        ],
        y,
    ) * (1.0
        + 0.09 * id.nose_bridge_width * smoothstep(-4.0, -2.0, y)
        + 0.07 * id.nose_tip * bump(y + 4.2, 1.0));
    let q = ax / width;
    // A crest on a broader foot that runs out into the cheeks.
    let mut z = ridge * (0.78 * exp(-(q * q)) + 0.22 * bump(ax, 1.75));
    // The tip's ball.
    z += (0.16 + 0.06 * id.nose_tip) * bump2(ax, 0.66, y + 4.15, 0.5);
    // Wings: half-ellipsoids beside the tip, set off by a groove.
    let cap = |cx: f32, rx: f32, cy: f32, ry: f32, h: f32| {
        let (dx, dy) = ((ax - cx) / rx, (y - cy) / ry);
        let r = 1.0 - dx * dx - dy * dy;
        if r > 0.0 { h * r.sqrt() } else { 0.0 }
    };
    let wing = cap(1.12, 0.70, -4.42, 0.66, 1.30);
    z = smooth_max(z, wing, 0.22) - 0.055;
    z -= 0.10 * bump2(ax - 1.95, 0.22, y + 4.3, 0.7);
    // Nostrils.
    z -= 0.42 * bump2(ax - 0.66, 0.30, y + 4.90, 0.16);
    let edge = smoothstep(3.2, 2.4, ax) * smoothstep(-6.2, -5.6, y) * smoothstep(2.6, 2.2, y);
    z * edge
}

/// The lips' swelling and the crease between them, as depth.
fn lips(ax: f32, y: f32, side: f32, id: &Identity) -> f32 {
    if ax > 4.0 || !(-9.6..-5.0).contains(&y) {
        return 0.0;
    }
    let q = (ax / MOUTH_CORNER_X).min(1.0);
    let round = (1.0 - q * q).max(0.0);
    let forward = 0.08 * id.lip_protrusion;
    let mut z = (0.20 + forward) * bump2(ax, 2.2, y + 7.1, 1.5);
    if side >= 0.0 {
        let h = (y - SEAM) / upper_lip_border(ax).max(0.1);
        z += round * (0.30 + 0.05 * id.upper_lip) * bump(h - 0.50, 0.52);
    }
    if side <= 0.0 {
        let h = (SEAM - y) / lower_lip_border(ax).max(0.1);
        z += round * (0.40 + 0.06 * id.lower_lip) * bump(h - 0.48, 0.50);
    }
    z -= 0.16 * (1.0 - q * q * q * q) * bump(y - SEAM, 0.12);
    z - 0.13 * bump2(ax - 2.75, 0.30, y - SEAM, 0.32)
}

/// How a person's features lie elsewhere than the average's.
fn features_warp(x: f32, ax: f32, y: f32, front: f32, id: &Identity) -> Vec3 {
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let (mut dx, mut dy, mut dz) = (0.0, 0.0, 0.0);
    let eye = eye_zone(ax, y);
    dx += eye * (0.13 * id.eye_spacing + (ax - EYE_X) * 0.055 * id.eye_width);
    dy += eye * (ax - EYE_X) * (0.05 + 0.045 * id.eye_tilt);
    let brow = bump2(ax - 3.2, 2.6, y - 2.1, 1.0);
    dy += brow * (0.15 * id.brow_height - 0.12 * id.ageing() + (ax - 3.2) * 0.06 * id.brow_tilt);
    dy += 0.15 * id.brow_arch * bump2(ax - 3.9, 1.0, y - 2.2, 0.8);
    let nose_base = smoothstep(-0.6, -4.0, y) * smoothstep(-8.2, -5.0, y) * bump(ax, 2.6);
    dy -= nose_base * 0.26 * id.nose_length;
    dy += 0.20 * id.nose_upturn * bump2(ax, 1.1, y + 4.2, 0.8);
    dx += 0.15 * id.nose_width * bump2(ax - 1.35, 0.8, y + 4.4, 0.95);
    dy -= 0.20 * id.philtrum * bump2(ax, 3.4, (y + 7.3).max(0.0) + (-8.4 - y).max(0.0), 1.1);
    dx += ax.min(3.2) * 0.075 * id.mouth_width * bump2((ax - 2.5).max(0.0), 1.0, y + 7.1, 1.6);
    dy += 0.13 * id.mouth_curve * bump2(ax - 2.5, 1.0, y + 7.1, 0.9);
    dy += 0.14 * id.upper_lip * bump2(ax, 1.9, y + 6.35, 0.42);
    dy -= 0.06 * id.cupid_bow * bump2(ax, 0.26, y + 6.4, 0.3);
    dy -= 0.15 * id.lower_lip * bump2(ax, 1.9, y + 8.05, 0.5);
    dz += 0.10 * id.chin_projection * bump2(ax, 2.4, y + 10.2, 1.6);
    v3(sign * dx, dy, dz) * front
}

/// Proportions of skull and jaw.
fn skull_warp(p: Vec3, ax: f32, y: f32, t: f32, front: f32, id: &Identity) -> Vec3 {
    let lower = smoothstep(-4.0, -9.0, t) * smoothstep(-14.0, -12.0, t);
    let neck = smoothstep(-11.5, -13.5, t);
    let side = smoothstep(2.5, 4.5, ax);
    let mut q = p;
    let wide = 1.0
        + 0.028 * id.head_width * (1.0 - neck)
        + lower * (0.045 * id.jaw_width + 0.022 * id.fat)
        + 0.02 * id.cheekbones * bump2(ax - 5.8, 1.6, y + 2.0, 2.0)
        + 0.022 * id.fat * bump2(ax - 5.3, 1.5, y + 5.8, 2.6)
        + neck * (0.06 * id.neck_width + 0.05 * id.fat);
    q.x *= wide;
    let chin = smoothstep(-8.4, -10.8, t) * bump(ax, 2.6);
    q.x *= 1.0 + 0.07 * id.chin_width * chin;
    q.y -= smoothstep(-8.0, -10.8, t) * 0.22 * id.chin_height * smoothstep(5.2, 2.0, ax);
    // A square jaw drops and widens before its angle.
    let angle = side * bump2(ax - 5.0, 1.5, t + 9.8, 2.0);
    q.y -= 0.32 * id.jaw_squareness * angle;
    q.x += q.x.signum() * 0.16 * id.jaw_squareness * angle;
    // Soft tissue under the chin.
    let submental = smoothstep(-10.6, -12.0, t) * smoothstep(-14.5, -12.6, t) * smoothstep(1.0, 4.0, p.z);
    q.y -= submental * (0.30 * id.fat.max(0.0) + 0.35 * id.ageing());
    if q.y < 0.0 {
        q.y *= 1.0 + 0.035 * id.face_length * (1.0 - neck);
    }
    let crown = smoothstep(3.0, 11.0, t);
    q.y += crown * 0.32 * id.cranium_height;
    q.z -= front * smoothstep(2.4, 7.0, t) * 0.28 * id.forehead_slope;
    if q.z < 0.0 {
        q.z *= 1.0 + 0.03 * id.head_length;
    } else {
        q.z *= 1.0 - 0.03 * neck * id.neck_width.min(0.0);
    }
    q
}

/// No face is its own mirror image: smooth offsets of up to about 2 mm.
fn asymmetry(x: f32, y: f32, front: f32, id: &Identity) -> Vec3 {
    let k = (0.05 + 0.13 * id.asymmetry) * front;
    let n = |s: u32| fractal2(x * 0.17 + 9.0, y * 0.17 + 5.0, 2, id.detail_seed.wrapping_add(s));
    v3(k * n(11), k * n(23), 0.8 * k * n(37))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_head_has_adult_measures() {
        let t = Template::get();
        let id = Identity { asymmetry: 0.0, ..Identity::average() };
        let p: Vec<Vec3> =
            (0..t.base.len()).map(|i| shape(t.base[i], t.uv[i][1], t.lip_side[i], &id)).collect();
        let at = |u: f32, h: f32| t.sample(&p, u, h);
        // Farkas 1994, adults of both sexes, within about two standard deviations (cm).
        let inner = (at(EYE_INNER_U, 0.0) - at(-EYE_INNER_U, 0.0)).length();
        let outer = (at(EYE_OUTER_U, 0.0) - at(-EYE_OUTER_U, 0.0)).length();
        let mouth = (at(MOUTH_CORNER_U, SEAM) - at(-MOUTH_CORNER_U, SEAM)).length();
        let lower_face = at(0.0, 0.0).y - at(0.0, -11.0).y;
        let width = p.iter().map(|v| v.x).fold(0.0, f32::max) * 2.0;
        assert!((2.7..3.7).contains(&inner), "{inner}");
        assert!((8.0..9.9).contains(&outer), "{outer}");
        assert!((4.4..5.9).contains(&mouth), "{mouth}");
        assert!((9.5..12.5).contains(&lower_face), "{lower_face}");
        assert!((13.4..16.2).contains(&width), "{width}");
    }

    #[test]
    fn the_template_is_symmetric_and_its_triangles_are_in_range() {
        let t = Template::get();
        let nc = t.columns.len();
        for (r, row) in t.base.chunks(nc).take(t.rows.len()).enumerate() {
            for c in 0..nc {
                let (a, b) = (row[c], row[nc - 1 - c].mirrored());
                assert!((a - b).length() < 1e-4, "row {r} column {c}");
            }
        }
        assert!(t.triangles.iter().flatten().all(|&v| (v as usize) < t.base.len()));
        for eye in &t.lids {
            assert_eq!(eye[0].len(), eye[1].len());
            assert_eq!(eye[0].first(), eye[1].first());
            assert_ne!(eye[0][5], eye[1][5]);
            let x = |v: u32| t.base[v as usize].x.abs();
            assert!(x(eye[0][0]) < x(eye[0][eye[0].len() - 1]));
        }
    }
}
