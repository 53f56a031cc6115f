//! Folders `identity/video/frame.jpg`: face crops cut from video, the layout that VoxCeleb's frames are shared in.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use semblance_face::Frame;
use semblance_face::bundle::sha256_hex;
use semblance_face::frame::is_picture;

use super::{CHECKPOINT_FRAMES, Outcome, PrepareArgs, drop_stored, encode_jpeg, par_encode, relative};
use crate::store::{Sample, Split, StoreWriter};

struct Entry {
    path: PathBuf,
    identity: String,
    video: String,
    t_secs: f64,
}

impl Entry {
    fn names(&self) -> (&str, &str) {
        (&self.identity, &self.video)
    }
}

pub(super) fn read(args: &PrepareArgs, writer: &mut StoreWriter) -> anyhow::Result<Outcome> {
    let root = &args.src;
    let mut entries = list(root, args.fps)?;
    if entries.is_empty() {
        bail!("{}: no pictures as identity/video/frame.jpg", root.display());
    }
    let mut outcome = drop_stored(&mut entries, writer, Entry::names);
    let encode = |entry: &Entry| load(&entry.path, args.quality);
    let mut current: Option<(&str, &str)> = None;
    let mut committed = writer.len();
    par_encode(&entries, "reading", encode, |entry, jpeg, bar| {
        let jpeg = match jpeg {
            Ok(jpeg) => jpeg,
            Err(error) => {
                outcome.skipped += 1;
                bar.suspend(|| eprintln!("skipped {}: {error:#}", relative(&entry.path, root)));
                return Ok(());
            }
        };
        let names @ (identity, video) = entry.names();
        if current != Some(names) {
            // The index grows with the store, and is written whole.
            if writer.len() - committed >= CHECKPOINT_FRAMES.max(committed / 4) {
                writer.checkpoint()?;
                committed = writer.len();
            }
            writer.begin_video(identity, video);
            current = Some(names);
        }
        let split = split_of(identity, args.val_share);
        Ok(writer.push(&jpeg, &Sample::unlabelled(entry.t_secs, split))?)
    })?;
    Ok(outcome)
}

/// A picture's JPEG: the file's own bytes where it is one that decodes, else encoded anew.
fn load(path: &Path, quality: u8) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    let frame = Frame::decode(&bytes)?;
    if bytes.starts_with(&[0xFF, 0xD8]) {
        return Ok(bytes);
    }
    let (width, height) = (frame.width(), frame.height());
    let grey = frame.rgb().chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
    if grey {
        let luma: Vec<u8> = frame.rgb().iter().step_by(3).copied().collect();
        return encode_jpeg(&luma, width, height, 1, quality);
    }
    encode_jpeg(frame.rgb(), width, height, 3, quality)
}

/// Every picture, identities and videos by name, frames by number.
fn list(root: &Path, fps: f64) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (identity, folder) in children(root, true)? {
        for (video, folder) in children(&folder, true)? {
            let mut frames: Vec<(Option<u64>, String, PathBuf)> = children(&folder, false)?
                .into_iter()
                .filter(|(_, path)| is_picture(path))
                .map(|(name, path)| (frame_number(&name), name, path))
                .collect();
            frames.sort();
            let times = times_secs(&frames.iter().map(|f| f.0).collect::<Vec<_>>(), fps);
            entries.extend(frames.into_iter().zip(times).map(|((_, _, path), t_secs)| Entry {
                path,
                identity: identity.clone(),
                video: video.clone(),
                t_secs,
            }));
        }
    }
    Ok(entries)
}

/// The times of a video's frames from their numbers, in order. Gaps in the numbers are gaps in time; where some frame
/// has no number, or two have the same, frames count instead.
fn times_secs(numbers: &[Option<u64>], fps: f64) -> Vec<f64> {
    let counted = || (0..numbers.len()).map(|i| i as f64 / fps).collect();
    let Some(known) = numbers.iter().copied().collect::<Option<Vec<u64>>>() else {
        return counted();
    };
    if !known.is_sorted_by(|a, b| a < b) {
        return counted();
    }
    known.iter().map(|n| (n - known[0]) as f64 / fps).collect()
}

fn children(folder: &Path, folders: bool) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let at = || folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(at)? {
        let path = entry.with_context(at)?.path();
        if path.is_dir() == folders {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The last run of digits in a name: 17 for `frame_0017.jpg`.
fn frame_number(name: &str) -> Option<u64> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let end = stem.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = stem[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    // A separator of several bytes ends before the digits start.
    stem.get(start..end).and_then(|digits| digits.parse().ok())
}

/// Train or validation, by a hash of the identity's name: the same on every machine, whatever else is in the set.
fn split_of(identity: &str, val_share: f64) -> Split {
    let digits = &sha256_hex(identity.as_bytes())[..8];
    let hash = u32::from_str_radix(digits, 16).unwrap_or(0);
    if f64::from(hash) < val_share * f64::from(u32::MAX) { Split::Val } else { Split::Train }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_of_a_name_is_its_frame() {
        assert_eq!(frame_number("frame_0017.jpg"), Some(17));
        assert_eq!(frame_number("s1_003.png"), Some(3));
        assert_eq!(frame_number("0000125.jpg"), Some(125));
        assert_eq!(frame_number("cover.jpg"), None);
        assert_eq!(frame_number("a99999999999999999999999.jpg"), None);
    }

    #[test]
    fn gaps_in_numbers_are_gaps_in_time() {
        let some = |numbers: &[u64]| numbers.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(times_secs(&some(&[7, 8, 12]), 2.0), [0.0, 0.5, 2.5]);
        assert_eq!(times_secs(&some(&[3, 3, 4]), 2.0), [0.0, 0.5, 1.0]);
        assert_eq!(times_secs(&[None, Some(1), Some(9)], 2.0), [0.0, 0.5, 1.0]);
        assert!(times_secs(&[], 2.0).is_empty());
    }

    #[test]
    fn splits_follow_from_names_and_keep_their_share() {
        let count = |share| (0..2000).filter(|i| split_of(&format!("id{i:05}"), share) == Split::Val).count();
        assert_eq!(count(0.0), 0);
        assert_eq!(count(1.0), 2000);
        assert!((150..250).contains(&count(0.1)), "{}", count(0.1));
    }
}
