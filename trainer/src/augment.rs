//! The spatial augmentation of SSLFER 4.1 (and PCL's Sobel filter), batched on the training device.
//!
//! Every picture of a batch gets draws of its own. The draws are made on the host from the picture's own seed, so that
//! a run that is resumed, or that several processes share, sees the same views, on any device.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_face::landmarks::MIRROR;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What is drawn, and how strongly. The defaults are SSLFER's (section 4.1 and its authors' settings).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of masking eyes or mouth, where landmarks are known.
    pub mask_p: f64,
    /// Least and greatest side of the square crop, as a share of the picture's side. SSLFER resizes to 128 px and
    /// crops 112 px: 0.875 both.
    pub crop_scale: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip_p: f64,
    /// Probability of changing colours.
    pub jitter_p: f64,
    /// Brightness factor within `1 +- brightness`.
    pub brightness: f64,
    /// Contrast factor within `1 +- contrast`.
    pub contrast: f64,
    /// Saturation factor within `1 +- saturation`.
    pub saturation: f64,
    /// Hue turn within `+- hue` of a full turn.
    pub hue: f64,
    /// Probability of blurring.
    pub blur_p: f64,
    /// Taps of the Gaussian blur, an odd number.
    pub blur_kernel: i64,
    /// Probability of turning grey.
    pub grey_p: f64,
    /// Probability of leaving only the strength of edges (PCL has 0.6; SSLFER does without).
    pub sobel_p: f64,
    /// Pictures are turned within `+-` so many degrees (CLP has 10; SSLFER does without).
    pub rotate_deg: f64,
    /// Probability of covering a random box, a fiftieth to a fifth of the view, with the view's mean colour (Zhong et al.
    /// 2020, random erasing).
    pub erase_p: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            mask_p: 0.8,
            crop_scale: [0.875, 0.875],
            flip_p: 0.5,
            jitter_p: 1.0,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.2,
            blur_p: 0.5,
            blur_kernel: 3,
            grey_p: 0.2,
            sobel_p: 0.0,
            rotate_deg: 0.0,
            erase_p: 0.0,
        }
    }
}

impl AugmentConfig {
    /// Nothing is done.
    pub const OFF: Self = Self {
        mask_p: 0.0,
        crop_scale: [1.0, 1.0],
        flip_p: 0.0,
        jitter_p: 0.0,
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
        hue: 0.0,
        blur_p: 0.0,
        blur_kernel: 3,
        grey_p: 0.0,
        sobel_p: 0.0,
        rotate_deg: 0.0,
        erase_p: 0.0,
    };

    /// The first setting that makes no sense for views of `side_px` pixels a side, in words.
    pub fn problem(&self, side_px: u32) -> Option<String> {
        let shares = [
            ("mask_p", self.mask_p),
            ("flip_p", self.flip_p),
            ("jitter_p", self.jitter_p),
            ("blur_p", self.blur_p),
            ("grey_p", self.grey_p),
            ("sobel_p", self.sobel_p),
            ("erase_p", self.erase_p),
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
            ("hue", self.hue),
        ];
        if let Some((name, value)) = shares.into_iter().find(|(_, v)| !(0.0..=1.0).contains(v)) {
            return Some(format!("{name} = {value} is outside [0, 1]"));
        }
        if !(0.0..=180.0).contains(&self.rotate_deg) {
            return Some(format!("rotate_deg = {} is outside [0, 180]", self.rotate_deg));
        }
        let [low, high] = self.crop_scale;
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return Some(format!("crop_scale = [{low}, {high}] is not 0 < low <= high <= 1"));
        }
        if self.blur_kernel < 1 || self.blur_kernel % 2 == 0 {
            return Some(format!("blur_kernel = {} is not odd and positive", self.blur_kernel));
        }
        // Beyond, an edge cannot be reflected.
        if self.blur_kernel / 2 >= i64::from(side_px) {
            return Some(format!("blur_kernel = {} is too wide for views of {side_px} px", self.blur_kernel));
        }
        None
    }
}

/// iBUG landmarks of the eyes.
pub(crate) const EYES: std::ops::Range<usize> = 36..48;
/// iBUG landmarks of the mouth.
pub(crate) const MOUTH: std::ops::Range<usize> = 48..68;
/// SSLFER widens a region's box by 10 px on pictures of 128 px.
const MASK_MARGIN: f32 = 10.0 / 128.0;
const MIN_SIGMA: f64 = 0.1;
const MAX_SIGMA: f64 = 2.0;

