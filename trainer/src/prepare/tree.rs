//! Folders of identities and their videos, and what follows from names alone: times, splits and shards.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use semblance_face::bundle::sha256_hex;
use semblance_face::frame::is_picture;
use semblance_face::video::is_video;

use super::report::{Reason, Report};
use crate::store::Split;

/// One video of the data set: a file, or a folder of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clip {
    pub(super) identity: String,
    /// Its name in the store: `video`, or `video/track`.
    pub(super) video: String,
    pub(super) path: PathBuf,
}

impl Clip {
    pub(super) fn names(&self) -> (&str, &str) {
        (&self.identity, &self.video)
    }
}

/// The name of the one video of an identity that is a single file.
const SINGLE: &str = "clip";

/// Folders above a video's file or frames, at most: identity, video and track.
const MAX_FOLDERS: usize = 3;

/// Video files as `identity/video/track.mp4`, `identity/clip.mp4` or, an identity each, `clip.mp4`; by name.
///
/// # Errors
/// Where `root` cannot be read, or there is no video.
pub(super) fn video_files(root: &Path, report: &mut Report) -> anyhow::Result<Vec<Clip>> {
    let mut clips = Vec::new();
    let mut walk = Walk { root, max_folders: MAX_FOLDERS - 1, report };
    walk.visit(root, &mut Vec::new(), &mut |folders, files, _| {
        clips.extend(files.iter().filter(|(_, path)| is_video(path)).map(|(name, path)| {
            let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
            let (identity, video) = match folders {
                [] => (stem.to_owned(), SINGLE.to_owned()),
                [identity, above @ ..] => (identity.clone(), [above, &[stem.to_owned()]].concat().join("/")),
            };
            Clip { identity, video, path: path.clone() }
        }));
    })?;
    sorted(clips, root, "videos as identity/video/track.mp4, identity/clip.mp4 or clip.mp4", report)
}

/// Folders of frames as `identity/video/frame.jpg` or `identity/video/track/frame.jpg`; by name.
///
/// # Errors
/// Where `root` cannot be read, or there is no such folder.
pub(super) fn frame_folders(root: &Path, report: &mut Report) -> anyhow::Result<Vec<Clip>> {
    let mut clips = Vec::new();
    let mut walk = Walk { root, max_folders: MAX_FOLDERS, report };
    walk.visit(root, &mut Vec::new(), &mut |folders, files, report| {
        let pictures: Vec<_> = files.iter().filter(|(_, path)| is_picture(path)).collect();
        let Some((_, first)) = pictures.first() else { return };
        match folders {
            [identity, video @ ..] if !video.is_empty() => clips.push(Clip {
                identity: identity.clone(),
                video: video.join("/"),
                path: first.parent().unwrap_or(root).to_owned(),
            }),
            _ => report.add(Reason::Outside, pictures.len() as u64, relative(first, root)),
        }
    })?;
    sorted(clips, root, "pictures as identity/video/frame.jpg or identity/video/track/frame.jpg", report)
}

/// In the order of names, each name once.
fn sorted(mut clips: Vec<Clip>, root: &Path, what: &str, report: &mut Report) -> anyhow::Result<Vec<Clip>> {
    if clips.is_empty() {
        let deeper = report.passed_over.get(&Reason::TooDeep).and_then(|p| p.examples.first());
        let hint = deeper.map(|folder| {
            format!(" ('{folder}' lies deeper: give the folder that holds the folders of identities)")
        });
        bail!("{}: no {what}{}", root.display(), hint.unwrap_or_default());
    }
    clips.sort_by(|a, b| (a.names(), &a.path).cmp(&(b.names(), &b.path)));
    clips.dedup_by(|clip, kept| {
        let same = clip.names() == kept.names();
        if same {
            report.add(Reason::NameTaken, 1, relative(&clip.path, root));
        }
        same
    });
    Ok(clips)
}

/// Names and paths.
pub(super) type Entries = Vec<(String, PathBuf)>;

struct Walk<'a> {
    root: &'a Path,
    max_folders: usize,
    report: &'a mut Report,
}

impl Walk<'_> {
    /// Calls `take` with the names of the folders from the root on, and the files that are in the last of them. A folder
    /// that cannot be read is passed over, but not the first.
    fn visit(
        &mut self,
        folder: &Path,
        names: &mut Vec<String>,
        take: &mut dyn FnMut(&[String], &Entries, &mut Report),
    ) -> anyhow::Result<()> {
        let (folders, files) = match children(folder) {
            Ok(found) => found,
            Err(error) if names.is_empty() => {
                return Err(error).with_context(|| folder.display().to_string());
            }
            Err(error) => {
                self.report.add(Reason::Unreadable, 1, format!("{} ({error})", relative(folder, self.root)));
                return Ok(());
            }
        };
        take(names, &files, self.report);
        for (name, path) in folders {
            if names.len() == self.max_folders {
                self.report.add(Reason::TooDeep, 1, relative(&path, self.root));
                continue;
            }
            names.push(name);
            self.visit(&path, names, take)?;
            names.pop();
        }
        Ok(())
    }
}

