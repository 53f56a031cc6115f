//! Everything on a head but its skin: eyes, teeth, ears, hair, beard, glasses, headwear and clothes.

use crate::head::{EYE_X, Template};
use crate::identity::{FacialHair, Glasses, HairStyle, Headwear, Identity};
use crate::math::{
    Vec3, bump, fractal2, hash2, knots, lerp, mix64, noise2, pow, sin_cos, smoothstep, spline, unit, v3,
};
use crate::mesh::{Material, Mesh, Vertex};
use crate::skin::facial_hair_mask;

/// An eyeball: where it is and how large, in the head's frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eye {
    pub(crate) center: Vec3,
    /// Scale of the opening's width.
    pub(crate) width: f32,
    /// +1 for the eye on the picture's right.
    pub(crate) sign: f32,
}

impl Eye {
    /// Semi-axes of the surface that the lids slide on.
    const LID: Vec3 = v3(1.56, 1.30, 1.27);
    /// Semi-axes of what shows between them.
    const BALL: Vec3 = v3(1.44, 1.19, 1.15);
    /// The eyes' opening turns outwards: depth lost for a centimetre outwards.
    const TURN: f32 = 0.22;

    fn surface(&self, x: f32, y: f32, radii: Vec3) -> Option<f32> {
        let out = (x - self.center.x) * self.sign;
        let (dx, dy) = (out / (radii.x * self.width), (y - self.center.y) / radii.y);
        let r = 1.0 - dx * dx - dy * dy;
        (r > 0.0).then(|| self.center.z + radii.z * r.sqrt() - Self::TURN * out)
    }

    /// Depth of the lids' surface in front of the eyeball, where there is one.
    pub(crate) fn lid_z(&self, x: f32, y: f32) -> Option<f32> {
        self.surface(x, y, Self::LID)
    }
}

/// The neutral skin, as the other parts see it.
pub(crate) struct Skull<'a> {
    pub(crate) template: &'a Template,
    pub(crate) positions: &'a [Vec3],
    pub(crate) normals: &'a [Vec3],
}

impl Skull<'_> {
    /// Position and outward normal at template coordinates.
    fn at(&self, u: f32, t: f32) -> (Vec3, Vec3) {
        (self.template.sample(self.positions, u, t), self.template.sample(self.normals, u, t).normalized())
    }
}

/// The two eyes of a person whose neutral skin is `skull`; the picture's left one first.
pub(crate) fn eyes(skull: &Skull<'_>, id: &Identity) -> [Eye; 2] {
    let depth = 7.29 - 0.11 * id.eye_depth;
    [-1.0f32, 1.0].map(|sign| {
        let (p, _) = skull.at(sign * 1.95, 0.0);
        let x = sign * (EYE_X + 0.13 * id.eye_spacing) * (1.0 + 0.02 * id.head_width);
        Eye { center: v3(lerp(x, p.x, 0.5), p.y + 0.06, depth), width: 1.0 + 0.05 * id.eye_width, sign }
    })
}

pub(crate) fn add_eyeballs(mesh: &mut Mesh, eyes: &[Eye; 2]) {
    for (eye, material) in eyes.iter().zip([Material::EyeLeft, Material::EyeRight]) {
        let (rows, columns) = (13, 17);
        mesh.grid(rows, columns, material, |r, c| {
            let lx = lerp(-1.4, 1.4, c as f32 / (columns - 1) as f32) * eye.width;
            let ly = lerp(1.05, -1.05, r as f32 / (rows - 1) as f32);
            let (x, y) = (eye.center.x + lx, eye.center.y + ly);
            let z = eye.surface(x, y, Eye::BALL).unwrap_or(eye.center.z - Eye::TURN * lx * eye.sign - 0.1);
            Vertex::new(v3(x, y, z), [lx / eye.width, ly])
        });
    }
}

