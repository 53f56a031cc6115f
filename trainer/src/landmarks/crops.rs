//! Training crops for the landmark network: faces framed as a finder or the frame before would frame them, and places
//! where no face is.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use semblance_face::align::{resize_crop, sample};
use semblance_face::landmarks::{LANDMARKS, MIRROR, TEMPLATE, five_points};
use semblance_face::{Frame, Point, Similarity};

use super::net::SIDE_PX;
use crate::finder::{add_noise, blur, recolour};

/// A picture of one face and its landmarks, in pixels.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The picture.
    pub frame: Frame,
    /// In iBUG order.
    pub points: [Point; LANDMARKS],
}

/// A crop and what the network should say of it.
#[derive(Clone, Debug)]
pub struct Crop {
    /// `S * S` RGB triples.
    pub rgb: Vec<u8>,
    /// `x, y` of the landmarks in shares of the side from the crop's middle; `None` where no face is.
    pub target: Option<[f32; 2 * LANDMARKS]>,
}

/// How a face lies in a crop of side 1 that its five points frame exactly.
pub fn framing(points: &[Point; LANDMARKS]) -> Option<Similarity> {
    let target = TEMPLATE.points.map(|[x, y]| Point::new(x, y));
    Similarity::fit(&five_points(points), &target).filter(|t| t.scale() > 0.0)
}

/// `b` after `a`.
fn compose(b: &Similarity, a: &Similarity) -> Similarity {
    let origin = b.apply(Point::new(a.tx, a.ty));
    Similarity { a: b.a * a.a - b.b * a.b, b: b.b * a.a + b.a * a.b, tx: origin.x, ty: origin.y }
}

/// A turn, zoom and shift of the crop of side 1 about its middle.
fn jolt(turn: f32, zoom: f32, shift: Point) -> Similarity {
    let (a, b) = (zoom * turn.cos(), zoom * turn.sin());
    Similarity { a, b, tx: 0.5 + shift.x - 0.5 * a + 0.5 * b, ty: 0.5 + shift.y - 0.5 * b - 0.5 * a }
}

