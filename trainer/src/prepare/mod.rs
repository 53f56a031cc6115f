//! `trainer prepare`: data sets as their publishers lay them out, into a clip store.

mod fer2013;
mod followed;
mod frames;
mod in_order;
mod labelled;
mod pictures;
mod report;
mod tree;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use indicatif::ProgressBar;
use semblance_face::track::FORGET_SECS;
use semblance_face::{Bundle, Frame, Landmarker, Landmarks, Point};
use serde::{Deserialize, Serialize};

pub(crate) use self::followed::pose_in_crop;
use self::in_order::{Worker, in_order};
pub use self::report::{FILE_NAME as REPORT, PassedOver, Reason, Report, Reports};
pub use self::tree::Shard;
use crate::inspect::Summary;
use crate::store::{NamedPair, PAIRS, Provenance, Sample, Store, StoreWriter, read_pairs, write_pairs};
use crate::{interrupt, progress};

/// How a data set is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// FER-2013: Kaggle's CSV (emotion,pixels,Usage), or an .npz with images, labels, usage and maybe ferplus_votes and
    /// action_units (deploy/teacher/blendshapes.py).
    Fer2013,
    /// Folders identity/video/frame.jpg or identity/video/track/frame.jpg (VoxCeleb1), or both, frames in the order of the
    /// numbers in their names; kept as they are unless --align is given.
    Frames,
    /// Video files identity/video/track.mp4 (VoxCeleb2), identity/clip.mp4, or clip.mp4 with an identity each; read
    /// through the ffmpeg program, their faces aligned.
    Videos,
    /// RAF-DB, basic expressions: EmoLabel/list_patition_label.txt and Image/aligned (or Image/original).
    Rafdb,
    /// AffectNet: training.csv and validation.csv with Manually_Annotated_Images, or train_set and val_set with images and
    /// annotations (.npy).
    Affectnet,
    /// LFW: Name/Name_0001.jpg (or a flat folder of such files) and pairs.txt.
    Lfw,
    /// Cross-Pose LFW: "aligned images" (or images) and pairs_CPLFW.txt.
    Cplfw,
    /// DISFA: ActionUnit_Labels, and Images/SN001/1.jpg or Videos_LeftCamera.
    Disfa,
    /// BP4D or BP4D+: AUCoding/F001_T1.csv and Sequences/F001/T1/0001.jpg.
    Bp4d,
    /// Sayette GFT: aucoding/001A.csv and images/001A/frame1.jpg.
    Gft,
    /// 300W-LP: AFW, HELEN, IBUG, LFPW and their _Flip, with a .mat beside each picture.
    #[serde(rename = "300w-lp")]
    #[value(name = "300w-lp")]
    W300Lp,
    /// AFLW2000-3D: image00002.jpg with a .mat beside it.
    Aflw2000,
    /// Renderings of BU-3DFE: F0001_AN01WH_...png and poses.csv (file,yaw,pitch).
    Bu3dfe,
    /// MAFL: CelebA's img_align_celeba and list_landmarks_align_celeba.txt, with training.txt and testing.txt.
    Mafl,
    /// 300-W: afw, helen, ibug and lfpw with a .pts beside each picture.
    #[serde(rename = "300-w")]
    #[value(name = "300-w")]
    W300,
    /// EmotioNet: lists of addresses and action units (.txt), and the pictures by their file names.
    Emotionet,
}

