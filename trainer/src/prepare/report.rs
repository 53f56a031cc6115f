//! What `trainer prepare` passed over, and why: for people on standard error, for programs in the store's folder.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::files;

/// The report's name in the store's folder.
pub const FILE_NAME: &str = "prepare-report.json";

/// The version of report that this build writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Examples that the file keeps of each reason, and of those, the ones that are shown.
const KEPT_EXAMPLES: usize = 20;
const SHOWN_EXAMPLES: usize = 3;

/// Why something of the data set is not in the store as one might expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A file or folder cannot be read, or is not what its name says.
    Unreadable,
    /// A video ends early or is damaged; what could be decoded is used.
    Damaged,
    /// A folder lies deeper than the layout has it.
    TooDeep,
    /// A picture lies in no folder of a video.
    Outside,
    /// Another file of this identity gives a video of the same name.
    NameTaken,
    /// No face is found anywhere in a video.
    NoFace,
    /// A face is smaller than asked for; counted once a frame.
    SmallFace,
    /// A face is followed for less time than asked for.
    ShortTrack,
    /// A face is not the one that its video is taken to be of.
    OtherFace,
    /// No stored face is seen in a frame.
    Lost,
    /// A picture is stored without landmarks: none are found.
    NoLandmarks,
    /// A list names a picture, or a picture needs a file, that is not there.
    Missing,
    /// A picture has no label.
    NoLabel,
    /// A picture's label is none that the layout has.
    BadLabel,
    /// The protocol leaves a picture out, or the caller wants it so.
    LeftOut,
}

impl Reason {
    /// In the plural, after a count.
    const fn text(self) -> &'static str {
        match self {
            Self::Unreadable => "files that cannot be read",
            Self::Damaged => "videos that are damaged or end early; what could be decoded is used",
            Self::TooDeep => "folders deeper than identity/video/track, not searched",
            Self::Outside => "pictures outside of identity/video",
            Self::NameTaken => "videos whose name another file of the identity has",
            Self::NoFace => "videos without a face",
            Self::SmallFace => "sightings of faces smaller than --min-face-px",
            Self::ShortTrack => "faces followed for less than --min-seconds",
            Self::OtherFace => "other faces in view (--all-faces keeps them)",
            Self::Lost => "frames in which the face is not seen",
            Self::NoLandmarks => "pictures stored without landmarks, since none are found",
            Self::Missing => "pictures that are listed but not there",
            Self::NoLabel => "pictures without a label",
            Self::BadLabel => "pictures whose label cannot be used",
            Self::LeftOut => "pictures that are left out on purpose",
        }
    }
}

/// What one reason was given for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// How often.
    pub count: u64,
    /// The first ones, each with what is known of it.
    pub examples: Vec<String>,
}

/// Videos of a run, each a video of the store (a picture, where the set is of stills).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoCounts {
    /// In the data set.
    pub found: u64,
    /// Of those, the ones that another shard is for.
    pub other_shards: u64,
    /// The ones that the store had before.
    pub stored_before: u64,
    /// The ones that were read to their end.
    pub read: u64,
    /// The ones of which something was stored.
    pub stored: u64,
}

/// Frames of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameCounts {
    /// Decoded.
    pub read: u64,
    /// Stored; more than were read where a frame has several faces.
    pub stored: u64,
}

/// One run of `trainer prepare`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Layout that was read.
    pub layout: String,
    /// The data set's name without its path.
    pub source: String,
    /// Which part of it, as `2/8`; `None` for the whole.
    pub shard: Option<String>,
    /// Whether the run came to its end; where not, `--append` continues.
    pub finished: bool,
    /// How long it took.
    pub seconds: f64,
    /// Its videos.
    pub videos: VideoCounts,
    /// Its frames.
    pub frames: FrameCounts,
    /// What was passed over.
    pub passed_over: BTreeMap<Reason, PassedOver>,
}

