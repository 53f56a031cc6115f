//! Pictures from files, each with what a data set says of it: kept as they are, or cut out.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use semblance_face::labels::Expression;
use semblance_face::landmarks::{LANDMARKS, five_points};
use semblance_face::{Aligner, Bundle, Frame, Landmarker, Point, Rect, Similarity, align, describe};

use super::followed::pose_in_crop;
use super::in_order::{Stop, Worker};
use super::report::Reason;
use super::tree::relative;
use super::{Part, PrepareArgs, Stored, crop_landmarks, encode_jpeg, in_shares, open_landmarker};
use crate::store::{Sample, Split};

/// Frames that a worker reads before they are handed on.
const PIECE_FRAMES: usize = 512;

/// What a data set says of a picture. Points and boxes are in pixels of its file.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) expression: Option<Expression>,
    /// In `[-1, 1]`.
    pub(super) valence_arousal: Option<[f32; 2]>,
    /// In `[0, 1]`, NaN where nobody judged.
    pub(super) action_units: Option<[f32; 18]>,
    /// Yaw, pitch and roll in degrees.
    pub(super) pose: Option<[f32; 3]>,
    pub(super) landmarks: Option<[Point; LANDMARKS]>,
    pub(super) five_points: Option<[Point; 5]>,
    /// The square to be stored; `None` where the picture is a crop already.
    pub(super) crop: Option<Rect>,
}

impl Marks {
    /// Refuses what a store cannot hold.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let outside = |what: &str, v: f32| Err(Refusal::bad_label(format!("{what} {v} is out of range")));
        if let Some(v) = self.valence_arousal.iter().flatten().find(|v| !(-1.0..=1.0).contains(*v)) {
            return outside("valence or arousal", *v);
        }
        let units = self.action_units.iter().flatten();
        if let Some(v) = units.copied().find(|v| !(v.is_nan() || (0.0..=1.0).contains(v))) {
            return outside("the intensity", v);
        }
        if let Some(v) = self.pose.iter().flatten().find(|v| !v.is_finite()) {
            return outside("the angle", *v);
        }
        let points = self.landmarks.iter().flatten().chain(self.five_points.iter().flatten());
        match points.flat_map(|p| [p.x, p.y]).find(|v| !v.is_finite()) {
            Some(v) => outside("the landmark", v),
            None => Ok(()),
        }
    }

    /// What does not depend on where the picture is cut; the pose is the file's.
    pub(super) fn labels(&self, t_secs: f64, split: Split) -> Sample {
        Sample {
            expression: self.expression,
            valence_arousal: self.valence_arousal,
            action_units: self.action_units,
            pose: self.pose,
            ..Sample::unlabelled(t_secs, split)
        }
    }

    /// Everything, in the stored picture, which is `width` x `height` pixels and `to_stored` of the file.
    fn sample(
        &self,
        t_secs: f64,
        split: Split,
        (width, height): (u32, u32),
        to_stored: &Similarity,
    ) -> Sample {
        let landmarks = self.landmarks.map(|points| points.map(|p| to_stored.apply(p)));
        let five = self.five_points.map(|points| points.map(|p| to_stored.apply(p)));
        Sample {
            pose: self.pose.map(|pose| pose_in_crop(pose, to_stored)),
            landmarks: landmarks.map(|points| in_shares(&points, width, height)),
            five_points: five.map(|points| in_shares(&points, width, height)),
            ..self.labels(t_secs, split)
        }
    }

    /// From the file to what is stored; `None` where that is the file's picture.
    fn to_stored(&self, aligner: Option<&Aligner>, side_px: u32) -> Result<Option<Similarity>, Refusal> {
        let Some(aligner) = aligner else {
            return self.crop.map(|square| to_square(&square, side_px)).transpose();
        };
        let five = self.five_points.or_else(|| self.landmarks.as_ref().map(five_points));
        let five = five.ok_or_else(|| Refusal::bad_label("no landmarks to align it by"))?;
        let to_crop = aligner.transform(&Rect::default(), Some(&five));
        to_crop.map(Some).ok_or_else(|| Refusal::bad_label("its landmarks coincide"))
    }
}

