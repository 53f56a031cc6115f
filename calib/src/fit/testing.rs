//! People made up for tests: heads that fit the population, and a person who differs from it.
#![allow(clippy::unwrap_used)]

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::dataset::{Dataset, Label, Moment};
use crate::heads::{HeadKind, Heads, LinearHead, MAX_LABELS, VALENCE_AROUSAL};

pub(crate) const CLASSES: usize = 4;
pub(crate) const UNITS: usize = 3;

/// Class centres of the population, those of one person, and the heads of the population.
pub(crate) struct Person {
    centres: Vec<Vec<f32>>,
    seed: u64,
    pub(crate) heads: Heads,
}

/// A standard normal number (Box-Muller).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let mut unit = || (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
    ((-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()) as f32
}

pub(crate) fn normals(rng: &mut ChaCha8Rng, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|_| scale * normal(rng)).collect()
}

fn plus(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Labels that go with a class: valence falls with it, and a unit stands for each of the first classes.
pub(crate) fn label(class: usize) -> Label {
    let valence = (0.8 - 0.5 * class as f32).max(-1.0);
    let mut units = [f32::NAN; MAX_LABELS];
    (0..UNITS).for_each(|u| units[u] = if u == class { 0.9 } else { 0.1 });
    Label {
        expression: Some(class as u8),
        valence_arousal: Some([valence, 0.5 * valence * valence]),
        action_units: Some(units),
    }
}

impl Person {
    /// A person whose every expression looks in part (0 to 1) like the population's next one, in `dim` values.
    pub(crate) fn new(seed: u64, dim: usize, mixed: f32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scale = 2.0 / (dim as f32).sqrt();
        let population: Vec<Vec<f32>> = (0..CLASSES).map(|_| normals(&mut rng, dim, scale)).collect();
        let shift = normals(&mut rng, dim, scale);
        let share = |c: usize, by: f32| population[c % CLASSES].iter().map(|v| by * v).collect::<Vec<_>>();
        let own = |c: usize| plus(&plus(&share(c, 1.0 - mixed), &share(c + 1, mixed)), &shift);
        let centres = (0..CLASSES).map(own).collect();
        let bias = population.iter().map(|c| -0.5 * c.iter().map(|v| v * v).sum::<f32>()).collect();
        let labels = |prefix: &str, n: usize| (0..n).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>();
        let expression =
            LinearHead::new("e", labels("class", CLASSES), dim, population.concat(), bias).unwrap();
        let va = VALENCE_AROUSAL.map(str::to_owned).to_vec();
        let va = LinearHead::new("va", va, dim, normals(&mut rng, 2 * dim, 0.1), vec![0.0; 2]).unwrap();
        let au = normals(&mut rng, UNITS * dim, 0.1);
        let au = LinearHead::new("au", labels("AU0", UNITS), dim, au, vec![0.0; UNITS]).unwrap();
        let heads =
            [(HeadKind::Expression, expression), (HeadKind::ValenceArousal, va), (HeadKind::ActionUnits, au)];
        Self { centres, seed, heads: Heads::new(dim, heads).unwrap() }
    }

    /// `repeats` blocks of every class with `frames` moments each.
    pub(crate) fn session(&self, repeats: usize, frames: usize) -> Dataset {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x5eed);
        let dim = self.heads.dim();
        let scale = 1.0 / (dim as f32).sqrt();
        let mut data = Dataset::new(dim);
        for block in 0..repeats * CLASSES {
            let class = block % CLASSES;
            let held = plus(&self.centres[class], &normals(&mut rng, dim, 0.7 * scale));
            for frame in 0..frames {
                let t_secs = block as f64 * 5.0 + frame as f64 * 0.1;
                let moment = Moment { t_secs, block: block as u32, label: label(class) };
                data.push(moment, &plus(&held, &normals(&mut rng, dim, 0.5 * scale))).unwrap();
            }
        }
        data
    }
}

/// The largest difference of two heads' logits on the data.
pub(crate) fn largest_gap(a: Option<&LinearHead>, b: Option<&LinearHead>, data: &Dataset) -> f32 {
    let (a, b) = (a.unwrap(), b.unwrap());
    let mut out = [vec![0.0; a.labels().len()], vec![0.0; a.labels().len()]];
    let mut gap = 0.0_f32;
    for i in 0..data.len() {
        a.logits_into(data.embedding(i), &mut out[0]);
        b.logits_into(data.embedding(i), &mut out[1]);
        gap = out[0].iter().zip(&out[1]).fold(gap, |gap, (a, b)| gap.max((a - b).abs()));
    }
    gap
}
