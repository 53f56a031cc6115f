//! Training scenes for the finder: pieces of labelled pictures, zoomed, turned and coloured, on backgrounds.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use semblance_face::{Detection, Frame, Point, Rect, Similarity};

use crate::faces::Picture;

/// Faces that are less visible than this in a scene teach nothing: neither face nor background.
const CLEARLY_VISIBLE: f32 = 0.6;
/// Below this they are taken for background.
const HARDLY_VISIBLE: f32 = 0.25;
/// A score that a teacher's label needs to be a face for sure; below it, the label teaches nothing.
pub const SURE: f32 = 0.6;

/// A picture with its halvings, so that any zoom samples what is about as fine as the scene.
#[derive(Debug)]
struct Pyramid {
    levels: Vec<Frame>,
    faces: Vec<Detection>,
}

impl Pyramid {
    fn new(picture: Picture) -> Self {
        let mut levels = vec![picture.frame];
        while let Some(half) = levels.last().and_then(halve) {
            levels.push(half);
        }
        Self { levels, faces: picture.faces }
    }

    /// The level whose pixels are about as large as a scene's under a zoom, and its side's share of the first's.
    fn level(&self, zoom: f32) -> (&Frame, f32) {
        let wanted = (1.0 / zoom.max(1e-6)).log2().round().max(0.0) as usize;
        let i = wanted.min(self.levels.len() - 1);
        (&self.levels[i], 0.5f32.powi(i as i32))
    }
}

/// Means of 2x2 pixels; `None` where a side would get too short.
fn halve(frame: &Frame) -> Option<Frame> {
    const SHORTEST: u32 = 8;
    let (width, height) = (frame.width() / 2, frame.height() / 2);
    if width.min(height) < SHORTEST {
        return None;
    }
    let stride = frame.width() as usize * 3;
    let rgb = frame.rgb();
    let mut out = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height as usize {
        for x in 0..width as usize {
            for c in 0..3 {
                let i = 2 * y * stride + 6 * x + c;
                let sum: u32 =
                    [i, i + 3, i + stride, i + stride + 3].iter().map(|&i| u32::from(rgb[i])).sum();
                out.push((sum / 4) as u8);
            }
        }
    }
    Frame::new(width, height, out).ok()
}

/// What scenes are made of.
#[derive(Debug, Default)]
pub struct Pools {
    /// Pictures with faces, and the weight with which one of each pool is drawn.
    pools: Vec<(f64, Vec<Pyramid>)>,
    /// Pictures without any face.
    empty: Vec<Pyramid>,
}

impl Pools {
    /// Adds pictures that are drawn with this weight against the other pools. Pictures without a face that is large and
    /// sure enough to be shown are left out.
    pub fn add(&mut self, weight: f64, pictures: Vec<Picture>) {
        let shown = |p: &Picture| p.faces.iter().any(|f| f.score >= SURE);
        let pool: Vec<_> = pictures.into_iter().filter(shown).map(Pyramid::new).collect();
        if !pool.is_empty() {
            self.pools.push((weight, pool));
        }
    }

    /// Adds pictures that show no face.
    pub fn add_empty(&mut self, pictures: impl IntoIterator<Item = Frame>) {
        self.empty
            .extend(pictures.into_iter().map(|frame| Pyramid::new(Picture { frame, faces: Vec::new() })));
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    fn draw(&self, rng: &mut impl Rng) -> Option<&Pyramid> {
        let (_, pool) = self.pools.choose_weighted(rng, |(weight, _)| *weight).ok()?;
        pool.choose(rng)
    }
}

/// A scene: pixels as `[H,W,3]` and what the finder should say of it. Faces with a score below [`SURE`] teach nothing.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width` RGB triples.
    pub rgb: Vec<u8>,
    /// Faces in pixels of the scene.
    pub faces: Vec<Detection>,
}

