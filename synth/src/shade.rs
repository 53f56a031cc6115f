//! How each material looks under the lights.

use crate::identity::{Glasses, HairStyle, Headwear, Identity};
use crate::light::Lights;
use crate::math::{Vec3, bump, cos, exp, fractal2, lerp, noise2, sin, sin_cos, smoothstep, v3};
use crate::mesh::Material;
use crate::raster::DepthMap;
use crate::rig::Gaze;
use crate::skin::Skin;

/// What shading needs to know about the frame.
pub(crate) struct Shader<'a> {
    pub(crate) id: &'a Identity,
    pub(crate) skin: &'a Skin,
    pub(crate) lights: &'a Lights,
    pub(crate) shadow: &'a DepthMap,
    /// The head's up and forward directions in the camera's frame.
    pub(crate) head_up: Vec3,
    pub(crate) head_forward: Vec3,
    pub(crate) gaze: Gaze,
    /// For each eye, height of the upper lid's edge above the eyeball's middle at `x` of -1.5, -1.0, .. 1.5 cm.
    pub(crate) lid_edge: [[f32; 7]; 2],
    /// Distance between the lips, cm.
    pub(crate) mouth_open: f32,
    pub(crate) skin_albedo: Vec3,
    pub(crate) hair_albedo: Vec3,
    pub(crate) occluder_rgb: Vec3,
}

/// A place on a surface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surface {
    pub(crate) material: Material,
    /// In the camera's frame.
    pub(crate) at: Vec3,
    /// Unit length, towards the camera's side.
    pub(crate) normal: Vec3,
    pub(crate) tangent: Vec3,
    pub(crate) uv: [f32; 2],
    /// Light from all around that reaches it.
    pub(crate) ambient: f32,
}

/// `x^(2^n)`.
fn power_of_two(mut x: f32, n: u32) -> f32 {
    for _ in 0..n {
        x *= x;
    }
    x
}

