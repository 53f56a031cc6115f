//! Videos, and folders of their frames, whose faces are found, followed and cut out aligned.

use std::collections::BTreeMap;
use std::iter::Enumerate;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Context;
use semblance_face::track::FORGET_SECS;
use semblance_face::video::VideoError;
use semblance_face::{
    Aligner, Bundle, Face, FollowOptions, Follower, Frame, Similarity, VideoNext, VideoReader, head_pose,
};

use super::in_order::{Stop, Worker};
use super::pictures::Refusal;
use super::report::Reason;
use super::tree::{Clip, frame_folders, frames_in, relative, split_of, video_files};
use super::{Layout, Part, PrepareArgs, Session, Shot, Stored, encode_jpeg, in_shares};
use crate::store::{Sample, Split};

/// What stands between a video's name and the number of a face that is not its main one. A folder or file has a name,
/// so no other video is called so.
const FACE_SEPARATOR: &str = "//";

/// The identity of a video's face of this number, which nobody named. A folder's name has no slash, so no person of the
/// data set is called so, and no face of another video.
fn unnamed(identity: &str, video: &str, number: usize) -> String {
    format!("{identity}/{video}/face{number}")
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let bundle = open_bundle(args)?;
    let clips = match args.layout {
        Layout::Videos => video_files(&args.src, &mut session.report)?,
        _ => frame_folders(&args.src, &mut session.report)?,
    };
    follow(session, clips, &bundle)
}

/// A bundle that can find and align faces.
pub(super) fn open_bundle(args: &PrepareArgs) -> anyhow::Result<Bundle> {
    let bundle = Bundle::open(&args.bundle)?;
    anyhow::ensure!(
        bundle.landmarks_onnx().is_some(),
        "{}: this bundle has no landmark network, which faces are aligned by: give another (--bundle)",
        args.bundle.display()
    );
    Ok(bundle)
}

/// Stores the faces of these videos.
///
/// # Errors
/// Where the bundle's networks cannot be run, or the store not be written.
pub(super) fn follow<F: Footage>(
    session: &mut Session<'_>,
    clips: Vec<F>,
    bundle: &Bundle,
) -> anyhow::Result<()> {
    let (args, stop) = (session.args, session.stop);
    let clips = session.admit(clips, Footage::names);
    let clips = clips.into_iter().take_while(|_| !stop.load(Ordering::Relaxed));
    session.store_all(clips, || FaceReader::open(bundle, args))
}

/// A video whose faces are wanted.
pub(super) trait Footage: Send {
    /// Its identity and its name in the store.
    fn names(&self) -> (&str, &str);

    /// What messages name.
    fn path(&self) -> &Path;

    /// Its part.
    fn split(&self, args: &PrepareArgs) -> Split;

    /// Its pictures; `None` where it cannot be read, which is noted in `part`.
    ///
    /// # Errors
    /// What is not the video's fault.
    fn open(&self, args: &PrepareArgs, part: &mut Part) -> anyhow::Result<Option<Pictures>>;

    /// What is known of a frame besides its faces; `index` counts the video's frames from 0.
    ///
    /// # Errors
    /// Why no face of this frame is stored.
    fn sample(&self, index: u64, t_secs: f64, split: Split) -> Result<Sample, Refusal>;
}

impl Footage for Clip {
    fn names(&self) -> (&str, &str) {
        Self::names(self)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn split(&self, args: &PrepareArgs) -> Split {
        split_of(&self.identity, args.val_share)
    }

    fn open(&self, args: &PrepareArgs, part: &mut Part) -> anyhow::Result<Option<Pictures>> {
        if args.layout == Layout::Videos {
            return Ok(Some(Pictures::Video(VideoReader::sample(&self.path, args.fps())?)));
        }
        match frames_in(&self.path, args.fps()) {
            Ok(frames) => Ok(Some(Pictures::files(frames))),
            Err(error) => {
                let what = format!("{} ({error})", relative(&self.path, &args.src));
                part.pass_over(Reason::Unreadable, 1, what);
                Ok(None)
            }
        }
    }

    fn sample(&self, _: u64, t_secs: f64, split: Split) -> Result<Sample, Refusal> {
        Ok(Sample::unlabelled(t_secs, split))
    }
}

/// Reads the faces of one video after another.
struct FaceReader<'a> {
    args: &'a PrepareArgs,
    follower: Follower,
    aligner: Aligner,
    frame: Frame,
    crop: Vec<u8>,
}

impl<'a> FaceReader<'a> {
    fn open(bundle: &Bundle, args: &'a PrepareArgs) -> anyhow::Result<Self> {
        // At a few frames a second, faces move too far to be looked for where they were.
        let options = FollowOptions { find_every: 1, ..FollowOptions::default() };
        let follower = Follower::from_bundle(bundle, &options)?;
        let aligner = Aligner::new(bundle.manifest().crop, args.side_px);
        let crop = vec![0; (args.side_px * args.side_px * 3) as usize];
        Ok(Self { args, follower, aligner, frame: Frame::black(1, 1)?, crop })
    }