/// A part of a scene, in whole pixels.
#[derive(Clone, Copy, Debug)]
struct Patch {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl Patch {
    fn width(&self) -> f32 {
        (self.right - self.left) as f32
    }

    fn height(&self) -> f32 {
        (self.bottom - self.top) as f32
    }

    fn rect(&self) -> Rect {
        Rect::new(self.left as f32, self.top as f32, self.width(), self.height())
    }
}

/// Smallest face that is put on purpose, in pixels: the mean of width and height.
const SMALLEST_FACE_PX: f32 = 9.0;

impl Scene {
    /// Draws a scene of this size.
    pub fn draw(pools: &Pools, width: usize, height: usize, rng: &mut impl Rng) -> Self {
        let mut scene = Self { width, height, rgb: vec![0; width * height * 3], faces: Vec::new() };
        let whole = Patch { left: 0, top: 0, right: width, bottom: height };
        scene.fill_background(pools, whole, rng);
        let kind: f32 = rng.random();
        if kind < 0.45 {
            scene.place_face(pools, whole, rng);
        } else if kind < 0.85 {
            for _ in 0..rng.random_range(1..=4) {
                let patch = scene.random_patch(rng);
                if rng.random_bool(0.2) {
                    scene.place_faceless(pools, patch, rng);
                } else {
                    scene.place_face(pools, patch, rng);
                }
            }
        } else {
            for _ in 0..rng.random_range(0..=3) {
                let patch = scene.random_patch(rng);
                scene.place_faceless(pools, patch, rng);
            }
        }
        if rng.random_bool(0.15) {
            scene.occlude(pools, rng);
        }
        recolour(&mut scene.rgb, rng);
        if rng.random_bool(0.15) {
            blur(&mut scene.rgb, width, height);
        }
        if rng.random_bool(0.3) {
            add_noise(&mut scene.rgb, rng);
        }
        scene
    }

    fn random_patch(&self, rng: &mut impl Rng) -> Patch {
        let mut side = |length: usize| {
            let size = rng.random_range(length / 5..=length * 7 / 10);
            let start = rng.random_range(0..=length - size);
            (start, start + size)
        };
        let ((left, right), (top, bottom)) = (side(self.width), side(self.height));
        Patch { left, top, right, bottom }
    }

    fn fill_background(&mut self, pools: &Pools, whole: Patch, rng: &mut impl Rng) {
        let kind: f32 = rng.random();
        if kind < 0.5
            && let Some(empty) = pools.empty.choose(rng)
        {
            let base = &empty.levels[0];
            let cover =
                (self.width as f32 / base.width() as f32).max(self.height as f32 / base.height() as f32);
            let zoom = cover * rng.random_range(1.0f32..3.0);
            // Where the share (x, y) of the picture comes to lie at the same share of the scene, the picture covers it.
            let (x, y): (f32, f32) = (rng.random(), rng.random());
            let from = Point::new(x * base.width() as f32, y * base.height() as f32);
            let to = Point::new(x * self.width as f32, y * self.height as f32);
            let motion = Motion::around(empty, from, to, zoom, 0.0, rng.random());
            self.paste(empty, whole, &motion, true);
        } else if kind < 0.75 {
            self.place_faceless(pools, whole, rng);
        } else {
            let corner: [[f32; 3]; 3] =
                std::array::from_fn(|_| std::array::from_fn(|_| rng.random_range(0.0..255.0)));
            for (i, pixel) in self.rgb.chunks_exact_mut(3).enumerate() {
                let x = (i % whole.right) as f32 / whole.right as f32;
                let y = (i / whole.right) as f32 / whole.bottom as f32;
                for (c, value) in pixel.iter_mut().enumerate() {
                    let rise = (corner[1][c] - corner[0][c]) * x + (corner[2][c] - corner[0][c]) * y;
                    *value = (corner[0][c] + rise) as u8;
                }
            }
        }
    }