/// Teeth, tongue and the dark behind them. `seam` is the middle of the closed lips, neutral.
pub(crate) fn add_mouth(mesh: &mut Mesh, seam: Vec3, width: f32) {
    let arch = |a: f32, front: f32| {
        let (s, c) = sin_cos(a);
        v3(2.15 * width * s, 0.0, front - 2.9 * (1.0 - c))
    };
    for (upper, jaw) in [(true, 0.0), (false, 1.0)] {
        let front = seam.z - if upper { 0.62 } else { 0.74 };
        mesh.grid(4, 25, Material::Teeth, |r, c| {
            let a = lerp(-1.45, 1.45, c as f32 / 24.0);
            let f = r as f32 / 3.0;
            let y = if upper {
                // Incisors reach a little below the seam, canines and molars less.
                seam.y + lerp(0.95, -0.26 + 0.12 * a.abs(), f)
            } else {
                seam.y - lerp(0.06 + 0.10 * a.abs(), 0.95, f)
            };
            let p = arch(a, front);
            Vertex { jaw, ..Vertex::new(v3(p.x, y, p.z), [a * 2.15, if upper { 1.0 - f } else { f - 2.0 }]) }
        });
    }
    mesh.grid(7, 11, Material::Tongue, |r, c| {
        let (fx, fz) = (lerp(-1.0, 1.0, c as f32 / 10.0), lerp(-0.2, 1.0, r as f32 / 6.0));
        let round = (1.0 - 0.75 * fx * fx - 0.6 * fz.max(0.0) * fz.max(0.0)).max(0.0);
        let y = seam.y - 0.60 + 0.72 * round - 0.06 * bump(fx, 0.12);
        Vertex { jaw: 1.0, ..Vertex::new(v3(1.6 * fx, y, seam.z - 3.6 + 2.6 * fz), [fx, fz]) }
    });
    mesh.grid(8, 9, Material::MouthCavity, |r, c| {
        let (fx, fy) = (lerp(-1.0, 1.0, c as f32 / 8.0), lerp(1.0, -1.0, r as f32 / 7.0));
        // A bowl whose rim reaches forward, so that no line of sight through the lips misses it.
        let low = (-fy).max(0.0);
        let z = seam.z - 3.5 + 1.1 * fx * fx * (1.0 - 0.9 * low) + 0.8 * fy.max(0.0) * fy.max(0.0);
        let y = seam.y + if fy > 0.0 { 1.6 * fy } else { 2.9 * fy };
        Vertex {
            jaw: smoothstep(0.2, -0.4, fy),
            ..Vertex::new(v3(2.85 * fx * (1.0 - 0.35 * low), y, z), [fx, fy])
        }
    });
}

pub(crate) fn add_ears(mesh: &mut Mesh, skull: &Skull<'_>, id: &Identity) {
    let size = 1.0 + 0.06 * id.ear_size;
    let flare = (0.42 + 0.10 * id.ear_flare).clamp(0.15, 0.8);
    for sign in [-1.0f32, 1.0] {
        let (root, _) = skull.at(sign * 5.25, -0.7);
        let (rings, spokes) = (9, 29);
        let (sf, cf) = sin_cos(flare);
        mesh.grid(rings, spokes, Material::PlainSkin, |r, c| {
            let rho = r as f32 / (rings - 1) as f32;
            // Spokes run so that the outside is the front on both ears.
            let a = -sign * c as f32 / (spokes - 1) as f32 * std::f32::consts::TAU;
            // Up is a = 0, backwards is a quarter turn; the lobe is narrower.
            let (back, ca) = sin_cos(a);
            let height = 3.0 * size * ca;
            let width = 1.75 * size * back * lerp(1.0, 0.72, smoothstep(0.0, -1.0, ca));
            let lobe = smoothstep(-0.35, -0.75, ca * rho);
            let relief = spline(
                &[
                    (0.0, -0.55),
                    (0.30, -0.50),
                    (0.52, 0.02),
                    (0.62, 0.12),
                    (0.76, -0.10),
                    (0.90, 0.20),
                    (0.97, 0.16),
                    (1.0, -0.15),
                ],
                rho,
            );
            let relief = lerp(relief, 0.12 - 0.25 * rho * rho, lobe);
            let out = relief * lerp(0.9, 0.5, smoothstep(0.2, -0.6, back));
            // In the plane of the ear: `along` backwards, `out` away from the head.
            let along = 1.55 * size + width * rho;
            let y = root.y + 0.25 + height * rho;
            let x = root.x + sign * (along * sf + out * cf - 0.12);
            let z = root.z - along * cf + out * sf - 0.12 * height * rho;
            Vertex::new(v3(x, y, z), [rho, relief])
        });
    }
}