/// Landmarks of a picture in shares of its sides, `[x0, y0, x1, y1, ..]`; `None` where unknown.
pub type Landmarks = Option<[f32; 136]>;

/// Draws one view of every picture.
///
/// `pictures` is `[N,3,H,W]` with values in `[0,1]`; `landmarks` has an entry a picture, or none at all. The views
/// are `[N,3,side,side]` in `[0,1]`. Brightness, saturation, hue and grey are linear in a colour and are applied as
/// one matrix after the contrast; values are clamped once, after it.
pub fn augment(
    pictures: &Tensor,
    landmarks: &[Landmarks],
    config: &AugmentConfig,
    side_px: i64,
    seeds: &[u64],
) -> Tensor {
    augment_with_landmarks(pictures, landmarks, config, side_px, seeds).0
}

/// [`augment`], and where the landmarks lie in each view: they follow crop and flip, and may come to lie outside.
pub fn augment_with_landmarks(
    pictures: &Tensor,
    landmarks: &[Landmarks],
    config: &AugmentConfig,
    side_px: i64,
    seeds: &[u64],
) -> (Tensor, Vec<Landmarks>) {
    let draws: Vec<Draw> = seeds.iter().map(|&seed| Draw::new(config, seed)).collect();
    let views = drawn(pictures, landmarks, config, side_px, &draws);
    let moved = draws.iter().zip(landmarks).map(|(d, l)| l.as_ref().map(|l| d.crop.follow(l))).collect();
    (views, moved)
}

/// [`augment`], with the places of crops chosen by somebody else where there are; they are mirrored and turned as drawn.
pub(crate) fn augment_crops(
    pictures: &Tensor,
    landmarks: &[Landmarks],
    config: &AugmentConfig,
    side_px: i64,
    seeds: &[u64],
    crops: &[Option<Crop>],
) -> Tensor {
    let draw = |(&seed, crop): (&u64, &Option<Crop>)| {
        let draw = Draw::new(config, seed);
        let Crop { flipped, turn, .. } = draw.crop;
        let crop = crop.map_or(draw.crop, |crop| Crop { flipped, turn, ..crop });
        Draw { crop, ..draw }
    };
    let draws: Vec<Draw> = seeds.iter().zip(crops).map(draw).collect();
    drawn(pictures, landmarks, config, side_px, &draws)
}

/// The whole pictures at `side_px`.
pub(crate) fn resized(pictures: &Tensor, side_px: i64) -> Tensor {
    if pictures.size()[2..] == [side_px; 2] {
        return pictures.shallow_clone();
    }
    let whole = Crop { scale: 1.0, offset: [0.0; 2], flipped: false, turn: 0.0 }.theta();
    affine_crops(pictures, std::iter::repeat_n(whole, pictures.size()[0] as usize), side_px)
}

fn drawn(
    pictures: &Tensor,
    landmarks: &[Landmarks],
    config: &AugmentConfig,
    side_px: i64,
    draws: &[Draw],
) -> Tensor {
    let device = pictures.device();
    let masked = mask(pictures, landmarks, draws);
    let coloured =
        recolour(&affine_crops(&masked, draws.iter().map(|draw| draw.crop.theta()), side_px), draws);
    let blurred = if draws.iter().all(|draw| draw.sigma == 0.0) || config.blur_kernel == 1 {
        coloured
    } else {
        blur(&coloured, draws, config.blur_kernel)
    };
    let filtered: Vec<bool> = draws.iter().map(|draw| draw.sobel).collect();
    let views = if filtered.contains(&true) {
        let filtered = Tensor::from_slice(&filtered).to_device(device).view([-1, 1, 1, 1]);
        sobel(&blurred).where_self(&filtered, &blurred)
    } else {
        blurred
    };
    erase(views, draws)
}

/// What is done to one picture.
#[derive(Clone, Debug)]
struct Draw {
    /// The region that is masked, where one is.
    masked: Option<std::ops::Range<usize>>,
    crop: Crop,
    /// Factor on what deviates from the mean luma.
    contrast: f64,
    /// What then becomes of a colour.
    colours: Matrix,
    /// Deviation of the blur in pixels; 0 for none.
    sigma: f64,
    sobel: bool,
    /// Middle and half sides of the box that is covered, in shares of the view; half sides of 0 for none.
    erased: [f32; 4],
}