/// About normal, deviation 1: the sum of twelve uniform numbers less six.
fn normal(rng: &mut impl Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

impl Crop {
    /// A crop of a face, a little off as crops are; `None` where its landmarks coincide.
    pub fn of_face(face: &Labelled, rng: &mut impl Rng) -> Option<Self> {
        let exact = framing(&face.points)?;
        // Most crops come from the frame before; some from a finder without points, or a head that moved fast.
        let rough = if rng.random_bool(0.3) { 2.2 } else { 1.0 };
        let shift = Point::new(0.035 * rough * normal(rng), 0.035 * rough * normal(rng));
        let off = jolt(0.10 * rough * normal(rng), (0.07 * rough * normal(rng)).exp(), shift);
        let mut crop = Self::cut(&face.frame, &compose(&off, &exact), rng)?;
        let to_crop = compose(&off, &exact);
        let mut target = [0.0; 2 * LANDMARKS];
        for (pair, p) in target.chunks_exact_mut(2).zip(&face.points) {
            let p = to_crop.apply(*p);
            pair.copy_from_slice(&[p.x - 0.5, p.y - 0.5]);
        }
        crop.target = Some(target);
        if rng.random_bool(0.5) {
            crop.mirror();
        }
        if rng.random_bool(0.25) {
            crop.occlude(rng);
        }
        crop.degrade(rng);
        Some(crop)
    }

    /// A crop with no face in its place: beside one, of a part of one, or far too near or far.
    pub fn of_no_face(face: &Labelled, empty: &[Frame], rng: &mut impl Rng) -> Option<Self> {
        let mut crop = if rng.random_bool(0.4) && !empty.is_empty() {
            let frame = empty.choose(rng)?;
            let side = rng.random_range(0.15f32..0.9) * frame.width().min(frame.height()) as f32;
            let x = rng.random::<f32>() * (frame.width() as f32 - side);
            let y = rng.random::<f32>() * (frame.height() as f32 - side);
            Self::cut(frame, &Similarity { a: 1.0 / side, b: 0.0, tx: -x / side, ty: -y / side }, rng)?
        } else {
            let exact = framing(&face.points)?;
            let angle = rng.random_range(0.0..std::f32::consts::TAU);
            let off = match rng.random_range(0..3) {
                0 => {
                    let far = rng.random_range(0.55f32..1.2);
                    jolt(0.3 * normal(rng), 1.0, Point::new(far * angle.cos(), far * angle.sin()))
                }
                1 => jolt(0.3 * normal(rng), rng.random_range(0.2f32..0.42), Point::default()),
                _ => jolt(
                    0.3 * normal(rng),
                    rng.random_range(2.6f32..6.0),
                    Point::new(0.5 * angle.cos(), 0.5 * angle.sin()),
                ),
            };
            Self::cut(&face.frame, &compose(&off, &exact), rng)?
        };
        crop.degrade(rng);
        Some(crop)
    }

    /// Cuts what `to_crop` (picture to a crop of side 1) shows, at times from fewer pixels, as from a face far away.
    fn cut(frame: &Frame, to_crop: &Similarity, rng: &mut impl Rng) -> Option<Self> {
        let side = if rng.random_bool(0.3) { rng.random_range(24..SIDE_PX) } else { SIDE_PX };
        let scale = side as f32;
        let to_crop = Similarity {
            a: to_crop.a * scale,
            b: to_crop.b * scale,
            tx: to_crop.tx * scale,
            ty: to_crop.ty * scale,
        };
        let back = to_crop.invert()?;
        let mut rgb = vec![0; (side * side * 3) as usize];
        sample(frame, &back, side, &mut rgb);
        if side < SIDE_PX {
            let small = Frame::new(side, side, rgb).ok()?;
            rgb = vec![0; (SIDE_PX * SIDE_PX * 3) as usize];
            resize_crop(&small, SIDE_PX, &mut rgb);
        }
        Some(Self { rgb, target: None })
    }

    fn mirror(&mut self) {
        let side = SIDE_PX as usize;
        for row in self.rgb.chunks_exact_mut(side * 3) {
            for x in 0..side / 2 {
                for c in 0..3 {
                    row.swap(x * 3 + c, (side - 1 - x) * 3 + c);
                }
            }
        }
        if let Some(target) = &mut self.target {
            let old = *target;
            for (i, &of) in MIRROR.iter().enumerate() {
                target[2 * i] = -old[2 * of];
                target[2 * i + 1] = old[2 * of + 1];
            }
        }
    }

    /// Covers a part with a plain or noisy rectangle, as a hand or a cup would.
    fn occlude(&mut self, rng: &mut impl Rng) {
        let side = SIDE_PX as usize;
        let (w, h) = (rng.random_range(side / 10..side * 4 / 10), rng.random_range(side / 10..side * 4 / 10));
        let (left, top) = (rng.random_range(0..side - w), rng.random_range(0..side - h));
        let colour: [u8; 3] = rng.random();
        let noisy = rng.random_bool(0.3);
        for y in top..top + h {
            for x in left..left + w {
                let pixel = if noisy { rng.random() } else { colour };
                self.rgb[(y * side + x) * 3..][..3].copy_from_slice(&pixel);
            }
        }
    }

    /// What cameras do.
    fn degrade(&mut self, rng: &mut impl Rng) {
        recolour(&mut self.rgb, rng);
        if rng.random_bool(0.15) {
            blur(&mut self.rgb, SIDE_PX as usize, SIDE_PX as usize);
        }
        if rng.random_bool(0.3) {
            add_noise(&mut self.rgb, rng);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn mirroring_twice_changes_nothing_and_sides_swap() {
        for (i, &j) in MIRROR.iter().enumerate() {
            assert_eq!(MIRROR[j], i);
        }
        // The picture's left outer eye corner, mouth corner and jaw end become the right ones.
        assert_eq!((MIRROR[36], MIRROR[48], MIRROR[0], MIRROR[8], MIRROR[30]), (45, 54, 16, 8, 30));
    }

    #[test]
    fn targets_stay_on_what_they_mark() {
        // A black picture with one white disc where the chin is; other landmarks are spread about.
        let points: [Point; LANDMARKS] = std::array::from_fn(|i| {
            Point::new(100.0 + 40.0 * (i as f32 * 0.7).sin(), 100.0 + 40.0 * (i as f32 * 1.3).cos())
        });
        let mut rgb = vec![0u8; 200 * 200 * 3];
        let chin = points[8];
        for y in 0..200 {
            for x in 0..200 {
                if (x as f32 + 0.5 - chin.x).hypot(y as f32 + 0.5 - chin.y) < 6.0 {
                    rgb[(y * 200 + x) * 3..][..3].fill(255);
                }
            }
        }
        let face = Labelled { frame: Frame::new(200, 200, rgb).unwrap(), points };
        let (mut checked, mut rng) = (0, ChaCha8Rng::seed_from_u64(5));
        for i in 0..40 {
            let exact = framing(&face.points).unwrap();
            let off = jolt(
                0.2 * normal(&mut rng),
                (0.1 * normal(&mut rng)).exp(),
                Point::new(0.05 * normal(&mut rng), 0.0),
            );
            let to_crop = compose(&off, &exact);
            let mut crop = Crop::cut(&face.frame, &to_crop, &mut rng).unwrap();
            let mut target = [0.0; 2 * LANDMARKS];
            for (pair, p) in target.chunks_exact_mut(2).zip(&face.points) {
                let p = to_crop.apply(*p);
                pair.copy_from_slice(&[p.x - 0.5, p.y - 0.5]);
            }
            crop.target = Some(target);
            if i % 2 == 1 {
                crop.mirror();
            }
            let target = crop.target.unwrap();
            let side = SIDE_PX as f32;
            let (x, y) = ((target[16] + 0.5) * side, (target[17] + 0.5) * side);
            // The disc's middle, by its light.
            let (mut sum, mut cx, mut cy) = (0.0f32, 0.0, 0.0);
            for (i, p) in crop.rgb.chunks_exact(3).enumerate() {
                let light = f32::from(p[0]);
                sum += light;
                cx += light * ((i % SIDE_PX as usize) as f32 + 0.5);
                cy += light * ((i / SIDE_PX as usize) as f32 + 0.5);
            }
            let inside = |v: f32| (8.0..side - 8.0).contains(&v);
            if inside(x) && inside(y) && sum > 0.0 {
                let error = (cx / sum - x).hypot(cy / sum - y);
                assert!(error < 0.7, "{error} px");
                checked += 1;
            }
        }
        assert!(checked > 20, "{checked}");
    }
}