/// Shoulders and clothes.
pub(crate) fn add_trunk(mesh: &mut Mesh, id: &Identity) {
    let broad = 1.0 + 0.05 * (2.0 * id.masculinity - 1.0) + 0.03 * id.fat;
    let rings: [(f32, f32, f32, f32); 11] = [
        // y, half width, half depth, middle's z
        (-15.2, 6.5, 6.1, -1.2),
        (-15.9, 6.9, 6.4, -1.2),
        (-16.5, 8.2, 6.7, -1.4),
        (-17.2, 10.6, 7.1, -1.7),
        (-18.2, 13.6, 7.6, -2.0),
        (-19.6, 16.6, 8.3, -2.2),
        (-21.6, 19.0, 9.2, -2.4),
        (-24.5, 20.6, 10.0, -2.4),
        (-28.0, 21.4, 10.6, -2.3),
        (-34.0, 21.8, 11.0, -2.2),
        (-60.0, 21.5, 11.5, -2.0),
    ];
    let neck = 1.0 + 0.06 * id.neck_width + 0.05 * id.fat;
    mesh.grid(rings.len(), 33, Material::Cloth, |r, c| {
        let (y, w, d, z) = rings[r];
        let k = if r < 3 { neck } else { broad };
        let a = c as f32 / 32.0 * std::f32::consts::TAU;
        let (s, co) = sin_cos(a + std::f32::consts::PI);
        let collar = if r < 2 { 1.0 * (co - 0.2) } else { 0.0 };
        let p = v3(w * k * s, y - collar.max(0.0), z + d * co);
        Vertex { head: 0.0, ..Vertex::new(p, [a * 6.0, y]) }
    });
}

/// A cut of hair, as measures of the shell around the scalp (cm).
struct Cut {
    /// Thickness on top, on the sides and behind.
    top: f32,
    side: f32,
    back: f32,
    /// Depth of the shell's relief.
    rough: f32,
    /// Spatial frequency of that relief, 1/cm.
    fineness: f32,
    /// Lowest point of the fringe at the median line, in template coordinates.
    fringe: Option<f32>,
    /// Lower end of hair that hangs, as height in the head's frame.
    hang: Option<f32>,
}

fn cut(id: &Identity) -> Option<Cut> {
    let v = 1.0 + 0.22 * id.hair_volume;
    let c = |top: f32, side: f32, back: f32, rough: f32, fineness: f32| Cut {
        top: top * v,
        side: side * v,
        back: back * v,
        rough,
        fineness,
        fringe: None,
        hang: None,
    };
    Some(match id.hair_style {
        HairStyle::Bald => return None,
        HairStyle::Buzz => c(0.20, 0.16, 0.2, 0.04, 2.0),
        HairStyle::Short => c(1.1, 0.45, 0.7, 0.30, 0.9),
        HairStyle::SidePart => c(1.5, 0.6, 0.8, 0.30, 0.6),
        HairStyle::SweptBack => c(2.0, 0.7, 1.1, 0.35, 0.6),
        HairStyle::Fringe => Cut { fringe: Some(3.4), ..c(1.3, 0.8, 1.0, 0.30, 0.8) },
        HairStyle::Bob => Cut { hang: Some(-10.0), ..c(1.3, 1.2, 1.4, 0.30, 0.5) },
        HairStyle::Long => Cut { hang: Some(-22.0), ..c(1.3, 1.1, 1.3, 0.35, 0.5) },
        HairStyle::LongFringe => Cut { fringe: Some(2.9), hang: Some(-21.0), ..c(1.3, 1.1, 1.3, 0.30, 0.5) },
        HairStyle::TiedBack => c(0.55, 0.40, 0.6, 0.10, 0.9),
        HairStyle::Curly => Cut { hang: Some(-8.5), ..c(2.4, 1.9, 2.2, 0.75, 0.75) },
        HairStyle::Afro => c(4.2, 3.4, 3.6, 0.55, 0.9),
    })
}

