//! Giving a face one id for as long as it is in view.

use crate::{Detection, Rect};

/// A face followed through a video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Track {
    /// The face's number, from 1, never used twice by one tracker.
    pub id: u64,
    /// Its box in pixels, smoothed over time.
    pub bbox: Rect,
    /// The finder's last score, in `[0, 1]`.
    pub score: f32,
    /// Which detection of the last frame it is; `None` where it was not seen there, and the box is the last one known.
    pub detection: Option<usize>,
    seen_secs: f64,
    hits: u32,
}

/// A detection continues a track where their boxes overlap at least this much...
const MIN_IOU: f32 = 0.25;
/// ...or their middles are closer than this share of the track's size, and the sizes agree within a factor of 2.
const MAX_CENTRE_SHIFT: f32 = 0.6;
/// A new face is shown once it was seen this often, so that a single false alarm is not...
const CONFIRM_HITS: u32 = 2;
/// ...or at once with this score, where nothing else is asked for.
const CONFIRM_SCORE: f32 = 0.9;
/// A shown face that the finder misses stays this long where it was last seen.
const COAST_SECS: f64 = 0.5;
/// A face that returns within this time to about the same place keeps its id; after it, the id is not seen again.
pub const FORGET_SECS: f64 = 2.0;
/// Weight of a new box against the smoothed one.
const BOX_GAIN: f32 = 0.6;

/// Follows several faces. Memory is bounded by the faces seen within the last two seconds.
#[derive(Debug)]
pub struct Tracker {
    confirm_score: f32,
    tracks: Vec<Track>,
    last_id: u64,
    taken: Vec<bool>,
    pairs: Vec<(f32, usize, usize)>,
    shown: Vec<Track>,
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Tracker {
    /// A tracker that has seen nothing.
    pub fn new() -> Self {
        Self::confirming_from(CONFIRM_SCORE)
    }

    /// A tracker that shows a new face at once where its score is at least this, and otherwise when it is seen again: 0 where
    /// detections are already confirmed by something else.
    pub fn confirming_from(confirm_score: f32) -> Self {
        Self {
            confirm_score,
            tracks: Vec::new(),
            last_id: 0,
            taken: Vec::new(),
            pairs: Vec::new(),
            shown: Vec::new(),
        }
    }

    /// Takes the detections of one frame at `t_secs` and returns the faces in view, in the order of their ids.
    ///
    /// A time that runs backwards (a source that starts again) forgets every face.
    pub fn update(&mut self, t_secs: f64, detections: &[Detection]) -> &[Track] {
        self.tracks.retain(|t| (0.0..=FORGET_SECS).contains(&(t_secs - t.seen_secs)));
        self.match_boxes(detections);
        for track in &mut self.tracks {
            track.detection = None;
        }
        self.taken.clear();
        self.taken.resize(detections.len(), false);
        // The best pairs first; a track that was matched is not matched again.
        for &(_, t, d) in &self.pairs {
            if self.tracks[t].detection.is_none() && !self.taken[d] {
                self.taken[d] = true;
                self.tracks[t].see(&detections[d], t_secs);
                self.tracks[t].detection = Some(d);
            }
        }
        for (d, (detection, taken)) in detections.iter().zip(&self.taken).enumerate() {
            if !taken {
                self.last_id += 1;
                self.tracks.push(Track {
                    id: self.last_id,
                    bbox: detection.bbox,
                    score: detection.score,
                    detection: Some(d),
                    seen_secs: t_secs,
                    hits: if detection.score >= self.confirm_score { CONFIRM_HITS } else { 1 },
                });
            }
        }
        self.shown.clear();
        self.shown.extend(
            self.tracks.iter().filter(|t| t.hits >= CONFIRM_HITS && t_secs - t.seen_secs <= COAST_SECS),
        );
        &self.shown
    }

    /// Forgets every face; ids go on counting.
    pub fn forget(&mut self) {
        self.tracks.clear();
    }

    /// Fills `pairs` with every track and detection that may be one face, best first.
    fn match_boxes(&mut self, detections: &[Detection]) {
        self.pairs.clear();
        for (t, track) in self.tracks.iter().enumerate() {
            for (d, detection) in detections.iter().enumerate() {
                let likeness = likeness(&track.bbox, &detection.bbox);
                if likeness > 0.0 {
                    self.pairs.push((likeness, t, d));
                }
            }
        }
        self.pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    }
}

impl Track {
    fn see(&mut self, detection: &Detection, t_secs: f64) {
        let blend = |old: f32, new: f32| old + (new - old) * BOX_GAIN;
        let (old, new) = (self.bbox, detection.bbox);
        self.bbox =
            Rect::new(blend(old.x, new.x), blend(old.y, new.y), blend(old.w, new.w), blend(old.h, new.h));
        self.score = detection.score;
        self.seen_secs = t_secs;
        self.hits = self.hits.saturating_add(1);
    }
}

/// How likely two boxes are one face: above 0 where they may be, overlap before nearness.
fn likeness(a: &Rect, b: &Rect) -> f32 {
    let iou = a.iou(b);
    if iou >= MIN_IOU {
        return 1.0 + iou;
    }
    let (p, q) = (a.center(), b.center());
    let (size, other) = (a.w.max(a.h), b.w.max(b.h));
    let shift = (p.x - q.x).hypot(p.y - q.y) / size;
    let alike = other <= 2.0 * size && size <= 2.0 * other;
    if alike && shift < MAX_CENTRE_SHIFT { 1.0 - shift } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32, score: f32) -> Detection {
        Detection { bbox: Rect::new(x, 50.0, 40.0, 40.0), score, landmarks: None }
    }

