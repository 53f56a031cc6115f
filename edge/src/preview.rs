//! The latest picture, for those who look: kept in memory alone, and only while somebody looks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::source::{Capture, Encoding};

/// A picture that was handed over for a preview.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// Which one it is; later ones have greater numbers, the first has 1.
    pub serial: u64,
    /// Number of the frame in its source, as in predictions.
    pub frame: u64,
    /// Width and height in pixels.
    pub size: [u32; 2],
    /// Whether `bytes` are a JPEG; else RGB triples, rows from the top.
    pub jpeg: bool,
    /// The picture.
    pub bytes: Vec<u8>,
}

/// Where the pipeline leaves pictures and previews take them. Costs nothing while nobody looks.
#[derive(Debug, Default)]
pub struct Preview {
    viewers: AtomicUsize,
    latest: Mutex<Picture>,
    changed: Condvar,
}

/// Somebody looks, until this is dropped.
#[derive(Debug)]
pub struct Viewer<'a>(&'a Preview);

impl Preview {
    /// Says that somebody looks.
    pub fn look(&self) -> Viewer<'_> {
        self.viewers.fetch_add(1, Ordering::Relaxed);
        Viewer(self)
    }

    /// Leaves the picture of a frame for those who look.
    pub fn offer(&self, capture: &Capture) {
        if self.viewers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let frame = &capture.frame;
        let mut latest = self.lock();
        latest.serial += 1;
        latest.frame = frame.index;
        latest.size = [frame.width(), frame.height()];
        latest.jpeg = capture.encoding == Encoding::Jpeg;
        let bytes = if latest.jpeg { &capture.raw } else { frame.rgb() };
        latest.bytes.clear();
        latest.bytes.extend_from_slice(bytes);
        drop(latest);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Picture> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer<'_> {
    /// Waits for a picture later than `picture`, and copies it there; false where none came within `patience`.
    pub fn wait(&self, picture: &mut Picture, patience: Duration) -> bool {
        let latest = self.0.lock();
        let seen = picture.serial;
        let result = self.0.changed.wait_timeout_while(latest, patience, |latest| latest.serial == seen);
        let (latest, _) = result.unwrap_or_else(PoisonError::into_inner);
        if latest.serial == seen {
            return false;
        }
        picture.clone_from(&latest);
        true
    }
}

impl Drop for Viewer<'_> {
    fn drop(&mut self) {
        if self.0.viewers.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nobody looks any more: nothing is kept. The serial goes on.
            let mut latest = self.0.lock();
            latest.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn capture(index: u64, raw: &[u8], encoding: Encoding) -> Capture {
        let mut capture = Capture { raw: raw.to_vec(), encoding, ..Capture::new().unwrap() };
        capture.frame.index = index;
        capture
    }

    #[test]
    fn nothing_is_kept_unless_somebody_looks() {
        let preview = Preview::default();
        preview.offer(&capture(1, &[], Encoding::Decoded));
        assert_eq!(*preview.lock(), Picture::default());
        let viewer = preview.look();
        preview.offer(&capture(2, &[], Encoding::Decoded));
        let mut picture = Picture::default();
        assert!(viewer.wait(&mut picture, Duration::ZERO));
        assert_eq!((picture.frame, picture.size, picture.jpeg, picture.bytes.len()), (2, [1, 1], false, 3));
        assert!(!viewer.wait(&mut picture, Duration::from_millis(1)), "the same is not given twice");
        preview.offer(&capture(3, &[9, 9], Encoding::Jpeg));
        assert!(viewer.wait(&mut picture, Duration::ZERO));
        assert_eq!((picture.frame, picture.jpeg, picture.bytes.as_slice()), (3, true, &[9, 9][..]));
        drop(viewer);
        assert!(preview.lock().bytes.is_empty());
    }
}