/// Where the hair ends on the skin, as `t` for each `u`.
pub(crate) fn hairline(id: &Identity, u: f32) -> f32 {
    let a = u.abs();
    let sideburn = if id.masculinity > 0.5 { -1.6 } else { -0.4 };
    let base = spline(
        &[
            (0.0, 6.35),
            (1.4, 6.45),
            (2.5, 6.2),
            (3.2, 5.3),
            (3.7, 4.1),
            (4.1, 3.0),
            (4.4, 1.5),
            (4.7, sideburn + 0.3),
            (4.95, sideburn),
            (5.15, 1.6),
            (5.5, 2.5),
            (5.95, 2.0),
            (6.2, -1.0),
            (6.6, -5.2),
            (8.0, -7.8),
        ],
        a,
    );
    let receding = id.hair_recession * (3.2 * bump(a - 2.3, 1.1) + 1.4 * bump(a, 2.0));
    base + receding
        + 0.20 * noise2(u * 1.7, 3.0, id.detail_seed)
        + 0.14 * noise2(u * 6.1, 4.0, id.detail_seed)
}

pub(crate) fn add_hair(mesh: &mut Mesh, skull: &Skull<'_>, id: &Identity) {
    if id.headwear == Headwear::Scarf {
        return;
    }
    let Some(cut) = cut(id) else { return };
    let flat = if id.headwear == Headwear::None { 1.0 } else { 0.15 };
    add_hair_shell(mesh, skull, id, &cut, flat);
    if id.headwear == Headwear::None && cut.fringe.is_some() {
        add_fringe(mesh, skull, id, &cut);
    }
    if let Some(end) = cut.hang {
        add_curtain(mesh, skull, id, &cut, end);
    }
    if id.hair_style == HairStyle::TiedBack && id.headwear == Headwear::None {
        let (p, n) = skull.at(8.0, 5.5);
        let axes = [v3(2.6, 0.0, 0.0), v3(0.0, 2.4, 0.0), v3(0.0, 0.0, 2.2)];
        let vertex = |at: Vec3| Vertex { tangent: v3(0.6, 0.8, 0.0), ..Vertex::new(at, [at.x, at.y]) };
        mesh.ellipsoid(p + n * 1.6, axes, vertex, Material::Hair);
    }
}

fn add_hair_shell(mesh: &mut Mesh, skull: &Skull<'_>, id: &Identity, cut: &Cut, flat: f32) {
    let (rows, columns) = (26, 65);
    let part = if id.detail_seed & 1 == 0 { -1.6 } else { 1.6 };
    let sweep = matches!(id.hair_style, HairStyle::SidePart | HairStyle::SweptBack);
    let thick = id.hair_style != HairStyle::Buzz;
    mesh.grid(rows, columns, Material::Hair, |r, c| {
        let u = lerp(-8.0, 8.0, c as f32 / (columns - 1) as f32);
        let f = r as f32 / (rows - 1) as f32;
        let end = hairline(id, u);
        let t = lerp(11.6, end, f);
        let (p, n) = skull.at(u, t);
        let side = smoothstep(2.6, 5.0, u.abs());
        let back = smoothstep(5.8, 7.6, u.abs());
        let high = smoothstep(3.0, 8.0, t);
        let low = lerp(cut.side, cut.back, back);
        let mut depth = lerp(low, cut.top, high * (1.0 - 0.35 * side));
        if sweep {
            // The parting is low, the other side is combed up.
            depth *= 1.0 - 0.55 * bump(u - part, 0.55) * high + 0.30 * bump(u + part * 0.6, 1.8) * high;
        }
        let edge = smoothstep(1.0, if cut.hang.is_some() { 0.82 } else { 0.72 }, f);
        let relief = fractal2(p.x * cut.fineness + 7.0, (p.y + p.z) * cut.fineness, 3, id.detail_seed ^ 0x51);
        depth = flat
            * (depth * lerp(if thick { 0.12 } else { 0.6 }, 1.0, edge)
                + cut.rough * relief * (0.3 + 0.7 * edge));
        let alpha = smoothstep(1.02, if thick { 0.84 } else { 0.72 }, f) * if thick { 1.0 } else { 0.75 };
        let tangent = strand_direction(id, u, n, part);
        Vertex { alpha, tangent, ..Vertex::new(p + n * depth.max(0.06), [u, t]) }
    });
}

/// The way hairs lie on the scalp: from the crown or the parting outwards, along the skin.
fn strand_direction(id: &Identity, u: f32, n: Vec3, part: f32) -> Vec3 {
    let d = match id.hair_style {
        HairStyle::SweptBack | HairStyle::TiedBack => v3(0.15 * u.signum(), 0.35, -1.0),
        HairStyle::SidePart => v3(if u > part { 1.0 } else { -1.0 }, -0.35, -0.35),
        _ => v3(0.25 * u.clamp(-2.0, 2.0), -1.0, 0.35),
    };
    (d - n * d.dot(n)).normalized()
}