    /// Adds the faces of the current frame to `faces`; `known` is what is known of it.
    fn look(&mut self, name: &str, known: &Sample, faces: &mut Faces) -> anyhow::Result<()> {
        let Self { args, follower, aligner, frame, crop } = self;
        let (found, _) = follower.update(frame).with_context(|| name.to_owned())?;
        faces.begin_frame(frame.t_secs);
        for face in found {
            let Some(size_px) = face.seen.map(|seen| seen.bbox.w.max(seen.bbox.h)) else { continue };
            faces.any_seen = true;
            if size_px < args.min_face_px {
                faces.too_small(size_px);
            } else if let Some(stored) = cut(frame, face, aligner, crop, args.quality(), known)? {
                faces.push(face.id, centrality(face, frame), stored);
            }
        }
        Ok(())
    }
}

impl<F: Footage> Worker<F> for FaceReader<'_> {
    type Output = Part;

    fn work(&mut self, clip: &F, stop: &Stop<'_>) -> anyhow::Result<Option<Part>> {
        let name = relative(clip.path(), &self.args.src);
        let (identity, video) = clip.names();
        let split = clip.split(self.args);
        let mut part = Part::new(identity);
        let mut faces = Faces::new(self.args);
        self.follower.forget();
        if let Some(mut pictures) = clip.open(self.args, &mut part)? {
            while pictures.next(&mut self.frame, self.args, &mut part)? {
                if stop.is_set() {
                    return Ok(None);
                }
                part.frames_read += 1;
                match clip.sample(self.frame.index, self.frame.t_secs, split) {
                    Ok(known) => self.look(&name, &known, &mut faces)?,
                    Err(Refusal { reason, why }) => part.pass_over(reason, 1, format!("{name} ({why})")),
                }
            }
        }
        faces.finish(video, &name, &mut part);
        Ok(Some(part))
    }
}

/// The pictures of one video, in order.
pub(super) enum Pictures {
    Video(VideoReader),
    Files(Enumerate<std::vec::IntoIter<(PathBuf, f64)>>),
}

impl Pictures {
    /// Pictures with their times in seconds.
    pub(super) fn files(files: Vec<(PathBuf, f64)>) -> Self {
        Self::Files(files.into_iter().enumerate())
    }

    /// Whether there is a next picture, now in `frame`. What cannot be read is noted; an error is not the video's.
    fn next(&mut self, frame: &mut Frame, args: &PrepareArgs, part: &mut Part) -> anyhow::Result<bool> {
        match self {
            Self::Video(video) => {
                let next = video.next(frame);
                let name = |why: &str| format!("{} ({why})", relative(video.path(), &args.src));
                match next {
                    Ok(VideoNext::Frame) => return Ok(true),
                    Ok(VideoNext::End) => {}
                    Ok(VideoNext::Damaged(why)) => part.pass_over(Reason::Damaged, 1, name(&why)),
                    Err(VideoError::Unreadable { reason, .. }) => {
                        part.pass_over(Reason::Unreadable, 1, name(&reason));
                    }
                    Err(VideoError::Frame { source, .. }) => {
                        part.pass_over(Reason::Unreadable, 1, name(&source.to_string()));
                    }
                    Err(error) => return Err(error.into()),
                }
                Ok(false)
            }
            Self::Files(files) => {
                for (index, (path, t_secs)) in files {
                    let read = std::fs::read(&path).map_err(anyhow::Error::from);
                    match read.and_then(|bytes| Ok(Frame::decode(&bytes)?)) {
                        Ok(picture) => {
                            *frame = picture;
                            frame.t_secs = t_secs;
                            frame.index = index as u64;
                            return Ok(true);
                        }
                        Err(error) => {
                            let Refusal { reason, why } = Refusal::file(&error);
                            part.pass_over(reason, 1, format!("{} ({why})", relative(&path, &args.src)));
                        }
                    }
                }
                Ok(false)
            }
        }
    }
}

