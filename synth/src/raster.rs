//! Rasterisation: which triangle each sample of the picture sees (a visibility buffer, Burns & Hunt 2013).

use crate::math::{Vec3, floor, v3};
use crate::mesh::Triangle;

/// No triangle.
pub(crate) const NOTHING: u32 = u32::MAX;

/// A vertex on the screen: position in samples, and a depth that is larger where nearer and linear on the screen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScreenVertex {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) near: f32,
}

/// Depth and triangle of each sample.
#[derive(Default)]
pub(crate) struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) near: Vec<f32>,
    pub(crate) id: Vec<u32>,
    /// Samples that may hold a triangle: from and to, in x and y.
    pub(crate) touched: [usize; 4],
}

impl Raster {
    /// Empties the buffer, at this many samples.
    pub(crate) fn clear(&mut self, width: usize, height: usize) {
        if (self.width, self.height) != (width, height) {
            *self = Self {
                width,
                height,
                near: vec![0.0; width * height],
                id: vec![NOTHING; width * height],
                touched: [width, 0, height, 0],
            };
            return;
        }
        let [x0, x1, y0, y1] = self.touched;
        for y in y0..y1 {
            if x0 < x1 {
                self.near[y * width + x0..y * width + x1].fill(0.0);
                self.id[y * width + x0..y * width + x1].fill(NOTHING);
            }
        }
        self.touched = [width, 0, height, 0];
    }

    /// Draws a triangle where it is nearest and `visible` (given barycentric weights and sample position) agrees.
    #[inline]
    pub(crate) fn triangle(
        &mut self,
        id: u32,
        v: [ScreenVertex; 3],
        two_sided: bool,
        visible: impl Fn([f32; 3], usize, usize) -> bool,
    ) {
        let [a, mut b, mut c] = v;
        let mut swapped = false;
        let mut area = (b.x - a.x) * (c.y - a.y) - (c.x - a.x) * (b.y - a.y);
        // Counter-clockwise with y up is clockwise with y down.
        if area >= 0.0 {
            if !two_sided || area == 0.0 {
                return;
            }
            std::mem::swap(&mut b, &mut c);
            swapped = true;
            area = -area;
        }
        if a.near <= 0.0 || b.near <= 0.0 || c.near <= 0.0 {
            return;
        }
        let min3 = |p: f32, q: f32, r: f32| p.min(q).min(r);
        let max3 = |p: f32, q: f32, r: f32| p.max(q).max(r);
        // Samples lie at half-integer coordinates.
        let bound = |v: f32, most: usize| (floor(v.clamp(-2.0, 1e6) + 0.5).max(0) as usize).min(most);
        let x0 = bound(min3(a.x, b.x, c.x), self.width);
        let y0 = bound(min3(a.y, b.y, c.y), self.height);
        let x1 = bound(max3(a.x, b.x, c.x), self.width);
        let y1 = bound(max3(a.y, b.y, c.y), self.height);
        if x0 >= x1 || y0 >= y1 {
            return;
        }
        let inv = 1.0 / area;
        // Weight of a, b, c at a sample: linear functions of its position.
        let edge = |p: ScreenVertex, q: ScreenVertex| {
            let dx = -(q.y - p.y) * inv;
            let dy = (q.x - p.x) * inv;
            (dx, dy, -(dx * p.x + dy * p.y))
        };
        let (ax, ay, a0) = edge(b, c);
        let (bx, by, b0) = edge(c, a);
        let near_x = ax * a.near + bx * b.near + (-ax - bx) * c.near;
        self.touched[0] = self.touched[0].min(x0);
        self.touched[1] = self.touched[1].max(x1);
        self.touched[2] = self.touched[2].min(y0);
        self.touched[3] = self.touched[3].max(y1);
        for y in y0..y1 {
            let (px, py) = (x0 as f32 + 0.5, y as f32 + 0.5);
            let mut wa = ax * px + ay * py + a0;
            let mut wb = bx * px + by * py + b0;
            let mut near = wa * a.near + wb * b.near + (1.0 - wa - wb) * c.near;
            let row = y * self.width;
            for x in x0..x1 {
                let wc = 1.0 - wa - wb;
                if wa >= 0.0 && wb >= 0.0 && wc >= 0.0 {
                    let i = row + x;
                    if near > self.near[i] {
                        let w = if swapped { [wa, wc, wb] } else { [wa, wb, wc] };
                        if visible(w, x, y) {
                            self.near[i] = near;
                            self.id[i] = id;
                        }
                    }
                }
                wa += ax;
                wb += bx;
                near += near_x;
            }
        }
    }
}