impl Layout {
    const fn name(self) -> &'static str {
        match self {
            Self::Fer2013 => "fer2013",
            Self::Frames => "frames",
            Self::Videos => "videos",
            Self::Rafdb => "rafdb",
            Self::Affectnet => "affectnet",
            Self::Lfw => "lfw",
            Self::Cplfw => "cplfw",
            Self::Disfa => "disfa",
            Self::Bp4d => "bp4d",
            Self::Gft => "gft",
            Self::W300Lp => "300w-lp",
            Self::Aflw2000 => "aflw2000",
            Self::Bu3dfe => "bu3dfe",
            Self::Mafl => "mafl",
            Self::W300 => "300-w",
            Self::Emotionet => "emotionet",
        }
    }

    /// How its faces are aligned.
    const fn alignment(self) -> Alignment {
        match self {
            Self::Videos => Alignment::Always,
            Self::Frames
            | Self::Rafdb
            | Self::Lfw
            | Self::Cplfw
            | Self::Disfa
            | Self::Bp4d
            | Self::Gft
            | Self::Bu3dfe
            | Self::Emotionet => Alignment::ByFinder,
            Self::Affectnet | Self::Mafl | Self::W300 => Alignment::ByMarks,
            Self::Fer2013 => Alignment::Never("its pictures are crops already, too small to be cut again"),
            Self::W300Lp | Self::Aflw2000 => {
                Alignment::Never("its protocol judges the pose in a loose crop that is not turned")
            }
        }
    }
}

/// How a layout's faces are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alignment {
    /// Found and followed, always.
    Always,
    /// Found and followed, with --align.
    ByFinder,
    /// By the points that the data set marks, with --align.
    ByMarks,
    /// Not at all, and why.
    Never(&'static str),
}

/// Options of `trainer prepare`.
#[derive(Clone, Debug, Args)]
pub struct PrepareArgs {
    /// How the data set is laid out
    #[arg(long)]
    pub layout: Layout,

    /// The data set: a file or a folder, as the layout has it
    #[arg(long)]
    pub src: PathBuf,

    /// Folder of the store to write
    #[arg(long)]
    pub out: PathBuf,

    /// Add to a store that is there already, and pass over the videos that it has: so an interrupted run goes on
    #[arg(long)]
    pub append: bool,

    /// Layout frames: frames a second of the source [default: 25]. Layout videos: frames a second to take [default: 4]
    #[arg(long, value_parser = rate)]
    pub fps: Option<f64>,

    /// Find and follow the faces of each video, and store them cut out and aligned by five points, with 68 landmarks and
    /// head pose (always so for layout videos). Layouts affectnet, mafl and 300-w: align by the points that the data set
    /// marks
    #[arg(long)]
    pub align: bool,

    /// Find 68 landmarks in pictures that are not aligned and have none, each taken to be the crop of one face
    #[arg(long)]
    pub landmarks: bool,

    /// Layouts lfw and cplfw: the list of pairs, where it is not in the data set's folder; for lfw also a CSV with columns
    /// fold,same,a,b
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,

    /// Layout affectnet: leave pictures of contempt out, for the seven classes of AffectNet-7
    #[arg(long)]
    pub no_contempt: bool,

    /// Bundle whose networks find faces and landmarks, and whose crop template aligns them
    #[arg(long, default_value = "models/default")]
    pub bundle: PathBuf,

    /// Side of crops in pixels, aligned ones and those that a labelled data set's boxes or landmarks give
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(32..=1024))]
    pub side_px: u32,

    /// Of each video, store every face that is followed, not only the one that is longest in view and most central. Whose
    /// the others are is not known: each gets an identity of its own, IDENTITY/VIDEO/face2 and so on, even where somebody
    /// was lost from view and found again
    #[arg(long)]
    pub all_faces: bool,

    /// With --all-faces: every face of a video is of the video's identity
    #[arg(long)]
    pub one_identity: bool,

    /// Leave out faces whose box's longer side is below this, in pixels of the source (with alignment)
    #[arg(long, default_value_t = 48.0, value_parser = not_negative::<f32>)]
    pub min_face_px: f32,

    /// Leave out faces that are followed for less than this, in seconds (with alignment) [default: 1 for layout videos, 0
    /// for frames]
    #[arg(long, value_parser = not_negative::<f64>)]
    pub min_seconds: Option<f64>,

    /// Read part i of n of the videos, i from 1 to n (1/8, .., 8/8), each into a store of its own: for cluster arrays. A hash
    /// of a video's name decides which part it is in, whatever else is in the set
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// Quality of JPEGs that have to be encoded, 1 to 100; pictures that are JPEG already are kept as they are [default: 95; layout
    /// fer2013, of so few pixels: 100]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: Option<u8>,

    /// Share of the identities that go to validation, of the training part where the data set has a test part (not for
    /// fer2013); the choice follows from their names alone. A picture of nobody in particular is an identity of its own
    #[arg(long, default_value_t = 0.1)]
    pub val_share: f64,

    /// Frames after which the store is brought up to date on the disk: what an interruption can cost at most, beside the
    /// videos in work
    #[arg(long, default_value_t = 20_000, value_name = "FRAMES")]
    pub commit_every: usize,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|fps: &f64| fps.is_finite() && *fps > 0.0)
        .ok_or("give a rate above 0".to_owned())
}

