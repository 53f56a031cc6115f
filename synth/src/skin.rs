//! The skin's colour, shine and folds, painted in template coordinates.
//!
//! [`Skin::new`] paints a person's skin once. [`Skin::fold`] adds the folds that the action units of a frame press
//! into it: forehead lines (1, 2), frown lines (4), crow's feet (6), the nose's wrinkles (9), the fold from nose to
//! mouth (6, 9, 10, 12), dimples (12, 14), the chin's pebbling (17) and others.

use crate::action_units::{AU1, AU2, AU4, AU6, AU7, AU9, AU10, AU12, AU14, AU15, AU17, AU20, Intensities};
use crate::head::{
    EYE_INNER_U, EYE_OUTER_U, EYE_X, MOUTH_CORNER_X, SEAM, Template, brow_line, lower_lip_border,
    upper_lip_border,
};
use crate::identity::{FacialHair, HairStyle, Identity, absorb};
use crate::math::{Vec3, bump, bump2, exp, fractal2, hash2, lerp, noise2, sin, smoothstep, unit, v3};
use crate::parts::hairline;

/// `|u|` that the texture reaches.
const U_MAX: f32 = 5.6;
const T_TOP: f32 = 11.6;
const T_BOTTOM: f32 = -13.2;

/// What the skin is at one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texel {
    /// Linear RGB.
    pub(crate) albedo: Vec3,
    /// Strength of the highlight, about 0 to 1.
    pub(crate) gloss: f32,
    /// Slope of the surface's relief to the right and upwards.
    pub(crate) slope: [f32; 2],
    /// How much a fold shadows itself, 0 to 1.
    pub(crate) cavity: f32,
}

/// A group of folds and what presses them in.
struct Fold {
    /// Columns and rows of the texture that it touches: from, to.
    columns: (usize, usize),
    rows: (usize, usize),
    /// Depth in cm at full strength.
    depth: Vec<f32>,
    /// Strength at rest.
    rest: f32,
    /// Action units and their share.
    units: &'static [(usize, f32)],
}

/// The painted skin of one person.
pub(crate) struct Skin {
    side: usize,
    /// Albedo and gloss, by rows from the top.
    color: Vec<[f32; 4]>,
    /// Relief that is always there.
    still: Vec<f32>,
    folds: Vec<Fold>,
    height: Vec<f32>,
    /// Slopes and cavity of the current frame.
    relief: Vec<[f32; 3]>,
    /// Strengths of the folds that `relief` shows, by side.
    shown: Vec<[f32; 2]>,
}

impl Skin {
    /// Paints a person's skin on a texture of `side` x `side`.
    pub(crate) fn new(id: &Identity, template: &Template, side: usize) -> Self {
        let mut color = Vec::with_capacity(side * side);
        let mut still = Vec::with_capacity(side * side);
        let painter = Painter::new(id);
        for r in 0..side {
            for c in 0..side {
                let (u, t) = coordinates(c as f32 + 0.5, r as f32 + 0.5, side);
                let p = template.sample(&template.base, u, t);
                let spot = Spot { u, t, x: 1.55 * u, y: p.y, ax: p.x.abs() };
                let (albedo, gloss) = painter.paint(&spot);
                color.push([albedo.x, albedo.y, albedo.z, gloss]);
                still.push(painter.relief(&spot));
            }
        }
        let folds = folds(id, template, side);
        let mut skin = Self {
            side,
            color,
            height: still.clone(),
            still,
            relief: vec![[0.0; 3]; side * side],
            shown: vec![[f32::NAN; 2]; folds.len()],
            folds,
        };
        skin.fold(&[0.0; crate::action_units::N], &[0.0; crate::action_units::N]);
        skin
    }