/// Weights of a triangle's corners at a place on the screen, clamped to the triangle.
pub(crate) fn weights_at(v: [ScreenVertex; 3], x: f32, y: f32) -> [f32; 3] {
    let [a, b, c] = v;
    let area = (b.x - a.x) * (c.y - a.y) - (c.x - a.x) * (b.y - a.y);
    if area == 0.0 {
        return [1.0, 0.0, 0.0];
    }
    let wa = ((b.x - x) * (c.y - y) - (c.x - x) * (b.y - y)) / area;
    let wb = ((c.x - x) * (a.y - y) - (a.x - x) * (c.y - y)) / area;
    let w = [wa.clamp(0.0, 1.0), wb.clamp(0.0, 1.0), (1.0 - wa - wb).clamp(0.0, 1.0)];
    // Weights on the screen become weights in space.
    let w = [w[0] * a.near, w[1] * b.near, w[2] * c.near];
    let sum = w[0] + w[1] + w[2];
    w.map(|k| k / sum)
}

/// A depth map seen from a distant light.
#[derive(Default)]
pub(crate) struct DepthMap {
    raster: Raster,
    /// Rows of the map's frame: right, up, towards the light.
    frame: [Vec3; 3],
    center: Vec3,
    scale: f32,
    screen: Vec<ScreenVertex>,
}

/// Depths in the map are kept positive by this, cm.
const OFFSET: f32 = 100.0;

impl DepthMap {
    /// Draws `triangles` as seen from `towards_light`; the map is a square of `side` and covers `reach` around `center`.
    pub(crate) fn draw(
        &mut self,
        positions: &[Vec3],
        triangles: impl Iterator<Item = Triangle>,
        towards_light: Vec3,
        center: Vec3,
        reach: f32,
        side: usize,
    ) {
        let help = if towards_light.y.abs() < 0.9 { v3(0.0, 1.0, 0.0) } else { v3(1.0, 0.0, 0.0) };
        let right = help.cross(towards_light).normalized();
        self.frame = [right, towards_light.cross(right), towards_light];
        self.center = center;
        self.scale = side as f32 / (2.0 * reach);
        self.raster.clear(side, side);
        self.screen.clear();
        for &p in positions {
            let v = self.project(p);
            self.screen.push(v);
        }
        for t in triangles {
            let v = t.v.map(|v| self.screen[v as usize]);
            self.raster.triangle(0, v, t.material.two_sided(), |_, _, _| true);
        }
    }

    fn project(&self, p: Vec3) -> ScreenVertex {
        let d = p - self.center;
        let half = self.raster.width as f32 * 0.5;
        ScreenVertex {
            x: half + d.dot(self.frame[0]) * self.scale,
            y: half - d.dot(self.frame[1]) * self.scale,
            near: OFFSET + d.dot(self.frame[2]),
        }
    }

    /// Whether nothing is nearer to the light than a point, by more than `bias` cm.
    pub(crate) fn sees(&self, p: Vec3, bias: f32) -> bool {
        let s = self.project(p);
        let (x, y, n) = (floor(s.x), floor(s.y), self.raster.width as i32);
        let inside = x >= 0 && y >= 0 && x < n && y < n;
        !inside || self.raster.near[(y * n + x) as usize] <= s.near + bias
    }