fn not_negative<T: std::str::FromStr + PartialOrd + Default>(text: &str) -> Result<T, String> {
    text.parse().ok().filter(|value| *value >= T::default()).ok_or("give a number, 0 or more".to_owned())
}

impl PrepareArgs {
    /// The defaults of the flags.
    pub fn new(layout: Layout, src: PathBuf, out: PathBuf) -> Self {
        Self {
            layout,
            src,
            out,
            append: false,
            fps: None,
            align: false,
            landmarks: false,
            pairs: None,
            no_contempt: false,
            bundle: PathBuf::from("models/default"),
            side_px: 128,
            all_faces: false,
            one_identity: false,
            min_face_px: 48.0,
            min_seconds: None,
            shard: None,
            quality: None,
            val_share: 0.1,
            commit_every: 20_000,
        }
    }

    /// Frames a second of the source (layout frames), or to take (layout videos). SSLFER takes about 4.
    fn fps(&self) -> f64 {
        self.fps.unwrap_or(if self.layout == Layout::Videos { 4.0 } else { 25.0 })
    }

    fn quality(&self) -> u8 {
        self.quality.unwrap_or(if self.layout == Layout::Fer2013 { 100 } else { 95 })
    }

    fn min_secs(&self) -> f64 {
        self.min_seconds.unwrap_or(if self.layout == Layout::Videos { 1.0 } else { 0.0 })
    }

    /// Whether faces are followed and aligned.
    fn follows(&self) -> bool {
        match self.layout.alignment() {
            Alignment::Always => true,
            Alignment::ByFinder => self.align,
            Alignment::ByMarks | Alignment::Never(_) => false,
        }
    }

    /// The bundle, where landmarks are wanted of pictures that are kept as they are.
    fn landmark_bundle(&self) -> anyhow::Result<Option<Bundle>> {
        self.landmarks.then(|| Ok(Bundle::open(&self.bundle)?)).transpose()
    }

    fn check(&self) -> anyhow::Result<()> {
        if !(0.0..=1.0).contains(&self.val_share) {
            bail!("--val-share {} is outside [0, 1]", self.val_share);
        }
        if !self.src.exists() {
            bail!("{}: no such file or folder", self.src.display());
        }
        let layout = self.layout.name();
        if let (true, Alignment::Never(why)) = (self.align, self.layout.alignment()) {
            bail!("--align is not for layout {layout}: {why}");
        }
        ensure!(
            !self.follows() || self.fps() * FORGET_SECS > 1.0,
            "--fps {}: a face cannot be followed over gaps of {FORGET_SECS} s and more",
            self.fps()
        );
        ensure!(self.follows() || !self.all_faces, "--all-faces needs --align");
        ensure!(self.all_faces || !self.one_identity, "--one-identity needs --all-faces");
        ensure!(self.follows() || self.min_seconds.is_none(), "--min-seconds needs --align");
        let unlabelled = matches!(self.layout, Layout::Frames | Layout::Videos);
        ensure!(unlabelled || !self.all_faces, "--all-faces: the labels of layout {layout} are of one face");
        ensure!(unlabelled || self.fps.is_none(), "--fps: layout {layout} has a rate of its own, or stills");
        let paired = matches!(self.layout, Layout::Lfw | Layout::Cplfw);
        ensure!(paired || self.pairs.is_none(), "--pairs is for layouts lfw and cplfw, not {layout}");
        let contempt = self.layout == Layout::Affectnet;
        ensure!(contempt || !self.no_contempt, "--no-contempt is for layout affectnet, not {layout}");
        Ok(())
    }
}

