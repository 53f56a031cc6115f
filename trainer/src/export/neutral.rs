//! Where a bundle's encoder has faces at rest: what a person's own resting face is compared with.

use std::path::Path;

use anyhow::{Context, ensure};
use semblance_calib::Heads;
use semblance_face::Bundle;
use semblance_face::labels::Expression;

use super::CARDS;
use crate::eval::{embed_by_bundle, labelled};
use crate::store::{Split, Store};

/// Puts the mean embedding of the store's neutral training pictures into the heads of the bundle at `out`; gives how many there
/// are.
///
/// # Errors
/// Where there is none, or the bundle cannot be read or written; it is as it was then.
pub fn put_neutral(store: &Store, out: &Path) -> anyhow::Result<usize> {
    let bundle =
        Bundle::open(out).context("a neutral place needs a bundle to go into: export an encoder first")?;
    let (indices, _) = labelled(store, Split::Train, &[Expression::Neutral]);
    ensure!(!indices.is_empty(), "{}: no training picture is labelled neutral", store.dir().display());
    let values = embed_by_bundle(&bundle, store, &indices)?;
    let heads = Heads::from_safetensors(bundle.heads_safetensors())
        .with_context(|| out.display().to_string())?
        .with_neutral(Some(mean(&values, indices.len()).into()))?;
    let (manifest, mut files) = bundle.into_parts();
    files.insert(manifest.heads.file.clone(), heads.to_safetensors()?);
    Bundle::write(out, manifest, &files, &CARDS)?;
    Ok(indices.len())
}

/// The mean of `count` rows, at least one.
fn mean(values: &[f32], count: usize) -> Vec<f32> {
    let dim = values.len() / count;
    let column = |k: usize| values.iter().skip(k).step_by(dim).map(|v| f64::from(*v)).sum::<f64>();
    (0..dim).map(|k| (column(k) / count as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mean_is_taken_a_column() {
        assert_eq!(super::mean(&[1.0, 2.0, 3.0, 6.0], 2), [2.0, 4.0]);
    }
}