    /// Presses in the folds of a frame, whose action units are `left` and `right` in the picture.
    pub(crate) fn fold(&mut self, left: &Intensities, right: &Intensities) {
        let strength = |f: &Fold, au: &Intensities| {
            let pressed: f32 = f.units.iter().map(|&(i, k)| k * au[i]).sum();
            f.rest + (1.0 - 0.5 * f.rest) * pressed.clamp(0.0, 1.3)
        };
        let wanted: Vec<[f32; 2]> =
            self.folds.iter().map(|f| [strength(f, left), strength(f, right)]).collect();
        let same = |a: &[f32; 2], b: &[f32; 2]| (a[0] - b[0]).abs() < 1e-3 && (a[1] - b[1]).abs() < 1e-3;
        if wanted.iter().zip(&self.shown).all(|(a, b)| same(a, b)) {
            return;
        }
        self.height.copy_from_slice(&self.still);
        let middle = self.side as f32 / 2.0;
        for (f, k) in self.folds.iter().zip(&wanted) {
            let width = f.columns.1 - f.columns.0;
            for (i, r) in (f.rows.0..f.rows.1).enumerate() {
                let to = &mut self.height[r * self.side + f.columns.0..][..width];
                let from = &f.depth[i * width..][..width];
                for (j, (h, d)) in to.iter_mut().zip(from).enumerate() {
                    let side =
                        smoothstep(-0.03, 0.03, ((f.columns.0 + j) as f32 - middle) / self.side as f32);
                    *h += d * lerp(k[0], k[1], side);
                }
            }
        }
        self.shown = wanted;
        self.differentiate();
    }

    fn differentiate(&mut self) {
        let n = self.side;
        let du = 2.0 * U_MAX * 1.55 / n as f32;
        let dt = (T_TOP - T_BOTTOM) / n as f32;
        for r in 0..n {
            let (up, down) = (r.saturating_sub(1), (r + 1).min(n - 1));
            for c in 0..n {
                let (left, right) = (c.saturating_sub(1), (c + 1).min(n - 1));
                let at = |r: usize, c: usize| self.height[r * n + c];
                let (w, e, s, m) = (at(r, left), at(r, right), at(down, c), at(r, c));
                let nn = at(up, c);
                let around = 0.25 * (w + e + s + nn);
                self.relief[r * n + c] = [
                    (e - w) / (2.0 * du),
                    (nn - s) / (2.0 * dt),
                    ((around - m) * 14.0 + (-m).max(0.0) * 2.2).clamp(0.0, 1.0),
                ];
            }
        }
    }

    /// The skin at template coordinates (bilinear; beyond the texture its edge).
    pub(crate) fn at(&self, u: f32, t: f32) -> Texel {
        let n = self.side;
        let x = ((u + U_MAX) / (2.0 * U_MAX) * n as f32 - 0.5).clamp(0.0, n as f32 - 1.001);
        let y = ((T_TOP - t) / (T_TOP - T_BOTTOM) * n as f32 - 0.5).clamp(0.0, n as f32 - 1.001);
        let (c, r) = (x as usize, y as usize);
        let (fx, fy) = (x - c as f32, y - r as f32);
        let w = [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy];
        let i = r * n + c;
        let at = [i, i + 1, i + n, i + n + 1];
        let (mut color, mut relief) = ([0.0f32; 4], [0.0f32; 3]);
        for (&k, &i) in w.iter().zip(&at) {
            let (a, b) = (&self.color[i], &self.relief[i]);
            for j in 0..4 {
                color[j] += k * a[j];
            }
            for j in 0..3 {
                relief[j] += k * b[j];
            }
        }
        Texel {
            albedo: v3(color[0], color[1], color[2]),
            gloss: color[3],
            slope: [relief[0], relief[1]],
            cavity: relief[2],
        }
    }
}

fn coordinates(x: f32, y: f32, side: usize) -> (f32, f32) {
    (lerp(-U_MAX, U_MAX, x / side as f32), lerp(T_TOP, T_BOTTOM, y / side as f32))
}

/// A place on the skin, in the template.
struct Spot {
    u: f32,
    t: f32,
    /// Distance from the median line along the skin, about.
    x: f32,
    y: f32,
    /// Distance from the median plane.
    ax: f32,
}

