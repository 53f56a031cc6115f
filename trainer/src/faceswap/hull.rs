//! Convex polygons: the hull of points, its growth, its area, and the pixels within.

use semblance_face::Point;

/// A convex polygon; fewer than three corners have no area.
#[derive(Clone, Debug)]
pub(super) struct ConvexPolygon {
    corners: Vec<Point>,
}

impl ConvexPolygon {
    /// The hull of finite points (Andrew's monotone chain).
    pub(super) fn hull(points: impl IntoIterator<Item = Point>) -> Self {
        let mut points: Vec<Point> = points.into_iter().collect();
        points.sort_unstable_by(|p, q| p.x.total_cmp(&q.x).then(p.y.total_cmp(&q.y)));
        let mut corners = Vec::with_capacity(points.len() + 1);
        extend_chain(&mut corners, points.iter());
        // The last point of a chain is the first one of the other.
        corners.pop();
        extend_chain(&mut corners, points.iter().rev());
        corners.pop();
        Self { corners }
    }

    /// The hull of this polygon's points and all that lie within `radius` of them; a disc counts as an octagon.
    pub(super) fn grown(&self, radius: f32) -> Self {
        use std::f32::consts::FRAC_PI_8;
        let rim: [Point; 8] = std::array::from_fn(|i| {
            let (sin, cos) = ((2 * i + 1) as f32 * FRAC_PI_8).sin_cos();
            Point::new(radius * cos, radius * sin)
        });
        Self::hull(self.corners.iter().flat_map(|p| rim.map(|r| Point::new(p.x + r.x, p.y + r.y))))
    }

    /// In square pixels.
    pub(super) fn area(&self) -> f64 {
        self.edges()
            .map(|(p, q)| f64::from(p.x) * f64::from(q.y) - f64::from(q.x) * f64::from(p.y))
            .sum::<f64>()
            .abs()
            / 2.0
    }

    /// Least and greatest x and y, `[left, top, right, bottom]`; the left beyond the right where there is no corner.
    pub(super) fn bounds(&self) -> [f32; 4] {
        let start = [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
        self.corners.iter().fold(start, |[left, top, right, bottom], p| {
            [left.min(p.x), top.min(p.y), right.max(p.x), bottom.max(p.y)]
        })
    }

    /// Sets the pixels whose middles lie within this polygon, and within `limit` too where there is one, to 1. `mask` has
    /// rows of `width_px` pixels, and its top left corner lies at `origin`.
    pub(super) fn fill(&self, limit: Option<&Self>, mask: &mut [f32], width_px: usize, origin: [i32; 2]) {
        for (row, line) in mask.chunks_exact_mut(width_px).enumerate() {
            let middle = (origin[1] + row as i32) as f32 + 0.5;
            let Some([mut left, mut right]) = self.crossing(middle) else { continue };
            if let Some(limit) = limit {
                let Some(span) = limit.crossing(middle) else { continue };
                (left, right) = (left.max(span[0]), right.min(span[1]));
            }
            // A pixel's middle is half a pixel right of its number.
            let column = |x: f32| (x - 0.5 - origin[0] as f32).ceil().clamp(0.0, width_px as f32) as usize;
            let (from, to) = (column(left), column(right));
            if from < to {
                line[from..to].fill(1.0);
            }
        }
    }

    /// Where a horizontal line enters and leaves.
    fn crossing(&self, y: f32) -> Option<[f32; 2]> {
        let crossings = self.edges().filter(|(p, q)| (p.y <= y) != (q.y <= y));
        let xs = crossings.map(|(p, q)| p.x + (y - p.y) * (q.x - p.x) / (q.y - p.y));
        xs.fold(None, |span, x| {
            let [left, right] = span.unwrap_or([x, x]);
            Some([left.min(x), right.max(x)])
        })
    }

    fn edges(&self) -> impl Iterator<Item = (Point, Point)> + '_ {
        let next = self.corners.iter().cycle().skip(1);
        self.corners.iter().copied().zip(next.copied())
    }
}