impl Report {
    /// Adds `count` things that were passed over; `example` names one of them, or what they are part of.
    pub fn add(&mut self, reason: Reason, count: u64, example: String) {
        let passed = self.passed_over.entry(reason).or_default();
        passed.count += count;
        if passed.examples.len() < KEPT_EXAMPLES {
            passed.examples.push(example);
        }
    }

    /// Everything that was passed over, whatever the reason.
    pub fn total(&self) -> u64 {
        self.passed_over.values().map(|passed| passed.count).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (videos, frames) = (&self.videos, &self.frames);
        let rate = frames.read as f64 / self.seconds.max(1e-9);
        write!(
            f,
            "{} videos read, {} stored; {} frames read, {} stored, in {:.1} s ({rate:.0} frames/s)",
            videos.read, videos.stored, frames.read, frames.stored, self.seconds
        )?;
        if videos.stored_before > 0 {
            write!(f, "; {} videos were there before", videos.stored_before)?;
        }
        if let Some(shard) = &self.shard {
            write!(f, "; shard {shard}, {} videos belong to others", videos.other_shards)?;
        }
        for (reason, passed) in &self.passed_over {
            let shown = &passed.examples[..passed.examples.len().min(SHOWN_EXAMPLES)];
            write!(f, "\n{:>8} {}: {}", passed.count, reason.text(), shown.join("; "))?;
            if (passed.count as usize) > shown.len() {
                write!(f, "; ..")?;
            }
        }
        Ok(())
    }
}

/// The file: every run that wrote to the store, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reports {
    /// Format version, 1 so far.
    pub format: u32,
    /// The runs.
    pub runs: Vec<Report>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { format: FORMAT, runs: Vec::new() }
    }
}

impl Reports {
    /// Those of the store in `dir`; none where it has no such file.
    ///
    /// # Errors
    /// Names the file where it cannot be read, or a newer version wrote it.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let path = dir.join(FILE_NAME);
        let at = || format!("{}: remove or repair it", path.display());
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            text => text.with_context(|| path.display().to_string())?,
        };
        let version: Version = serde_json::from_slice(&text).with_context(at)?;
        ensure!(
            version.format <= FORMAT,
            "{}: report format {} is newer than this build reads (up to {FORMAT}): update Semblance",
            path.display(),
            version.format
        );
        serde_json::from_slice(&text).with_context(at)
    }

    /// Writes them to the store in `dir`, whole or not at all.
    ///
    /// # Errors
    /// Names the file.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(FILE_NAME);
        let at = || path.display().to_string();
        let mut json = serde_json::to_vec_pretty(self).with_context(at)?;
        json.push(b'\n');
        files::replace(&path, &json).with_context(at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reasons_are_counted_and_the_first_examples_kept() {
        let mut report = Report::default();
        for i in 0..50 {
            report.add(Reason::Lost, 3, format!("v{i}"));
        }
        report.add(Reason::Unreadable, 1, "w (moov atom not found)".to_owned());
        assert_eq!(report.total(), 151);
        let lost = &report.passed_over[&Reason::Lost];
        assert_eq!((lost.count, lost.examples.len(), lost.examples[0].as_str()), (150, 20, "v0"));
        let text = report.to_string();
        assert!(text.contains("150 frames in which the face is not seen: v0; v1; v2; .."), "{text}");
        assert!(text.ends_with("w (moov atom not found)") || text.contains("found)\n"), "{text}");
    }

    #[test]
    fn reports_survive_the_file_and_newer_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Reports::load(dir.path()).unwrap().runs.is_empty());
        let mut report = Report { layout: "videos".to_owned(), ..Report::default() };
        report.add(Reason::NoFace, 1, "a/b".to_owned());
        Reports { format: FORMAT, runs: vec![report.clone()] }.save(dir.path()).unwrap();
        assert_eq!(Reports::load(dir.path()).unwrap().runs, [report]);
        std::fs::write(dir.path().join(FILE_NAME), r#"{"format":2,"runs":[{"new":1}]}"#).unwrap();
        let error = format!("{:#}", Reports::load(dir.path()).unwrap_err());
        assert!(error.contains(FILE_NAME) && error.contains("newer"), "{error}");
    }
}