    /// How much of the light reaches a point, 0 to 1: the share of a 3x3 neighbourhood, `spread` samples apart, that
    /// holds nothing nearer to the light by more than `bias` cm.
    pub(crate) fn lit(&self, p: Vec3, spread: f32, bias: f32) -> f32 {
        let s = self.project(p);
        let n = self.raster.width as i32;
        let limit = s.near + bias;
        let mut sum = 0.0;
        for (dx, dy, w) in [
            (0.0f32, 0.0f32, 0.2),
            (1.0, 0.35, 0.1),
            (-1.0, -0.35, 0.1),
            (-0.35, 1.0, 0.1),
            (0.35, -1.0, 0.1),
            (1.4, 1.2, 0.1),
            (-1.4, -1.2, 0.1),
            (1.2, -1.4, 0.1),
            (-1.2, 1.4, 0.1),
        ] {
            let (x, y) = (floor(s.x + dx * spread), floor(s.y + dy * spread));
            let inside = x >= 0 && y >= 0 && x < n && y < n;
            if !inside || self.raster.near[(y * n + x) as usize] <= limit {
                sum += w;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::v3;
    use crate::mesh::Material;

    fn at(x: f32, y: f32, near: f32) -> ScreenVertex {
        ScreenVertex { x, y, near }
    }

    #[test]
    fn a_triangle_covers_its_area_once_and_the_nearer_one_wins() {
        let mut r = Raster::default();
        r.clear(64, 64);
        let far = [at(4.0, 4.0, 1.0), at(4.0, 60.0, 1.0), at(60.0, 4.0, 1.0)];
        r.triangle(1, far, false, |_, _, _| true);
        let covered = r.id.iter().filter(|&&i| i == 1).count() as f32;
        assert!((covered - 56.0 * 56.0 / 2.0).abs() < 60.0, "{covered}");
        r.triangle(2, far.map(|v| at(v.x, v.y, 0.5)), false, |_, _, _| true);
        assert!(!r.id.contains(&2));
        r.triangle(3, far.map(|v| at(v.x, v.y, 2.0)), false, |_, _, _| true);
        assert!(!r.id.contains(&1));
        let back = [far[0], far[2], far[1]].map(|v| at(v.x, v.y, 9.0));
        r.triangle(4, back, false, |_, _, _| true);
        assert!(!r.id.contains(&4));
        r.triangle(4, back, true, |_, _, _| true);
        assert!(r.id.contains(&4));
    }

    #[test]
    fn weights_reproduce_the_point() {
        let v = [at(1.0, 1.0, 1.0), at(2.0, 9.0, 1.0), at(8.0, 2.0, 1.0)];
        let w = weights_at(v, 3.5, 4.0);
        let x: f32 = (0..3).map(|i| w[i] * v[i].x).sum();
        let y: f32 = (0..3).map(|i| w[i] * v[i].y).sum();
        assert!((x - 3.5).abs() < 1e-5 && (y - 4.0).abs() < 1e-5);
    }

    #[test]
    fn what_lies_behind_a_sheet_is_in_its_shadow() {
        let positions = [v3(-2.0, -2.0, 0.0), v3(2.0, -2.0, 0.0), v3(2.0, 2.0, 0.0), v3(-2.0, 2.0, 0.0)];
        let sheet = [[0, 1, 2], [0, 2, 3]].map(|v| Triangle { v, material: Material::Skin });
        let mut map = DepthMap::default();
        map.draw(&positions, sheet.into_iter(), v3(0.0, 0.0, 1.0), Vec3::ZERO, 8.0, 64);
        assert_eq!(map.lit(v3(0.0, 0.0, -3.0), 1.0, 0.3), 0.0);
        assert!(map.lit(v3(0.0, 0.0, 3.0), 1.0, 0.3) > 0.99);
        assert!(map.lit(v3(5.0, 0.0, -3.0), 1.0, 0.3) > 0.99);
    }
}