/// Adds sorted points, taking back those that the hull turns past.
fn extend_chain<'a>(corners: &mut Vec<Point>, sorted: impl Iterator<Item = &'a Point>) {
    let start = corners.len();
    for &point in sorted {
        while let [.., before, last] = corners[start..] {
            if cross(before, last, point) > 0.0 {
                break;
            }
            corners.pop();
        }
        corners.push(point);
    }
}

/// Above 0 where `a -> b -> c` turns from x towards y.
fn cross(a: Point, b: Point, c: Point) -> f64 {
    let to = |p: Point| (f64::from(p.x) - f64::from(a.x), f64::from(p.y) - f64::from(a.y));
    let ((bx, by), (cx, cy)) = (to(b), to(c));
    bx * cy - by * cx
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn cloud(rng: &mut ChaCha8Rng, count: usize) -> Vec<Point> {
        (0..count).map(|_| Point::new(rng.random_range(-6.0..26.0), rng.random_range(-6.0..26.0))).collect()
    }

    /// Whether `p` lies in the hull of `points`, by the definition: no line through `p` has all of them on one side. Of
    /// all directions to the points, the widest gap is then below half a turn.
    fn within_hull(points: &[Point], p: Point) -> bool {
        let mut angles: Vec<f64> =
            points.iter().map(|q| f64::from(q.y - p.y).atan2(f64::from(q.x - p.x))).collect();
        angles.sort_unstable_by(f64::total_cmp);
        let around = angles[0] + std::f64::consts::TAU;
        let next = angles.iter().skip(1).copied().chain([around]);
        let widest = angles.iter().zip(next).map(|(a, b)| b - a).fold(0.0, f64::max);
        widest < std::f64::consts::PI
    }

    #[test]
    fn a_square_with_points_inside_and_on_its_sides_has_four_corners() {
        let square = [(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)];
        let inside = [(1.0, 2.0), (2.0, 0.0), (4.0, 3.0), (0.0, 0.0)];
        let hull = ConvexPolygon::hull(square.iter().chain(&inside).map(|&(x, y)| Point::new(x, y)));
        assert_eq!(hull.corners.len(), 4);
        assert_eq!(hull.area(), 16.0);
        assert_eq!(hull.bounds(), [0.0, 0.0, 4.0, 4.0]);
    }

    #[test]
    fn points_on_a_line_or_none_have_no_area_and_fill_nothing() {
        for points in [&[][..], &[(3.0, 3.0)], &[(1.0, 1.0); 5], &[(0.0, 0.0), (8.0, 8.0), (3.0, 3.0)]] {
            let hull = ConvexPolygon::hull(points.iter().map(|&(x, y)| Point::new(x, y)));
            assert_eq!(hull.area(), 0.0, "{points:?}");
            let mut mask = vec![0.0; 100];
            hull.fill(None, &mut mask, 10, [0, 0]);
            assert!(mask.iter().all(|&m| m == 0.0), "{points:?}");
        }
    }

    #[test]
    fn filled_pixels_are_those_within_the_hull_of_the_points() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        for count in [3, 4, 9, 40] {
            for _ in 0..25 {
                let points = cloud(&mut rng, count);
                let hull = ConvexPolygon::hull(points.iter().copied());
                let mut mask = vec![0.0; 30 * 24];
                hull.fill(None, &mut mask, 30, [-5, -4]);
                for (i, &m) in mask.iter().enumerate() {
                    let middle = Point::new((i % 30) as f32 - 5.0 + 0.5, (i / 30) as f32 - 4.0 + 0.5);
                    assert_eq!(m == 1.0, within_hull(&points, middle), "{middle:?} in {points:?}");
                }
            }
        }
    }

    #[test]
    fn growth_adds_the_perimeter_times_the_radius_and_the_octagon() {
        let square = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)];
        let grown = ConvexPolygon::hull(square.map(|(x, y)| Point::new(x, y))).grown(2.0);
        // Minkowski's sum: area + perimeter * reach across a side + the area of the octagon.
        let reach = 2.0 * (std::f64::consts::PI / 8.0).cos();
        let octagon = 2.0 * 2f64.sqrt() * 4.0;
        assert!((grown.area() - (100.0 + 40.0 * reach + octagon)).abs() < 1e-4, "{}", grown.area());
    }
}