impl Draw {
    fn new(config: &AugmentConfig, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let region = if rng.random_bool(0.5) { EYES } else { MOUTH };
        let masked = rng.random_bool(config.mask_p).then_some(region);
        let crop = Crop::draw(config, &mut rng);
        let (contrast, colours) = draw_colours(config, &mut rng);
        let sigma = rng.random_range(MIN_SIGMA..MAX_SIGMA);
        let sigma = if rng.random_bool(config.blur_p) { sigma } else { 0.0 };
        let sobel = rng.random_bool(config.sobel_p);
        let mut crop = crop;
        if config.rotate_deg > 0.0 {
            crop.turn = rng.random_range(-config.rotate_deg..=config.rotate_deg).to_radians();
        }
        let erased = if config.erase_p > 0.0 { draw_box(config.erase_p, &mut rng) } else { [0.0; 4] };
        Self { masked, crop, contrast, colours, sigma, sobel, erased }
    }
}

/// A box within the view: a share of 0.02 to 0.2 of it, sides in a ratio of 0.5 to 2.
fn draw_box(probability: f64, rng: &mut impl Rng) -> [f32; 4] {
    let (area, ratio): (f32, f32) = (rng.random_range(0.02..=0.2), rng.random_range(-1.0f32..=1.0).exp2());
    let half = [(area * ratio).sqrt() / 2.0, (area / ratio).sqrt() / 2.0];
    let [x, y] = half.map(|half| rng.random_range(half..=1.0 - half));
    if rng.random_bool(probability) { [x, y, half[0], half[1]] } else { [0.0; 4] }
}

/// Covers the boxes with each view's mean colour.
fn erase(views: Tensor, draws: &[Draw]) -> Tensor {
    let boxes: Vec<_> = draws.iter().map(|draw| draw.erased).collect();
    if boxes.iter().all(|b| b[2] == 0.0) {
        return views;
    }
    cover(&views, &boxes, |dx, dy| dx.abs().maximum(&dy.abs()))
}

/// Fills regions with each picture's mean colour: where `reach` of the offset from the middle, in half axes, is at most 1. A
/// region is its middle and half axes in shares of the picture; half axes of 0 are no region.
fn cover(pictures: &Tensor, regions: &[[f32; 4]], reach: impl Fn(&Tensor, &Tensor) -> Tensor) -> Tensor {
    let device = pictures.device();
    let size = pictures.size();
    let regions = Tensor::from_slice2(regions).to_device(device).view([-1, 4, 1, 1]);
    let part = |i| regions.narrow(1, i, 1);
    let centres = |n: i64| (Tensor::arange(n, (Kind::Float, device)) + 0.5) / n as f64;
    let dx = (centres(size[3]).view([1, 1, 1, -1]) - part(0)) / part(2).clamp_min(1e-6);
    let dy = (centres(size[2]).view([1, 1, -1, 1]) - part(1)) / part(3).clamp_min(1e-6);
    let mean = pictures.mean_dim([2, 3].as_slice(), true, None).expand_as(pictures);
    mean.where_self(&reach(&dx, &dy).le(1.0), pictures)
}

/// Magnitude of the gradient of each channel by Sobel's filters, edges replicated; at most `sqrt(1/2)` for values in
/// `[0,1]`.
fn sobel(pictures: &Tensor) -> Tensor {
    let size = pictures.size();
    let padded = pictures.replication_pad2d([1, 1, 1, 1]);
    let at = |dy: i64, dx: i64| padded.narrow(2, 1 + dy, size[2]).narrow(3, 1 + dx, size[3]);
    let smoothed_rows = |dx: i64| at(-1, dx) + at(0, dx) * 2.0 + at(1, dx);
    let smoothed_columns = |dy: i64| at(dy, -1) + at(dy, 0) * 2.0 + at(dy, 1);
    const SUM: f64 = 8.0;
    let across = (smoothed_rows(1) - smoothed_rows(-1)) / SUM;
    let down = (smoothed_columns(1) - smoothed_columns(-1)) / SUM;
    (across.square() + down.square()).sqrt()
}

