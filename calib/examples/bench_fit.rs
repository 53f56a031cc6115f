//! What fitting costs on one core: `cargo run --release -p semblance-calib --example bench_fit`.

use std::error::Error;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_calib::fit::{FitOptions, Updater, fit};
use semblance_calib::heads::VALENCE_AROUSAL;
use semblance_calib::{Dataset, HeadKind, Heads, Label, LinearHead, MAX_LABELS, Moment};

const CLASSES: usize = 7;
const UNITS: usize = 12;
/// Labelled stretches: seven expressions, three times each.
const BLOCKS: usize = 21;
/// Directions in which a block's frames differ from each other.
const WITHIN: usize = 24;

fn normals(rng: &mut ChaCha8Rng, count: usize, scale: f64) -> Vec<f32> {
    let mut unit = || (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
    let mut normal = || (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
    (0..count).map(|_| (scale * normal()) as f32).collect()
}

/// A head that fits the class centres roughly, as a population's does.
fn heads(rng: &mut ChaCha8Rng, centres: &[Vec<f32>], dim: usize) -> Result<Heads, Box<dyn Error>> {
    let mut head = |labels: Vec<String>, like: &[Vec<f32>]| {
        let weight: Vec<f32> = (0..labels.len())
            .flat_map(|row| {
                let noise = normals(rng, dim, 0.05);
                let like = like.get(row).cloned().unwrap_or_else(|| vec![0.0; dim]);
                noise.into_iter().zip(like).map(|(n, l)| n + l).collect::<Vec<_>>()
            })
            .collect();
        let bias = vec![0.0; labels.len()];
        LinearHead::new("head", labels, dim, weight, bias)
    };
    let named = |what: &str, count: usize| (0..count).map(|i| format!("{what}{i}")).collect();
    Ok(Heads::new(
        dim,
        [
            (HeadKind::Expression, head(named("class", CLASSES), centres)?),
            (HeadKind::ValenceArousal, head(VALENCE_AROUSAL.map(str::to_owned).to_vec(), &[])?),
            (HeadKind::ActionUnits, head(named("AU", UNITS), &[])?),
        ],
    )?)
}

/// A session of `count` labelled moments: frames of a block share most of what they show.
fn session(
    rng: &mut ChaCha8Rng,
    centres: &[Vec<f32>],
    dim: usize,
    count: usize,
) -> Result<Dataset, Box<dyn Error>> {
    let scale = 1.0 / (dim as f64).sqrt();
    let within: Vec<Vec<f32>> = (0..WITHIN).map(|_| normals(rng, dim, 0.5 * scale)).collect();
    let mut data = Dataset::new(dim);
    for block in 0..BLOCKS {
        let class = block % CLASSES;
        let held = normals(rng, dim, 0.7 * scale);
        let mut units = [f32::NAN; MAX_LABELS];
        (0..UNITS).for_each(|u| units[u] = f32::from(u8::from((u + class).is_multiple_of(3))));
        let valence = class as f32 / 3.0 - 1.0;
        let label = Label {
            expression: Some(class as u8),
            valence_arousal: Some([valence, valence * valence]),
            action_units: Some(units),
        };
        for frame in (block..count).step_by(BLOCKS) {
            let mut embedding = normals(rng, dim, 0.1 * scale);
            let mixed = normals(rng, WITHIN, (1.0 / WITHIN as f64).sqrt() * 3.0);
            for (j, value) in embedding.iter_mut().enumerate() {
                let moved: f32 = within.iter().zip(&mixed).map(|(w, m)| w[j] * m).sum();
                *value += centres[class][j] + held[j] + moved;
            }
            data.push(Moment { t_secs: frame as f64, block: block as u32, label }, &embedding)?;
        }
    }
    Ok(data)
}

fn only(data: &Dataset, kind: Option<HeadKind>) -> Result<Dataset, Box<dyn Error>> {
    let mut out = Dataset::new(data.dim());
    for (i, moment) in data.moments().iter().enumerate() {
        let label = match kind {
            None => moment.label,
            Some(HeadKind::Expression) => Label { expression: moment.label.expression, ..Label::default() },
            Some(HeadKind::ValenceArousal) => {
                Label { valence_arousal: moment.label.valence_arousal, ..Label::default() }
            }
            Some(HeadKind::ActionUnits) => {
                Label { action_units: moment.label.action_units, ..Label::default() }
            }
        };
        out.push(Moment { label, ..*moment }, data.embedding(i))?;
    }
    Ok(out)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() -> Result<(), Box<dyn Error>> {
    let dim = 512;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let centres: Vec<Vec<f32>> =
        (0..CLASSES).map(|_| normals(&mut rng, dim, 1.5 / (dim as f64).sqrt())).collect();
    let heads = heads(&mut rng, &centres, dim)?;
    let options = FitOptions::default();
    for count in [700, 2000] {
        let all = session(&mut rng, &centres, dim, count)?;
        println!("{count} labels, embedding of {dim}, {CLASSES} expressions, {UNITS} action units");
        for (what, kind) in [
            ("expression", Some(HeadKind::Expression)),
            ("va", Some(HeadKind::ValenceArousal)),
            ("au", Some(HeadKind::ActionUnits)),
            ("all heads", None),
        ] {
            let data = only(&all, kind)?;
            let mut refit = Vec::new();
            for _ in 0..5 {
                let copy = data.clone();
                let start = Instant::now();
                std::hint::black_box(Updater::new(&heads, copy, None, &options)?);
                refit.push(ms(start.elapsed()));
            }
            let mut updater = Updater::new(&heads, data.clone(), None, &options)?;
            let mut update = Vec::new();
            for i in 0..200 {
                let row = (i * 37) % data.len();
                let start = Instant::now();
                updater.push(data.moments()[row], data.embedding(row))?;
                std::hint::black_box(updater.heads()?);
                update.push(ms(start.elapsed()));
            }
            refit.sort_by(f64::total_cmp);
            update.sort_by(f64::total_cmp);
            let start = Instant::now();
            updater.settle();
            let again = ms(start.elapsed());
            println!(
                "  {what:<11} refit {:7.1} ms   refit after 200 labels {again:7.1} ms   label p50 {:.3} p99 {:.3} ms   {:.2} MB",
                refit[2],
                update[100],
                update[198],
                updater.bytes() as f64 / 1e6
            );
        }
        let start = Instant::now();
        let fitted = fit(&heads, &all, &options)?;
        println!(
            "  fit with every block left out at {} strengths: {:.0} ms",
            options.strengths.len(),
            ms(start.elapsed())
        );
        println!("{fitted}");
    }
    Ok(())
}