    fn ids(tracks: &[Track]) -> Vec<u64> {
        tracks.iter().map(|t| t.id).collect()
    }

    #[test]
    fn two_faces_keep_their_ids_while_they_move() {
        let mut tracker = Tracker::new();
        for i in 0..60 {
            let x = i as f32 * 2.0;
            // The order of the detections changes from frame to frame.
            let mut seen = [face(x, 0.95), face(300.0 - x, 0.95)];
            if i % 2 == 1 {
                seen.reverse();
            }
            let shown = tracker.update(f64::from(i) / 30.0, &seen);
            assert_eq!(ids(shown), [1, 2]);
            assert!(shown[0].bbox.x < 130.0 && shown[1].bbox.x > 170.0);
        }
    }

    #[test]
    fn a_short_miss_is_bridged_and_a_longer_one_hides_the_face_but_keeps_its_id() {
        let mut tracker = Tracker::new();
        assert_eq!(ids(tracker.update(0.0, &[face(10.0, 0.95)])), [1]);
        let coasting = tracker.update(0.4, &[]);
        assert_eq!(ids(coasting), [1]);
        assert_eq!(coasting[0].detection, None);
        assert!(tracker.update(0.7, &[]).is_empty());
        assert_eq!(ids(tracker.update(1.5, &[face(12.0, 0.95)])), [1]);
        assert_eq!(ids(tracker.update(9.0, &[face(12.0, 0.95)])), [2]);
    }

    #[test]
    fn one_weak_detection_is_not_shown() {
        let mut tracker = Tracker::new();
        assert!(tracker.update(0.0, &[face(10.0, 0.6)]).is_empty());
        assert!(tracker.update(0.1, &[]).is_empty());
        assert_eq!(ids(tracker.update(0.2, &[face(10.0, 0.6)])), [1]);
    }

    #[test]
    fn a_source_that_starts_again_starts_new_tracks() {
        let mut tracker = Tracker::new();
        tracker.update(5.0, &[face(10.0, 0.95)]);
        assert_eq!(ids(tracker.update(0.0, &[face(10.0, 0.95)])), [2]);
    }
}