/// Fills an ellipse over the eyes or the mouth with the picture's mean colour.
fn mask(pictures: &Tensor, landmarks: &[Landmarks], draws: &[Draw]) -> Tensor {
    let ellipse = |(landmarks, draw): (&Landmarks, &Draw)| match (landmarks, &draw.masked) {
        (Some(points), Some(region)) => ellipse_over(&points[2 * region.start..2 * region.end]),
        _ => [0.0; 4],
    };
    let ellipses: Vec<_> = landmarks.iter().zip(draws).map(ellipse).collect();
    if ellipses.iter().all(|e| e[2] == 0.0) {
        return pictures.shallow_clone();
    }
    cover(pictures, &ellipses, |dx, dy| dx.square() + dy.square())
}

/// Centre and half axes of the ellipse in the widened box of these points.
fn ellipse_over(points: &[f32]) -> [f32; 4] {
    let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
    for point in points.chunks_exact(2) {
        for axis in 0..2 {
            low[axis] = low[axis].min(point[axis]);
            high[axis] = high[axis].max(point[axis]);
        }
    }
    let half = |axis: usize| (high[axis] - low[axis]) / 2.0 + MASK_MARGIN;
    [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0, half(0), half(1)]
}

/// A square crop, flipped or not, turned or not. Its middle is off the picture's by `offset` of half a side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crop {
    scale: f64,
    offset: [f64; 2],
    flipped: bool,
    /// Radians, clockwise.
    turn: f64,
}

impl Crop {
    /// A crop of random size and place.
    fn draw(config: &AugmentConfig, rng: &mut impl Rng) -> Self {
        let [low, high] = config.crop_scale;
        let scale = if low < high { rng.random_range(low..=high) } else { low };
        let play = 1.0 - scale;
        let offset = [rng.random_range(-1.0..=1.0) * play, rng.random_range(-1.0..=1.0) * play];
        Self { scale, offset, flipped: rng.random_bool(config.flip_p), turn: 0.0 }
    }

    /// Two crops of `share` of the picture's side, at most a half, each within a quadrant of its own.
    pub(crate) fn apart(seed: u64, share: f64) -> [Self; 2] {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let first = rng.random_range(0..4u32);
        let second = (first + rng.random_range(1..4u32)) % 4;
        [first, second].map(|quadrant| {
            // The middle of a crop within a quadrant, which reaches from 0 to 1 in half sides of the picture.
            let mut middle = |far: bool| {
                let place = rng.random_range(share..=(1.0 - share).max(share));
                if far { place } else { place - 1.0 }
            };
            let offset = [middle(quadrant % 2 == 1), middle(quadrant > 1)];
            Self { scale: share, offset, flipped: false, turn: 0.0 }
        })
    }

    /// The map from the crop's coordinates in `[-1,1]` to the picture's, as two rows of an affine matrix.
    fn theta(&self) -> [f32; 6] {
        let across = if self.flipped { -self.scale } else { self.scale };
        let (sin, cos) = self.turn.sin_cos();
        let (right, down) = ([across * cos, across * sin], [-self.scale * sin, self.scale * cos]);
        [right[0], down[0], self.offset[0], right[1], down[1], self.offset[1]].map(|v| v as f32)
    }

    /// Where landmarks of the picture lie in the crop; a flip makes left ones right.
    fn follow(&self, landmarks: &[f32; 136]) -> [f32; 136] {
        let [a, b, dx, c, d, dy] = self.theta();
        let area = a * d - b * c;
        let place = |i: usize| {
            let (x, y) = (2.0 * landmarks[2 * i] - 1.0 - dx, 2.0 * landmarks[2 * i + 1] - 1.0 - dy);
            [((d * x - b * y) / area + 1.0) / 2.0, ((a * y - c * x) / area + 1.0) / 2.0]
        };
        let mut moved = [0.0; 136];
        for (i, point) in moved.chunks_exact_mut(2).enumerate() {
            point.copy_from_slice(&place(if self.flipped { MIRROR[i] } else { i }));
        }
        moved
    }
}

/// A crop of each picture `[N,3,H,W]`, resampled to `side_px` by bilinear interpolation, edges replicated. `maps` has for
/// each the map from the crop's coordinates in `[-1,1]` to the picture's, as two rows of an affine matrix.
pub(crate) fn affine_crops(pictures: &Tensor, maps: impl Iterator<Item = [f32; 6]>, side_px: i64) -> Tensor {
    let theta: Vec<f32> = maps.flatten().collect();
    let theta = Tensor::from_slice(&theta).view([-1, 2, 3]).to_device(pictures.device());
    let grid = Tensor::affine_grid_generator(&theta, [theta.size()[0], 3, side_px, side_px], false);
    const BILINEAR: i64 = 0;
    const BORDER: i64 = 1;
    pictures.grid_sampler_2d(&grid, BILINEAR, BORDER, false)
}