    /// Shows a labelled picture in the patch, one of its faces somewhere in there at a random size.
    fn place_face(&mut self, pools: &Pools, patch: Patch, rng: &mut impl Rng) {
        let Some(picture) = pools.draw(rng) else { return };
        let sure: Vec<_> = picture.faces.iter().filter(|f| f.score >= SURE).collect();
        let Some(face) = sure.choose(rng) else { return };
        let size = size_of(&face.bbox);
        let largest = (patch.width().min(patch.height()) * 0.95).max(SMALLEST_FACE_PX * 1.2);
        let wanted = (SMALLEST_FACE_PX.ln() + rng.random::<f32>() * (largest / SMALLEST_FACE_PX).ln()).exp();
        let mut middle = |start: usize, length: f32| {
            let room = (length - wanted).max(0.0);
            start as f32 + length / 2.0 + room * (rng.random::<f32>() - 0.5)
        };
        let to = Point::new(middle(patch.left, patch.width()), middle(patch.top, patch.height()));
        let turn = if rng.random_bool(0.5) { rng.random_range(-0.25f32..0.25) } else { 0.0 };
        let motion = Motion::around(picture, face.bbox.center(), to, wanted / size, turn, rng.random());
        self.paste(picture, patch, &motion, false);
    }

    /// Shows a piece of a picture in which no face is whole.
    fn place_faceless(&mut self, pools: &Pools, patch: Patch, rng: &mut impl Rng) {
        const TRIES: usize = 12;
        for _ in 0..TRIES {
            let picture = if rng.random_bool(0.4) { pools.empty.choose(rng) } else { pools.draw(rng) };
            let Some(picture) = picture else { continue };
            let base = &picture.levels[0];
            let zoom = (0.5f32.ln() + rng.random::<f32>() * 12.0f32.ln()).exp();
            let (w, h) = (patch.width() / zoom, patch.height() / zoom);
            if w > base.width() as f32 || h > base.height() as f32 {
                continue;
            }
            let x = rng.random::<f32>() * (base.width() as f32 - w);
            let y = rng.random::<f32>() * (base.height() as f32 - h);
            let window = Rect::new(x, y, w, h);
            // A piece of a face may be there, but neither most of one nor anything of the size of the window.
            if picture.faces.iter().any(|f| visible(&f.bbox, &window) > 0.12) {
                continue;
            }
            let motion =
                Motion::around(picture, window.center(), patch.rect().center(), zoom, 0.0, rng.random());
            let before = self.faces.len();
            self.paste(picture, patch, &motion, true);
            self.faces.truncate(before);
            return;
        }
    }

    /// Covers part of a face with something else.
    fn occlude(&mut self, pools: &Pools, rng: &mut impl Rng) {
        let Some(face) = self.faces.choose(rng).copied() else { return };
        let b = face.bbox;
        let (w, h) = (b.w * rng.random_range(0.2f32..0.6), b.h * rng.random_range(0.2f32..0.5));
        let left = b.x + rng.random::<f32>() * (b.w - w);
        let top = b.y + rng.random::<f32>() * (b.h - h);
        let clamp = |v: f32, most: usize| (v.max(0.0) as usize).min(most);
        let patch = Patch {
            left: clamp(left, self.width),
            top: clamp(top, self.height),
            right: clamp(left + w, self.width),
            bottom: clamp(top + h, self.height),
        };
        if patch.right < patch.left + 2 || patch.bottom < patch.top + 2 {
            return;
        }
        // The face stays a face: what covers it hides less than a third.
        let faces = self.faces.clone();
        self.place_faceless(pools, patch, rng);
        self.faces = faces;
    }