fn add_fringe(mesh: &mut Mesh, skull: &Skull<'_>, id: &Identity, cut: &Cut) {
    let Some(low) = cut.fringe else { return };
    let (rows, columns) = (14, 37);
    let skew = if id.detail_seed & 2 == 0 { -0.22 } else { 0.22 };
    mesh.grid(rows, columns, Material::Hair, |r, c| {
        let u = lerp(-4.3, 4.3, c as f32 / (columns - 1) as f32);
        let f = r as f32 / (rows - 1) as f32;
        let end = low + skew * u + 0.35 * noise2(u * 2.1, 8.0, id.detail_seed)
            - 0.12 * (u.abs() - 2.5).max(0.0) * 3.0;
        let t = lerp(8.8, end, f);
        let (p, n) = skull.at(u, t);
        let depth = lerp(cut.top * 0.9, 0.42, smoothstep(0.0, 0.75, f))
            + 0.12 * noise2(u * 2.6, t * 0.4, id.detail_seed ^ 9);
        let alpha = smoothstep(1.02, 0.72, f);
        let down = v3(skew * 1.2, -1.0, 0.1);
        Vertex {
            alpha,
            tangent: (down - n * down.dot(n)).normalized(),
            ..Vertex::new(p + n * depth, [u * 1.3, t])
        }
    });
}

/// Hair that hangs from the sides and the back.
fn add_curtain(mesh: &mut Mesh, skull: &Skull<'_>, id: &Identity, cut: &Cut, end: f32) {
    let front = 3.95 + 0.9 * unit(mix64(u64::from(id.detail_seed)) as u32);
    let behind_ears = front > 4.65;
    let (rows, columns) = (16, 45);
    // One strip from the left temple over the back to the right temple.
    mesh.grid(rows, columns, Material::Hair, |r, c| {
        let a = c as f32 / (columns - 1) as f32;
        // `u` ascends from `front` over 8 (= -8) to `-front`; the outside has columns to the right.
        let path = lerp(front, 16.0 - front, a);
        let u = if path > 8.0 { path - 16.0 } else { path };
        let f = r as f32 / (rows - 1) as f32;
        let (p0, n0) = skull.at(u, 5.2);
        let start = p0 + n0 * (cut.side * 0.75);
        let y = lerp(start.y, end + 1.2 * noise2(path * 1.5, 4.0, id.detail_seed), f);
        let wide = knots(&[(-20.0, 1.02), (-12.0, 0.98), (-6.0, 1.05), (-1.0, 1.16), (5.0, 1.0)], y);
        let wave = cut.rough
            * (noise2(path * 1.1, y * 0.22, id.detail_seed ^ 3) * 1.1
                + 0.5 * noise2(path * 3.0, y * 0.6, id.detail_seed ^ 4));
        let tuck = if behind_ears { -1.6 * bump(path - front, 0.9) * smoothstep(3.5, 0.0, y) } else { 0.0 };
        let radial = v3(start.x, 0.0, start.z + 1.5).normalized();
        let at = v3(start.x * wide, y, (start.z + 1.0) * wide - 1.0 + tuck) + radial * wave;
        let edge = smoothstep(0.0, 0.035, a) * smoothstep(1.0, 0.965, a);
        let alpha = edge.max(0.15) * smoothstep(1.03, 0.85, f);
        let head = if end < -12.0 { smoothstep(-19.0, -10.0, y).max(0.15) } else { 1.0 };
        Vertex {
            alpha,
            head,
            tangent: v3(0.15 * wave, -1.0, 0.1).normalized(),
            ..Vertex::new(at, [path * 1.4, y])
        }
    });
}