/// A picture as it goes to the store.
struct Stored {
    jpeg: Vec<u8>,
    sample: Sample,
}

/// A video of the store, or successive frames of it.
struct Shot {
    identity: String,
    video: String,
    frames: Vec<Stored>,
}

/// What came of a video of the data set, or of successive frames of it.
struct Part {
    /// That of the video; further faces of it may have others.
    identity: String,
    /// Whether it is the first of its video.
    starts: bool,
    frames_read: u64,
    /// What it becomes in the store; a video that has frames before this part goes on.
    videos: Vec<Shot>,
    passed_over: Vec<(Reason, u64, String)>,
}

impl Part {
    fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            starts: true,
            frames_read: 0,
            videos: Vec::new(),
            passed_over: Vec::new(),
        }
    }

    /// Adds frames of a video of its own identity.
    fn push(&mut self, video: &str, frames: Vec<Stored>) {
        self.videos.push(Shot { identity: self.identity.clone(), video: video.to_owned(), frames });
    }

    /// Notes what is not stored, unless it is nothing.
    fn pass_over(&mut self, reason: Reason, count: u64, example: String) {
        if count > 0 {
            self.passed_over.push((reason, count, example));
        }
    }

    fn bytes(&self) -> usize {
        let frames = self.videos.iter().flat_map(|shot| &shot.frames);
        frames.map(|stored| stored.jpeg.len() + size_of::<Stored>()).sum()
    }
}

/// One run: the store that is written and what is known of it.
struct Session<'a> {
    args: &'a PrepareArgs,
    stop: &'a AtomicBool,
    writer: StoreWriter,
    report: Report,
    earlier: Reports,
    bar: ProgressBar,
    start: Instant,
    /// Frames at the last commit.
    committed: usize,
    /// The video that the store's last frame is of.
    current: Option<(String, String)>,
    /// The pairs of the data set's verification protocol, where it has one.
    pairs: Option<Vec<NamedPair>>,
}

impl<'a> Session<'a> {
    fn open(args: &'a PrepareArgs, stop: &'a AtomicBool) -> anyhow::Result<Self> {
        let writer =
            if args.append { StoreWriter::append(&args.out)? } else { StoreWriter::create(&args.out)? };
        let earlier = if args.append { Reports::load(&args.out)? } else { Reports::default() };
        let report = Report {
            layout: args.layout.name().to_owned(),
            source: args.src.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            shard: args.shard.map(|shard| shard.to_string()),
            ..Report::default()
        };
        Ok(Self {
            args,
            stop,
            committed: writer.len(),
            writer,
            report,
            earlier,
            bar: ProgressBar::hidden(),
            start: Instant::now(),
            current: None,
            pairs: None,
        })
    }

    /// The store gets these pairs once its pictures are there.
    ///
    /// # Errors
    /// Where it has others: they would be lost.
    fn have_pairs(&mut self, pairs: Vec<NamedPair>) -> anyhow::Result<()> {
        if let Some(others) = read_pairs(&self.args.out)? {
            ensure!(
                others == pairs,
                "{}: the pairs of another protocol are there: give this one a store of its own (--out)",
                self.args.out.join(PAIRS).display()
            );
        }
        self.pairs = Some(pairs);
        Ok(())
    }

