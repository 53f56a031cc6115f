//! `trainer faces`: judges what a bundle finds: faces, landmarks, head pose, and faces where there are none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use semblance_face::finder::{ConvFinder, Finder, SeetaFinder};
use semblance_face::landmarks::{LANDMARKS, face_box, five_points, inter_ocular};
use semblance_face::{Bundle, Detection, Frame, Landmarker, Point, head_pose};
use semblance_synth::{RenderOptions, empty_scene};

use crate::data::mix;
use crate::faces::{self, is_validation_identity};
use crate::finder::{SURE, size_of};
use crate::landmarks::{self, Labelled};
use crate::store::{Split, Store};

/// Options of `trainer faces`.
#[derive(Clone, Debug, Args)]
pub struct FacesArgs {
    /// Folder of the bundle; with RUST_LOG=info, every face that is missed or wrong is named
    #[arg(long, default_value = "models/default")]
    pub bundle: PathBuf,

    /// Folder with pictures and their faces.csv; only what is kept from training is used. May be given several times
    #[arg(long)]
    pub faces: Vec<PathBuf>,

    /// Sources that are kept for validation whole, besides a sixth of all identities
    #[arg(long, value_delimiter = ',', default_value = "asl,retalking")]
    pub validate: Vec<String>,

    /// Longer side of the searched picture [default: the bundle's]
    #[arg(long)]
    pub search_side: Option<u32>,

    /// Score from which the bundle's finder gives a face
    #[arg(long, default_value_t = ConvFinder::DEFAULT_THRESHOLD)]
    pub threshold: f32,

    /// Judge SeetaFace instead of the bundle's finder
    #[arg(long)]
    pub seeta: bool,

    /// Smallest face that counts, in pixels of a picture whose longer side is 640
    #[arg(long, default_value_t = 60.0)]
    pub least_px: f32,

    /// CSV file with landmarks, as for `trainer landmarks`; people kept from training are used
    #[arg(long, requires = "pictures")]
    pub landmarks: Option<PathBuf>,

    /// Folder with its pictures
    #[arg(long)]
    pub pictures: Option<PathBuf>,

    /// Synthetic faces for landmarks and pose
    #[arg(long, default_value_t = 600)]
    pub synth: usize,

    /// Rendered pictures without a face
    #[arg(long, default_value_t = 500)]
    pub empty: u64,

    /// A folder of pictures without a face, to be searched, too
    #[arg(long)]
    pub faceless: Option<PathBuf>,

    /// A store of crops: tell where the five points lie in them, which is the crop template of an encoder trained on them
    #[arg(long, value_name = "STORE")]
    pub framing: Option<PathBuf>,

    /// Seed of what is rendered; training uses others
    #[arg(long, default_value_t = 1_000_001)]
    pub seed: u64,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A share of faces; no share where there are none.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Found {
    /// Faces that the teacher is sure of and that are large enough.
    pub faces: usize,
    /// Of those, the ones found.
    pub found: usize,
    /// Faces that our finder gives and that are large enough.
    pub given: usize,
    /// Of those, the ones that are on no face of the teacher's.
    pub wrong: usize,
    /// Pictures.
    pub pictures: usize,
}

impl Found {
    fn recall(&self) -> f64 {
        self.found as f64 / self.faces.max(1) as f64
    }

    fn precision(&self) -> f64 {
        1.0 - self.wrong as f64 / self.given.max(1) as f64
    }
}

/// Mean errors of landmarks, in shares of the distance of the outer eye corners.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LandmarkErrors {
    /// Faces judged.
    pub n: usize,
    /// Over 68 landmarks.
    pub nme: f64,
    /// Over the five points that align a face.
    pub nme_five: f64,
    /// Faces on which the finder and the landmark network saw none.
    pub missed: usize,
}

/// Mean absolute errors of head pose in degrees.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PoseErrors {
    /// Faces judged: yaw, pitch and roll within 40 degrees.
    pub n: usize,
    /// Yaw.
    pub mae_yaw: f64,
    /// Pitch.
    pub mae_pitch: f64,
    /// Roll.
    pub mae_roll: f64,
    /// Faces that no pose was found for.
    pub failed: usize,
}