pub(crate) fn add_headwear(mesh: &mut Mesh, skull: &Skull<'_>, id: &Identity) {
    let edge = |u: f32| {
        let a = u.abs();
        match id.headwear {
            Headwear::Beanie => {
                knots(&[(0.0, 4.3), (3.0, 4.0), (4.5, 2.8), (5.5, 1.6), (6.5, -0.5), (8.0, -2.0)], a)
            }
            Headwear::Cap => knots(&[(0.0, 4.8), (3.0, 4.7), (4.5, 3.8), (5.5, 3.2), (8.0, 1.5)], a),
            _ => spline(
                &[
                    (0.0, 6.0),
                    (1.5, 5.8),
                    (3.0, 4.6),
                    (3.9, 2.5),
                    (4.35, -1.0),
                    (4.4, -6.0),
                    (4.5, -13.5),
                    (8.0, -15.0),
                ],
                a,
            ),
        }
    };
    let (rows, columns) = (24, 65);
    let thick = match id.headwear {
        Headwear::None => return,
        Headwear::Beanie => 0.75,
        Headwear::Cap => 0.9,
        Headwear::Scarf => 0.9,
    };
    let v = |p: Vec3, u: f32, t: f32| Vertex::new(p, [u * 1.5, t]);
    mesh.grid(rows, columns, Material::Headwear, |r, c| {
        let u = lerp(-8.0, 8.0, c as f32 / (columns - 1) as f32);
        let f = r as f32 / (rows - 1) as f32;
        let t = lerp(11.6, edge(u), f);
        let (p, n) = skull.at(u, t);
        let crown = 1.0 + 0.8 * smoothstep(4.0, 10.0, t);
        let fold = 0.18 * fractal2(u * 0.9, t * 0.5, 2, id.detail_seed ^ 0x77);
        let rim = if id.headwear == Headwear::Beanie { 0.3 * smoothstep(0.80, 0.84, f) } else { 0.0 };
        let depth = lerp(thick * crown, 0.25, smoothstep(0.86, 1.0, f) * 0.6) + fold + rim;
        let head = if t < -9.0 { smoothstep(-16.0, -11.0, t) } else { 1.0 };
        Vertex { head, ..v(p + n * depth, u, t) }
    });
    if id.headwear == Headwear::Cap {
        mesh.grid(7, 25, Material::Headwear, |r, c| {
            let u = lerp(-3.3, 3.3, c as f32 / 24.0);
            let f = r as f32 / 6.0;
            let (p, n) = skull.at(u, 4.9);
            let reach = 5.8 * (1.0 - (u / 3.5) * (u / 3.5)).max(0.0).sqrt() * f;
            let at = p + n * 0.9 + v3(0.0, -0.18 * reach - 0.035 * u * u * f, reach);
            v(at, u, 4.8 + f)
        });
    }
    if id.headwear == Headwear::Scarf {
        mesh.grid(7, 33, Material::Headwear, |r, c| {
            let u = lerp(-5.2, 5.2, c as f32 / 32.0);
            let f = r as f32 / 6.0;
            let (p, n) = skull.at(u, lerp(-11.75, -17.0, f));
            let fold = 0.3 * fractal2(u * 0.5, f * 3.0, 2, id.detail_seed ^ 0x79);
            let head = smoothstep(1.0, 0.2, f);
            Vertex { head, ..v(p + n * (0.35 + 1.6 * f + fold), u, -f * 5.0) }
        });
    }
}

/// Source vertex and thickness of each vertex of the beard, which follows the skin below it.
pub(crate) fn add_beard(mesh: &mut Mesh, template: &Template, id: &Identity) -> Vec<(u32, f32)> {
    let length = match id.facial_hair {
        FacialHair::None | FacialHair::Stubble => return Vec::new(),
        FacialHair::Moustache => 0.28,
        FacialHair::Goatee => 0.42,
        FacialHair::Full => lerp(0.3, 1.2, unit(hash2(3, 5, id.detail_seed))),
    };
    let mut follow = Vec::new();
    let mut shell = vec![u32::MAX; template.base.len()];
    for (i, p) in template.base.iter().enumerate() {
        let [u, t] = template.uv[i];
        let mask = facial_hair_mask(id.facial_hair, p.x.abs(), p.y, u, t);
        if mask < 0.03 || p.z < -1.5 {
            continue;
        }
        let clump = 0.6 + 0.4 * fractal2(p.x * 1.8, p.y * 1.2, 2, id.detail_seed ^ 0x33);
        let longer = 1.0
            + 1.2 * smoothstep(-8.5, -11.0, t) * f32::from(u8::from(id.facial_hair != FacialHair::Moustache));
        let thickness = length * smoothstep(0.05, 0.9, mask) * clump * longer;
        let down = v3(0.25 * p.x.signum(), -1.0, 0.1).normalized();
        let vertex = Vertex {
            alpha: mask * id.facial_hair_density.max(0.55),
            tangent: down,
            ..Vertex::new(*p, [p.x * 1.2, p.y])
        };
        shell[i] = mesh.push(vertex);
        follow.push((i as u32, thickness.max(0.03)));
    }
    for t in &template.triangles {
        let v = t.map(|v| shell[v as usize]);
        if v.iter().all(|&s| s != u32::MAX) {
            mesh.triangle(v, Material::Beard);
        }
    }
    follow
}

