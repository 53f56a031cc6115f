//! Labelled data sets in the layouts of their publishers, a module each: a list of videos or stills with what is noted of
//! them, which is stored here the same way for all.

mod affectnet;
mod bu3dfe;
mod coded;
mod emotionet;
mod mafl;
mod mat;
mod pairs;
mod pose;
mod rafdb;
mod w300;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use semblance_face::labels::ACTION_UNITS;
use semblance_face::{Bundle, Point, Rect, VideoReader};

use super::followed::{Footage, Pictures, follow, open_bundle};
use super::pictures::{Notes, Picture, Piece, PieceWorker, Refusal};
use super::report::{Reason, Report};
use super::tree::{relative, split_of};
use super::{Layout, Part, PrepareArgs, Session};
use crate::store::{Sample, Split};

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    match session.args.layout {
        Layout::Rafdb => rafdb::read(session),
        Layout::Affectnet => affectnet::read(session),
        Layout::Lfw => pairs::read_lfw(session),
        Layout::Cplfw => pairs::read_cplfw(session),
        Layout::Disfa => coded::read_disfa(session),
        Layout::Bp4d => coded::read_bp4d(session),
        Layout::Gft => coded::read_gft(session),
        Layout::W300Lp => pose::read_w300lp(session),
        Layout::Aflw2000 => pose::read_aflw2000(session),
        Layout::Bu3dfe => bu3dfe::read(session),
        Layout::Mafl => mafl::read(session),
        Layout::W300 => w300::read(session),
        Layout::Emotionet => emotionet::read(session),
        layout @ (Layout::Fer2013 | Layout::Frames | Layout::Videos) => {
            bail!("layout {} has a reader of its own", layout.name())
        }
    }
}

/// A video of a data set, or a still, which is a video of one frame.
struct Entry<N> {
    identity: String,
    video: String,
    split: Split,
    frames: Frames<N>,
}

enum Frames<N> {
    /// In the order of time.
    Files(Vec<Picture<N>>),
    /// A video file, with what is noted of its frames, which count from 1.
    Film(PathBuf, HashMap<u64, N>),
}

impl<N> Entry<N> {
    fn still(identity: &str, video: &str, split: Split, path: PathBuf, notes: N) -> Self {
        let frames = Frames::Files(vec![Picture { path, t_secs: 0.0, notes }]);
        Self { identity: identity.to_owned(), video: video.to_owned(), split, frames }
    }

    /// A still of nobody in particular, who becomes an identity of this name.
    fn nobody(name: &str, split: Split, path: PathBuf, notes: N) -> Self {
        Self::still(name, name, split, path, notes)
    }

    fn names(&self) -> (&str, &str) {
        (&self.identity, &self.video)
    }

    fn pieces(self) -> Vec<Piece<N>> {
        match self.frames {
            Frames::Files(pictures) => Piece::of(&self.identity, &self.video, self.split, pictures),
            // Those are followed, never read in pieces.
            Frames::Film(..) => Vec::new(),
        }
    }
}

impl<N: Notes> Footage for Entry<N> {
    fn names(&self) -> (&str, &str) {
        Self::names(self)
    }

    fn path(&self) -> &Path {
        match &self.frames {
            Frames::Film(path, _) => path,
            Frames::Files(pictures) => match pictures.as_slice() {
                [] => Path::new(&self.video),
                [only] => &only.path,
                [first, ..] => first.path.parent().unwrap_or(&first.path),
            },
        }
    }

    fn split(&self, _: &PrepareArgs) -> Split {
        self.split
    }

    fn open(&self, _: &PrepareArgs, _: &mut Part) -> anyhow::Result<Option<Pictures>> {
        Ok(Some(match &self.frames {
            Frames::Film(path, _) => Pictures::Video(VideoReader::open(path)?),
            Frames::Files(pictures) => {
                Pictures::files(pictures.iter().map(|p| (p.path.clone(), p.t_secs)).collect())
            }
        }))
    }

    fn sample(&self, index: u64, t_secs: f64, split: Split) -> Result<Sample, Refusal> {
        let notes = match &self.frames {
            Frames::Film(_, notes) => notes.get(&(index + 1)),
            Frames::Files(pictures) => {
                usize::try_from(index).ok().and_then(|i| pictures.get(i)).map(|picture| &picture.notes)
            }
        };
        let unknown = || Refusal::new(Reason::NoLabel, format!("frame {}", index + 1));
        let marks = notes.ok_or_else(unknown)?.marks()?;
        marks.check()?;
        Ok(marks.labels(t_secs, split))
    }
}

/// Stores the entries as the flags want them; `what` says what the layout's folders hold, for where there is none.
fn store<N: Notes>(session: &mut Session<'_>, entries: Vec<Entry<N>>, what: &str) -> anyhow::Result<()> {
    let (args, stop) = (session.args, session.stop);
    ensure!(
        !entries.is_empty(),
        "{}: no pictures of layout {} in it: {what} is needed",
        args.src.display(),
        args.layout.name()
    );
    let entries = unique(entries, &args.src, &mut session.report);
    if args.follows() {
        return follow(session, entries, &open_bundle(args)?);
    }
    if let Some(path) = entries.iter().find_map(|e| match &e.frames {
        Frames::Film(path, _) => Some(path),
        Frames::Files(_) => None,
    }) {
        bail!(
            "{}: a film of whole scenes: have its faces cut out (--align), or extract its frames first",
            path.display()
        );
    }
    let bundle = (args.landmarks || args.align).then(|| Bundle::open(&args.bundle)).transpose()?;
    let entries = session.admit(entries, Entry::names);
    let entries = entries.into_iter().take_while(|_| !stop.load(Ordering::Relaxed));
    session.store_all(entries.flat_map(Entry::pieces), || PieceWorker::open(args, bundle.as_ref()))
}