/// The aligned crop of a face with what is known of its frame, its landmarks and its pose in the crop, where alignment
/// rolls it upright. A pose that is known stands before the one that is found.
fn cut(
    frame: &Frame,
    face: &Face,
    aligner: &Aligner,
    crop: &mut [u8],
    quality: u8,
    known: &Sample,
) -> anyhow::Result<Option<Stored>> {
    let Some((seen, found)) = face.seen.zip(face.landmarks) else { return Ok(None) };
    let five = found.five_points();
    let Some(to_crop) = aligner.transform(&seen.bbox, Some(&five)) else { return Ok(None) };
    if !aligner.crop_into(frame, &seen.bbox, Some(&five), crop) {
        return Ok(None);
    }
    let side_px = aligner.side_px();
    let found_pose = || {
        let pose = head_pose(&found.points, frame.width(), frame.height())?;
        Some([pose.yaw_deg, pose.pitch_deg, pose.roll_deg])
    };
    let pose = known.pose.or_else(found_pose).map(|pose| pose_in_crop(pose, &to_crop));
    let landmarks = in_shares(&found.points.map(|p| to_crop.apply(p)), side_px, side_px);
    let sample = Sample { pose, landmarks: Some(landmarks), ..*known };
    Ok(Some(Stored { jpeg: encode_jpeg(crop, side_px, side_px, 3, quality)?, sample }))
}

/// Yaw, pitch and roll of a head, in degrees, in a crop that turns it.
pub(crate) fn pose_in_crop([yaw, pitch, roll]: [f32; 3], to_crop: &Similarity) -> [f32; 3] {
    [yaw, pitch, wrap_deg(roll + to_crop.b.atan2(to_crop.a).to_degrees())]
}

/// Into `[-180, 180)`.
fn wrap_deg(angle: f32) -> f32 {
    (angle + 180.0).rem_euclid(360.0) - 180.0
}

/// From 1 for a face in the picture's middle to 0 for one in a corner; it falls slowly at first, so that of two faces off
/// the middle the longer one is the main one.
fn centrality(face: &Face, frame: &Frame) -> f32 {
    let (width, height) = (frame.width() as f32, frame.height() as f32);
    let centre = face.bbox.center();
    let (dx, dy) = (centre.x - width / 2.0, centre.y - height / 2.0);
    (1.0 - (dx * dx + dy * dy) / (0.25 * (width * width + height * height))).max(0.0)
}

/// One face's way through a video.
struct Track {
    id: u64,
    /// Sum of its centralities: a long stay in the middle counts most.
    weight: f32,
    /// Which frames it is seen in.
    frames: Vec<usize>,
    stored: Vec<Stored>,
}

impl Track {
    fn last_secs(&self) -> f64 {
        self.stored.last().map_or(0.0, |s| s.sample.t_secs)
    }

    fn length_secs(&self) -> f64 {
        self.last_secs() - self.stored.first().map_or(0.0, |s| s.sample.t_secs)
    }
}

/// The faces of one video. Where only the main one is wanted, memory is bounded by it and those in view.
struct Faces {
    all: bool,
    one_identity: bool,
    min_secs: f64,
    frames: usize,
    any_seen: bool,
    live: BTreeMap<u64, Track>,
    /// Gone from view for good, and long enough.
    gone: Vec<Track>,
    short: u64,
    others: u64,
    small: u64,
    largest_small_px: f32,
}

impl Faces {
    fn new(args: &PrepareArgs) -> Self {
        Self {
            all: args.all_faces,
            one_identity: args.one_identity,
            min_secs: args.min_secs(),
            frames: 0,
            any_seen: false,
            live: BTreeMap::new(),
            gone: Vec::new(),
            short: 0,
            others: 0,
            small: 0,
            largest_small_px: 0.0,
        }
    }

    /// A face that the tracker has forgotten does not come back under its id.
    fn begin_frame(&mut self, t_secs: f64) {
        self.frames += 1;
        let gone = self.live.extract_if(.., |_, track| t_secs - track.last_secs() > FORGET_SECS);
        let gone: Vec<Track> = gone.map(|(_, track)| track).collect();
        gone.into_iter().for_each(|track| self.retire(track));
    }

    fn push(&mut self, id: u64, weight: f32, stored: Stored) {
        let fresh = || Track { id, weight: 0.0, frames: Vec::new(), stored: Vec::new() };
        let track = self.live.entry(id).or_insert_with(fresh);
        track.weight += weight;
        track.frames.push(self.frames);
        track.stored.push(stored);
    }

    fn too_small(&mut self, size_px: f32) {
        self.small += 1;
        self.largest_small_px = self.largest_small_px.max(size_px);
    }

    fn retire(&mut self, track: Track) {
        if track.length_secs() < self.min_secs {
            self.short += 1;
            return;
        }
        self.gone.push(track);
        if !self.all && self.gone.len() > 1 {
            self.gone.sort_by(best_first);
            self.gone.pop();
            self.others += 1;
        }
    }

