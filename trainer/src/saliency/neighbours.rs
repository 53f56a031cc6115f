//! Pictures with those of other people that lie nearest to them.

use image::RgbImage;
use tch::Tensor;

use super::{Run, picture};
use crate::eval::{nearest_of_others, person_numbers};
use crate::ntxent::unit_rows;
use crate::store::{Split, Store};
use crate::tiles;

/// Neighbours of each.
const NEAREST: usize = 7;

/// A row for each of `queries`, which are of the split: the picture, and its neighbours with their cosine.
///
/// # Errors
/// Where the split has one person, or a picture is damaged.
pub(super) fn grid(store: &Store, split: Split, queries: &[usize], run: &Run) -> anyhow::Result<RgbImage> {
    let frames = store.split(split);
    let unit = unit_rows(&run.loaded.embed(store, &frames)?.into_tensor());
    let people = person_numbers(store, split, &frames)?;
    let places: Vec<i64> =
        queries.iter().filter_map(|q| frames.binary_search(q).ok()).map(|p| p as i64).collect();
    let found = nearest_of_others(&unit, &people, &Tensor::from_slice(&places), NEAREST)?;
    let rows = places.iter().zip(found).map(|(&place, found)| {
        let query = picture(&store.record(frames[place as usize]), String::new());
        let near = found
            .into_iter()
            .map(|(other, cosine)| picture(&store.record(frames[other]), format!("cosine {cosine:.3}")));
        std::iter::once(query).chain(near).collect()
    });
    Ok(tiles::grid(&rows.collect::<anyhow::Result<Vec<_>>>()?))
}
