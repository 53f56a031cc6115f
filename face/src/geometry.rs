//! Points, boxes and the similarity transform, all in pixels with y downwards.
//!
//! A pixel's centre lies at half-integer coordinates: the top left pixel covers `[0,1) x [0,1)`.

use serde::{Deserialize, Serialize};

/// A position in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Rightwards.
    pub x: f32,
    /// Downwards.
    pub y: f32,
}

impl Point {
    /// The point `(x, y)`.
    pub const fn new(x: f32, y: f32) -> Self {
        Self { x, y }
    }
}

/// An axis-aligned box in pixels; it may reach beyond the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width, at least 0.
    pub w: f32,
    /// Height, at least 0.
    pub h: f32,
}

impl Rect {
    /// The box with this top left corner and size.
    pub const fn new(x: f32, y: f32, w: f32, h: f32) -> Self {
        Self { x, y, w, h }
    }

    /// Its middle.
    pub fn center(&self) -> Point {
        Point::new(self.x + self.w / 2.0, self.y + self.h / 2.0)
    }

    /// Its area in square pixels.
    pub fn area(&self) -> f32 {
        self.w.max(0.0) * self.h.max(0.0)
    }

    /// Intersection over union, in `[0, 1]`; 0 where both are empty.
    pub fn iou(&self, other: &Rect) -> f32 {
        let w = (self.x + self.w).min(other.x + other.w) - self.x.max(other.x);
        let h = (self.y + self.h).min(other.y + other.h) - self.y.max(other.y);
        let intersection = w.max(0.0) * h.max(0.0);
        let union = self.area() + other.area() - intersection;
        if union > 0.0 { intersection / union } else { 0.0 }
    }
}

/// `p -> s R p + t`, a rotation, uniform scale and shift, kept as `[[a, -b, tx], [b, a, ty]]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// `s cos`.
    pub a: f32,
    /// `s sin`.
    pub b: f32,
    /// Shift in x.
    pub tx: f32,
    /// Shift in y.
    pub ty: f32,
}

impl Similarity {
    /// Leaves every point where it is.
    pub const IDENTITY: Self = Self { a: 1.0, b: 0.0, tx: 0.0, ty: 0.0 };

    /// The least-squares similarity that carries `from` onto `to` (Umeyama 1991 without reflection, in closed form).
    ///
    /// `None` where fewer than two points are given, the lengths differ, a coordinate is not finite or all of
    /// `from` coincide.
    pub fn fit(from: &[Point], to: &[Point]) -> Option<Self> {
        if from.len() != to.len() || from.len() < 2 {
            return None;
        }
        let n = from.len() as f64;
        let mean = |points: &[Point]| {
            let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + f64::from(p.x), y + f64::from(p.y)));
            (x / n, y / n)
        };
        let ((fx, fy), (gx, gy)) = (mean(from), mean(to));
        let (mut dot, mut cross, mut norm) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let (px, py) = (f64::from(p.x) - fx, f64::from(p.y) - fy);
            let (qx, qy) = (f64::from(q.x) - gx, f64::from(q.y) - gy);
            dot += px * qx + py * qy;
            cross += px * qy - py * qx;
            norm += px * px + py * py;
        }
        let (a, b) = (dot / norm, cross / norm);
        let fitted = Self {
            a: a as f32,
            b: b as f32,
            tx: (gx - a * fx + b * fy) as f32,
            ty: (gy - b * fx - a * fy) as f32,
        };
        (norm > 1e-9
            && fitted.a.is_finite()
            && fitted.b.is_finite()
            && fitted.tx.is_finite()
            && fitted.ty.is_finite())
        .then_some(fitted)
    }

    /// Carries a point.
    pub fn apply(&self, p: Point) -> Point {
        Point::new(self.a * p.x - self.b * p.y + self.tx, self.b * p.x + self.a * p.y + self.ty)
    }

    /// Its scale, above 0 where [`Similarity::invert`] succeeds.
    pub fn scale(&self) -> f32 {
        self.a.hypot(self.b)
    }

    /// The transform that undoes this one; `None` where the scale is 0.
    pub fn invert(&self) -> Option<Self> {
        let norm = self.a * self.a + self.b * self.b;
        if !(norm.is_normal()) {
            return None;
        }
        let (a, b) = (self.a / norm, -self.b / norm);
        Some(Self { a, b, tx: -(a * self.tx - b * self.ty), ty: -(b * self.tx + a * self.ty) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_similarity_is_recovered_from_points_it_moved() {
        let truth = Similarity { a: 0.8, b: -0.3, tx: 12.0, ty: -4.5 };
        let from = [(38.0, 51.0), (73.0, 51.0), (56.0, 71.0), (41.0, 92.0)].map(|(x, y)| Point::new(x, y));
        let to = from.map(|p| truth.apply(p));
        let found = Similarity::fit(&from, &to).expect("points are spread");
        for (p, q) in from.iter().zip(to) {
            let r = found.apply(*p);
            assert!((r.x - q.x).abs() < 1e-3 && (r.y - q.y).abs() < 1e-3, "{r:?} {q:?}");
            let back = found.invert().expect("scale is 0.85").apply(r);
            assert!((back.x - p.x).abs() < 1e-3 && (back.y - p.y).abs() < 1e-3);
        }
    }

    #[test]
    fn coinciding_or_non_finite_points_have_no_similarity() {
        let same = [Point::new(3.0, 4.0); 5];
        assert_eq!(Similarity::fit(&same, &same), None);
        let nan = [Point::new(f32::NAN, 0.0), Point::new(1.0, 1.0)];
        assert_eq!(Similarity::fit(&nan, &same[..2]), None);
    }

    #[test]
    fn iou_of_half_overlapping_boxes_is_a_third() {
        let a = Rect::new(0.0, 0.0, 2.0, 2.0);
        assert_eq!(a.iou(&Rect::new(1.0, 0.0, 2.0, 2.0)), 1.0 / 3.0);
        assert_eq!(a.iou(&Rect::new(5.0, 5.0, 1.0, 1.0)), 0.0);
        assert_eq!(Rect::default().iou(&Rect::default()), 0.0);
    }
}
