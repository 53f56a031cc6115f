//! What a method sees of a step's pictures.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Tensor};

use crate::augment::{AugmentConfig, Crop, Landmarks, augment, augment_crops, resized};
use crate::data::{mix, normalise};

/// What is done to a picture to make a view of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Treatment {
    /// Nothing but the size.
    Plain,
    /// What the run's augmentation draws.
    Augmented,
    /// The same on one of two crops, each within a quadrant of its own, of this share of the picture's side.
    Apart {
        /// Which of the two.
        which: usize,
        /// Side of the crop, at most a half.
        share: f64,
    },
}

/// A view that a method asks for of every tuple.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// The frame of the tuple.
    pub frame: usize,
    /// Views of one draw's number have the same draws.
    pub draw: u64,
    /// Whether the picture is mirrored before anything is drawn.
    pub mirrored: bool,
    /// What is done to it.
    pub treatment: Treatment,
    /// Only the first so many tuples have the view.
    pub tuples: Option<usize>,
}

impl View {
    /// A frame as it is.
    pub const fn plain(frame: usize) -> Self {
        Self { frame, draw: 0, mirrored: false, treatment: Treatment::Plain, tuples: None }
    }

    /// A frame with the draws of this number.
    pub const fn augmented(frame: usize, draw: u64) -> Self {
        Self { draw, treatment: Treatment::Augmented, ..Self::plain(frame) }
    }

    /// The same of the mirrored picture.
    pub const fn mirrored(self) -> Self {
        Self { mirrored: true, ..self }
    }
}

/// The views of pairs that contrastive methods ask for.
pub const PAIR: [View; 2] = [View::augmented(0, 0), View::augmented(1, 1)];

/// What a step learns from.
#[derive(Debug)]
pub struct Views {
    /// Normalised views `[N,3,S,S]`, in the order in which the method asks for them.
    pub views: Vec<Tensor>,
    /// `[N]`: tuples of the same number are hard negatives of each other.
    pub quadruples: Tensor,
    /// `[kN,3,L,L]` in `[0,1]`: the pictures before augmentation, first ones, then second ones and so on.
    pub pictures: Tensor,
    /// Landmarks of the pictures.
    pub landmarks: Vec<Landmarks>,
    /// For what a method draws once for all tuples of all processes.
    pub seed: u64,
    /// Of each tuple, for what a method draws for it.
    pub seeds: Vec<u64>,
}

impl Views {
    /// The first view, `[N,3,S,S]`.
    pub fn first(&self) -> &Tensor {
        &self.views[0]
    }

    /// The second view.
    pub fn second(&self) -> &Tensor {
        &self.views[1]
    }

    /// The same views, sharing their memory.
    pub fn shallow_clone(&self) -> Self {
        Self {
            views: self.views.iter().map(Tensor::shallow_clone).collect(),
            quadruples: self.quadruples.shallow_clone(),
            pictures: self.pictures.shallow_clone(),
            landmarks: self.landmarks.clone(),
            seed: self.seed,
            seeds: self.seeds.clone(),
        }
    }
}

/// How views are made.
#[derive(Clone, Copy, Debug)]
pub struct ViewSettings<'a> {
    /// What is drawn.
    pub augment: &'a AugmentConfig,
    /// Side of the views in pixels.
    pub side_px: u32,
    /// Channel means and deviations of the normalisation.
    pub normalisation: ([f32; 3], [f32; 3]),
}

impl ViewSettings<'_> {
    /// Makes what `plan` asks for of `pictures` `[kN,3,L,L]`, first ones, then second ones and so on; `seeds` has one a
    /// tuple.
    pub fn draw(
        &self,
        plan: &[View],
        pictures: &Tensor,
        landmarks: &[Landmarks],
        seeds: &[u64],
    ) -> Vec<Tensor> {
        let tuples = seeds.len();
        let rows = |view: &View| view.tuples.map_or(tuples, |most| most.min(tuples));
        let mut views: Vec<Option<Tensor>> = plan.iter().map(|_| None).collect();
        // Everything that is drawn is drawn in one go.
        let drawn: Vec<usize> = (0..plan.len()).filter(|&i| plan[i].treatment != Treatment::Plain).collect();
        if !drawn.is_empty() {
            let (mut parts, mut marks, mut draws, mut crops) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for &i in &drawn {
                let view = &plan[i];
                parts.push(part(pictures, view, tuples, rows(view)));
                for (row, seed) in seeds.iter().take(rows(view)).enumerate() {
                    draws.push(mix(*seed, view.draw));
                    // A mask would have to be mirrored, too; nobody asks for both.
                    marks.push(if view.mirrored { None } else { landmarks[view.frame * tuples + row] });
                    crops.push(match view.treatment {
                        Treatment::Apart { which, share } => {
                            Some(Crop::apart(mix(*seed, APART), share)[which])
                        }
                        _ => None,
                    });
                }
            }
            let all = if in_order(plan, &drawn) { pictures.shallow_clone() } else { Tensor::cat(&parts, 0) };
            let side = i64::from(self.side_px);
            let all = if crops.iter().all(Option::is_none) {
                augment(&all, &marks, self.augment, side, &draws)
            } else {
                augment_crops(&all, &marks, self.augment, side, &draws, &crops)
            };
            let all = self.normalised(&all);
            let mut start = 0;
            for i in drawn {
                let count = rows(&plan[i]) as i64;
                views[i] = Some(all.narrow(0, start, count));
                start += count;
            }
        }
        let plain = |view: &View| {
            let picture = part(pictures, view, tuples, rows(view));
            self.normalised(&resized(&picture, i64::from(self.side_px)))
        };
        views.into_iter().zip(plan).map(|(drawn, view)| drawn.unwrap_or_else(|| plain(view))).collect()
    }

    fn normalised(&self, pictures: &Tensor) -> Tensor {
        normalise(pictures, self.normalisation.0, self.normalisation.1)
    }
}