/// Folders and files in a folder, each by name; hidden ones left out.
pub(super) fn children(folder: &Path) -> io::Result<(Entries, Entries)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        // A link that leads nowhere is no folder; reading it will tell.
        if path.is_dir() { folders.push((name, path)) } else { files.push((name, path)) }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

/// The pictures in a folder with their times in seconds, frames by number.
pub(super) fn frames_in(folder: &Path, fps: f64) -> io::Result<Vec<(PathBuf, f64)>> {
    let mut frames: Vec<_> = (children(folder)?.1.into_iter())
        .filter(|(_, path)| is_picture(path))
        .map(|(name, path)| (frame_number(&name), name, path))
        .collect();
    frames.sort();
    let times = times_secs(&frames.iter().map(|f| f.0).collect::<Vec<_>>(), fps);
    Ok(frames.into_iter().map(|(_, _, path)| path).zip(times).collect())
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

/// The last run of digits in a name: 17 for `frame_0017.jpg`.
pub(super) fn frame_number(name: &str) -> Option<u64> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let end = stem.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = stem[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    // A separator of several bytes ends before the digits start.
    stem.get(start..end).and_then(|digits| digits.parse().ok())
}

/// The first 32 bits of a hash of the name: the same on every machine, for good.
fn name_hash(name: &str) -> u32 {
    u32::from_str_radix(&sha256_hex(name.as_bytes())[..8], 16).unwrap_or(0)
}

/// Train or validation, by a hash of the identity's name: the same on every machine, whatever else is in the set.
pub(super) fn split_of(identity: &str, val_share: f64) -> Split {
    let hash = name_hash(identity);
    if f64::from(hash) < val_share * f64::from(u32::MAX) { Split::Val } else { Split::Train }
}

/// Part `index` of `count`, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// Whether a video is in this part, by a hash of its names: each is in exactly one, whatever else is in the set.
    pub fn has(&self, identity: &str, video: &str) -> bool {
        name_hash(&format!("{identity}/{video}")) % self.count == self.index - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err("give i/n, with i from 1 to n".to_owned()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The file's name for a message that is about one file among many.
pub(super) fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn shards_part_the_videos_evenly() {
        let shards: Vec<Shard> = (1..=4).map(|i| format!("{i}/4").parse().unwrap()).collect();
        let mut sizes = [0; 4];
        for i in 0..2000 {
            let video = format!("video{}", i % 7);
            let holders: Vec<usize> = (0..4).filter(|&s| shards[s].has(&format!("id{i}"), &video)).collect();
            assert_eq!(holders.len(), 1);
            sizes[holders[0]] += 1;
        }
        // Binomial(2000, 1/4) has a standard deviation of 19.
        assert!(sizes.iter().all(|n| (400..600).contains(n)), "{sizes:?}");
        for bad in ["0/4", "5/4", "1", "a/b", "1/0", "-1/2"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
    }

    fn names(clips: &[Clip]) -> Vec<(&str, &str)> {
        clips.iter().map(Clip::names).collect()
    }

    #[test]
    fn videos_at_each_depth_have_a_name_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["id2/v/00002.mp4", "id2/v/00001.mp4", "id2/w.mkv", "solo.MOV", "id1/v/notes.txt"];
        touch(dir.path(), &files);
        touch(dir.path(), &["id2/v/._00001.mp4", "id2/v/00001.avi", "id3/a/b/c.mp4", "id3/a/b2/c.mp4"]);
        let mut report = Report::default();
        let clips = video_files(dir.path(), &mut report).unwrap();
        assert_eq!(names(&clips), [("id2", "v/00001"), ("id2", "v/00002"), ("id2", "w"), ("solo", "clip")]);
        // Of two files of one name, the first is taken.
        assert!(clips[0].path.ends_with("id2/v/00001.avi"));
        assert_eq!(report.passed_over[&Reason::NameTaken].examples, ["id2/v/00001.mp4"]);
        assert_eq!(report.passed_over[&Reason::TooDeep].examples, ["id3/a/b", "id3/a/b2"]);
    }

    #[test]
    fn a_root_that_is_too_high_up_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["dev/mp4/id1/video/00001.mp4"]);
        let error = format!("{:#}", video_files(dir.path(), &mut Report::default()).unwrap_err());
        assert!(error.contains("dev/mp4/id1") && error.contains("give the folder"), "{error}");
    }

    #[test]
    fn frames_at_both_depths_are_found() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["a/v/2.jpg", "a/v/10.jpg", "a/v/t/1.png", "a/w/t/1.jpg", "a/1.jpg", "x.jpg"]);
        let mut report = Report::default();
        let clips = frame_folders(dir.path(), &mut report).unwrap();
        assert_eq!(names(&clips), [("a", "v"), ("a", "v/t"), ("a", "w/t")]);
        assert_eq!(report.passed_over[&Reason::Outside].count, 2);
        let frames = frames_in(&clips[0].path, 2.0).unwrap();
        let found: Vec<_> =
            frames.iter().map(|(p, t)| (p.file_name().unwrap().to_str().unwrap(), *t)).collect();
        assert_eq!(found, [("2.jpg", 0.0), ("10.jpg", 4.0)]);
    }
}
