//! Following faces through a video: the finder now and then, the landmark network on every frame, one id a face.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::finder::{ConvFinder, Detection, FindError, Finder, SeetaFinder};
use crate::landmarks::{LandmarkError, Landmarker, Landmarks, face_box};
use crate::{Bundle, Frame, Rect, Tracker};

/// Which finder to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FinderKind {
    /// The bundle's own; SeetaFace where a bundle has none.
    #[default]
    Bundle,
    /// SeetaFace's frontal detector, embedded.
    Seeta,
}

/// How faces are found and followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowOptions {
    /// Which finder to use.
    pub finder: FinderKind,
    /// Longer side of the picture that the bundle's finder searches; `None` for what the bundle says.
    pub search_side_px: Option<u32>,
    /// See [`Follower`].
    pub find_every: u32,
}

impl Default for FollowOptions {
    fn default() -> Self {
        let find_every = Follower::DEFAULT_FIND_EVERY;
        Self { finder: FinderKind::default(), search_side_px: None, find_every }
    }
}

impl FollowOptions {
    /// The finder alone, warm.
    ///
    /// # Errors
    /// [`FindError`] where its network cannot be used.
    pub fn open_finder(&self, bundle: &Bundle) -> Result<Box<dyn Finder>, FindError> {
        let own = bundle.finder_onnx().zip(bundle.manifest().finder.as_ref());
        Ok(match own.filter(|_| self.finder == FinderKind::Bundle) {
            Some((onnx, entry)) => {
                let side_px = self.search_side_px.unwrap_or(entry.input_side_px);
                Box::new(ConvFinder::new(onnx.to_vec(), side_px)?)
            }
            None => Box::new(SeetaFinder::new()?),
        })
    }
}

/// A face in view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Face {
    /// Its number, from 1, the same for as long as it is in view and through short occlusions.
    pub id: u64,
    /// Its box in pixels, smoothed over time.
    pub bbox: Rect,
    /// The finder's last score, in `[0, 1]`.
    pub score: f32,
    /// Where it was seen in this frame: its five points (where the finder or the landmark network gives some) align it.
    pub seen: Option<Detection>,
    /// Its 68 landmarks, where it was seen in this frame and there is a landmark network.
    pub landmarks: Option<Landmarks>,
}

/// Why a frame could not be searched.
#[derive(Debug, Error)]
pub enum FollowError {
    /// The finder failed.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The landmark network failed.
    #[error(transparent)]
    Landmarks(#[from] LandmarkError),
}

/// Where the time of a frame went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// In the finder; `None` where it did not run.
    pub find: Option<Duration>,
    /// In the landmark network.
    pub landmarks: Duration,
}

/// Below this presence a face is lost (or was none): the landmark network says so of what it is shown.
const MIN_PRESENCE: f32 = 0.5;
/// Two faces whose boxes overlap more than this are one.
const MAX_OVERLAP: f32 = 0.5;
/// A face that grew or shrank by more than this from one frame to the next has slipped.
const MAX_GROWTH: f32 = 1.6;

/// Finds and follows several faces.
///
/// With a landmark network the finder runs on every `find_every`-th frame only: in between, each face is looked for where
/// it was. The finder runs at once where no face is followed, and where one is lost or slips away.
pub struct Follower {
    finder: Box<dyn Finder>,
    landmarker: Option<Landmarker>,
    find_every: u32,
    tracker: Tracker,
    frames_since_find: u32,
    last_t_secs: f64,
    /// Faces of the last frame, and their landmarks, one for one.
    detections: Vec<Detection>,
    landmarks: Vec<Option<Landmarks>>,
    candidates: Vec<Detection>,
    faces: Vec<Face>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("finder", &self.finder.name())
            .field("find_every", &self.find_every)
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Frames from one run of the finder to the next that cost little and lose nobody: measured on talking and turning
    /// people (see the table in ARCHITECTURE.md).
    pub const DEFAULT_FIND_EVERY: u32 = 5;

    /// A follower that has seen nothing. Without a landmark network the finder runs on every frame.
    pub fn new(finder: Box<dyn Finder>, landmarker: Option<Landmarker>, find_every: u32) -> Self {
        // What the landmark network has seen, too, need not be seen twice.
        let tracker = if landmarker.is_some() { Tracker::confirming_from(0.0) } else { Tracker::new() };
        Self {
            finder,
            landmarker,
            find_every: find_every.max(1),
            tracker,
            frames_since_find: 0,
            last_t_secs: f64::NEG_INFINITY,
            detections: Vec::new(),
            landmarks: Vec::new(),
            candidates: Vec::new(),
            faces: Vec::new(),
        }
    }

    /// A follower with a bundle's networks, warm.
    ///
    /// # Errors
    /// [`FollowError`] where a network cannot be used.
    pub fn from_bundle(bundle: &Bundle, options: &FollowOptions) -> Result<Self, FollowError> {
        let finder = options.open_finder(bundle)?;
        let landmarker = match bundle.landmarks_onnx().zip(bundle.manifest().landmarks.as_ref()) {
            Some((onnx, entry)) => Some(Landmarker::new(onnx, entry.input_side_px)?),
            None => None,
        };
        Ok(Self::new(finder, landmarker, options.find_every))
    }