/// Where facial hair grows, 0 to 1, at a place of the template.
pub(crate) fn facial_hair_mask(kind: FacialHair, ax: f32, y: f32, u: f32, t: f32) -> f32 {
    let a = u.abs();
    let q = (ax / MOUTH_CORNER_X).min(1.0);
    // The lips stay free, with a margin that closes at the corners.
    let off_lips = if y > SEAM {
        smoothstep(0.04, 0.22, y - SEAM - upper_lip_border(ax) + if q >= 1.0 { -0.1 } else { 0.0 })
    } else {
        smoothstep(0.10, 0.40, SEAM - y - lower_lip_border(ax) + if q >= 1.0 { -0.1 } else { 0.0 })
    };
    let lips = if ax > MOUTH_CORNER_X + 0.25 { 1.0 } else { off_lips };
    let moustache = smoothstep(-5.1, -5.8, y) * smoothstep(3.1, 2.2, ax) * smoothstep(-7.3, -6.7, y);
    let beside = bump(ax - 2.95, 0.45) * smoothstep(-6.2, -7.0, y) * smoothstep(-11.0, -9.5, t);
    let chin = smoothstep(2.7, 2.1, ax) * smoothstep(-8.0, -8.6, y) * smoothstep(-11.9, -11.4, t);
    let soul = bump(ax, 0.5) * smoothstep(-8.0, -8.4, y) * smoothstep(-10.5, -9.5, t) * 0.9;
    // The upper limit on the cheek falls from the sideburn to the mouth corner.
    let limit = lerp(-6.9, -1.2, smoothstep(2.4, 4.7, a)) - 0.9 * bump(a - 3.4, 0.9);
    let cheek =
        smoothstep(limit + 0.35, limit - 0.75, y) * smoothstep(1.7, 2.6, ax) * smoothstep(5.3, 4.9, a);
    let under = smoothstep(-11.9, -11.3, t) * smoothstep(5.2, 4.7, a);
    lips * match kind {
        FacialHair::None => 0.0,
        FacialHair::Moustache => moustache,
        FacialHair::Goatee => moustache.max(beside).max(chin).max(soul),
        FacialHair::Stubble | FacialHair::Full => {
            (moustache.max(beside) + (chin + soul).min(1.0) + cheek * under).min(1.0)
                * if y < -8.0 || ax > 2.0 || y > SEAM { 1.0 } else { 0.8 }
        }
    }
}

/// Draws one person's skin.
struct Painter<'a> {
    id: &'a Identity,
    base: Vec3,
    lip: Vec3,
    hair: Vec3,
    moles: Vec<(f32, f32, f32)>,
    seed: u32,
}

impl<'a> Painter<'a> {
    fn new(id: &'a Identity) -> Self {
        let base = id.skin_albedo();
        // Lips: thinner skin over more blood.
        let natural = absorb(v3(0.70, 0.40, 0.34), 0.78 * id.melanin, 0.30 + 0.75 * id.lip_red);
        let stick = [v3(0.42, 0.035, 0.05), v3(0.50, 0.12, 0.14), v3(0.30, 0.03, 0.08), v3(0.52, 0.18, 0.15)]
            [(id.detail_seed >> 8) as usize & 3];
        let stick = stick * lerp(1.0, 0.55, id.melanin);
        let moles = (0..i32::from(id.moles))
            .map(|i| {
                let h = |k: i32| unit(hash2(i, k, id.detail_seed ^ 0x6D01));
                (lerp(-4.5, 4.5, h(1)), lerp(-10.0, 4.0, h(2)), lerp(0.08, 0.17, h(3)))
            })
            .collect();
        Self {
            id,
            base,
            lip: natural.lerp(stick, 0.85 * smoothstep(0.25, 0.8, id.makeup)),
            hair: id.hair_albedo(),
            moles,
            seed: id.detail_seed,
        }
    }