/// Standard normal values `[2N,..]` for two pictures of each tuple, first ones and then second ones, each with its own; `part` tells
/// the draws of a step apart.
pub(super) fn noise(size: &[i64], seeds: &[u64], part: u64, device: Device) -> Tensor {
    let each = size.iter().product::<i64>() as usize / (2 * seeds.len()).max(1);
    let of = |seed: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..each).map(move |_| StandardNormal.sample(&mut rng))
    };
    let both = (0..2).flat_map(|k| seeds.iter().flat_map(move |&seed| of(mix(seed, 2 * part + k))));
    Tensor::from_slice(&both.collect::<Vec<f32>>()).view(size).to_device(device)
}

/// Keeps the draws of crops apart from those of views.
const APART: u64 = 0x4150_4152;

/// The pictures of a view's frame.
fn part(pictures: &Tensor, view: &View, tuples: usize, rows: usize) -> Tensor {
    let part = pictures.narrow(0, (view.frame * tuples) as i64, rows as i64);
    if view.mirrored { part.flip([3]) } else { part }
}

/// Whether the views that are drawn are those of every frame in turn, so that the pictures can be taken as they lie.
fn in_order(plan: &[View], drawn: &[usize]) -> bool {
    let whole = |view: &View| !view.mirrored && view.tuples.is_none();
    drawn.len() == plan.len() && plan.iter().enumerate().all(|(i, view)| view.frame == i && whole(view))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Kind;

    const OFF: AugmentConfig = AugmentConfig::OFF;

    fn settings(augment: &AugmentConfig) -> ViewSettings<'_> {
        ViewSettings { augment, side_px: 8, normalisation: ([0.5; 3], [0.25; 3]) }
    }

    fn pictures() -> Tensor {
        tch::manual_seed(2);
        Tensor::rand([6, 3, 8, 8], (Kind::Float, Device::Cpu))
    }

    fn close(a: &Tensor, b: &Tensor) -> bool {
        a.size() == b.size() && (a - b).abs().max().double_value(&[]) < 1e-5
    }

    #[test]
    fn a_plan_gets_what_it_asks_for() {
        let x = pictures();
        let normal = (&x - 0.5) / 0.25;
        let plan = [
            View::plain(1),
            View::augmented(0, 0).mirrored(),
            View { tuples: Some(2), ..View::augmented(1, 3) },
            View::plain(0).mirrored(),
        ];
        let views = settings(&OFF).draw(&plan, &x, &[None; 6], &[4, 5, 6]);
        assert!(close(&views[0], &normal.narrow(0, 3, 3)));
        assert!(close(&views[1], &normal.narrow(0, 0, 3).flip([3])));
        assert!(close(&views[2], &normal.narrow(0, 3, 2)));
        assert!(close(&views[3], &views[1]));
    }

    #[test]
    fn views_of_one_number_have_the_same_draws() {
        let x = pictures();
        let x = Tensor::cat(&[x.narrow(0, 0, 3), x.narrow(0, 0, 3)], 0);
        let on = AugmentConfig { crop_scale: [0.3, 0.9], ..OFF };
        let plan = [View::augmented(0, 7), View::augmented(1, 7), View::augmented(1, 8)];
        let views = settings(&on).draw(&plan, &x, &[None; 6], &[4, 5, 6]);
        assert!(close(&views[0], &views[1]));
        assert!(!close(&views[0], &views[2]));
    }

    #[test]
    fn crops_apart_lie_in_quadrants_of_their_own() {
        // The picture tells, in its channels, where a pixel is.
        let place = Tensor::arange(64, (Kind::Float, Device::Cpu)) / 63.0;
        let (across, down) = (place.view([1, 1, 1, 64]), place.view([1, 1, 64, 1]));
        let at = |t: &Tensor| t.expand([1, 1, 64, 64], false);
        let x = Tensor::cat(&[at(&across), at(&down), at(&across).zeros_like()], 1);
        let plan = [0, 1].map(|which| View {
            treatment: Treatment::Apart { which, share: 0.4 },
            ..View::augmented(0, which as u64)
        });
        let mut quadrants = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let views = settings(&OFF).draw(&plan, &x, &[None], &[seed]);
            let of = |view: &Tensor| {
                let unit = view * 0.25 + 0.5;
                let range = |c: i64| {
                    let plane = unit.select(1, c);
                    (plane.min().double_value(&[]), plane.max().double_value(&[]))
                };
                let whole = |(low, high): (f64, f64)| {
                    assert!(high <= 0.51 || low >= 0.49, "{low} {high}");
                    assert!((high - low - 0.4 * 7.0 / 8.0).abs() < 0.03, "{low} {high}");
                    u8::from(low > 0.45)
                };
                whole(range(0)) + 2 * whole(range(1))
            };
            let pair = (of(&views[0]), of(&views[1]));
            assert_ne!(pair.0, pair.1);
            quadrants.insert(pair);
        }
        assert_eq!(quadrants.len(), 12, "every pair of quadrants comes up");
        // Mirrored as the augmentation draws it: what grows to the right falls.
        let mirroring = AugmentConfig { flip_p: 1.0, ..OFF };
        let view = settings(&mirroring).draw(&plan, &x, &[None], &[1]);
        let across = view[0].select(1, 0);
        assert!(across.double_value(&[0, 4, 0]) > across.double_value(&[0, 4, 7]));
    }
}
