//! Triangles with materials, and the small shapes that parts of a head are built from.

use crate::math::{Vec3, sin_cos, v3};

/// What a triangle is made of; `shade` knows how each looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Material {
    Skin,
    /// Skin without a texture of its own (ears, hands).
    PlainSkin,
    InnerLip,
    LidEdge,
    EyeLeft,
    EyeRight,
    Lash,
    Teeth,
    Tongue,
    MouthCavity,
    Hair,
    Beard,
    Cloth,
    Headwear,
    GlassesFrame,
    Lens,
    Object,
}

impl Material {
    /// Whether samples of it may be let through ([`Mesh::alpha`]).
    pub(crate) fn has_alpha(self) -> bool {
        matches!(self, Self::Hair | Self::Beard | Self::Lash | Self::Lens | Self::Headwear)
    }

    /// Whether both of its sides are drawn.
    pub(crate) fn two_sided(self) -> bool {
        matches!(
            self,
            Self::Hair
                | Self::Headwear
                | Self::Lash
                | Self::Lens
                | Self::GlassesFrame
                | Self::MouthCavity
                | Self::Cloth
                | Self::Teeth
        )
    }
}

/// One triangle, counter-clockwise seen from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Triangle {
    pub(crate) v: [u32; 3],
    pub(crate) material: Material,
}

/// Vertices with their attributes, and triangles over them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mesh {
    /// Position at rest, cm, in the head's own frame.
    pub(crate) rest: Vec<Vec3>,
    /// What the material makes of it: template coordinates on skin and hair, centimetres on eyes and teeth.
    pub(crate) uv: Vec<[f32; 2]>,
    /// Coverage, 1 where opaque.
    pub(crate) alpha: Vec<f32>,
    /// 1 where the vertex moves with the head, 0 where with the trunk.
    pub(crate) head: Vec<f32>,
    /// 1 where the vertex moves with the lower jaw.
    pub(crate) jaw: Vec<f32>,
    /// Direction of the strands (hair only).
    pub(crate) tangent: Vec<Vec3>,
    pub(crate) triangles: Vec<Triangle>,
}

/// One vertex to be added; the rest defaults to opaque, rigid on the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vertex {
    pub(crate) at: Vec3,
    pub(crate) uv: [f32; 2],
    pub(crate) alpha: f32,
    pub(crate) head: f32,
    pub(crate) jaw: f32,
    pub(crate) tangent: Vec3,
}

impl Vertex {
    pub(crate) fn new(at: Vec3, uv: [f32; 2]) -> Self {
        Self { at, uv, alpha: 1.0, head: 1.0, jaw: 0.0, tangent: Vec3::ZERO }
    }
}

impl Mesh {
    pub(crate) fn push(&mut self, v: Vertex) -> u32 {
        self.rest.push(v.at);
        self.uv.push(v.uv);
        self.alpha.push(v.alpha);
        self.head.push(v.head);
        self.jaw.push(v.jaw);
        self.tangent.push(v.tangent);
        (self.rest.len() - 1) as u32
    }

    pub(crate) fn triangle(&mut self, v: [u32; 3], material: Material) {
        self.triangles.push(Triangle { v, material });
    }

    /// Two triangles over corners in counter-clockwise order.
    pub(crate) fn quad(&mut self, [a, b, c, d]: [u32; 4], material: Material) {
        self.triangle([a, b, c], material);
        self.triangle([a, c, d], material);
    }

    /// A grid of `rows` by `columns` vertices; outside is where rows run down and columns to the right.
    pub(crate) fn grid(
        &mut self,
        rows: usize,
        columns: usize,
        material: Material,
        vertex: impl Fn(usize, usize) -> Vertex,
    ) {
        let first = self.rest.len() as u32;
        for r in 0..rows {
            for c in 0..columns {
                self.push(vertex(r, c));
            }
        }
        let at = |r: usize, c: usize| first + (r * columns + c) as u32;
        for r in 0..rows.saturating_sub(1) {
            for c in 0..columns.saturating_sub(1) {
                self.quad([at(r, c), at(r + 1, c), at(r + 1, c + 1), at(r, c + 1)], material);
            }
        }
    }