    /// Albedo and gloss.
    fn paint(&self, s: &Spot) -> (Vec3, f32) {
        let id = self.id;
        let mut c = self.base.times(self.blood_and_mottle(s));
        c = c * (1.0 - 0.35 * self.pigment_spots(s));
        for &(mx, my, r) in &self.moles {
            let d = bump2(s.x - mx, r, s.y - my, r);
            c = c.lerp(self.base * 0.22, 0.85 * smoothstep(0.15, 0.7, d));
        }
        c = self.shadows(s, c);
        let mut gloss = 0.30
            + 0.30 * id.oiliness * (bump2(s.ax, 2.6, s.y - 4.0, 2.6) + bump2(s.ax, 1.1, s.y + 2.5, 3.0))
            + 0.12 * bump2(s.ax - 4.0, 1.3, s.y + 2.0, 1.0);
        let (red, edge) = self.lip_mask(s);
        let lip_tone = 1.0 + 0.10 * noise2(s.x * 5.0, s.y * 1.3, self.seed ^ 0x99);
        c = c.lerp(self.lip * lip_tone, red);
        c = c * (1.0 - 0.10 * edge);
        gloss = lerp(gloss, 0.55 + 0.35 * id.makeup, red);
        c = self.beard_shadow(s, c);
        c = self.eyes(s, c);
        let brow = self.brow(s);
        c = c.lerp(self.hair * 0.55, brow);
        gloss *= 1.0 - 0.8 * brow;
        // Below the hair the scalp shows hair colour.
        let scalp = smoothstep(-0.15, 0.55, s.t - hairline(id, s.u));
        let cover = match id.hair_style {
            HairStyle::Bald => 0.16,
            HairStyle::Buzz => 0.75,
            _ => 0.9,
        } * if id.hair_style == HairStyle::Bald { 1.0 - id.hair_grey } else { 1.0 };
        let speckle = 0.85 + 0.15 * noise2(s.x * 9.0, s.y * 9.0, self.seed ^ 0x42);
        c = c.lerp(self.hair * 0.8, scalp * cover * speckle);
        (v3(c.x.clamp(0.004, 0.95), c.y.clamp(0.003, 0.95), c.z.clamp(0.003, 0.95)), gloss)
    }

    /// Multiplier for blood near the surface and for uneven colour.
    fn blood_and_mottle(&self, s: &Spot) -> Vec3 {
        let id = self.id;
        let cheeks = bump2(s.ax - 3.4, 1.7, s.y + 3.3, 1.6);
        let nose = bump2(s.ax, 1.5, s.y + 4.2, 1.1);
        let chin = bump2(s.ax, 1.3, s.y + 10.0, 0.9);
        let blush = 0.5 * id.makeup * bump2(s.ax - 4.2, 1.2, s.y + 2.9, 1.2);
        let broad = fractal2(s.x * 0.55, s.y * 0.55, 3, self.seed ^ 1);
        let fine = fractal2(s.x * 3.2, s.y * 3.2, 2, self.seed ^ 2);
        let blood = id.redness * (0.55 * cheeks + 0.50 * nose + 0.28 * chin) * (1.0 - 0.55 * id.melanin)
            + blush
            + id.blotches * (0.24 * broad + 0.09 * fine);
        let pigment = id.blotches * (0.10 * fractal2(s.x * 0.8 + 20.0, s.y * 0.8, 3, self.seed ^ 3) + 0.03 * fine)
            // Forehead and the face's rim are darker than its middle.
            + 0.07 * smoothstep(2.0, 6.0, s.y) + 0.05 * smoothstep(3.5, 5.0, s.u.abs())
            - 0.05 * cheeks;
        let k = 1.0 + 1.2 * id.melanin;
        v3(
            exp(-0.10 * blood - 0.55 * k * pigment),
            exp(-0.60 * blood - 0.80 * k * pigment),
            exp(-0.50 * blood - 0.90 * k * pigment),
        )
    }