impl Shader<'_> {
    /// Linear RGB that the camera sees.
    pub(crate) fn shade(&self, s: &Surface) -> Vec3 {
        match s.material {
            Material::Skin => self.skin(s),
            Material::PlainSkin => self.plain_skin(s, 1.0),
            Material::InnerLip => {
                self.plain(s, self.lip(), 0.3, lerp(0.72, 0.05, s.uv[1].clamp(0.0, 1.0).sqrt()))
            }
            Material::LidEdge => self.plain(s, self.skin_albedo.times(v3(0.95, 0.62, 0.58)), 0.35, 0.8),
            Material::EyeLeft => self.eye(s, 0),
            Material::EyeRight => self.eye(s, 1),
            Material::Lash => self.hair_albedo.lerp(v3(0.008, 0.007, 0.007), 0.8) * (0.4 + 0.6 * s.ambient),
            Material::Teeth => self.teeth(s),
            Material::Tongue => self.plain(s, v3(0.42, 0.13, 0.12), 0.3, self.inside(0.65)),
            Material::MouthCavity => self.plain(s, v3(0.17, 0.045, 0.04), 0.0, self.inside(0.35)),
            Material::Hair => self.hair(s, self.hair_albedo, 1.0),
            Material::Beard => self.hair(s, self.hair_albedo * 0.85, 0.55),
            Material::Cloth => self.cloth(s),
            Material::Headwear => self.headwear(s),
            Material::GlassesFrame => self.plain(
                s,
                v3(self.id.glasses_rgb[0], self.id.glasses_rgb[1], self.id.glasses_rgb[2]),
                0.9,
                1.0,
            ),
            Material::Lens => self.lens(s),
            Material::Object => self.plain(s, self.occluder_rgb, 0.4, 1.0),
        }
    }

    /// Share of the key light that is not blocked.
    fn lit(&self, s: &Surface, bias: f32) -> f32 {
        if s.normal.dot(self.lights.key_from) < -0.35 {
            return 0.0;
        }
        // The head's shadow does not reach further down.
        if s.material == Material::Cloth && s.uv[1] < -21.0 {
            return 1.0;
        }
        let slope = 1.0 - s.normal.dot(self.lights.key_from).clamp(0.0, 1.0);
        self.shadow.lit(s.at + s.normal * 0.30, self.lights.softness, bias * (1.0 + 1.6 * slope))
    }

    /// A surface without a texture.
    fn plain(&self, s: &Surface, albedo: Vec3, gloss: f32, reach: f32) -> Vec3 {
        let l = self.lights;
        let lit = self.lit(s, 0.35);
        let diffuse = l.key * (lit * s.normal.dot(l.key_from).max(0.0))
            + l.fill * s.normal.dot(l.fill_from).max(0.0)
            + l.rim * (0.6 * s.normal.dot(l.rim_from).max(0.0))
            + l.ambient(s.normal) * s.ambient;
        (albedo.times(diffuse) + self.highlight(s, s.normal, lit) * (gloss * 0.12)) * reach
    }

    /// Mirror-like light of the key and fill lights, unscaled.
    fn highlight(&self, s: &Surface, n: Vec3, lit: f32) -> Vec3 {
        let view = (-s.at).normalized();
        let one = |from: Vec3, rgb: Vec3, lit: f32| {
            let facing = n.dot(from);
            if facing <= 0.0 || lit <= 0.0 {
                return Vec3::ZERO;
            }
            let h = (from + view).normalized();
            let d = n.dot(h).max(0.0);
            let fresnel = 1.0 - view.dot(h).clamp(0.0, 1.0);
            let fresnel = 1.0 + 9.0 * power_of_two(fresnel, 2) * fresnel;
            let broad = power_of_two(d, 4);
            rgb * (lit * facing.min(0.5) * 2.0 * fresnel * (0.45 * broad + 1.1 * power_of_two(broad, 2)))
        };
        one(self.lights.key_from, self.lights.key, lit) + one(self.lights.fill_from, self.lights.fill, 1.0)
    }

    fn skin(&self, s: &Surface) -> Vec3 {
        let texel = self.skin.at(s.uv[0], s.uv[1]);
        let right = self.head_up.cross(s.normal).normalized();
        let up = s.normal.cross(right);
        let n = (s.normal - right * texel.slope[0] - up * texel.slope[1]).normalized();
        self.skin_light(
            s,
            n,
            texel.albedo * (1.0 - 0.45 * texel.cavity),
            texel.gloss,
            1.0 - 0.5 * texel.cavity,
        )
    }

    fn plain_skin(&self, s: &Surface, tone: f32) -> Vec3 {
        let red = v3(1.0, 0.90, 0.88);
        // On ears `uv[1]` is the relief: hollows are dark, rims thin and red.
        let hollow = (1.0 + 0.9 * s.uv[1].min(0.12)).clamp(0.45, 1.08);
        self.skin_light(s, s.normal, self.skin_albedo.times(red) * (tone * hollow), 0.3, hollow.min(1.0))
    }

    /// Skin lets light through: it wraps around the terminator, red furthest.
    fn skin_light(&self, s: &Surface, n: Vec3, albedo: Vec3, gloss: f32, open: f32) -> Vec3 {
        let l = self.lights;
        let lit = self.lit(s, 0.45);
        let wrap = |cos: f32, w: f32| ((cos + w) / (1.0 + w)).max(0.0);
        // Red light has come a longer way through the skin and shows less of its relief.
        let cos_red = 0.6 * s.normal.dot(l.key_from) + 0.4 * n.dot(l.key_from);
        let cos_other = 0.15 * s.normal.dot(l.key_from) + 0.85 * n.dot(l.key_from);
        let key = v3(
            wrap(cos_red, 0.24) * (lit + 0.10 * lit * (1.0 - lit)),
            wrap(cos_other, 0.16) * lit,
            wrap(cos_other, 0.12) * lit,
        );
        let fill = wrap(n.dot(l.fill_from), 0.25);
        let rim = wrap(n.dot(l.rim_from), 0.10);
        let ambient = s.ambient * open;
        // Light between folds is coloured by what it bounces off.
        let bounced = v3(lerp(ambient, 1.0, 0.08), lerp(ambient, 1.0, 0.02), ambient);
        let diffuse = l.key.times(key)
            + l.fill * (fill * (0.4 + 0.6 * ambient))
            + l.rim * (0.7 * rim)
            + l.ambient(n).times(bounced);
        let view = (-s.at).normalized();
        let grazing = 1.0 - n.dot(view).clamp(0.0, 1.0);
        let sheen = l.sky * (0.05 * grazing * grazing * grazing * ambient);
        albedo.times(diffuse) + self.highlight(s, n, lit) * (gloss * 0.105 * open) + sheen
    }

    fn lip(&self) -> Vec3 {
        self.skin_albedo.times(v3(0.75, 0.42, 0.42))
    }

    /// How much light gets into the mouth.
    fn inside(&self, most: f32) -> f32 {
        most * (0.35 + 0.65 * smoothstep(0.1, 1.6, self.mouth_open))
    }

    fn teeth(&self, s: &Surface) -> Vec3 {
        let [x, h] = s.uv;
        // Widths from the middle out, about those of incisors, canines and premolars.
        let gap = [0.0f32, 0.86, 1.50, 2.22, 2.9].iter().map(|g| bump(x.abs() - g, 0.05)).fold(0.0, f32::max);
        let (upper, f) = if h >= 0.0 { (true, h) } else { (false, h + 2.0) };
        let gum = smoothstep(if upper { 0.80 } else { 0.72 }, 0.92, f);
        let age = self.id.ageing();
        let ivory = v3(0.76, 0.72, 0.62).lerp(v3(0.60, 0.50, 0.34), 0.6 * age);
        let albedo = (ivory * (1.0 - 0.55 * gap)).lerp(v3(0.45, 0.16, 0.15), gum);
        let deep = lerp(1.0, 0.35, smoothstep(1.0, 2.6, x.abs()));
        let flat = Surface { ambient: 0.65, normal: (s.normal + self.head_forward * 1.2).normalized(), ..*s };
        self.plain(&flat, albedo, 0.5, deep * (0.25 + 0.75 * self.inside(if upper { 1.0 } else { 0.8 })))
    }

    fn eye(&self, s: &Surface, which: usize) -> Vec3 {
        let id = self.id;
        let [lx, ly] = s.uv;
        let outward = if which == 0 { -lx } else { lx };
        let rad = std::f32::consts::PI / 180.0;
        let (sy, cy) = sin_cos(self.gaze.yaw_deg * rad);
        let (sp, cp) = sin_cos(self.gaze.pitch_deg * rad);
        let (dx, dy) = (lx / 1.2, ly / 1.2);
        let d = v3(dx, dy, (1.0 - dx * dx - dy * dy).max(0.0).sqrt());
        let axis = v3(sy * cp, sp, cy * cp);
        let c = d.dot(axis).clamp(-1.0, 1.0);
        // Chord from the pupil's middle, in units of the iris's radius (0.59 cm on a globe of 1.2 cm).
        let r = (2.0 * (1.0 - c)).sqrt() / 0.492;
        let off = d - axis * c;
        let wave = |k: f32, seed: u32| {
            noise2(
                off.x * k / (off.length() + 1e-3),
                off.y * k / (off.length() + 1e-3) + 9.0,
                id.detail_seed ^ seed,
            )
        };
        let vessels = id.blotches * 0.25 * bump(noise2(lx * 4.0, ly * 7.0, id.detail_seed ^ 0xE1), 0.12);
        let corner = smoothstep(0.65, 1.35, lx.abs());
        let mut white = v3(0.47, 0.44, 0.415).lerp(v3(0.45, 0.27, 0.23), 0.55 * corner + vessels * corner);
        white = white.lerp(v3(0.50, 0.20, 0.17), smoothstep(-1.02, -1.28, outward));
        let fibres = 0.82 + 0.30 * wave(7.0, 0xE2) + 0.18 * wave(15.0, 0xE3);
        let (light, dark) = iris_colors(id.iris_pigment);
        let inner = smoothstep(0.95, 0.40, r);
        let mut iris = light.lerp(dark, 0.55 * inner * (1.0 - id.iris_pigment) + 0.25) * fibres;
        iris = iris * (1.0 - 0.72 * smoothstep(0.78, 1.0, r));
        let pupil = smoothstep(id.pupil + 0.06, id.pupil - 0.06, r);
        iris = iris.lerp(v3(0.006, 0.006, 0.007), pupil);
        let edge = smoothstep(1.05, 0.93, r);
        let albedo = white.lerp(iris, edge);
        // The cornea bulges over the iris and mirrors the lights.
        let n = (s.normal
            + (self.head_up * off.y + self.head_up.cross(s.normal) * off.x)
                * (0.55 * smoothstep(1.15, 0.7, r)))
        .normalized();
        let lid = self.lid_shadow(which, lx, ly);
        let l = self.lights;
        let lit = self.shadow.lit(s.at + s.normal * 0.5, l.softness, 0.6);
        let diffuse = l.key * (lit * (0.25 + 0.75 * s.normal.dot(l.key_from)).max(0.0) * 0.9)
            + l.fill * (0.3 + 0.7 * s.normal.dot(l.fill_from)).max(0.0)
            + l.ambient(s.normal) * 0.80;
        let view = (-s.at).normalized();
        let mirror = n * (2.0 * n.dot(view)) - view;
        let glint = |from: Vec3, rgb: Vec3, size: f32| {
            rgb * smoothstep(1.0 - size, 1.0 - 0.45 * size, mirror.dot(from))
        };
        let shine = glint(l.key_from, l.key * (1.15 * lit.max(0.3)), 0.030)
            + glint(l.fill_from, l.fill * 0.7, 0.05)
            + l.sky * (0.045 * smoothstep(0.0, 0.8, mirror.y));
        (albedo.times(diffuse) * (1.0 - 0.30 * corner) + shine * (0.45 + 0.55 * edge)) * lid
    }

    /// The shadow that lid and lashes throw on the eyeball.
    fn lid_shadow(&self, which: usize, lx: f32, ly: f32) -> f32 {
        let x = ((lx + 1.5) * 2.0).clamp(0.0, 5.999);
        let i = x as usize;
        let edge = lerp(self.lid_edge[which][i], self.lid_edge[which][i + 1], x - i as f32);
        1.0 - 0.62 * smoothstep(0.34, -0.02, edge - ly)
    }

    fn hair(&self, s: &Surface, albedo: Vec3, shine: f32) -> Vec3 {
        let id = self.id;
        let l = self.lights;
        let [a, b] = s.uv;
        let curly =
            matches!(id.hair_style, HairStyle::Curly | HairStyle::Afro) && s.material == Material::Hair;
        let (strand, clump) = if curly {
            (
                noise2(s.at.x * 2.6 + a * 3.0, b * 2.6, id.detail_seed ^ 0xC1),
                fractal2(a * 2.0, b * 1.2, 2, id.detail_seed ^ 0xC2),
            )
        } else {
            (
                noise2(a * 17.0, b * 0.7, id.detail_seed ^ 0xC1),
                fractal2(a * 4.0, b * 0.35, 2, id.detail_seed ^ 0xC2),
            )
        };
        let tone = (1.0 + 0.30 * strand + 0.42 * clump).max(0.15);
        let grey = id.hair_grey
            * (1.0 - id.hair_grey)
            * 1.6
            * noise2(a * 23.0, b * 0.4, id.detail_seed ^ 0xC3).max(0.0);
        let albedo = (albedo * tone).lerp(v3(0.55, 0.55, 0.56), grey);
        let t = (s.tangent + s.normal * (0.16 * strand)).normalized();
        let view = (-s.at).normalized();
        let lit = self.lit(s, 0.8);
        // Kajiya & Kay 1989: light falls on cylinders, highlights lie across them.
        let one = |from: Vec3, rgb: Vec3, lit: f32| {
            let cos_t = t.dot(from);
            let diffuse = (1.0 - cos_t * cos_t).max(0.0).sqrt() * (0.35 + 0.65 * s.normal.dot(from)).max(0.0);
            let h = (from + view).normalized();
            let th = t.dot(h);
            let sin_h = (1.0 - th * th).max(0.0);
            let sharp = power_of_two(sin_h, 5) * (0.3 + s.normal.dot(from)).clamp(0.0, 1.0);
            let tint = v3(0.06, 0.06, 0.06) + albedo * 0.7;
            (albedo.times(rgb) * diffuse + tint.times(rgb) * (0.34 * shine * sharp * (0.65 + 0.5 * strand)))
                * lit
        };
        let direct =
            one(l.key_from, l.key, lit) + one(l.fill_from, l.fill, 1.0) + one(l.rim_from, l.rim, 1.0);
        let depth = lerp(0.35, 1.0, s.ambient);
        direct + albedo.times(l.ambient(s.normal)) * (depth * 0.9)
    }

    fn cloth(&self, s: &Surface) -> Vec3 {
        let [a, y] = s.uv;
        let seed = self.id.detail_seed;
        let c = v3(self.id.cloth_rgb[0], self.id.cloth_rgb[1], self.id.cloth_rgb[2]);
        let pattern = match (seed >> 16) & 7 {
            0 => 0.75 + 0.25 * sin(y * 4.2).signum(),
            1 => 0.8 + 0.2 * sin(a * 3.0).signum() * sin(y * 3.0).signum(),
            2 => 0.85 + 0.3 * fractal2(a * 0.5, y * 0.5, 3, seed),
            _ => 1.0,
        };
        let folds = fractal2(a * 0.35, y * 0.16, 2, seed ^ 0xD1);
        let bent = Surface { normal: (s.normal + v3(0.35 * folds, 0.1 * folds, 0.0)).normalized(), ..*s };
        self.plain(&bent, c * pattern * (1.0 + 0.15 * folds), 0.05, 1.0)
    }

    fn headwear(&self, s: &Surface) -> Vec3 {
        let [a, b] = s.uv;
        let seed = self.id.detail_seed;
        let c = v3(self.id.headwear_rgb[0], self.id.headwear_rgb[1], self.id.headwear_rgb[2]);
        let tone = match self.id.headwear {
            Headwear::Beanie => 0.8 + 0.25 * cos(a * 9.0) * (0.6 + 0.4 * cos(b * 14.0)),
            _ => 1.0 + 0.16 * fractal2(a * 0.7, b * 0.5, 2, seed ^ 0xD7),
        };
        self.plain(s, c * tone.max(0.1), 0.05, 1.0)
    }

    fn lens(&self, s: &Surface) -> Vec3 {
        let view = (-s.at).normalized();
        let n = (s.normal + v3(0.05 * s.uv[0], 0.05 * s.uv[1], 0.0)).normalized();
        let mirror = n * (2.0 * n.dot(view)) - view;
        let window = exp(-((1.0 - mirror.dot(self.lights.key_from)) * 9.0));
        let reflection = self.lights.sky * (0.4 + 0.4 * mirror.y) + self.lights.key * (1.2 * window);
        if self.id.glasses == Glasses::Sun { v3(0.012, 0.012, 0.014) + reflection * 0.10 } else { reflection }
    }
}

/// Colours of the iris's rim and of its middle, for its pigment from blue (0) to dark brown (1).
fn iris_colors(pigment: f32) -> (Vec3, Vec3) {
    let stops = [
        (v3(0.22, 0.34, 0.46), v3(0.36, 0.42, 0.42)),
        (v3(0.20, 0.26, 0.17), v3(0.30, 0.22, 0.09)),
        (v3(0.16, 0.085, 0.035), v3(0.12, 0.055, 0.02)),
        (v3(0.055, 0.024, 0.012), v3(0.04, 0.017, 0.009)),
    ];
    let x = pigment.clamp(0.0, 1.0) * 3.0;
    let i = (x as usize).min(2);
    let f = x - i as f32;
    (stops[i].0.lerp(stops[i + 1].0, f), stops[i].1.lerp(stops[i + 1].1, f))
}
