//! Which cells should see which face, and the loss.

use semblance_face::finder::{CELL_VALUES, STRIDES};
use tch::{Device, Kind, Tensor};

use super::scene::{SURE, Scene, size_of};

/// Sizes of face (the side of a square of the box's area, in pixels) that each grid answers for; they overlap, so that
/// no size falls between two.
const SIZES: [(f32, f32); 3] = [(0.0, 34.0), (26.0, 68.0), (54.0, f32::INFINITY)];
/// A face's cells are those whose middle is no further from the box's middle than the larger of these, in each axis: a
/// share of the stride, and a share of the face.
const RADIUS_STRIDES: f32 = 0.75;
const RADIUS_SIZE: f32 = 0.2;
/// Cells up to this many radii away may say either.
const UNSURE_RADII: f32 = 1.6;

/// What the network should give for a batch of scenes of one size.
#[derive(Debug, Default)]
pub struct Targets {
    /// Number of each cell that should see a face, counted over the batch.
    cells: Vec<i64>,
    /// For each of those: the values from the box on, in the network's own terms.
    values: Vec<[f32; CELL_VALUES - 1]>,
    /// For each of those: the face's size in strides.
    sizes: Vec<f32>,
    /// 1 for every cell of the batch whose score counts, else 0.
    counts: Vec<f32>,
}

impl Targets {
    /// The targets of scenes of one size, whose sides are multiples of 32.
    pub fn of(scenes: &[Scene]) -> Self {
        let mut targets = Self::default();
        scenes.iter().for_each(|scene| targets.add(scene));
        targets
    }

    fn add(&mut self, scene: &Scene) {
        for (stride, (least, most)) in STRIDES.into_iter().zip(SIZES) {
            let s = stride as f32;
            let (columns, rows) = (scene.width / stride, scene.height / stride);
            for cell in 0..columns * rows {
                let x = ((cell % columns) as f32 + 0.5) * s;
                let y = ((cell / columns) as f32 + 0.5) * s;
                let mut counts = 1.0;
                let mut nearest: Option<(f32, usize)> = None;
                for (i, face) in scene.faces.iter().enumerate() {
                    let size = size_of(&face.bbox);
                    let radius = (RADIUS_STRIDES * s).max(RADIUS_SIZE * size);
                    let middle = face.bbox.center();
                    let distance = (x - middle.x).abs().max((y - middle.y).abs());
                    let answers = (least..most).contains(&size);
                    if face.score >= SURE && answers && distance <= radius {
                        if nearest.is_none_or(|(d, _)| distance < d) {
                            nearest = Some((distance, i));
                        }
                    } else if distance <= UNSURE_RADII * radius {
                        counts = 0.0;
                    } else if face.score < SURE {
                        let b = face.bbox;
                        let inside = x >= b.x && y >= b.y && x <= b.x + b.w && y <= b.y + b.h;
                        counts = if inside { 0.0 } else { counts };
                    }
                }
                if let Some((_, i)) = nearest {
                    let face = &scene.faces[i];
                    let middle = face.bbox.center();
                    let mut values = [0.0; CELL_VALUES - 1];
                    values[..4].copy_from_slice(&[
                        (middle.x - x) / s,
                        (middle.y - y) / s,
                        (face.bbox.w / s).ln(),
                        (face.bbox.h / s).ln(),
                    ]);
                    for (pair, p) in values[4..].chunks_exact_mut(2).zip(face.landmarks.iter().flatten()) {
                        pair.copy_from_slice(&[(p.x - x) / s, (p.y - y) / s]);
                    }
                    self.cells.push(self.counts.len() as i64);
                    self.values.push(values);
                    self.sizes.push(size_of(&face.bbox) / s);
                    counts = 1.0;
                }
                self.counts.push(counts);
            }
        }
    }

    /// Cells that should see a face.
    pub fn positives(&self) -> usize {
        self.cells.len()
    }
}

/// The parts of the loss.
#[derive(Debug)]
pub struct Loss {
    /// Quality focal loss of the scores (Li et al. 2020, equation 5, beta 2): a cell's score should be the IoU of its box.
    pub score: Tensor,
    /// `1 - DIoU` of the boxes (Zheng et al. 2020, equation 7).
    pub bbox: Tensor,
    /// Smooth L1 of the points in shares of the face's size.
    pub points: Tensor,
}