    /// The items that this run is to read: those of its shard whose video the store does not have.
    fn admit<T>(&mut self, mut items: Vec<T>, names: impl Fn(&T) -> (&str, &str)) -> Vec<T> {
        let counts = &mut self.report.videos;
        counts.found = items.len() as u64;
        items.retain(|item| {
            let (identity, video) = names(item);
            if self.args.shard.is_some_and(|shard| !shard.has(identity, video)) {
                counts.other_shards += 1;
                return false;
            }
            let stored = self.writer.has_video(identity, video);
            counts.stored_before += u64::from(stored);
            !stored
        });
        self.bar = progress::bar(items.len() as u64, "videos");
        items
    }

    /// Works on the items on every core, and stores what comes of each, in order.
    fn store_all<T: Send, W: Worker<T, Output = Part>>(
        &mut self,
        items: impl Iterator<Item = T> + Send,
        worker: impl Fn() -> anyhow::Result<W> + Sync,
    ) -> anyhow::Result<()> {
        // From here on a run that is killed has its entry, as one that did not finish.
        self.save_report()?;
        let (threads, stop) = (rayon::current_num_threads(), self.stop);
        in_order(items, threads, stop, worker, Part::bytes, |_, part| self.take(part))
    }

    fn take(&mut self, part: Part) -> anyhow::Result<()> {
        if part.starts {
            self.commit_if_due()?;
            self.report.videos.read += 1;
            self.bar.inc(1);
        }
        for (reason, count, example) in part.passed_over {
            self.report.add(reason, count, example);
        }
        self.report.frames.read += part.frames_read;
        for (i, Shot { identity, video, frames }) in part.videos.into_iter().enumerate() {
            let names = (identity, video);
            if !frames.is_empty() && self.current.as_ref() != Some(&names) {
                self.report.videos.stored += u64::from(i == 0);
                self.writer.begin_video(&names.0, &names.1);
                self.current = Some(names);
            }
            for stored in frames {
                self.writer.push(&stored.jpeg, &stored.sample)?;
                self.report.frames.stored += 1;
            }
        }
        let rate = self.report.frames.read as f64 / self.start.elapsed().as_secs_f64();
        self.bar.set_message(format!("{rate:.0} frames/s, {} stored", self.report.frames.stored));
        Ok(())
    }

    /// Between videos only: a video is in the store whole or not at all.
    fn commit_if_due(&mut self) -> anyhow::Result<()> {
        // The index grows with the store, and is written whole.
        if self.writer.len() - self.committed >= self.args.commit_every.max(self.committed / 4) {
            self.writer.checkpoint()?;
            self.committed = self.writer.len();
            self.save_report()?;
        }
        Ok(())
    }

    fn save_report(&mut self) -> anyhow::Result<()> {
        self.report.seconds = self.start.elapsed().as_secs_f64();
        self.earlier.runs.push(self.report.clone());
        let saved = self.earlier.save(&self.args.out);
        self.earlier.runs.pop();
        saved
    }

    /// Makes what was stored last, tells what came of the run, and fails where nothing did.
    fn close(mut self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let stopped = self.stop.load(Ordering::Relaxed);
        self.report.finished = !stopped;
        self.save_report()?;
        let (args, videos, stored) = (self.args, self.report.videos, self.report.frames.stored);
        let nothing = stored == 0 && videos.stored_before == 0;
        if nothing && !stopped && videos.read > 0 {
            let passed = self.report.passed_over.values().next().and_then(|p| p.examples.first());
            let example = passed.map(|example| format!(": {example}")).unwrap_or_default();
            bail!(
                "{}: nothing of it could be stored{example} (see {})",
                args.src.display(),
                args.out.join(REPORT).display()
            );
        }
        // A shard that no video falls to is a store without frames.
        if stored > 0 || (nothing && !stopped) {
            self.writer.commit(Provenance {
                layout: self.report.layout.clone(),
                source: self.report.source.clone(),
                skipped: self.report.total(),
            })?;
        }
        if let Some(pairs) = self.pairs.take().filter(|_| !self.writer.is_empty()) {
            write_pairs(&args.out, &pairs)?;
        }
        eprintln!("{}", self.report);
        if stopped {
            eprintln!(
                "stopped after {} of {} videos; --append continues",
                videos.read,
                self.bar.length().unwrap_or(0)
            );
        } else {
            eprintln!("{}", Summary::of(&Store::open(&args.out)?)?);
        }
        Ok(())
    }
}