    /// Hands over the faces that are stored, the main one under the video's own name, and notes what is not.
    fn finish(mut self, video: &str, name: &str, part: &mut Part) {
        let live = std::mem::take(&mut self.live);
        live.into_values().for_each(|track| self.retire(track));
        self.gone.sort_by(best_first);
        if self.frames > 0 && !self.any_seen {
            part.pass_over(Reason::NoFace, 1, name.to_owned());
        }
        if self.small > 0 {
            let what = format!("{name} (up to {:.0} px)", self.largest_small_px);
            part.pass_over(Reason::SmallFace, self.small, what);
        }
        part.pass_over(Reason::ShortTrack, self.short, name.to_owned());
        part.pass_over(Reason::OtherFace, self.others, name.to_owned());
        if !self.gone.is_empty() {
            let mut seen: Vec<usize> = self.gone.iter().flat_map(|t| &t.frames).copied().collect();
            seen.sort_unstable();
            seen.dedup();
            part.pass_over(Reason::Lost, (self.frames - seen.len()) as u64, name.to_owned());
        }
        let shot = |(i, track): (usize, Track)| {
            let identity = part.identity.as_str();
            let (identity, video) = match i + 1 {
                1 => (identity.to_owned(), video.to_owned()),
                number if self.one_identity => {
                    (identity.to_owned(), format!("{video}{FACE_SEPARATOR}{number}"))
                }
                number => (unnamed(identity, video, number), format!("{video}{FACE_SEPARATOR}{number}")),
            };
            Shot { identity, video, frames: track.stored }
        };
        part.videos = self.gone.into_iter().enumerate().map(shot).collect();
    }
}

/// By weight; of two alike, the one that was there first.
fn best_first(a: &Track, b: &Track) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(all_faces: bool) -> PrepareArgs {
        let mut args = PrepareArgs::new(Layout::Videos, PathBuf::new(), PathBuf::new());
        args.all_faces = all_faces;
        args
    }

    fn stored(t_secs: f64) -> Stored {
        Stored { jpeg: Vec::new(), sample: Sample::unlabelled(t_secs, Split::Train) }
    }

    /// Face 1 is at the side for 30 s, 2 in the middle from 2 to 5 s, 3 for half a second.
    fn played(args: &PrepareArgs) -> Part {
        let all = args.all_faces;
        let mut faces = Faces::new(args);
        for i in 0..121 {
            let t_secs = f64::from(i) / 4.0;
            faces.begin_frame(t_secs);
            faces.push(1, 0.3, stored(t_secs));
            if (2.0..=5.0).contains(&t_secs) {
                faces.push(2, 1.0, stored(t_secs));
            }
            if (9.0..=9.5).contains(&t_secs) {
                faces.push(3, 1.0, stored(t_secs));
            }
            assert!(all || faces.live.len() + faces.gone.len() <= 3);
        }
        let mut part = Part::new("someone");
        faces.any_seen = true;
        faces.finish("v", "v.mp4", &mut part);
        part
    }

    fn counts(part: &Part) -> Vec<(Reason, u64)> {
        part.passed_over.iter().map(|(reason, count, _)| (*reason, *count)).collect()
    }

    fn shots(part: &Part) -> Vec<(&str, &str, usize)> {
        part.videos.iter().map(|s| (s.identity.as_str(), s.video.as_str(), s.frames.len())).collect()
    }

    #[test]
    fn the_main_face_is_the_one_that_is_long_in_the_middle() {
        let part = played(&args(false));
        assert_eq!(shots(&part), [("someone", "v", 121)]);
        assert_eq!(counts(&part), [(Reason::ShortTrack, 1), (Reason::OtherFace, 1)]);
    }

    #[test]
    fn all_faces_are_videos_of_their_own_and_of_people_of_their_own() {
        let part = played(&args(true));
        assert_eq!(shots(&part), [("someone", "v", 121), ("someone/v/face2", "v//2", 13)]);
        assert_eq!(counts(&part), [(Reason::ShortTrack, 1)]);
        let part = played(&PrepareArgs { one_identity: true, ..args(true) });
        assert_eq!(shots(&part), [("someone", "v", 121), ("someone", "v//2", 13)]);
    }

    #[test]
    fn frames_without_the_face_are_counted_as_lost() {
        let mut faces = Faces::new(&args(false));
        for i in 0..20 {
            faces.begin_frame(f64::from(i) / 4.0);
            if i >= 3 && i != 10 {
                faces.any_seen = true;
                faces.push(7, 0.9, stored(f64::from(i) / 4.0));
            }
        }
        let mut part = Part::new("someone");
        faces.finish("v", "v.mp4", &mut part);
        assert_eq!(counts(&part), [(Reason::Lost, 4)]);
        assert_eq!(part.videos[0].frames.len(), 16);
    }

    #[test]
    fn angles_are_wrapped() {
        for (angle, wrapped) in [(190.0, -170.0), (-181.0, 179.0), (10.0, 10.0), (-180.0, -180.0)] {
            assert!((wrap_deg(angle) - wrapped).abs() < 1e-3);
        }
    }
}