/// Luma of RGB (ITU-R BT.601), the grey that torchvision's jitter uses.
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];

type Matrix = [[f64; 3]; 3];

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

/// Mixes a colour with its grey: 1 keeps it, 0 is grey.
fn saturation(factor: f64) -> Matrix {
    std::array::from_fn(|i| {
        std::array::from_fn(|j| (1.0 - factor) * LUMA[j] + if i == j { factor } else { 0.0 })
    })
}

/// Turns a colour about the grey axis by `turns` of a full turn (Rodrigues' formula).
fn hue(turns: f64) -> Matrix {
    let (sin, cos) = (turns * std::f64::consts::TAU).sin_cos();
    let same = cos + (1.0 - cos) / 3.0;
    let (right, left) = ((1.0 - cos) / 3.0 - sin / 3f64.sqrt(), (1.0 - cos) / 3.0 + sin / 3f64.sqrt());
    [[same, right, left], [left, same, right], [right, left, same]]
}

/// The factor of the contrast, and brightness, saturation, hue and grey as one matrix.
fn draw_colours(config: &AugmentConfig, rng: &mut impl Rng) -> (f64, Matrix) {
    let mut around = |spread: f64| {
        if spread > 0.0 { rng.random_range(-spread..=spread) } else { 0.0 }
    };
    let draws = [config.brightness, config.contrast, config.saturation, config.hue].map(&mut around);
    let [brightness, contrast, colour, turn] =
        if rng.random_bool(config.jitter_p) { draws } else { [0.0; 4] };
    let mut matrix = product(&hue(turn), &saturation(1.0 + colour));
    if rng.random_bool(config.grey_p) {
        matrix = product(&saturation(0.0), &matrix);
    }
    (1.0 + contrast, matrix.map(|row| row.map(|v| v * (1.0 + brightness))))
}

/// Contrast about the mean luma, then each picture's matrix.
fn recolour(pictures: &Tensor, draws: &[Draw]) -> Tensor {
    let matrices: Vec<f32> =
        draws.iter().flat_map(|draw| draw.colours.into_iter().flatten()).map(|v| v as f32).collect();
    let contrasts: Vec<f32> = draws.iter().map(|draw| draw.contrast as f32).collect();
    let device = pictures.device();
    let matrices = Tensor::from_slice(&matrices).view([-1, 3, 3]).to_device(device);
    let contrasts = Tensor::from_slice(&contrasts).view([-1, 1, 1]).to_device(device);
    let size = pictures.size();
    let flat = pictures.reshape([size[0], 3, -1]);
    let luma = Tensor::from_slice(&LUMA).to_kind(Kind::Float).to_device(device).view([1, 3, 1]);
    let mean =
        (&flat * luma).sum_dim_intlist([1].as_slice(), true, None).mean_dim([2].as_slice(), true, None);
    let contrasted = &flat * &contrasts + mean * (1.0 - &contrasts);
    matrices.matmul(&contrasted).clamp(0.0, 1.0).view(size.as_slice())
}

/// Blurs each picture with a separable Gaussian of its own deviation in pixels (0: not at all), edges reflected.
fn blur(pictures: &Tensor, draws: &[Draw], kernel: i64) -> Tensor {
    let reach = kernel / 2;
    let weights: Vec<f32> = draws.iter().flat_map(|draw| gaussian(draw.sigma, reach)).collect();
    let weights = Tensor::from_slice(&weights).view([-1, kernel, 1, 1]).to_device(pictures.device());
    let padded = pictures.reflection_pad2d([reach; 4]);
    let size = pictures.size();
    let pass = |x: &Tensor, dim: i64, length: i64| {
        (0..kernel).fold(Tensor::new(), |sum, tap| {
            let term = x.narrow(dim, tap, length) * weights.narrow(1, tap, 1);
            if sum.defined() { sum + term } else { term }
        })
    };
    pass(&pass(&padded, 3, size[3]), 2, size[2])
}