impl Loss {
    /// Of the network's cells `[N,cells,CELL_VALUES]` against the targets; sums over cells, divided by the cells that
    /// should see a face.
    pub fn of(cells: &Tensor, targets: &Targets) -> Self {
        let device = cells.device();
        let cells = cells.reshape([-1, CELL_VALUES as i64]);
        let count = targets.positives().max(1) as f64;
        let logits = cells.select(1, 0);
        let mut quality = logits.zeros_like();
        let (mut bbox, mut points) = (logits.sum(None) * 0.0, logits.sum(None) * 0.0);
        if targets.positives() > 0 {
            let index = Tensor::from_slice(&targets.cells).to_device(device);
            let seen = cells.index_select(0, &index).narrow(1, 1, CELL_VALUES as i64 - 1);
            let flat: Vec<f32> = targets.values.iter().flatten().copied().collect();
            let truth = Tensor::from_slice(&flat).view([-1, CELL_VALUES as i64 - 1]).to_device(device);
            let (iou, diou) = overlap(&seen.narrow(1, 0, 4), &truth.narrow(1, 0, 4));
            let _ = quality.index_copy_(0, &index, &iou.detach());
            bbox = (-diou + 1.0).sum(None) / count;
            let sizes = Tensor::from_slice(&targets.sizes).view([-1, 1]).to_device(device);
            let pairs = CELL_VALUES as i64 - 5;
            let error = (seen.narrow(1, 4, pairs) - truth.narrow(1, 4, pairs)) / sizes;
            const BETA: f64 = 0.02;
            let smooth = error.smooth_l1_loss(&error.zeros_like(), tch::Reduction::None, BETA);
            points = smooth.mean_dim([1].as_slice(), false, None).sum(None) / count;
        }
        let counts = Tensor::from_slice(&targets.counts).to_device(device);
        let score = quality_focal(&logits, &quality, &counts) / count;
        Self { score, bbox, points }
    }
}

/// `sum counts |q - p|^2 BCE(p, q)` with `p` the sigmoid of the logits.
fn quality_focal(logits: &Tensor, quality: &Tensor, counts: &Tensor) -> Tensor {
    let cross_entropy =
        logits.binary_cross_entropy_with_logits::<Tensor>(quality, None, None, tch::Reduction::None);
    let miss = (quality - logits.sigmoid()).square();
    (miss * cross_entropy * counts).sum(None)
}

/// IoU and DIoU of boxes `[N,4]` given as middle and logarithms of the sides.
fn overlap(a: &Tensor, b: &Tensor) -> (Tensor, Tensor) {
    // The sides of a box that makes no sense yet must not overflow.
    let sides = |t: &Tensor| t.narrow(1, 2, 2).clamp(-8.0, 8.0).exp();
    let (middle_a, middle_b) = (a.narrow(1, 0, 2), b.narrow(1, 0, 2));
    let (half_a, half_b) = (sides(a) * 0.5, sides(b) * 0.5);
    let low = (&middle_a - &half_a).maximum(&(&middle_b - &half_b));
    let high = (&middle_a + &half_a).minimum(&(&middle_b + &half_b));
    let both = (high - low).clamp_min(0.0).prod_dim_int(1, false, Kind::Float);
    let area = |half: &Tensor| half.prod_dim_int(1, false, Kind::Float) * 4.0;
    let iou = &both / (area(&half_a) + area(&half_b) - &both + 1e-9);
    let hull_low = (&middle_a - &half_a).minimum(&(&middle_b - &half_b));
    let hull_high = (&middle_a + &half_a).maximum(&(&middle_b + &half_b));
    let squared = |t: Tensor| t.square().sum_dim_intlist([1].as_slice(), false, Kind::Float);
    let apart = squared(middle_a - middle_b) / (squared(hull_high - hull_low) + 1e-9);
    let diou = &iou - apart;
    (iou, diou)
}