/// What `trainer faces` found out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FacesReport {
    /// The task's name, `faces`.
    pub task: &'static str,
    /// The finder that was judged.
    pub finder: String,
    /// Longer side of the picture that it searched.
    pub search_side_px: u32,
    /// By source, against the teacher's boxes at IoU 0.5.
    pub sources: BTreeMap<String, Found>,
    /// All sources together.
    pub all: Found,
    /// Share of rendered pictures without a face in which one was found.
    pub false_alarms: Option<f64>,
    /// Pictures of the folder without faces, and those in which one was found.
    pub faceless: Option<(usize, usize)>,
    /// On real faces, from the labelled crop's own finder box or, where it is missed, not at all.
    pub landmarks_real: Option<LandmarkErrors>,
    /// On synthetic faces.
    pub landmarks_synth: Option<LandmarkErrors>,
    /// On synthetic faces.
    pub pose_synth: Option<PoseErrors>,
    /// Of the store of crops: medians in shares of the side, and the pictures they are of.
    pub framing: Option<([[f32; 2]; 5], usize)>,
}

/// Runs `trainer faces`.
///
/// # Errors
/// Names the file or option that stands in the way.
pub fn run(args: &FacesArgs) -> anyhow::Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    let manifest = bundle.manifest();
    let own = bundle.finder_onnx().zip(manifest.finder.as_ref()).filter(|_| !args.seeta);
    let (mut finder, side_px): (Box<dyn Finder>, u32) = match own {
        Some((onnx, entry)) => {
            let side = args.search_side.unwrap_or(entry.input_side_px);
            (Box::new(ConvFinder::new(onnx.to_vec(), side)?.with_threshold(args.threshold)), side)
        }
        None => (Box::new(SeetaFinder::new()?), 0),
    };
    let mut report = FacesReport {
        task: "faces",
        finder: finder.name().to_owned(),
        search_side_px: side_px,
        ..FacesReport::default()
    };
    for dir in &args.faces {
        judge_finder(args, dir, finder.as_mut(), &mut report)?;
    }
    if args.empty > 0 {
        report.false_alarms = Some(false_alarms(args, finder.as_mut())?);
    }
    if let Some(dir) = &args.faceless {
        report.faceless = Some(search_faceless(dir, finder.as_mut())?);
    }
    if let Some((onnx, entry)) = bundle.landmarks_onnx().zip(manifest.landmarks.as_ref()) {
        let mut judge = LandmarkJudge { finder, landmarker: Landmarker::new(onnx, entry.input_side_px)? };
        if let (Some(csv), Some(pictures)) = (&args.landmarks, &args.pictures) {
            let mut rows = landmarks::read_rows(csv, pictures)?;
            rows.retain(|row| is_validation_identity(&row.identity));
            report.landmarks_real = Some(judge.landmarks(&landmarks::load(&rows)?)?);
        }
        if let Some(store) = &args.framing {
            report.framing = Some(framing(&Store::open(store)?, &mut judge.landmarker)?);
        }
        if args.synth > 0 {
            let (errors, pose) = judge.synthetic(args)?;
            report.landmarks_synth = Some(errors);
            report.pose_synth = Some(pose);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

const MIN_IOU: f32 = 0.5;

fn judge_finder(
    args: &FacesArgs,
    dir: &std::path::Path,
    finder: &mut dyn Finder,
    report: &mut FacesReport,
) -> anyhow::Result<()> {
    let mut entries = faces::read_list(dir)?;
    entries.retain(|entry| entry.is_validation(&args.validate));
    let mut ours = Vec::new();
    for entry in &entries {
        let frame = entry.decode()?;
        finder.find(&frame, &mut ours)?;
        let scale = 640.0 / frame.width().max(frame.height()) as f32;
        let counts = |face: &Detection| size_of(&face.bbox) * scale >= args.least_px;
        let meets = |a: &Detection, b: &Detection| a.bbox.iou(&b.bbox) >= MIN_IOU;
        let sure: Vec<_> = entry.faces.iter().filter(|f| f.score >= SURE && counts(f)).collect();
        let given: Vec<_> = ours.iter().filter(|f| counts(f)).collect();
        let missed: Vec<_> = sure.iter().filter(|face| !ours.iter().any(|o| meets(o, face))).collect();
        let wrong: Vec<_> = given.iter().filter(|o| !entry.faces.iter().any(|face| meets(o, face))).collect();
        for (what, faces) in [("missed", &missed), ("on no face", &wrong)] {
            if !faces.is_empty() {
                let boxes: Vec<_> = faces.iter().map(|f| (f.bbox, f.score)).collect();
                log::info!("{}: {what}: {boxes:?}", entry.path.display());
            }
        }
        let one = Found {
            pictures: 1,
            faces: sure.len(),
            found: sure.len() - missed.len(),
            given: given.len(),
            wrong: wrong.len(),
        };
        for sum in [report.sources.entry(entry.source.clone()).or_default(), &mut report.all] {
            sum.pictures += one.pictures;
            sum.faces += one.faces;
            sum.found += one.found;
            sum.given += one.given;
            sum.wrong += one.wrong;
        }
    }
    Ok(())
}

fn false_alarms(args: &FacesArgs, finder: &mut dyn Finder) -> anyhow::Result<f64> {
    let mut ours = Vec::new();
    let mut alarms = 0;
    for i in 0..args.empty {
        finder.find(&empty_scene(640, 480, mix(args.seed, i))?, &mut ours)?;
        alarms += usize::from(!ours.is_empty());
    }
    Ok(alarms as f64 / args.empty as f64)
}

fn search_faceless(dir: &std::path::Path, finder: &mut dyn Finder) -> anyhow::Result<(usize, usize)> {
    let at = || dir.display().to_string();
    let (mut pictures, mut alarms, mut ours) = (0, 0, Vec::new());
    for entry in std::fs::read_dir(dir).with_context(at)? {
        let path = entry.with_context(at)?.path();
        if !semblance_face::frame::is_picture(&path) {
            continue;
        }
        let name = || path.display().to_string();
        finder
            .find(&Frame::decode(&std::fs::read(&path).with_context(name)?).with_context(name)?, &mut ours)?;
        pictures += 1;
        alarms += usize::from(!ours.is_empty());
        if let Some(face) = ours.first() {
            log::info!("{}: {:?}", path.display(), face.bbox);
        }
    }
    ensure!(pictures > 0, "{}: no picture", dir.display());
    Ok((pictures, alarms))
}

/// Where the five points of a store's training crops lie.
fn framing(store: &Store, landmarker: &mut Landmarker) -> anyhow::Result<([[f32; 2]; 5], usize)> {
    const MOST_PICTURES: usize = 4000;
    const SURE_PRESENCE: f32 = 0.95;
    let mut seen: [[Vec<f32>; 2]; 5] = Default::default();
    for i in store.split(Split::Train).into_iter().take(MOST_PICTURES) {
        let frame = store.record(i).decode()?;
        let (width, height) = (frame.width() as f32, frame.height() as f32);
        let found = landmarker.locate_in_crop(&frame)?;
        let Some(found) = found.filter(|l| l.presence >= SURE_PRESENCE) else { continue };
        for ([xs, ys], p) in seen.iter_mut().zip(found.five_points()) {
            xs.push(p.x / width);
            ys.push(p.y / height);
        }
    }
    let count = seen[0][0].len();
    ensure!(count > 0, "{}: no face is seen in its training pictures", store.dir().display());
    let median = |values: &mut Vec<f32>| {
        values.sort_by(f32::total_cmp);
        values[values.len() / 2]
    };
    Ok((seen.each_mut().map(|axes| axes.each_mut().map(median)), count))
}

/// Finds a face as the edge does, then its landmarks.
struct LandmarkJudge {
    finder: Box<dyn Finder>,
    landmarker: Landmarker,
}

impl LandmarkJudge {
    /// The landmarks of the face that overlaps these most.
    fn locate(&mut self, face: &Labelled) -> anyhow::Result<Option<[Point; LANDMARKS]>> {
        let mut ours = Vec::new();
        self.finder.find(&face.frame, &mut ours)?;
        let truth = face_box(&face.points);
        let best = ours.iter().max_by(|a, b| a.bbox.iou(&truth).total_cmp(&b.bbox.iou(&truth)));
        let Some(best) = best.filter(|b| b.bbox.iou(&truth) > 0.2) else { return Ok(None) };
        Ok(self.landmarker.locate(&face.frame, best)?.map(|found| found.points))
    }

    fn landmarks(&mut self, faces: &[Labelled]) -> anyhow::Result<LandmarkErrors> {
        let mut errors = LandmarkErrors::default();
        for face in faces {
            match self.locate(face)? {
                Some(points) => add_error(&mut errors, &points, &face.points),
                None => errors.missed += 1,
            }
        }
        Ok(mean(errors))
    }

    fn synthetic(&mut self, args: &FacesArgs) -> anyhow::Result<(LandmarkErrors, PoseErrors)> {
        const MOST_DEG: f32 = 40.0;
        let options = RenderOptions { face_share: (0.3, 0.6), ..RenderOptions::crop(256) };
        let drawn = faces::render(args.synth, args.seed, &options, |frame, labels| {
            (Labelled { frame, points: labels.landmarks }, labels.pose, labels.hidden)
        })?;
        let (mut errors, mut pose) = (LandmarkErrors::default(), PoseErrors::default());
        for (face, truth, hidden) in drawn {
            // Behind a hand, or at the end of what a finder sees.
            if hidden > 0.5 {
                continue;
            }
            let Some(points) = self.locate(&face)? else {
                errors.missed += 1;
                continue;
            };
            add_error(&mut errors, &points, &face.points);
            let within = [truth.yaw_deg, truth.pitch_deg, truth.roll_deg].iter().all(|v| v.abs() <= MOST_DEG);
            if !within {
                continue;
            }
            let Some(found) = head_pose(&points, face.frame.width(), face.frame.height()) else {
                pose.failed += 1;
                continue;
            };
            pose.n += 1;
            pose.mae_yaw += f64::from((found.yaw_deg - truth.yaw_deg).abs());
            pose.mae_pitch += f64::from((found.pitch_deg - truth.pitch_deg).abs());
            pose.mae_roll += f64::from((found.roll_deg - truth.roll_deg).abs());
        }
        let n = pose.n.max(1) as f64;
        pose = PoseErrors {
            mae_yaw: pose.mae_yaw / n,
            mae_pitch: pose.mae_pitch / n,
            mae_roll: pose.mae_roll / n,
            ..pose
        };
        Ok((mean(errors), pose))
    }
}

fn add_error(errors: &mut LandmarkErrors, ours: &[Point; LANDMARKS], truth: &[Point; LANDMARKS]) {
    let unit = f64::from(inter_ocular(truth));
    let error = |a: &[Point], b: &[Point]| {
        let sum: f64 = a.iter().zip(b).map(|(p, q)| f64::from((p.x - q.x).hypot(p.y - q.y))).sum();
        sum / a.len() as f64 / unit
    };
    errors.n += 1;
    errors.nme += error(ours, truth);
    errors.nme_five += error(&five_points(ours), &five_points(truth));
}

fn mean(errors: LandmarkErrors) -> LandmarkErrors {
    let n = errors.n.max(1) as f64;
    LandmarkErrors { nme: errors.nme / n, nme_five: errors.nme_five / n, ..errors }
}

impl fmt::Display for FacesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "finder {}, longer side {} px", self.finder, self.search_side_px)?;
        if self.all.pictures > 0 {
            write!(
                f,
                "\n{:<14} {:>8} {:>7} {:>8} {:>10}",
                "source", "pictures", "faces", "recall", "precision"
            )?;
            let all = [("all".to_owned(), self.all)];
            for (name, found) in self.sources.iter().map(|(n, s)| (n.clone(), *s)).chain(all) {
                let (recall, precision) = (found.recall(), found.precision());
                write!(
                    f,
                    "\n{name:<14} {:>8} {:>7} {recall:>8.4} {precision:>10.4}",
                    found.pictures, found.faces
                )?;
            }
        }
        if let Some(share) = self.false_alarms {
            write!(f, "\nfalse alarms on rendered pictures without a face: {:.2} %", 100.0 * share)?;
        }
        if let Some((pictures, alarms)) = self.faceless {
            write!(f, "\nfalse alarms on the folder without faces: {alarms} of {pictures}")?;
        }
        for (what, errors) in [("real", self.landmarks_real), ("synthetic", self.landmarks_synth)] {
            if let Some(e) = errors {
                let LandmarkErrors { n, nme, nme_five, missed } = e;
                write!(
                    f,
                    "\nlandmarks, {what}: NME {nme:.4}, five points {nme_five:.4} (n = {n}, {missed} not found)"
                )?;
            }
        }
        if let Some((points, n)) = self.framing {
            write!(f, "\nframing, medians of {n} crops: {points:.3?}")?;
        }
        if let Some(p) = self.pose_synth {
            let PoseErrors { n, mae_yaw, mae_pitch, mae_roll, failed } = p;
            write!(
                f,
                "\npose, synthetic, within 40 degrees: MAE yaw {mae_yaw:.2}, pitch {mae_pitch:.2}, roll {mae_roll:.2} (n = {n}, {failed} failed)"
            )?;
        }
        Ok(())
    }
}