/// Runs `trainer prepare`; Ctrl-C ends it with the videos that are done.
///
/// # Errors
/// Those of [`prepare`].
pub fn run(args: &PrepareArgs) -> anyhow::Result<()> {
    prepare(args, interrupt::flag()?)
}

/// Reads a data set into a store, until `stop` is set.
///
/// # Errors
/// Names the file that cannot be read or written. What was in the store before stays. A picture or video that cannot be
/// used is no error, but one of which nothing can is.
pub fn prepare(args: &PrepareArgs, stop: &AtomicBool) -> anyhow::Result<()> {
    args.check()?;
    let mut session = Session::open(args, stop)?;
    match args.layout {
        Layout::Fer2013 => fer2013::read(&mut session)?,
        Layout::Frames if !args.align => frames::read(&mut session)?,
        Layout::Frames | Layout::Videos => followed::read(&mut session)?,
        _ => labelled::read(&mut session)?,
    }
    session.close()
}

/// Below this presence the landmark network sees no face.
const MIN_PRESENCE: f32 = 0.5;

pub(crate) fn open_landmarker(bundle: &Bundle) -> anyhow::Result<Landmarker> {
    let network = bundle.landmarks_onnx().zip(bundle.manifest().landmarks.as_ref());
    let (onnx, entry) = network.with_context(|| {
        format!("{}: this bundle has no landmark network: give another (--bundle)", bundle.dir().display())
    })?;
    Ok(Landmarker::new(onnx, entry.input_side_px)?)
}

/// The landmarks of the face that a picture is a crop of, in its pixels; `None` where there is none.
pub(crate) fn face_in_crop(landmarker: &mut Landmarker, crop: &Frame) -> anyhow::Result<Option<Landmarks>> {
    Ok(landmarker.locate_in_crop(crop)?.filter(|found| found.presence >= MIN_PRESENCE))
}

/// The same as [`Sample::landmarks`] has them.
fn crop_landmarks(landmarker: &mut Landmarker, crop: &Frame) -> anyhow::Result<Option<[f32; 136]>> {
    let found = face_in_crop(landmarker, crop)?;
    Ok(found.map(|found| in_shares(&found.points, crop.width(), crop.height())))
}

/// Points in shares of a picture's sides, `[x0, y0, x1, ..]`.
pub(crate) fn in_shares<const POINTS: usize, const VALUES: usize>(
    points: &[Point; POINTS],
    width: u32,
    height: u32,
) -> [f32; VALUES] {
    const { assert!(VALUES == 2 * POINTS) };
    let (width, height) = (width as f32, height as f32);
    std::array::from_fn(|i| {
        let p = points[i / 2];
        if i % 2 == 0 { p.x / width } else { p.y / height }
    })
}

/// A JPEG of grey (`channels` 1) or RGB (3) pixels.
/// # Errors
/// Where the sizes do not fit the pixels.
pub fn encode_jpeg(
    pixels: &[u8],
    width: u32,
    height: u32,
    channels: u8,
    quality: u8,
) -> anyhow::Result<Vec<u8>> {
    let colour = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, quality)
        .encode(pixels, width, height, colour)
        .with_context(|| format!("cannot encode a picture of {width}x{height}"))?;
    Ok(jpeg)
}