/// From a picture to the square of it, `side_px` pixels wide.
fn to_square(square: &Rect, side_px: u32) -> Result<Similarity, Refusal> {
    let scale = side_px as f32 / square.w;
    let to_crop = Similarity { a: scale, b: 0.0, tx: -square.x * scale, ty: -square.y * scale };
    let finite = [scale, to_crop.tx, to_crop.ty].iter().all(|v| v.is_finite());
    if !finite || scale <= 0.0 {
        return Err(Refusal::bad_label("its box is empty or not finite"));
    }
    Ok(to_crop)
}

/// Whether the middle of what is cut is in the picture; edges may lie outside.
fn has_middle(frame: &Frame, to_crop: &Similarity, side_px: u32) -> bool {
    let middle = side_px as f32 / 2.0;
    to_crop.invert().is_some_and(|to_frame| {
        let Point { x, y, .. } = to_frame.apply(Point::new(middle, middle));
        (0.0..=frame.width() as f32).contains(&x) && (0.0..=frame.height() as f32).contains(&y)
    })
}

/// Why a picture is not stored.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) why: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }

    pub(super) fn bad_label(why: impl Into<String>) -> Self {
        Self::new(Reason::BadLabel, why)
    }

    /// For a file that cannot be read, or is not there.
    pub(super) fn file(error: &anyhow::Error) -> Self {
        let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        let reason = if kind == Some(io::ErrorKind::NotFound) { Reason::Missing } else { Reason::Unreadable };
        Self::new(reason, describe(error.as_ref()))
    }
}

/// What stands for a picture's marks until it is read: they, or the files that have them.
pub(super) trait Notes: Send {
    /// The marks.
    ///
    /// # Errors
    /// Why the picture is not to be stored.
    fn marks(&self) -> Result<Marks, Refusal>;
}

impl Notes for Marks {
    fn marks(&self) -> Result<Marks, Refusal> {
        Ok(self.clone())
    }
}

/// Nothing is known of the picture.
impl Notes for () {
    fn marks(&self) -> Result<Marks, Refusal> {
        Ok(Marks::default())
    }
}

/// A picture of a video.
#[derive(Clone, Debug)]
pub(super) struct Picture<N> {
    pub(super) path: PathBuf,
    pub(super) t_secs: f64,
    pub(super) notes: N,
}

/// Successive frames of a video.
pub(super) struct Piece<N> {
    identity: String,
    video: String,
    split: Split,
    /// Whether it is the video's first.
    starts: bool,
    pictures: Vec<Picture<N>>,
    /// Why there are none.
    unreadable: Option<String>,
}

impl<N> Piece<N> {
    /// A video without pictures, and why.
    pub(super) fn unreadable(identity: String, video: String, split: Split, why: String) -> Self {
        Self { identity, video, split, starts: true, pictures: Vec::new(), unreadable: Some(why) }
    }

    /// A video in pieces; one without pictures where it has none.
    pub(super) fn of(identity: &str, video: &str, split: Split, pictures: Vec<Picture<N>>) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut rest = pictures.into_iter();
        loop {
            let pictures: Vec<_> = rest.by_ref().take(PIECE_FRAMES).collect();
            if pictures.is_empty() && !pieces.is_empty() {
                return pieces;
            }
            pieces.push(Self {
                identity: identity.to_owned(),
                video: video.to_owned(),
                split,
                starts: pieces.is_empty(),
                pictures,
                unreadable: None,
            });
        }
    }
}

/// Reads the pictures of one piece after another.
pub(super) struct PieceWorker<'a> {
    args: &'a PrepareArgs,
    landmarker: Option<Landmarker>,
    /// Where pictures are aligned by the points that their marks have.
    aligner: Option<Aligner>,
    crop: Vec<u8>,
}

impl<'a> PieceWorker<'a> {
    /// `bundle` is needed for landmarks and for alignment.
    pub(super) fn open(args: &'a PrepareArgs, bundle: Option<&Bundle>) -> anyhow::Result<Self> {
        let landmarker = bundle.filter(|_| args.landmarks).map(open_landmarker).transpose()?;
        let aligner =
            (bundle.filter(|_| args.align)).map(|bundle| Aligner::new(bundle.manifest().crop, args.side_px));
        Ok(Self { args, landmarker, aligner, crop: Vec::new() })
    }