/// Each name once: of two entries of one name, the first.
fn unique<N: Notes>(entries: Vec<Entry<N>>, root: &Path, report: &mut Report) -> Vec<Entry<N>> {
    let mut names = HashSet::new();
    let mut fresh = |entry: &Entry<N>| {
        let fresh = names.insert((entry.identity.clone(), entry.video.clone()));
        if !fresh {
            report.add(Reason::NameTaken, 1, relative(entry.path(), root));
        }
        fresh
    };
    entries.into_iter().filter(|entry| fresh(entry)).collect()
}

/// The first of these paths below `root` that is there.
fn first_there(root: &Path, paths: &[&str]) -> Option<PathBuf> {
    paths.iter().map(|path| root.join(path)).find(|path| path.exists())
}

/// [`first_there`], for what a layout cannot do without.
fn needed(root: &Path, paths: &[&str]) -> anyhow::Result<PathBuf> {
    first_there(root, paths).with_context(|| {
        format!(
            "{}: {} is missing: give the folder that holds it (--src)",
            root.display(),
            paths.join(" or ")
        )
    })
}

/// The lines of a text file that are not empty, with their numbers from 1.
fn lines(path: &Path) -> anyhow::Result<Vec<(usize, String)>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty());
    Ok(lines.map(|(line, number)| (number, line.to_owned())).collect())
}

/// For the message about a line of a list.
fn at(path: &Path, line: usize) -> String {
    format!("{}: line {line}", path.display())
}

/// A file's name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Training or validation, of a set whose test part is published.
fn train_split(identity: &str, args: &PrepareArgs) -> Split {
    split_of(identity, args.val_share)
}

/// A pixel's middle, where the first one is 1.
const MIDDLE: f32 = -0.5;

/// Intensities of which none is known yet.
const UNKNOWN_UNITS: [f32; 18] = [f32::NAN; 18];

/// The place of an action unit among ours; `None` for one that we do not name.
fn unit_place(number: u64) -> Option<usize> {
    ACTION_UNITS.iter().position(|&unit| u64::from(unit) == number)
}

/// The number of an action unit as lists name it: `4`, `AU4`, `AU04`, `"4"`.
fn unit_number(name: &str) -> Option<u64> {
    let name = name.trim().trim_matches(['"', '\'']).trim();
    let digits = name.strip_prefix("AU").or_else(|| name.strip_prefix("au")).unwrap_or(name);
    digits.trim().trim_start_matches(['_', ' ']).parse().ok()
}

/// How far 300W-LP's usual loose crop reaches beyond the landmarks' box, in shares of its sides: left and right, above,
/// below (Ruiz, Chong and Rehg 2018, in their data loader, at their factor of 0.2).
const LOOSE: (f32, f32, f32) = (0.12, 0.4, 0.12);

/// The square about the loose crop of a face with these landmarks.
fn loose_square(points: &[Point]) -> Rect {
    let fold = |start: f32, pick: fn(f32, f32) -> f32, axis: fn(&Point) -> f32| {
        points.iter().map(axis).fold(start, pick)
    };
    let (left, right) = (fold(f32::MAX, f32::min, |p| p.x), fold(f32::MIN, f32::max, |p| p.x));
    let (top, bottom) = (fold(f32::MAX, f32::min, |p| p.y), fold(f32::MIN, f32::max, |p| p.y));
    let (beside, above, below) = LOOSE;
    let (width, height) = (right - left, bottom - top);
    let loose = Rect::new(
        left - beside * width,
        top - above * height,
        (1.0 + 2.0 * beside) * width,
        (1.0 + above + below) * height,
    );
    square_about(&loose)
}

/// The square with a box's middle and its longer side.
fn square_about(bbox: &Rect) -> Rect {
    let (centre, side) = (bbox.center(), bbox.w.max(bbox.h));
    Rect::new(centre.x - side / 2.0, centre.y - side / 2.0, side, side)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn action_units_are_known_by_any_of_their_names() {
        for name in ["4", "AU4", "AU04", "au4", " \"4\"", "AU 4", "AU_4"] {
            assert_eq!(unit_number(name), Some(4), "{name}");
        }
        assert_eq!(unit_number("frame"), None);
        assert_eq!(unit_place(43), Some(17));
        assert_eq!(unit_place(3), None);
    }

    #[test]
    fn the_loose_square_holds_the_loose_crop() {
        let points = [Point::new(100.0, 200.0), Point::new(200.0, 300.0)];
        let square = loose_square(&points);
        // 124 wide and 152 high: the height counts, and the middle is higher than the landmarks'.
        assert!((square.w - 152.0).abs() < 1e-3 && (square.h - 152.0).abs() < 1e-3, "{square:?}");
        let centre = square.center();
        assert!((centre.x - 150.0).abs() < 1e-3 && (centre.y - 236.0).abs() < 1e-3, "{centre:?}");
    }
}