    /// Freckles and age spots, 0 to 1.
    fn pigment_spots(&self, s: &Spot) -> f32 {
        let id = self.id;
        let mut spots = 0.0f32;
        let mut cells = |scale: f32, density: f32, radius: f32, seed: u32| {
            let (x, y) = (s.x * scale, s.y * scale);
            let (xi, yi) = (x.floor() as i32, y.floor() as i32);
            for (dx, dy) in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)] {
                let h = |k: u32| unit(hash2(xi + dx, yi + dy, seed ^ (k << 20)));
                if h(1) < density {
                    let (cx, cy) = ((xi + dx) as f32 + h(2), (yi + dy) as f32 + h(3));
                    spots = spots.max(h(4) * bump2(x - cx, radius, y - cy, radius));
                }
            }
        };
        if id.freckles > 0.02 {
            let here = bump2(s.ax - 2.2, 2.8, s.y + 2.2, 2.6) + 0.35;
            cells(3.4, 0.75 * id.freckles * here, 0.34, self.seed ^ 0xF0);
        }
        let old = id.ageing();
        if old > 0.35 {
            cells(1.1, 0.35 * (old - 0.35), 0.30, self.seed ^ 0xF7);
        }
        spots
    }

    /// Places that light hardly reaches, and the thin skin around the eyes.
    fn shadows(&self, s: &Spot, mut c: Vec3) -> Vec3 {
        let id = self.id;
        let around = bump2(s.ax - EYE_X, 1.9, s.y - 0.1, 1.25);
        let below = bump2(s.ax - 2.5, 1.1, s.y + 1.0, 0.5);
        let tired = 0.10 + 0.30 * id.eye_bags;
        c = c.times(v3(
            1.0 - 0.20 * around - tired * 0.55 * below,
            1.0 - 0.26 * around - tired * 0.75 * below,
            1.0 - 0.22 * around - tired * 0.62 * below,
        ));
        let corner = bump2(s.ax - 1.5, 0.4, s.y - 0.15, 0.6);
        c = c * (1.0 - 0.30 * corner);
        // Nostrils and the groove around the wings of the nose.
        let slant = (s.ax - 0.66) * 0.3;
        let nostril = bump2(s.ax - 0.68, 0.36, s.y + 4.93 + slant, 0.155);
        c = c.lerp(self.base.times(v3(0.10, 0.05, 0.045)), 0.95 * smoothstep(0.25, 0.8, nostril));
        let groove = bump2(s.ax - 1.86, 0.13, s.y + 4.4, 0.62);
        c * (1.0 - 0.26 * groove)
    }

    /// How red the lips are here (0 to 1), and how close their edge is.
    fn lip_mask(&self, s: &Spot) -> (f32, f32) {
        let soft = 0.10 - 0.05 * smoothstep(0.3, 0.8, self.id.makeup);
        if s.ax > MOUTH_CORNER_X + 0.12 || !(-8.6..-5.9).contains(&s.y) {
            return (0.0, 0.0);
        }
        let over = s.y - SEAM;
        let inside = if over >= 0.0 { upper_lip_border(s.ax) - over } else { lower_lip_border(s.ax) + over };
        let red =
            smoothstep(-soft, soft, inside) * smoothstep(MOUTH_CORNER_X + 0.1, MOUTH_CORNER_X - 0.15, s.ax);
        let line = bump(over, 0.085) * smoothstep(MOUTH_CORNER_X + 0.12, MOUTH_CORNER_X - 0.1, s.ax);
        (red, 4.5 * line + bump(inside - 0.02, 0.08))
    }

    fn beard_shadow(&self, s: &Spot, c: Vec3) -> Vec3 {
        let id = self.id;
        let (kind, strength) = match id.facial_hair {
            FacialHair::None if id.masculinity > 0.5 => (FacialHair::Full, 0.16 * id.hair_pigment),
            FacialHair::None => return c,
            FacialHair::Stubble => (FacialHair::Full, 0.30 + 0.35 * id.facial_hair_density),
            kind => (kind, 0.75),
        };
        let mask = facial_hair_mask(kind, s.ax, s.y, s.u, s.t);
        let dots = 0.75 + 0.5 * noise2(s.x * 8.0, s.y * 8.0, self.seed ^ 0x57);
        let patch = 0.9 + 0.2 * fractal2(s.x * 0.9, s.y * 0.9, 2, self.seed ^ 0x58);
        c.lerp(self.hair.lerp(self.base * 0.35, 0.25), (mask * strength * dots * patch).clamp(0.0, 0.92))
    }

    /// Lashes' roots, the fold of the upper lid, make-up.
    fn eyes(&self, s: &Spot, mut c: Vec3) -> Vec3 {
        let id = self.id;
        let along = (s.u.abs() - 0.5 * (EYE_INNER_U + EYE_OUTER_U)) / (0.5 * (EYE_OUTER_U - EYE_INNER_U));
        let span = smoothstep(1.04, 0.94, along.abs());
        let fold_t = lerp(0.50, 0.36, id.monolid) + 0.10 * (1.0 - along * along);
        let fold = bump(s.t - fold_t, 0.075) * smoothstep(1.25, 0.8, along.abs()) * (1.0 - 0.75 * id.monolid);
        c = c * (1.0 - 0.42 * fold);
        let liner = smoothstep(0.2, 0.9, id.makeup);
        let lash =
            bump(s.t - 0.03, 0.06 + 0.05 * liner) * span * if s.t > -0.02 { 1.0 } else { 0.35 + 0.5 * liner };
        let dark = self.hair.lerp(v3(0.01, 0.008, 0.008), 0.75);
        c = c.lerp(dark, (0.72 + 0.2 * liner) * lash);
        let shade = liner * bump2(along, 1.0, s.t - 0.5, 0.55) * if s.t > 0.0 { 0.5 } else { 0.0 };
        let tint = [v3(0.16, 0.08, 0.07), v3(0.07, 0.08, 0.13), v3(0.20, 0.10, 0.11), v3(0.05, 0.04, 0.04)]
            [(self.seed >> 12) as usize & 3];
        c.lerp(tint.lerp(self.base, 0.3), shade)
    }

    /// How much of the brows' hair covers this place, 0 to 1.
    fn brow(&self, s: &Spot) -> f32 {
        let id = self.id;
        if !(0.6..6.2).contains(&s.ax) || !(0.7..3.4).contains(&s.y) {
            return 0.0;
        }
        let over = s.y - brow_line(s.ax);
        let k = 1.0 + 0.22 * id.brow_thickness;
        let half = k * lerp(0.40, 0.11, smoothstep(2.6, 5.5, s.ax)) * smoothstep(0.9, 1.9, s.ax).max(0.55);
        let start = 1.15 - 0.08 * id.brow_thickness;
        let ends = smoothstep(start - 0.15, start + 0.55, s.ax) * smoothstep(5.65, 4.9, s.ax);
        let body = smoothstep(1.35, 0.35, over.abs() / half);
        // Hairs rise near the nose and lie flat further out.
        let lean = lerp(1.3, 0.25, smoothstep(1.2, 3.2, s.ax));
        let (across, along) = (s.ax * lean - over * 1.0, s.ax + over * lean);
        let hairs = 0.5 + 0.5 * noise2(across * 9.0, along * 1.6, self.seed ^ 0x77);
        let clumps = 0.75 + 0.25 * fractal2(s.x * 2.0, s.y * 3.0, 2, self.seed ^ 0x78);
        let density = id.brow_density * clumps;
        (ends * body * density * lerp(1.0, 0.35 + 0.9 * hairs, 0.65) * 1.05).clamp(0.0, 0.95)
    }

    /// Pores and permanent unevenness, cm.
    fn relief(&self, s: &Spot) -> f32 {
        let old = self.id.ageing();
        let pores = noise2(s.x * 7.0, s.y * 7.0, self.seed ^ 0xA1);
        let uneven = fractal2(s.x * 1.3, s.y * 1.3, 3, self.seed ^ 0xA2);
        let (red, _) = self.lip_mask(s);
        let lip_lines = red * 0.012 * sin(s.x * 26.0 + 2.0 * noise2(s.x * 2.0, s.y, self.seed));
        0.0035 * pores * (1.0 - red) + (0.008 + 0.018 * old) * uneven + lip_lines
    }
}