pub(crate) fn add_glasses(mesh: &mut Mesh, skull: &Skull<'_>, eyes: &[Eye; 2], id: &Identity) {
    let (radius, lens_alpha) = match id.glasses {
        Glasses::None => return,
        Glasses::Thin => (0.09, 0.0),
        Glasses::Thick => (0.20, 0.0),
        Glasses::HalfRim => (0.11, 0.0),
        Glasses::Sun => (0.16, 1.0),
    };
    let k = 1.0 + 0.05 * id.glasses_size;
    let (half_w, half_h) = (2.55 * k, lerp(2.1, 1.65, id.glasses_square) * k);
    let power = lerp(2.0, 4.2, id.glasses_square);
    let (bridge, _) = skull.at(0.0, -0.3);
    let (brow, _) = skull.at(2.0, 1.6);
    let z = brow.z.max(bridge.z + 0.1) + 0.55;
    let y = eyes[0].center.y - 0.35;
    let plain = |p: Vec3| Vertex::new(p, [p.x, p.y]);
    let outline = |eye: &Eye, i: usize, n: usize, scale: f32| {
        let (s, c) = sin_cos(i as f32 / n as f32 * std::f32::consts::TAU);
        let round = |v: f32| v.signum() * pow(v.abs(), 2.0 / power);
        let (dx, dy) = (half_w * scale * round(c), half_h * scale * round(s));
        let x = eye.sign * (3.2 + 0.13 * id.eye_spacing) + dx;
        // Frames curve back towards the temples.
        let back = 0.055 * (x.abs() - 1.0).max(0.0) * (x.abs() - 1.0).max(0.0);
        v3(x, y + dy * if dy < 0.0 { 1.0 } else { 0.9 } + 0.12 * dx * eye.sign * 0.3, z - back)
    };
    for eye in eyes {
        let n = 36;
        let ring: Vec<Vec3> = (0..n).map(|i| outline(eye, i, n, 1.0)).collect();
        if id.glasses == Glasses::HalfRim {
            mesh.tube(&ring[..n / 2 + 1], radius, 5, false, plain, Material::GlassesFrame);
        } else {
            mesh.tube(&ring, radius, 5, true, plain, Material::GlassesFrame);
        }
        mesh.grid(2, n + 1, Material::Lens, |r, c| {
            let p = outline(eye, n - c % n, n, if r == 0 { 0.02 } else { 0.98 });
            Vertex { alpha: if lens_alpha > 0.5 { 0.9 } else { 0.06 }, ..Vertex::new(p, [p.x, p.y]) }
        });
        let outer = outline(eye, if eye.sign > 0.0 { 3 } else { n / 2 - 3 }, n, 1.0);
        let (ear, _) = skull.at(eye.sign * 5.35, 1.0);
        let arm: Vec<Vec3> = (0..6)
            .map(|i| {
                let f = i as f32 / 5.0;
                let p = outer.lerp(v3(ear.x + eye.sign * 0.35, ear.y + 0.6, ear.z - 1.0), f);
                v3(p.x + eye.sign * 0.7 * (1.0 - (2.0 * f - 1.0) * (2.0 * f - 1.0)), p.y, p.z)
            })
            .collect();
        mesh.tube(&arm, radius.max(0.1), 5, false, plain, Material::GlassesFrame);
    }
    let (l, r) = (outline(&eyes[0], 3, 36, 1.0), outline(&eyes[1], 15, 36, 1.0));
    let middle = l.lerp(r, 0.5) + v3(0.0, 0.25, 0.2);
    mesh.tube(
        &[l, l.lerp(middle, 0.6) + v3(0.0, 0.1, 0.0), middle, r.lerp(middle, 0.6) + v3(0.0, 0.1, 0.0), r],
        radius,
        5,
        false,
        plain,
        Material::GlassesFrame,
    );
}