/// Pictures `[N,H,W,3]` in bytes as the network wants them, `[N,3,H,W]` in `[-1,1]`.
pub fn to_input(scenes: &[Scene], device: Device) -> Tensor {
    let (height, width) = scenes.first().map_or((0, 0), |s| (s.height as i64, s.width as i64));
    let bytes: Vec<u8> = scenes.iter().flat_map(|s| s.rgb.iter().copied()).collect();
    let pictures = Tensor::from_slice(&bytes).view([-1, height, width, 3]).to_device(device);
    pictures.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 127.5 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use semblance_face::{Detection, Point, Rect};

    fn scene(faces: Vec<Detection>) -> Scene {
        Scene { width: 160, height: 128, rgb: vec![0; 160 * 128 * 3], faces }
    }

    fn face(x: f32, y: f32, w: f32, h: f32) -> Detection {
        let points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)];
        let landmarks = Some(points.map(|(u, v)| Point::new(x + u * w, y + v * h)));
        Detection { bbox: Rect::new(x, y, w, h), score: 1.0, landmarks }
    }

    #[test]
    fn every_size_of_face_has_cells_and_few_of_them() {
        for size in 8..120 {
            for shift in 0..8 {
                let side = size as f32;
                let at = 3.0 + shift as f32;
                let targets = Targets::of(&[scene(vec![face(at, at, side * 0.8, side * 1.25)])]);
                assert!((1..=24).contains(&targets.positives()), "{size} px: {}", targets.positives());
            }
        }
    }

    #[test]
    fn a_network_that_gives_the_targets_has_no_loss_but_that_of_its_scores() {
        let targets = Targets::of(&[scene(vec![face(30.0, 20.0, 26.0, 34.0), face(90.0, 40.0, 50.0, 66.0)])]);
        let cells = targets.counts.len();
        let mut values = vec![0f32; cells * CELL_VALUES];
        for i in 0..cells {
            values[i * CELL_VALUES] = -20.0;
        }
        for (cell, truth) in targets.cells.iter().zip(&targets.values) {
            let at = *cell as usize * CELL_VALUES;
            values[at] = 20.0;
            values[at + 1..at + CELL_VALUES].copy_from_slice(truth);
        }
        let cells = Tensor::from_slice(&values).view([1, cells as i64, CELL_VALUES as i64]);
        let loss = Loss::of(&cells, &targets);
        for part in [loss.score, loss.bbox, loss.points] {
            assert!(part.double_value(&[]).abs() < 1e-4, "{part:?}");
        }
    }

    #[test]
    fn overlap_matches_the_boxes_own_iou() {
        let boxes = [
            (face(0.0, 0.0, 10.0, 20.0), face(4.0, 5.0, 12.0, 16.0)),
            (face(0.0, 0.0, 5.0, 5.0), face(40.0, 0.0, 5.0, 9.0)),
        ];
        for (a, b) in boxes {
            let encode = |d: &Detection| {
                let c = d.bbox.center();
                Tensor::from_slice(&[c.x, c.y, d.bbox.w.ln(), d.bbox.h.ln()]).view([1, 4])
            };
            let (iou, diou) = overlap(&encode(&a), &encode(&b));
            let expected = f64::from(a.bbox.iou(&b.bbox));
            assert!((iou.double_value(&[0]) - expected).abs() < 1e-5);
            let (p, q) = (a.bbox.center(), b.bbox.center());
            let hull = |lo_a: f32, len_a: f32, lo_b: f32, len_b: f32| {
                (lo_a + len_a).max(lo_b + len_b) - lo_a.min(lo_b)
            };
            let (w, h) =
                (hull(a.bbox.x, a.bbox.w, b.bbox.x, b.bbox.w), hull(a.bbox.y, a.bbox.h, b.bbox.y, b.bbox.h));
            let apart = f64::from(((p.x - q.x).powi(2) + (p.y - q.y).powi(2)) / (w * w + h * h));
            assert!((diou.double_value(&[0]) - (expected - apart)).abs() < 1e-5);
        }
    }

    #[test]
    fn unsure_faces_count_neither_way() {
        let unsure = Detection { score: 0.4, ..face(40.0, 30.0, 40.0, 50.0) };
        let targets = Targets::of(&[scene(vec![unsure])]);
        assert_eq!(targets.positives(), 0);
        let silent = targets.counts.iter().filter(|&&c| c == 0.0).count();
        // 5 x 6 cells of 8 px, 2 x 3 of 16 px and at least one of 32 px lie within.
        assert!((35..80).contains(&silent), "{silent}");
    }

    #[test]
    fn the_scores_loss_has_the_gradient_of_its_closed_form() {
        // For a negative cell, q = 0: p^2 softplus(x); its derivative by central differences in f64.
        let x = Tensor::from_slice(&[-1.3f64, 0.4, 2.0]).set_requires_grad(true);
        let zeros = x.zeros_like().detach();
        quality_focal(&x, &zeros, &zeros.ones_like()).backward();
        let f = |x: f64| (1.0 / (1.0 + (-x).exp())).powi(2) * x.exp().ln_1p();
        for (i, v) in [-1.3, 0.4, 2.0].into_iter().enumerate() {
            let numeric = (f(v + 1e-5) - f(v - 1e-5)) / 2e-5;
            assert!((x.grad().double_value(&[i as i64]) - numeric).abs() < 1e-7);
        }
    }
}