/// A fold along a curve: depth 1 in its middle, a soft bulge beside it.
fn crease(distance: f32, width: f32) -> f32 {
    let q = distance / width;
    let q = q * q;
    if q > 12.0 { 0.0 } else { -exp(-q) + 0.38 * exp(-0.28 * q) }
}

/// Distance to the polyline through `points`, and how far along it (0 to 1) the nearest place lies.
fn to_polyline(x: f32, y: f32, points: &[(f32, f32)]) -> (f32, f32) {
    let mut best = (f32::MAX, 0.0);
    let n = (points.len() - 1) as f32;
    for (i, w) in points.windows(2).enumerate() {
        let ((ax, ay), (bx, by)) = (w[0], w[1]);
        let (dx, dy) = (bx - ax, by - ay);
        let f = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
        let (ex, ey) = (x - ax - f * dx, y - ay - f * dy);
        let d = ex * ex + ey * ey;
        if d < best.0 {
            best = (d, (i as f32 + f) / n);
        }
    }
    (best.0.sqrt(), best.1)
}

/// Depth of a fold that fades at both ends of its line.
fn line(x: f32, y: f32, points: &[(f32, f32)], width: f32) -> f32 {
    let (d, f) = to_polyline(x, y, points);
    if d > 4.0 * width {
        return 0.0;
    }
    crease(d, width) * smoothstep(0.0, 0.22, f) * smoothstep(1.0, 0.75, f)
}