    /// A tube of `sides` around a line of points.
    pub(crate) fn tube(
        &mut self,
        line: &[Vec3],
        radius: f32,
        sides: usize,
        closed: bool,
        vertex: impl Fn(Vec3) -> Vertex,
        material: Material,
    ) {
        let n = line.len();
        if n < 2 {
            return;
        }
        let first = self.rest.len() as u32;
        for i in 0..n {
            let (before, after) = if closed {
                (line[(i + n - 1) % n], line[(i + 1) % n])
            } else {
                (line[i.saturating_sub(1)], line[(i + 1).min(n - 1)])
            };
            let along = (after - before).normalized();
            let help = if along.z.abs() < 0.8 { v3(0.0, 0.0, 1.0) } else { v3(0.0, 1.0, 0.0) };
            let across = along.cross(help).normalized();
            let up = across.cross(along);
            for s in 0..sides {
                let (sin, cos) = sin_cos(s as f32 / sides as f32 * std::f32::consts::TAU);
                self.push(vertex(line[i] + (across * cos + up * sin) * radius));
            }
        }
        let rings = if closed { n } else { n - 1 };
        let at = |i: usize, s: usize| first + ((i % n) * sides + s % sides) as u32;
        for i in 0..rings {
            for s in 0..sides {
                self.quad([at(i, s), at(i + 1, s), at(i + 1, s + 1), at(i, s + 1)], material);
            }
        }
    }

    /// An ellipsoid of semi-axes `radii` around `center`, turned by `turn`.
    pub(crate) fn ellipsoid(
        &mut self,
        center: Vec3,
        axes: [Vec3; 3],
        vertex: impl Fn(Vec3) -> Vertex,
        material: Material,
    ) {
        let (rows, columns) = (9, 13);
        self.grid(rows, columns, material, |r, c| {
            let (sp, cp) = sin_cos(r as f32 / (rows - 1) as f32 * std::f32::consts::PI);
            let (sa, ca) = sin_cos(c as f32 / (columns - 1) as f32 * std::f32::consts::TAU);
            vertex(center + axes[0] * (sp * sa) + axes[1] * cp + axes[2] * (sp * ca))
        });
    }
}

/// Smooth normals: for each vertex the sum of its triangles' area vectors, normalised.
pub(crate) fn accumulate_normals(positions: &[Vec3], triangles: &[Triangle], normals: &mut [Vec3]) {
    for t in triangles {
        let [a, b, c] = t.v.map(|v| v as usize);
        let n = (positions[b] - positions[a]).cross(positions[c] - positions[a]);
        normals[a] += n;
        normals[b] += n;
        normals[c] += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipsoids_normals_point_outwards() {
        let mut m = Mesh::default();
        let axes = [v3(2.0, 0.0, 0.0), v3(0.0, 1.0, 0.0), v3(0.0, 0.0, 3.0)];
        m.ellipsoid(v3(1.0, 1.0, 1.0), axes, |p| Vertex::new(p, [0.0; 2]), Material::PlainSkin);
        let mut normals = vec![Vec3::ZERO; m.rest.len()];
        accumulate_normals(&m.rest, &m.triangles, &mut normals);
        for (p, n) in m.rest.iter().zip(&normals) {
            // The poles' last copies touch no triangle with an area.
            assert!(n.dot(*p - v3(1.0, 1.0, 1.0)) > 0.0 || *n == Vec3::ZERO);
        }
        assert!(normals.iter().filter(|n| **n == Vec3::ZERO).count() <= 2);
    }

    #[test]
    fn a_tubes_normals_point_away_from_its_line() {
        let mut m = Mesh::default();
        let line: Vec<Vec3> = (0..5).map(|i| v3(i as f32, 0.0, 0.0)).collect();
        m.tube(&line, 0.3, 6, false, |p| Vertex::new(p, [0.0; 2]), Material::GlassesFrame);
        let mut normals = vec![Vec3::ZERO; m.rest.len()];
        accumulate_normals(&m.rest, &m.triangles, &mut normals);
        for (p, n) in m.rest.iter().zip(&normals) {
            assert!(n.dot(v3(0.0, p.y, p.z)) > 0.0);
        }
    }
}
