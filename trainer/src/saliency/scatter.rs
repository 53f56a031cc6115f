//! Embeddings in the plane, by t-SNE (van der Maaten & Hinton 2008).

use std::collections::BTreeMap;

use bhtsne::tSNE;
use semblance_face::labels::Expression;
use tch::{Device, Tensor};

use super::{Run, some_of};
use crate::checkpoint::floats;
use crate::eval::finite;
use crate::ntxent::unit_rows;
use crate::plot::{self, Class};
use crate::store::{Record, Split, Store};

/// Pictures that are placed, at most.
const MOST: usize = 1000;
/// Values of an embedding that neighbours are looked for by: its principal components.
const COMPONENTS: i64 = 50;
/// Of t-SNE; fewer where there are few pictures.
const PERPLEXITY: f32 = 30.0;
const EPOCHS: usize = 750;
/// What t-SNE needs to begin.
const LEAST: usize = 12;

/// Classes in a legend, at most.
const NAMED: usize = 16;

/// Two panels of one arrangement: by expression, and by person.
///
/// # Errors
/// Where there are too few pictures, or one is damaged.
pub(super) fn svg(store: &Store, split: Split, run: &Run) -> anyhow::Result<String> {
    let frames = some_of(store, split, MOST);
    anyhow::ensure!(
        frames.len() >= LEAST,
        "{}: a map needs {LEAST} pictures, the {} split has {}: leave it out by --only",
        store.dir().display(),
        split.name(),
        frames.len()
    );
    let places = arrange(&run.loaded.embed(store, &frames)?.into_tensor())?;
    let of = |name: fn(&Record<'_>) -> String| {
        let mut classes: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (&frame, [x, y]) in frames.iter().zip(&places) {
            classes.entry(name(&store.record(frame))).or_default().push((f64::from(*x), f64::from(*y)));
        }
        let named = classes.into_iter().enumerate().map(|(number, (name, points))| {
            let name = if number < NAMED { name } else { String::new() };
            Class { name, points }
        });
        named.collect::<Vec<_>>()
    };
    let expression =
        |record: &Record<'_>| record.expression().map_or("unlabelled", Expression::name).to_owned();
    let panels = [
        (format!("{}, by expression", run.name), of(expression)),
        (format!("{}, by person", run.name), of(|record| record.identity().to_owned())),
    ];
    plot::planes(&panels).map_err(anyhow::Error::msg)
}

/// Places in the plane of embeddings `[N,D]`, which are compared by cosine. They begin at their two principal components, so that
/// the outcome follows from the embeddings alone but for roundings (Kobak & Berens 2019).
///
/// # Errors
/// Those of libtorch.
fn arrange(embeddings: &Tensor) -> anyhow::Result<Vec<[f32; 2]>> {
    const START: f64 = 1e-4;
    // Solvers on GPUs are libraries of their own.
    let unit = unit_rows(&finite(embeddings.to_device(Device::Cpu))?);
    let centred = &unit - unit.mean_dim([0].as_slice(), true, None);
    let (u, s, _) = centred.f_svd(true, true)?;
    let components = u * s.unsqueeze(0);
    let count = COMPONENTS.min(components.size()[1]);
    let components = components.narrow(1, 0, count).contiguous();
    let spread = components.narrow(1, 0, 1).std(false).clamp_min(1e-12);
    let start = floats(
        &(components.narrow(1, 0, 2.min(count)).constant_pad_nd([0, 2 - 2.min(count)]) / spread * START),
    )?;
    let values = floats(&components)?;
    let rows: Vec<&[f32]> = values.chunks_exact(count as usize).collect();
    let perplexity = PERPLEXITY.min((rows.len() as f32 - 1.0) / 3.0 - 0.5);
    let distance =
        |a: &&[f32], b: &&[f32]| a.iter().zip(b.iter()).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    let placed = tSNE::<f32, &[f32], 2>::new(&rows)
        .perplexity(perplexity)
        .epochs(EPOCHS)
        .initial_embedding(start)
        .exact(distance)
        .embedding();
    Ok(placed.as_chunks::<2>().0.to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn what_lies_together_is_placed_together() {
        tch::manual_seed(4);
        let centres = Tensor::randn([3, 16], (Kind::Float, Device::Cpu)) * 4.0;
        let of: Vec<i64> = (0..90).map(|i| i % 3).collect();
        let embeddings = centres.index_select(0, &Tensor::from_slice(&of))
            + Tensor::randn([90, 16], (Kind::Float, Device::Cpu));
        let places = arrange(&embeddings).unwrap();
        let nearest = |i: usize| {
            let apart =
                |j: &usize| (places[i][0] - places[*j][0]).powi(2) + (places[i][1] - places[*j][1]).powi(2);
            (0..90).filter(|j| *j != i).min_by(|a, b| apart(a).total_cmp(&apart(b))).unwrap()
        };
        let right = (0..90).filter(|&i| of[i] == of[nearest(i)]).count();
        assert!(right >= 88, "{right} of 90 lie beside one of their own");
    }

    #[test]
    fn few_and_flat_embeddings_are_placed_too() {
        let embeddings = Tensor::ones([LEAST as i64, 1], (Kind::Float, Device::Cpu));
        let places = arrange(&embeddings).unwrap();
        assert!(places.len() == LEAST && places.iter().flatten().all(|v| v.is_finite()), "{places:?}");
    }
}