fn folds(id: &Identity, template: &Template, side: usize) -> Vec<Fold> {
    let seed = id.detail_seed;
    let old = id.ageing();
    // Young skin folds less deeply under the same movement.
    let k = 0.62 + 0.6 * old;
    let mut list = Vec::new();
    let mut add = |u: (f32, f32),
                   t: (f32, f32),
                   rest: f32,
                   units: &'static [(usize, f32)],
                   f: &dyn Fn(f32, f32, f32) -> f32| {
        let column = |u: f32| ((u + U_MAX) / (2.0 * U_MAX) * side as f32).clamp(0.0, side as f32) as usize;
        let row = |t: f32| ((T_TOP - t) / (T_TOP - T_BOTTOM) * side as f32).clamp(0.0, side as f32) as usize;
        for mirrored in [false, true] {
            let columns = if mirrored { (column(-u.1), column(-u.0)) } else { (column(u.0), column(u.1)) };
            let rows = (row(t.1), row(t.0));
            let mut depth = Vec::with_capacity((columns.1 - columns.0) * (rows.1 - rows.0));
            for r in rows.0..rows.1 {
                for c in columns.0..columns.1 {
                    let (u, t) = coordinates(c as f32 + 0.5, r as f32 + 0.5, side);
                    let p = template.sample(&template.base, u, t);
                    depth.push(k * f(p.x.abs(), p.y, p.x));
                }
            }
            list.push(Fold { columns, rows, depth, rest, units });
        }
    };
    // Horizontal lines of the forehead.
    add((0.0, 3.6), (2.8, 6.4), 0.35 * old, &[(AU1, 0.55), (AU2, 0.6)], &|ax, y, x| {
        let wave = 0.16 * noise2(x * 0.7, 2.0, seed ^ 0xB1) + 0.12 * bump(ax - 3.0, 1.5);
        let fade = smoothstep(5.2, 3.2, ax) * (0.75 + 0.25 * noise2(x * 0.9, y, seed ^ 0xB2));
        [3.35, 4.1, 4.95, 5.75].iter().map(|t| 0.075 * crease(y - t - wave, 0.13)).sum::<f32>() * fade
    });
    // Upright lines between the brows.
    add((0.0, 1.2), (0.8, 3.6), 0.40 * old, &[(AU4, 1.0)], &|ax, y, x| {
        let lean = 0.12 * (y - 2.0) + 0.05 * noise2(x, y, seed ^ 0xB3);
        0.13 * line(ax + lean, y, &[(0.62, 1.0), (0.58, 1.8), (0.70, 2.8)], 0.15)
            + 0.04 * bump2(ax, 0.35, y - 1.9, 0.6)
    });
    // Across the root and along the sides of the nose.
    add((0.0, 1.3), (-3.2, 1.6), 0.10 * old, &[(AU9, 1.0), (AU4, 0.12)], &|ax, y, _| {
        0.075
            * (line(ax, y, &[(0.0, 0.85), (0.6, 0.75), (1.0, 0.35)], 0.11)
                + line(ax, y, &[(0.0, 0.35), (0.5, 0.2), (1.0, -0.3)], 0.11)
                + line(ax, y, &[(0.35, -0.2), (0.8, -0.6), (1.3, -1.4)], 0.10)
                + 0.8 * line(ax, y, &[(0.45, -0.9), (0.9, -1.3), (1.4, -2.1)], 0.10))
    });
    // Crow's feet.
    add((2.8, 4.4), (-1.9, 1.8), 0.45 * old, &[(AU6, 0.9), (AU12, 0.25)], &|ax, y, _| {
        0.065
            * (line(ax, y, &[(4.75, 0.35), (5.3, 0.75), (5.75, 1.2)], 0.10)
                + line(ax, y, &[(4.8, 0.0), (5.4, 0.05), (5.9, 0.2)], 0.10)
                + line(ax, y, &[(4.75, -0.3), (5.3, -0.6), (5.8, -1.0)], 0.10)
                + line(ax, y, &[(4.5, -0.6), (5.0, -1.1), (5.4, -1.6)], 0.10))
    });
    // Under the eye.
    add((0.9, 3.2), (-2.0, -0.3), 0.20 + 0.35 * old, &[(AU6, 0.7), (AU7, 0.5), (AU9, 0.3)], &|ax, y, _| {
        0.06 * line(ax, y, &[(1.7, -0.45), (2.5, -0.85), (3.5, -0.9), (4.5, -0.45)], 0.12)
            + 0.05 * line(ax, y, &[(1.7, -0.9), (2.5, -1.4), (3.5, -1.6)], 0.16)
    });
    // From the wing of the nose to the mouth corner.
    add(
        (0.8, 2.9),
        (-9.4, -3.0),
        0.16 + 0.45 * old,
        &[(AU12, 0.8), (AU10, 0.75), (AU9, 0.6), (AU6, 0.25), (AU20, 0.3)],
        &|ax, y, _| {
            0.25 * line(ax, y, &[(1.75, -3.8), (2.15, -4.6), (2.75, -5.7), (3.15, -6.8), (3.25, -7.6)], 0.20)
        },
    );
    // Beside the mouth.
    add((1.5, 2.9), (-8.6, -5.6), 0.05, &[(AU14, 1.0), (AU12, 0.35), (AU20, 0.5)], &|ax, y, _| {
        0.14 * line(ax, y, &[(2.95, -6.3), (3.15, -7.1), (3.0, -8.0)], 0.17)
            + 0.05 * line(ax, y, &[(3.6, -5.9), (3.85, -7.0), (3.6, -8.2)], 0.16)
    });
    // Down from the mouth corner.
    add((1.3, 2.6), (-10.2, -6.9), 0.35 * old, &[(AU15, 0.9), (AU17, 0.3)], &|ax, y, _| {
        0.14 * line(ax, y, &[(2.55, -7.1), (2.85, -7.9), (2.75, -9.0), (2.5, -9.6)], 0.17)
    });
    // Pebbled chin, and the groove above it.
    add((0.0, 1.8), (-11.2, -8.0), 0.05 * old, &[(AU17, 1.0)], &|ax, y, x| {
        let pebbles = noise2(x * 3.4, y * 3.4, seed ^ 0xB9) + 0.5 * noise2(x * 6.0, y * 6.0, seed ^ 0xBA);
        0.055 * pebbles * bump2(ax, 1.35, y + 10.0, 0.95)
            + 0.10 * line(ax, y, &[(0.0, -8.6), (0.8, -8.7), (1.7, -9.2)], 0.2)
    });
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lips_are_redder_than_the_cheek_and_brows_darker() {
        let id = Identity::average();
        let skin = Skin::new(&id, Template::get(), 256);
        let cheek = skin.at(2.4, -4.0).albedo;
        let lip = skin.at(0.2, SEAM - 0.5).albedo;
        let brow = skin.at(1.6, brow_line(2.6)).albedo;
        assert!(lip.y / lip.x < 0.8 * cheek.y / cheek.x, "{lip:?} {cheek:?}");
        assert!(brow.x < 0.6 * cheek.x, "{brow:?} {cheek:?}");
    }

    #[test]
    fn folds_deepen_with_their_action_unit_on_its_side_only() {
        let id = Identity::average();
        let mut skin = Skin::new(&id, Template::get(), 256);
        let slope = |s: &Skin, sign: f32| {
            (0..40).map(|i| s.at(sign * (1.0 + i as f32 * 0.03), -5.5).slope[0].abs()).fold(0.0, f32::max)
        };
        let before = [slope(&skin, -1.0), slope(&skin, 1.0)];
        let mut right = [0.0; crate::action_units::N];
        right[AU12] = 1.0;
        skin.fold(&[0.0; crate::action_units::N], &right);
        assert!((slope(&skin, -1.0) - before[0]).abs() < 0.02);
        assert!(slope(&skin, 1.0) > before[1] + 0.1, "{} {}", slope(&skin, 1.0), before[1]);
    }
}