    /// The stored picture with what is known of it, or why there is none; what can be read is counted in `part`.
    fn fit<N: Notes>(
        &mut self,
        picture: &Picture<N>,
        split: Split,
        part: &mut Part,
    ) -> Result<(Frame, Stored), Refusal> {
        let marks = picture.notes.marks()?;
        marks.check()?;
        let (frame, bytes) = read(&picture.path).map_err(|error| Refusal::file(&error))?;
        part.frames_read += 1;
        let quality = self.args.quality();
        let (frame, jpeg, to_stored) = match marks.to_stored(self.aligner.as_ref(), self.args.side_px)? {
            None => {
                let jpeg = keep(&frame, bytes, quality).map_err(|error| Refusal::file(&error))?;
                (frame, jpeg, Similarity::IDENTITY)
            }
            Some(to_crop) => {
                if !has_middle(&frame, &to_crop, self.args.side_px) {
                    return Err(Refusal::bad_label("the middle of its face is outside the picture"));
                }
                let (crop, jpeg) = self.cut(&frame, &to_crop).map_err(|error| Refusal::file(&error))?;
                (crop, jpeg, to_crop)
            }
        };
        let sample = marks.sample(picture.t_secs, split, (frame.width(), frame.height()), &to_stored);
        let points = sample.landmarks.iter().flatten().chain(sample.five_points.iter().flatten());
        if points.into_iter().any(|v| !v.is_finite()) {
            return Err(Refusal::bad_label("its landmarks are beyond all bounds of its crop"));
        }
        Ok((frame, Stored { jpeg, sample }))
    }

    /// The square of a picture that `to_crop` makes of it, and its JPEG.
    fn cut(&mut self, frame: &Frame, to_crop: &Similarity) -> anyhow::Result<(Frame, Vec<u8>)> {
        let side_px = self.args.side_px;
        let to_frame = to_crop.invert().context("the crop is empty")?;
        self.crop.resize(Frame::byte_len(side_px, side_px)?, 0);
        align::sample(frame, &to_frame, side_px, &mut self.crop);
        let jpeg = encode_jpeg(&self.crop, side_px, side_px, 3, self.args.quality())?;
        Ok((Frame::new(side_px, side_px, self.crop.clone())?, jpeg))
    }
}

impl<N: Notes> Worker<Piece<N>> for PieceWorker<'_> {
    type Output = Part;

    fn work(&mut self, piece: &Piece<N>, _: &Stop<'_>) -> anyhow::Result<Option<Part>> {
        let mut part = Part::new(&piece.identity);
        part.starts = piece.starts;
        if let Some(what) = &piece.unreadable {
            part.pass_over(Reason::Unreadable, 1, what.clone());
        }
        let mut frames = Vec::with_capacity(piece.pictures.len());
        for picture in &piece.pictures {
            let name = || relative(&picture.path, &self.args.src);
            let (frame, mut stored) = match self.fit(picture, piece.split, &mut part) {
                Ok(fitted) => fitted,
                Err(Refusal { reason, why }) => {
                    part.pass_over(reason, 1, format!("{} ({why})", name()));
                    continue;
                }
            };
            if let Some(landmarker) = self.landmarker.as_mut().filter(|_| stored.sample.landmarks.is_none()) {
                stored.sample.landmarks = crop_landmarks(landmarker, &frame)?;
                if stored.sample.landmarks.is_none() {
                    part.pass_over(Reason::NoLandmarks, 1, name());
                }
            }
            frames.push(stored);
        }
        part.push(&piece.video, frames);
        Ok(Some(part))
    }
}

/// A picture and its file's bytes.
fn read(path: &Path) -> anyhow::Result<(Frame, Vec<u8>)> {
    let bytes = std::fs::read(path)?;
    Ok((Frame::decode(&bytes)?, bytes))
}

/// The JPEG of a picture that is kept as it is: the file's own bytes where they are one, else encoded anew.
fn keep(frame: &Frame, bytes: Vec<u8>, quality: u8) -> anyhow::Result<Vec<u8>> {
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
