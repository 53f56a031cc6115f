//! Folders of face crops cut from video, kept as they are: the layout that VoxCeleb's frames are shared in.

use std::sync::atomic::Ordering;

use super::pictures::{Picture, Piece, PieceWorker};
use super::tree::{Clip, frame_folders, frames_in, relative, split_of};
use super::{PrepareArgs, Session};

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let (args, stop) = (session.args, session.stop);
    let bundle = args.landmark_bundle()?;
    let clips = frame_folders(&args.src, &mut session.report)?;
    let clips = session.admit(clips, Clip::names);
    // A video that was begun is read to its end.
    let clips = clips.into_iter().take_while(|_| !stop.load(Ordering::Relaxed));
    session.store_all(clips.flat_map(|clip| pieces(clip, args)), || PieceWorker::open(args, bundle.as_ref()))
}

fn pieces(clip: Clip, args: &PrepareArgs) -> Vec<Piece<()>> {
    let split = split_of(&clip.identity, args.val_share);
    match frames_in(&clip.path, args.fps()) {
        Ok(frames) => {
            let picture = |(path, t_secs)| Picture { path, t_secs, notes: () };
            Piece::of(&clip.identity, &clip.video, split, frames.into_iter().map(picture).collect())
        }
        Err(error) => {
            let why = format!("{} ({error})", relative(&clip.path, &args.src));
            vec![Piece::unreadable(clip.identity, clip.video, split, why)]
        }
    }
}