    /// Runs the finder on every `frames`-th frame from now on; at least on every one.
    pub fn set_find_every(&mut self, frames: u32) {
        self.find_every = frames.max(1);
    }

    /// Forgets every face, as before a clip that has nothing to do with the last one.
    pub fn forget(&mut self) {
        self.detections.clear();
        self.landmarks.clear();
        self.tracker.forget();
    }

    /// The finder's name.
    pub fn finder_name(&self) -> &'static str {
        self.finder.name()
    }

    /// Takes the next frame and returns the faces in view, in the order of their ids, and where the time went.
    ///
    /// A time that runs backwards (a source that starts again) forgets every face.
    ///
    /// # Errors
    /// [`FollowError`]; a frame without faces is no error.
    pub fn update(&mut self, frame: &Frame) -> Result<(&[Face], Spent), FollowError> {
        let mut spent = Spent::default();
        let restarted = frame.t_secs < self.last_t_secs;
        self.last_t_secs = frame.t_secs;
        self.frames_since_find += 1;
        let due = self.frames_since_find >= self.find_every || self.detections.is_empty() || restarted;
        if due || self.landmarker.is_none() || !self.follow(frame, &mut spent)? {
            self.find(frame, &mut spent)?;
        }
        let (detections, landmarks) = (&self.detections, &self.landmarks);
        self.faces.clear();
        self.faces.extend(self.tracker.update(frame.t_secs, detections).iter().map(|track| Face {
            id: track.id,
            bbox: track.bbox,
            score: track.score,
            seen: track.detection.map(|i| detections[i]),
            landmarks: track.detection.and_then(|i| landmarks[i]),
        }));
        Ok((&self.faces, spent))
    }

    /// Looks for every face where it was; whether all are still there.
    fn follow(&mut self, frame: &Frame, spent: &mut Spent) -> Result<bool, FollowError> {
        self.candidates.clone_from(&self.detections);
        self.locate(frame, spent)?;
        Ok(self.detections.len() == self.candidates.len())
    }

    /// Runs the finder.
    fn find(&mut self, frame: &Frame, spent: &mut Spent) -> Result<(), FollowError> {
        let start = Instant::now();
        self.finder.find(frame, &mut self.candidates)?;
        spent.find = Some(start.elapsed());
        self.frames_since_find = 0;
        self.locate(frame, spent)
    }

    /// Fills `detections` and `landmarks` from the candidates that are faces.
    fn locate(&mut self, frame: &Frame, spent: &mut Spent) -> Result<(), FollowError> {
        let start = Instant::now();
        self.detections.clear();
        self.landmarks.clear();
        for candidate in &self.candidates {
            let Some(landmarker) = &mut self.landmarker else {
                self.detections.push(*candidate);
                self.landmarks.push(None);
                continue;
            };
            let Some(found) = landmarker.locate(frame, candidate)? else { continue };
            let bbox = face_box(&found.points);
            let growth = (bbox.area() / candidate.bbox.area()).sqrt();
            let steady = (1.0 / MAX_GROWTH..MAX_GROWTH).contains(&growth);
            let twice = self.detections.iter().any(|other| other.bbox.iou(&bbox) > MAX_OVERLAP);
            if found.presence >= MIN_PRESENCE && steady && !twice {
                let landmarks = Some(found.five_points());
                self.detections.push(Detection { bbox, score: candidate.score, landmarks });
                self.landmarks.push(Some(found));
            }
        }
        spent.landmarks += start.elapsed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// Sees one face at x = 10 in every frame, and counts.
    struct Counting(Rc<Cell<usize>>);

    impl Finder for Counting {
        fn find(&mut self, _: &Frame, out: &mut Vec<Detection>) -> Result<(), FindError> {
            self.0.set(self.0.get() + 1);
            out.clear();
            out.push(Detection { bbox: Rect::new(10.0, 10.0, 20.0, 20.0), score: 0.95, landmarks: None });
            Ok(())
        }

        fn name(&self) -> &'static str {
            "counting"
        }
    }

    #[test]
    fn without_landmarks_the_finder_runs_on_every_frame() {
        let runs = Rc::new(Cell::new(0));
        let mut follower = Follower::new(Box::new(Counting(Rc::clone(&runs))), None, 7);
        let mut frame = Frame::black(64, 48).unwrap();
        for i in 0..10 {
            frame.t_secs = f64::from(i) / 30.0;
            let (faces, spent) = follower.update(&frame).unwrap();
            assert_eq!((faces.len(), faces[0].id, faces[0].landmarks), (1, 1, None));
            assert!(faces[0].seen.is_some() && spent.find.is_some());
        }
        assert_eq!(runs.get(), 10);
    }
}
