//! `pairs.csv`, beside the index of a store: which pictures a verification protocol compares.
//!
//! Columns `fold,same,a_identity,a_video,b_identity,b_video`; a picture is named by its identity and video, and is that
//! video's first frame. `same` is 1 for two pictures of one person.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::files;

/// The file's name.
pub const PAIRS: &str = "pairs.csv";

/// A pair as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPair {
    /// The fold of the protocol that it is in, from 0.
    pub fold: u32,
    /// 1 for two pictures of one person, 0 for two people.
    pub same: u8,
    /// Identity of the first picture.
    pub a_identity: String,
    /// Its video.
    pub a_video: String,
    /// Identity of the second picture.
    pub b_identity: String,
    /// Its video.
    pub b_video: String,
}

/// Two frames of a store that a verification protocol compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationPair {
    /// The fold of the protocol that it is in, from 0.
    pub fold: u32,
    /// Whether both are of one person.
    pub same: bool,
    /// Number of the first frame.
    pub a: usize,
    /// Number of the second.
    pub b: usize,
}

/// Writes the pairs of the store in `dir`, in place of those that it had.
///
/// # Errors
/// Names the file that cannot be written; one that was there stays.
pub fn write_pairs(dir: &Path, pairs: &[NamedPair]) -> Result<(), StoreError> {
    let path = dir.join(PAIRS);
    let mut writer = csv::Writer::from_writer(Vec::new());
    for pair in pairs {
        writer.serialize(pair).map_err(|e| bad(&path, e.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|e| bad(&path, e.to_string()))?;
    files::replace(&path, &bytes).map_err(StoreError::io(&path))
}

/// The pairs of the store in `dir`, by names; `None` where it has none.
///
/// # Errors
/// Names the line that cannot be read.
pub fn read_pairs(dir: &Path) -> Result<Option<Vec<NamedPair>>, StoreError> {
    let path = dir.join(PAIRS);
    if !path.exists() {
        return Ok(None);
    }
    let mut reader = csv::Reader::from_path(&path).map_err(|e| bad(&path, e.to_string()))?;
    let pairs = reader.deserialize().map(|named| {
        let named: NamedPair = named.map_err(|e| bad(&path, e.to_string()))?;
        if named.same > 1 {
            return Err(bad(&path, format!("same = {} is neither 0 nor 1", named.same)));
        }
        Ok(named)
    });
    pairs.collect::<Result<_, _>>().map(Some)
}

impl Store {
    /// The pairs of its verification protocol; `None` where it has none. Pairs with a picture that was passed over while
    /// preparing are left out, and counted in the second value.
    ///
    /// # Errors
    /// Names the line that cannot be read.
    pub fn pairs(&self) -> Result<Option<(Vec<VerificationPair>, usize)>, StoreError> {
        let Some(named) = read_pairs(self.dir())? else { return Ok(None) };
        let header = self.header();
        let frames: HashMap<(&str, &str), usize> = header
            .videos
            .iter()
            .map(|v| ((header.identities[v.identity as usize].as_str(), v.name.as_str()), v.first as usize))
            .collect();
        let (mut pairs, mut missing) = (Vec::new(), 0);
        for named in named {
            let find = |identity: &str, video: &str| frames.get(&(identity, video)).copied();
            match (find(&named.a_identity, &named.a_video), find(&named.b_identity, &named.b_video)) {
                (Some(a), Some(b)) => {
                    pairs.push(VerificationPair { fold: named.fold, same: named.same == 1, a, b });
                }
                _ => missing += 1,
            }
        }
        Ok(Some((pairs, missing)))
    }
}

fn bad(path: &Path, reason: String) -> StoreError {
    StoreError::Index { path: PathBuf::from(path), reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, Split, StoreWriter};

    #[test]
    fn pairs_name_first_frames_and_missing_pictures_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        let jpeg = encode_jpeg(&[7; 256], 16, 16, 1, 90).unwrap();
        for (identity, video, frames) in [("a", "1", 2), ("a", "2", 1), ("b", "1", 1)] {
            writer.begin_video(identity, video);
            for t in 0..frames {
                writer.push(&jpeg, &Sample::unlabelled(f64::from(t), Split::Test)).unwrap();
            }
        }
        writer.commit(Provenance::default()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.pairs().unwrap(), None);
        let pair = |fold, same, a: (&str, &str), b: (&str, &str)| NamedPair {
            fold,
            same,
            a_identity: a.0.to_owned(),
            a_video: a.1.to_owned(),
            b_identity: b.0.to_owned(),
            b_video: b.1.to_owned(),
        };
        let named = [
            pair(0, 1, ("a", "1"), ("a", "2")),
            pair(1, 0, ("a", "2"), ("b", "1")),
            pair(1, 0, ("a", "2"), ("c", "1")),
        ];
        write_pairs(dir.path(), &named).unwrap();
        let (pairs, missing) = store.pairs().unwrap().unwrap();
        let expected = [(0, true, 0, 2), (1, false, 2, 3)];
        let expected = expected.map(|(fold, same, a, b)| VerificationPair { fold, same, a, b });
        assert_eq!((pairs.as_slice(), missing), (expected.as_slice(), 1));
        std::fs::write(dir.path().join(PAIRS), "fold,same\n0,1\n").unwrap();
        assert!(store.pairs().unwrap_err().to_string().contains(PAIRS));
    }
}
