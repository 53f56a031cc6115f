//! `trainer synth`: a store of synthetic people, with every label and identity-disjoint splits.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use rayon::prelude::*;
use semblance_face::landmarks::five_points;
use semblance_face::{Aligner, CropTemplate, Frame, Similarity, align};
use semblance_synth::{ClipSource, Labels, RenderOptions};

use crate::inspect::Summary;
use crate::prepare::{encode_jpeg, in_shares, pose_in_crop};
use crate::progress;
use crate::store::{Provenance, Sample, Split, Store, StoreWriter};

/// Options of `trainer synth`.
#[derive(Clone, Debug, Args)]
pub struct SynthArgs {
    /// Folder of the store to write
    #[arg(long)]
    pub out: PathBuf,

    /// People; every tenth is for validation and every tenth for the test
    #[arg(long, default_value_t = 100)]
    pub identities: u64,

    /// Which people, and what happens to them
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Clips of each person; light, place and camera differ from clip to clip
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub clips: u32,

    /// Length of each clip in seconds
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,

    /// Frames a second
    #[arg(long, default_value_t = 4.0)]
    pub fps: f64,

    /// How far heads turn: 1 up to 60 degrees to the sides and 30 up and down, 0.5 as before a webcam, 0 not at all
    #[arg(long, default_value_t = 1.0)]
    pub pose_spread: f32,

    /// Cut the pictures as `prepare --align` and the edge do, by the true landmarks
    #[arg(long)]
    pub align: bool,

    /// Side of the pictures in pixels
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u32).range(32..=512))]
    pub side_px: u32,

    /// Quality of the JPEGs, 1 to 100
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
}

/// People that are drawn side by side before their frames are written in order.
const CHUNK: u64 = 16;

/// Runs `trainer synth`.
///
/// # Errors
/// Names the option that makes no sense, or the file that cannot be written.
pub fn run(args: &SynthArgs) -> anyhow::Result<()> {
    ensure!(args.identities > 0, "--identities {} is not above 0", args.identities);
    ensure!(args.fps.is_finite() && args.fps > 0.0, "--fps {} is not a rate above 0", args.fps);
    ensure!(
        args.seconds.is_finite() && args.seconds * args.fps >= 1.0,
        "--seconds {} holds no frame at {} fps",
        args.seconds,
        args.fps
    );
    let start = Instant::now();
    let mut writer = StoreWriter::create(&args.out)?;
    let bar = progress::bar(args.identities, "people");
    for first in (0..args.identities).step_by(CHUNK as usize) {
        let people = first..(first + CHUNK).min(args.identities);
        let clips: Vec<_> = people
            .flat_map(|person| (0..args.clips).map(move |number| (person, number)))
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(person, number)| (person, number, clip(args, person, number)))
            .collect();
        for (person, number, frames) in clips {
            let video = if number == 0 { "clip".to_owned() } else { format!("clip-{number}") };
            writer.begin_video(&format!("synth-{}-{person:05}", args.seed), &video);
            for (jpeg, sample) in frames? {
                writer.push(&jpeg, &sample)?;
            }
            if number + 1 == args.clips {
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    writer.commit(Provenance {
        layout: "synth".to_owned(),
        source: format!("seed {}", args.seed),
        skipped: 0,
    })?;
    let rate = writer.len() as f64 / start.elapsed().as_secs_f64();
    eprintln!("{} frames drawn, {rate:.0} frames/s", writer.len());
    eprintln!("{}", Summary::of(&Store::open(&args.out)?)?);
    Ok(())
}

/// The frames of one clip of a person. Seeds do not share people; a person's first clip does not depend on how many more
/// there are.
fn clip(args: &SynthArgs, person: u64, number: u32) -> anyhow::Result<Vec<(Vec<u8>, Sample)>> {
    let identity = crate::data::mix(args.seed, person);
    // Room for the crop to be cut from, at its own scale on average.
    let drawn_px = if args.align { args.side_px * 4 / 3 } else { args.side_px };
    let options =
        RenderOptions { fps: args.fps, pose_spread: args.pose_spread, ..RenderOptions::crop(drawn_px) };
    let seed = if number == 0 { args.seed } else { crate::data::mix(args.seed, u64::from(number)) };
    let mut source = ClipSource::new(seed, identity, options)?;
    let split = split_of(person);
    let frames = (args.seconds * args.fps) as usize;
    let aligner = Aligner::new(CropTemplate::default(), args.side_px);
    let mut crop = vec![0; Frame::byte_len(args.side_px, args.side_px)?];
    (0..frames)
        .map(|_| {
            let whose = || format!("person {person}");
            let (frame, labels) = source.next_frame()?;
            let (rgb, to_crop) = if args.align {
                let to_crop = aligner.transform(&labels.bbox, Some(&five_points(&labels.landmarks)));
                let to_crop = to_crop.context("landmarks that are all in one place").with_context(whose)?;
                let to_frame = to_crop.invert().context("a crop of no size").with_context(whose)?;
                align::sample(&frame, &to_frame, args.side_px, &mut crop);
                (crop.as_slice(), to_crop)
            } else {
                (frame.rgb(), Similarity::IDENTITY)
            };
            let jpeg = encode_jpeg(rgb, args.side_px, args.side_px, 3, args.quality).with_context(whose)?;
            Ok((jpeg, sample(&labels, &to_crop, split, args.side_px)))
        })
        .collect()
}

fn split_of(person: u64) -> Split {
    match person % 10 {
        8 => Split::Val,
        9 => Split::Test,
        _ => Split::Train,
    }
}

fn sample(labels: &Labels, to_crop: &Similarity, split: Split, side_px: u32) -> Sample {
    let landmarks = in_shares(&labels.landmarks.map(|p| to_crop.apply(p)), side_px, side_px);
    let pose = &labels.pose;
    Sample {
        expression: Some(labels.expression),
        valence_arousal: Some([labels.valence, labels.arousal]),
        action_units: Some(labels.au),
        pose: Some(pose_in_crop([pose.yaw_deg, pose.pitch_deg, pose.roll_deg], to_crop)),
        landmarks: Some(landmarks),
        ..Sample::unlabelled(labels.t_secs, split)
    }
}
