//! Folders of face crops cut from video, kept as they are: the layout that VoxCeleb's frames are shared in.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use semblance_face::{Frame, Landmarker, describe};

use super::in_order::{Stop, Worker};
use super::report::Reason;
use super::tree::{Clip, frame_folders, frames_in, relative, split_of};
use super::{Part, PrepareArgs, Session, Stored, crop_landmarks, encode_jpeg, open_landmarker};
use crate::store::Sample;

/// Frames that a worker reads before they are handed on.
const PIECE_FRAMES: usize = 512;

/// Successive frames of a video.
struct Piece {
    identity: String,
    video: String,
    /// Whether it is the video's first.
    starts: bool,
    frames: Vec<(PathBuf, f64)>,
    /// Why there are none.
    unreadable: Option<String>,
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let (args, stop) = (session.args, session.stop);
    let bundle = args.landmark_bundle()?;
    let clips = frame_folders(&args.src, &mut session.report)?;
    let clips = session.admit(clips, Clip::names);
    // A video that was begun is read to its end.
    let clips = clips.into_iter().take_while(|_| !stop.load(Ordering::Relaxed));
    session.store_all(clips.flat_map(|clip| pieces(clip, args)), || {
        let landmarker = bundle.as_ref().map(open_landmarker).transpose()?;
        Ok(PieceWorker { args, landmarker })
    })
}

fn pieces(clip: Clip, args: &PrepareArgs) -> Vec<Piece> {
    let (frames, unreadable) = match frames_in(&clip.path, args.fps()) {
        Ok(frames) => (frames, None),
        Err(error) => (Vec::new(), Some(format!("{} ({error})", relative(&clip.path, &args.src)))),
    };
    let piece = |starts, frames: &[(PathBuf, f64)]| Piece {
        identity: clip.identity.clone(),
        video: clip.video.clone(),
        starts,
        frames: frames.to_vec(),
        unreadable: unreadable.clone(),
    };
    if frames.is_empty() {
        return vec![piece(true, &[])];
    }
    frames.chunks(PIECE_FRAMES).enumerate().map(|(i, frames)| piece(i == 0, frames)).collect()
}

struct PieceWorker<'a> {
    args: &'a PrepareArgs,
    landmarker: Option<Landmarker>,
}

impl Worker<Piece> for PieceWorker<'_> {
    type Output = Part;

    fn work(&mut self, piece: &Piece, _: &Stop<'_>) -> anyhow::Result<Option<Part>> {
        let mut part = Part::new(&piece.identity);
        part.starts = piece.starts;
        if let Some(what) = &piece.unreadable {
            part.pass_over(Reason::Unreadable, 1, what.clone());
        }
        let split = split_of(&piece.identity, self.args.val_share);
        let mut stored = Vec::with_capacity(piece.frames.len());
        for (path, t_secs) in &piece.frames {
            let name = || relative(path, &self.args.src);
            let (frame, jpeg) = match load(path, self.args.quality) {
                Ok(loaded) => loaded,
                Err(error) => {
                    part.pass_over(
                        Reason::Unreadable,
                        1,
                        format!("{} ({})", name(), describe(error.as_ref())),
                    );
                    continue;
                }
            };
            part.frames_read += 1;
            let mut sample = Sample::unlabelled(*t_secs, split);
            if let Some(landmarker) = &mut self.landmarker {
                sample.landmarks = crop_landmarks(landmarker, &frame)?;
                if sample.landmarks.is_none() {
                    part.pass_over(Reason::NoLandmarks, 1, name());
                }
            }
            stored.push(Stored { jpeg, sample });
        }
        part.push(&piece.video, stored);
        Ok(Some(part))
    }
}

/// A picture and its JPEG: the file's own bytes where it is one that decodes, else encoded anew.
fn load(path: &Path, quality: u8) -> anyhow::Result<(Frame, Vec<u8>)> {
    let bytes = std::fs::read(path)?;
    let frame = Frame::decode(&bytes)?;
    if bytes.starts_with(&[0xFF, 0xD8]) {
        return Ok((frame, bytes));
    }
    let (width, height) = (frame.width(), frame.height());
    let grey = frame.rgb().chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
    let jpeg = if grey {
        let luma: Vec<u8> = frame.rgb().iter().step_by(3).copied().collect();
        encode_jpeg(&luma, width, height, 1, quality)?
    } else {
        encode_jpeg(frame.rgb(), width, height, 3, quality)?
    };
    Ok((frame, jpeg))
}
