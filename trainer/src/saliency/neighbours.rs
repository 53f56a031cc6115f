//! Pictures with those of other people that lie nearest to them.

use std::collections::HashSet;

use image::RgbImage;
use tch::Tensor;

use super::{Run, picture};
use crate::eval::{nearest_of_others, person_numbers};
use crate::ntxent::unit_rows;
use crate::store::{Split, Store};
use crate::tiles;

/// People that are shown beside each picture.
const NEAREST: usize = 7;

/// A row for each of `queries`, which are of the split: the picture, and of each of the nearest people the nearest picture, with
/// its cosine.
///
/// # Errors
/// Where the split has one person, or a picture is damaged.
pub(super) fn grid(store: &Store, split: Split, queries: &[usize], run: &Run) -> anyhow::Result<RgbImage> {
    let frames = store.split(split);
    let unit = unit_rows(&run.loaded.embed(store, &frames)?.into_tensor());
    let people = person_numbers(store, split, &frames)?;
    let places: Vec<i64> =
        queries.iter().filter_map(|q| frames.binary_search(q).ok()).map(|p| p as i64).collect();
    let found = nearest_of_others(&unit, &people, &Tensor::from_slice(&places), frames.len())?;
    let rows = places.iter().zip(found).map(|(&place, found)| {
        let query = picture(&store.record(frames[place as usize]), None);
        let near = first_of_each(&found, &people, NEAREST).map(|(other, cosine)| {
            picture(&store.record(frames[other]), Some(format!("cosine {cosine:.3}")))
        });
        std::iter::once(query).chain(near).collect()
    });
    Ok(tiles::grid(&rows.collect::<anyhow::Result<Vec<_>>>()?))
}

/// The first row of each person, of so many people; `rows` are the nearest first.
fn first_of_each<'a>(
    rows: &'a [(usize, f32)],
    people: &'a [i64],
    count: usize,
) -> impl Iterator<Item = (usize, f32)> + 'a {
    let mut seen = HashSet::new();
    rows.iter().copied().filter(move |&(row, _)| seen.insert(people[row])).take(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_shown_once() {
        let rows = [(3, 0.9), (2, 0.8), (4, 0.7), (0, 0.6), (1, 0.5)];
        let shown: Vec<usize> = first_of_each(&rows, &[0, 0, 1, 1, 2], 2).map(|(row, _)| row).collect();
        assert_eq!(shown, [3, 4]);
    }
}