/// `2 reach + 1` weights that sum to 1.
fn gaussian(sigma: f64, reach: i64) -> impl Iterator<Item = f32> {
    let weight = move |i: i64| {
        if sigma > 0.0 { (-0.5 * (i as f64 / sigma).powi(2)).exp() } else { f64::from(u8::from(i == 0)) }
    };
    let sum: f64 = (-reach..=reach).map(weight).sum();
    (-reach..=reach).map(move |i| (weight(i) / sum) as f32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Device;

    const OFF: AugmentConfig = AugmentConfig::OFF;

    fn pictures() -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let values: Vec<f32> = (0..2 * 3 * 12 * 12).map(|_| rng.random_range(0.0..1.0)).collect();
        Tensor::from_slice(&values).view([2, 3, 12, 12])
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    fn at(t: &Tensor, n: i64, c: i64, y: i64, x: i64) -> f64 {
        t.double_value(&[n, c, y, x])
    }

    #[test]
    fn everything_off_is_the_identity_and_the_seed_decides() {
        let x = pictures();
        assert!(distance(&augment(&x, &[], &OFF, 12, &[1, 1]), &x) < 1e-5);
        let on = AugmentConfig::default();
        let view = |seed| augment(&x, &[], &on, 8, &[seed, seed + 1]);
        assert_eq!(distance(&view(5), &view(5)), 0.0);
        assert!(distance(&view(5), &view(6)) > 0.01);
        assert_eq!(view(5).size(), [2, 3, 8, 8]);
        assert!(view(5).min().double_value(&[]) >= 0.0 && view(5).max().double_value(&[]) <= 1.0 + 1e-6);
    }

    #[test]
    fn a_flip_mirrors_columns() {
        let x = pictures();
        let y = augment(&x, &[], &AugmentConfig { flip_p: 1.0, ..OFF }, 12, &[1, 1]);
        assert!(distance(&y, &x.flip([3])) < 1e-5);
    }

    #[test]
    fn grey_is_luma_in_every_channel() {
        let x = pictures();
        let y = augment(&x, &[], &AugmentConfig { grey_p: 1.0, ..OFF }, 12, &[1, 1]);
        let expected: f64 = (0..3).map(|c| LUMA[c as usize] * at(&x, 1, c, 4, 7)).sum();
        for c in 0..3 {
            assert!((at(&y, 1, c, 4, 7) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn a_hue_turn_of_a_third_permutes_the_channels_and_keeps_grey() {
        let turned = hue(1.0 / 3.0);
        let colour = [0.9, 0.2, 0.4];
        let out: Vec<f64> = turned.iter().map(|row| (0..3).map(|k| row[k] * colour[k]).sum()).collect();
        for (got, want) in out.iter().zip([0.4, 0.9, 0.2]) {
            assert!((got - want).abs() < 1e-9, "{out:?}");
        }
        for row in hue(0.137) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn blur_is_the_gaussian_sum_over_neighbours() {
        let x = pictures();
        let sigma = 0.9;
        let draws = [0.0, sigma].map(|sigma| Draw { sigma, ..Draw::new(&OFF, 1) });
        let y = blur(&x, &draws, 3);
        assert!(distance(&y.narrow(0, 0, 1), &x.narrow(0, 0, 1)) < 1e-6, "a deviation of 0 leaves a picture");
        let w = |d: i64| (-0.5 * (d as f64 / sigma).powi(2)).exp();
        let (mut sum, mut norm) = (0.0, 0.0);
        for dy in -1..=1 {
            for dx in -1..=1 {
                sum += w(dx) * w(dy) * at(&x, 1, 2, 5 + dy, 6 + dx);
                norm += w(dx) * w(dy);
            }
        }
        assert!((at(&y, 1, 2, 5, 6) - sum / norm).abs() < 1e-5);
    }

    #[test]
    fn landmarks_stay_on_what_they_mark() {
        // A white spot on black marks landmark 36; where the view is brightest, its landmark lies.
        let side = 64;
        for seed in 0..20 {
            let x = Tensor::zeros([1, 3, side, side], (Kind::Float, Device::Cpu));
            let _ = x.narrow(2, 30, 4).narrow(3, 27, 4).fill_(1.0);
            let mut points = [0.5; 136];
            (points[72], points[73]) = (29.0 / 64.0, 32.0 / 64.0);
            let config = AugmentConfig { crop_scale: [0.6, 1.0], flip_p: 0.5, rotate_deg: 30.0, ..OFF };
            let (y, moved) = augment_with_landmarks(&x, &[Some(points)], &config, 48, &[seed]);
            let weight = y.narrow(1, 0, 1).view([48, 48]);
            let centres = (Tensor::arange(48, (Kind::Float, Device::Cpu)) + 0.5) / 48.0;
            let mean = |dim: i64| {
                let profile = weight.sum_dim_intlist([dim].as_slice(), false, None);
                ((&profile * &centres).sum(None) / profile.sum(None)).double_value(&[]) as f32
            };
            let moved = moved[0].unwrap();
            // A mirrored left outer corner of the eye is a right one.
            let marks = [36, 45].map(|i| (moved[2 * i] - mean(0)).hypot(moved[2 * i + 1] - mean(1)));
            assert!(marks[0].min(marks[1]) < 0.01, "seed {seed}: {marks:?}");
        }
    }

    #[test]
    fn sobel_is_the_weighted_difference_of_neighbours() {
        let x = pictures();
        let y = augment(&x, &[], &AugmentConfig { sobel_p: 1.0, ..OFF }, 12, &[1, 1]);
        let v = |dy: i64, dx: i64| at(&x, 1, 2, 5 + dy, 6 + dx);
        let across = v(-1, 1) - v(-1, -1) + 2.0 * (v(0, 1) - v(0, -1)) + v(1, 1) - v(1, -1);
        let down = v(1, -1) - v(-1, -1) + 2.0 * (v(1, 0) - v(-1, 0)) + v(1, 1) - v(-1, 1);
        assert!((at(&y, 1, 2, 5, 6) - across.hypot(down) / 8.0).abs() < 1e-5);
    }

    #[test]
    fn the_mask_covers_eyes_or_mouth_and_nothing_else() {
        let x = pictures();
        let mut points = [0.0; 136];
        for i in 0..68 {
            points[2 * i] = 0.5;
            points[2 * i + 1] = if EYES.contains(&i) { 0.2 } else { 0.8 };
        }
        let config = AugmentConfig { mask_p: 1.0, ..OFF };
        let y = augment(&x, &[Some(points), None], &config, 12, &[4, 5]);
        assert!(distance(&y.narrow(0, 1, 1), &x.narrow(0, 1, 1)) < 1e-5, "no landmarks, no mask");
        let mean = x.narrow(0, 0, 1).mean_dim([2, 3].as_slice(), false, None);
        let changed: Vec<(i64, i64)> = (0..12)
            .flat_map(|r| (0..12).map(move |c| (r, c)))
            .filter(|&(r, c)| (at(&y, 0, 0, r, c) - at(&x, 0, 0, r, c)).abs() > 1e-4)
            .collect();
        assert!(!changed.is_empty());
        for (r, c) in changed {
            assert!((at(&y, 0, 0, r, c) - mean.double_value(&[0, 0])).abs() < 1e-4);
            let (dy, dx) = ((r as f32 + 0.5) / 12.0, (c as f32 + 0.5) / 12.0 - 0.5);
            let near = |centre: f32| (dy - centre).hypot(dx) <= MASK_MARGIN + 1e-3;
            assert!(near(0.2) || near(0.8), "row {r} column {c}");
        }
    }

    #[test]
    fn a_box_of_a_fiftieth_to_a_fifth_of_the_view_is_covered_with_its_mean() {
        let erasing = AugmentConfig { erase_p: 1.0, ..OFF };
        let ramp = Tensor::arange(64 * 64, (Kind::Float, Device::Cpu))
            .view([1, 1, 64, 64])
            .expand([8, 3, 64, 64], false)
            / 4096.0;
        let seeds: Vec<u64> = (0..8).collect();
        let erased = augment(&ramp, &[], &erasing, 64, &seeds);
        let changed = (&erased - &ramp).abs().gt(1e-4);
        let shares = Vec::<f64>::try_from(changed.to_kind(Kind::Double).mean_dim(
            [1, 2, 3].as_slice(),
            false,
            Kind::Double,
        ))
        .unwrap();
        assert!(shares.iter().all(|share| (0.01..0.22).contains(share)), "{shares:?}");
        let covered = erased.masked_select(&changed);
        assert!((covered - ramp.mean(Kind::Float)).abs().max().double_value(&[]) < 1e-5);
        assert!(distance(&augment(&ramp, &[], &OFF, 64, &seeds), &ramp) < 1e-5);
    }
}