    /// Draws a picture under `motion` (picture to scene, mirrored where it says so) within the patch, hides the faces
    /// under it and adds the picture's own. `repeat_edge` covers the patch; otherwise the scene shows beyond the picture.
    fn paste(&mut self, picture: &Pyramid, patch: Patch, motion: &Motion, repeat_edge: bool) {
        let Some(back) = motion.forward.invert() else { return };
        let (level, share) = picture.level(motion.forward.scale());
        let (w, h) = (level.width() as i32, level.height() as i32);
        let rgb = level.rgb();
        let mut drawn: Option<Patch> = None;
        for y in patch.top..patch.bottom {
            for x in patch.left..patch.right {
                let p = mirrored(back.apply(Point::new(x as f32 + 0.5, y as f32 + 0.5)), motion.mirror);
                let (px, py) = (p.x * share - 0.5, p.y * share - 0.5);
                if !repeat_edge && (px < -0.5 || py < -0.5 || px > w as f32 - 0.5 || py > h as f32 - 0.5) {
                    continue;
                }
                let (fx, fy) = (px.floor(), py.floor());
                let (ax, ay) = (px - fx, py - fy);
                let column = |x: i32| x.clamp(0, w - 1) as usize * 3;
                let row = |y: i32| y.clamp(0, h - 1) as usize * w as usize * 3;
                let (x0, x1) = (column(fx as i32), column(fx as i32 + 1));
                let (y0, y1) = (row(fy as i32), row(fy as i32 + 1));
                let out = &mut self.rgb[(y * self.width + x) * 3..][..3];
                for (c, value) in out.iter_mut().enumerate() {
                    let at = |i: usize| f32::from(rgb[i + c]);
                    let upper = at(y0 + x0) + (at(y0 + x1) - at(y0 + x0)) * ax;
                    let lower = at(y1 + x0) + (at(y1 + x1) - at(y1 + x0)) * ax;
                    *value = (upper + (lower - upper) * ay + 0.5) as u8;
                }
                let d = drawn.get_or_insert(Patch { left: x, top: y, right: x + 1, bottom: y + 1 });
                d.left = d.left.min(x);
                d.right = d.right.max(x + 1);
                d.bottom = d.bottom.max(y + 1);
            }
        }
        let Some(drawn) = drawn else { return };
        let drawn = drawn.rect();
        self.faces.retain_mut(|face| {
            let hidden = visible(&face.bbox, &drawn);
            face.score = face.score.min(label_score(1.0 - hidden));
            1.0 - hidden > HARDLY_VISIBLE
        });
        for face in &picture.faces {
            let moved = motion.apply(face);
            let seen = visible(&moved.bbox, &drawn);
            if seen > HARDLY_VISIBLE {
                self.faces.push(Detection { score: moved.score.min(label_score(seen)), ..moved });
            }
        }
    }
}

/// 1 for a face that is clearly visible, else too little to be sure of.
fn label_score(visible: f32) -> f32 {
    if visible >= CLEARLY_VISIBLE { 1.0 } else { SURE / 2.0 }
}

/// How a picture comes into a scene: mirrored first where asked, then moved.
#[derive(Clone, Copy, Debug)]
struct Motion {
    forward: Similarity,
    /// Width of the picture, where it is mirrored.
    mirror: Option<f32>,
}

impl Motion {
    /// Carries `from`, in the picture as it is, to `to`, enlarged by `zoom` and turned by `turn` radians.
    fn around(picture: &Pyramid, from: Point, to: Point, zoom: f32, turn: f32, mirror: bool) -> Self {
        let mirror = mirror.then(|| picture.levels[0].width() as f32);
        let from = mirrored(from, mirror);
        let (a, b) = (zoom * turn.cos(), zoom * turn.sin());
        let forward =
            Similarity { a, b, tx: to.x - a * from.x + b * from.y, ty: to.y - b * from.x - a * from.y };
        Self { forward, mirror }
    }

