//! The light on a face: one key light that casts shadows, one fill light, and light from all around.

use crate::math::{Vec3, lerp, pow, sin_cos, v3};
use crate::mesh::{Material, Triangle};
use crate::random::Draw;
use crate::raster::DepthMap;
use crate::rig::{Posed, Rig};
use rand::Rng;

/// The lights of a scene, in the camera's frame; colours are linear RGB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lights {
    /// Unit vector towards the key light.
    pub(crate) key_from: Vec3,
    pub(crate) key: Vec3,
    /// Softness of the key light's shadows, in samples of the depth map.
    pub(crate) softness: f32,
    pub(crate) fill_from: Vec3,
    pub(crate) fill: Vec3,
    /// A light from behind, for the outline.
    pub(crate) rim_from: Vec3,
    pub(crate) rim: Vec3,
    /// From above and from below.
    pub(crate) sky: Vec3,
    pub(crate) ground: Vec3,
}

/// A direction from angles: to the picture's right and up, in degrees.
fn direction(right_deg: f32, up_deg: f32) -> Vec3 {
    let rad = std::f32::consts::PI / 180.0;
    let (sr, cr) = sin_cos(right_deg * rad);
    let (su, cu) = sin_cos(up_deg * rad);
    v3(sr * cu, su, cr * cu)
}

/// Colour of a black body-like light, from warm (-1) to cool (1), of luminance about 1.
fn temperature(t: f32) -> Vec3 {
    v3(1.0 - 0.16 * t, 1.0, 1.0 + 0.26 * t)
}

impl Lights {
    /// Light as a passport photographer would set it.
    pub(crate) fn studio() -> Self {
        Self {
            key_from: direction(-28.0, 32.0),
            key: v3(0.74, 0.72, 0.70),
            softness: 1.6,
            fill_from: direction(40.0, 8.0),
            fill: v3(0.20, 0.20, 0.21),
            rim_from: direction(150.0, 30.0),
            rim: Vec3::ZERO,
            sky: v3(0.36, 0.37, 0.39),
            ground: v3(0.22, 0.20, 0.19),
        }
    }

    pub(crate) fn sample(rng: &mut impl Rng) -> Self {
        let side = 75.0 * rng.normal() / 2.0;
        let key_temperature = rng.between(-1.0, 0.6);
        let contrast = rng.between(0.15, 1.0);
        let key = lerp(0.35, 0.95, contrast);
        let ambient = lerp(0.62, 0.16, contrast);
        let ambient_temperature = rng.between(-0.7, 0.9);
        let tint = temperature(ambient_temperature) * ambient;
        let rim = if rng.chance(0.3) { rng.between(0.2, 0.9) } else { 0.0 };
        // A screen's light comes from below and is weak; a lamp's or a window's comes from above.
        let up = if rng.chance(0.08) { rng.between(-25.0, 0.0) } else { rng.between(5.0, 60.0) };
        let lights = Self {
            key_from: direction(side.clamp(-85.0, 85.0), up),
            key: temperature(key_temperature) * key,
            softness: rng.between(1.0, 3.2),
            fill_from: direction(-side.signum() * rng.between(15.0, 75.0), rng.between(-10.0, 30.0)),
            fill: temperature(rng.between(-0.5, 0.8)) * rng.between(0.04, 0.32),
            rim_from: direction(rng.between(120.0, 240.0), rng.between(5.0, 50.0)),
            rim: temperature(rng.between(-1.0, 1.0)) * rim,
            sky: tint * rng.between(0.75, 1.05),
            ground: tint.times(v3(1.0, 0.93, 0.86)) * rng.between(0.4, 0.8),
        };
        lights.balanced(rng.between(0.35, 0.9))
    }

    /// The lights through an automatic white balance that removes this share of their common tint.
    fn balanced(self, share: f32) -> Self {
        let tint = self.at_face();
        let mean = (tint.x + tint.y + tint.z) / 3.0;
        let gain = |c: f32| pow(mean / c, share);
        let g = v3(gain(tint.x), gain(tint.y), gain(tint.z));
        Self {
            key: self.key.times(g),
            fill: self.fill.times(g),
            rim: self.rim.times(g),
            sky: self.sky.times(g),
            ground: self.ground.times(g),
            ..self
        }
    }

    /// Light from all around at a surface facing `n`.
    pub(crate) fn ambient(&self, n: Vec3) -> Vec3 {
        self.ground.lerp(self.sky, 0.5 + 0.5 * n.y)
    }

    /// What a white surface that faces the camera between the lights would send back: to set the exposure.
    pub(crate) fn level(&self) -> f32 {
        let sum = self.at_face();
        (sum.x + 2.0 * sum.y + sum.z) * 0.25
    }

    fn at_face(&self) -> Vec3 {
        let n = v3(0.0, 0.0, 1.0);
        self.key * (n.dot(self.key_from).max(0.15) * 0.85)
            + self.fill * n.dot(self.fill_from).max(0.0)
            + self.ambient(n)
    }
}

/// Whether a triangle throws a shadow.
pub(crate) fn casts(rig: &Rig, t: &Triangle) -> bool {
    match t.material {
        // Too thin for the depth map, or where no shadow would show.
        Material::Lens
        | Material::GlassesFrame
        | Material::Lash
        | Material::LidEdge
        | Material::EyeLeft
        | Material::EyeRight => false,
        m if m.has_alpha() => t.v.iter().map(|&v| rig.mesh.alpha[v as usize]).sum::<f32>() > 1.8,
        _ => true,
    }
}

/// How much of the light from all around reaches each vertex of a head at rest, 0 to 1.
pub(crate) fn occlusion(rig: &Rig, posed: &Posed) -> Vec<f32> {
    const DIRECTIONS: usize = 28;
    let mut map = DepthMap::default();
    let n = rig.mesh.rest.len();
    let (mut reached, mut total) = (vec![0.0f32; n], vec![1e-3f32; n]);
    let center = v3(0.0, -2.0, 0.0);
    for i in 0..DIRECTIONS {
        // Points spread evenly over the sphere (a Fibonacci lattice); those from far below hardly matter.
        let y = 1.0 - 2.0 * (i as f32 + 0.5) / DIRECTIONS as f32;
        if y < -0.75 {
            continue;
        }
        let r = (1.0 - y * y).sqrt();
        let (s, c) = sin_cos(2.399_963 * i as f32);
        let from = v3(r * s, y, r * c);
        let casters = rig.triangles().iter().filter(|t| casts(rig, t)).copied();
        map.draw(&posed.view, casters, from, center, 19.0, 80);
        for v in 0..n {
            let cos = posed.normals[v].dot(from);
            if cos > 0.03 {
                total[v] += cos;
                if map.sees(posed.view[v] + posed.normals[v] * 0.3, 0.5) {
                    reached[v] += cos;
                }
            }
        }
    }
    reached.iter().zip(&total).map(|(r, t)| (r / t).clamp(0.04, 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, rng_for};

    #[test]
    fn directions_have_length_one_and_turn_as_stated() {
        assert!((direction(30.0, 40.0).length() - 1.0).abs() < 1e-5);
        assert!(
            direction(90.0, 0.0).x > 0.99 && direction(0.0, 90.0).y > 0.99 && direction(0.0, 0.0).z > 0.99
        );
    }

    #[test]
    fn sampled_lights_reach_the_face() {
        for i in 0..200 {
            let l = Lights::sample(&mut rng_for(3, Stream::Scene, i));
            assert!((0.15..2.5).contains(&l.level()), "{}", l.level());
        }
    }
}