    /// A face in the scene. Its box keeps its proportions however it is turned: finders give upright boxes.
    fn apply(&self, face: &Detection) -> Detection {
        let scale = self.forward.scale();
        let (w, h) = (face.bbox.w * scale, face.bbox.h * scale);
        let centre = self.forward.apply(mirrored(face.bbox.center(), self.mirror));
        let landmarks = face.landmarks.map(|points| {
            let moved = points.map(|p| self.forward.apply(mirrored(p, self.mirror)));
            match self.mirror {
                Some(_) => [moved[1], moved[0], moved[2], moved[4], moved[3]],
                None => moved,
            }
        });
        Detection {
            bbox: Rect::new(centre.x - w / 2.0, centre.y - h / 2.0, w, h),
            score: face.score,
            landmarks,
        }
    }
}

fn mirrored(p: Point, width: Option<f32>) -> Point {
    match width {
        Some(width) => Point::new(width - p.x, p.y),
        None => p,
    }
}

/// The share of a box that lies within another.
fn visible(bbox: &Rect, window: &Rect) -> f32 {
    let w = (bbox.x + bbox.w).min(window.x + window.w) - bbox.x.max(window.x);
    let h = (bbox.y + bbox.h).min(window.y + window.h) - bbox.y.max(window.y);
    w.max(0.0) * h.max(0.0) / bbox.area().max(f32::MIN_POSITIVE)
}

/// A face's size: the side of a square of its area.
pub fn size_of(bbox: &Rect) -> f32 {
    bbox.area().sqrt()
}

/// Changes brightness, contrast and gamma a little a channel, and takes the colour away now and then.
pub fn recolour(rgb: &mut [u8], rng: &mut impl Rng) {
    if rng.random_bool(0.15) {
        for p in rgb.chunks_exact_mut(3) {
            let luma = (u32::from(p[0]) * 77 + u32::from(p[1]) * 150 + u32::from(p[2]) * 29) >> 8;
            p.fill(luma as u8);
        }
    }
    let gamma = rng.random_range(-0.5f32..0.5).exp();
    let contrast = rng.random_range(0.6f32..1.3);
    let shift = rng.random_range(-0.15f32..0.15);
    let curves: [[u8; 256]; 3] = std::array::from_fn(|_| {
        let tint = rng.random_range(0.88f32..1.12);
        std::array::from_fn(|i| {
            let v = (i as f32 / 255.0).powf(gamma);
            (((v - 0.5) * contrast + 0.5 + shift) * tint * 255.0) as u8
        })
    });
    for p in rgb.chunks_exact_mut(3) {
        for (value, curve) in p.iter_mut().zip(&curves) {
            *value = curve[usize::from(*value)];
        }
    }
}

/// Means of 3x3 pixels; the border stays.
pub fn blur(rgb: &mut [u8], width: usize, height: usize) {
    let sharp = rgb.to_vec();
    let stride = width * 3;
    for y in 1..height.saturating_sub(1) {
        for (i, value) in rgb.iter_mut().enumerate().take((y + 1) * stride - 3).skip(y * stride + 3) {
            let row = |i: usize| u32::from(sharp[i - 3]) + u32::from(sharp[i]) + u32::from(sharp[i + 3]);
            *value = ((row(i - stride) + row(i) + row(i + stride)) / 9) as u8;
        }
    }
}

/// Adds noise of a random strength, about normal, as sensors do.
pub fn add_noise(rgb: &mut [u8], rng: &mut impl Rng) {
    let strength = rng.random_range(1.0f32..12.0) / 74.0;
    for chunk in rgb.chunks_mut(2) {
        // The sum of two bytes is triangular with a deviation of 104; of the pair here each gets its own two.
        let bits = rng.next_u32();
        for (k, value) in chunk.iter_mut().enumerate() {
            let (a, b) = ((bits >> (16 * k)) & 255, (bits >> (16 * k + 8)) & 255);
            *value = (f32::from(*value) + (a as f32 + b as f32 - 255.0) * strength).clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// A grey picture with a face drawn as five coloured squares, one a point.
    fn marked() -> Picture {
        let (width, height) = (120u32, 100u32);
        let mut rgb = vec![128u8; (width * height * 3) as usize];
        let points = [(45.0, 40.0), (75.0, 40.0), (60.0, 55.0), (50.0, 70.0), (70.0, 70.0)];
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]];
        for ((px, py), colour) in points.into_iter().zip(colours) {
            for y in py as usize - 4..py as usize + 4 {
                for x in px as usize - 4..px as usize + 4 {
                    rgb[(y * width as usize + x) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
        let face = Detection {
            bbox: Rect::new(35.0, 25.0, 50.0, 60.0),
            score: 1.0,
            landmarks: Some(points.map(|(x, y)| Point::new(x, y))),
        };
        Picture { frame: Frame::new(width, height, rgb).unwrap(), faces: vec![face] }
    }

    #[test]
    fn points_stay_on_what_they_mark_however_a_picture_is_placed() {
        let mut pools = Pools::default();
        pools.add(1.0, vec![marked()]);
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]];
        let (mut checked, mut mirrors) = (0, 0);
        for seed in 0..60 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut scene = Scene { width: 160, height: 128, rgb: vec![9; 160 * 128 * 3], faces: Vec::new() };
            let whole = Patch { left: 0, top: 0, right: 160, bottom: 128 };
            scene.place_face(&pools, whole, &mut rng);
            let Some(face) = scene.faces.first() else { continue };
            // Small faces have squares of less than a pixel.
            if face.score < 1.0 || size_of(&face.bbox) < 30.0 {
                continue;
            }
            let points = face.landmarks.unwrap();
            // A mirrored face still has its left eye on the picture's left, in the colour of the other one.
            let mirrored = points[0].x < points[1].x
                && scene.rgb[(points[0].y as usize * 160 + points[0].x as usize) * 3 + 1] > 200;
            mirrors += usize::from(mirrored);
            let expected: [usize; 5] = if mirrored { [1, 0, 2, 4, 3] } else { [0, 1, 2, 3, 4] };
            for (p, &of) in points.iter().zip(&expected) {
                let at = (p.y as usize * 160 + p.x as usize) * 3;
                let seen = &scene.rgb[at..at + 3];
                let off: i32 =
                    seen.iter().zip(colours[of]).map(|(&a, b): (_, i32)| (i32::from(a) - b).abs()).sum();
                assert!(off < 60, "seed {seed}: {seen:?} where {:?} should be", colours[of]);
            }
            checked += 1;
        }
        assert!(
            checked > 20 && mirrors > 5 && mirrors < checked - 5,
            "{checked} checked, {mirrors} mirrored"
        );
    }

    #[test]
    fn hidden_faces_are_forgotten_and_half_hidden_ones_teach_nothing() {
        let mut pools = Pools::default();
        pools.add(1.0, vec![marked()]);
        pools.add_empty([Frame::black(200, 200).unwrap()]);
        let face = |x: f32| Detection { bbox: Rect::new(x, 10.0, 40.0, 40.0), score: 1.0, landmarks: None };
        let mut scene = Scene {
            width: 160,
            height: 128,
            rgb: vec![0; 160 * 128 * 3],
            faces: vec![face(0.0), face(50.0), face(100.0)],
        };
        let cover = Patch { left: 0, top: 0, right: 70, bottom: 128 };
        let motion = Motion::around(
            &pools.empty[0],
            Point::new(100.0, 100.0),
            Point::new(35.0, 64.0),
            1.0,
            0.0,
            false,
        );
        scene.paste(&pools.empty[0], cover, &motion, true);
        let scores: Vec<_> = scene.faces.iter().map(|f| (f.bbox.x, f.score)).collect();
        assert_eq!(scores, [(50.0, SURE / 2.0), (100.0, 1.0)]);
    }

    #[test]
    fn a_scene_follows_from_its_seed() {
        let mut pools = Pools::default();
        pools.add(1.0, vec![marked()]);
        pools.add_empty([Frame::black(200, 200).unwrap()]);
        let draw = |seed| Scene::draw(&pools, 96, 64, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(1).rgb, draw(1).rgb);
        assert_ne!(draw(1).rgb, draw(2).rgb);
    }
}
