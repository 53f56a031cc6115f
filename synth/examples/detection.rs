//! How often finders see what is drawn, and how fast it is drawn:
//! `cargo run -p semblance-synth --example detection -- [COUNT] [SIDE_PX] [OUT]`.
//!
//! Draws COUNT frontal faces (240) of SIDE_PX (128) pixels, one a person, and prints the
//! share that SeetaFace finds with the right box and the frames drawn a second on one core. With OUT, the pictures and
//! their `landmarks.csv` are written there for other finders, such as `deploy/teacher/yunet.py`.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use semblance_face::Finder;
use semblance_face::finder::SeetaFinder;
use semblance_synth::{ClipSource, RenderOptions};

/// A found box is the face's where they overlap this much: finders differ in how much forehead a box has.
const MIN_IOU: f32 = 0.4;
/// Frames that are timed of every clip.
const TIMED: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let count: usize = args.first().map_or(Ok(240), |s| s.parse())?;
    let side: u32 = args.get(1).map_or(Ok(128), |s| s.parse())?;
    let out = args.get(2).map(PathBuf::from);
    if let Some(dir) = &out {
        std::fs::create_dir_all(dir)?;
    }
    let mut finder = SeetaFinder::new()?;
    let (mut faces, mut found, mut drawn, mut drawing) = (Vec::new(), 0, 0, Duration::ZERO);
    let mut csv = String::from("picture");
    (0..68).try_for_each(|i| write!(csv, ",x{i},y{i}"))?;
    for person in 0..count as u64 {
        // A quarter of the full spread: yaw within 15 degrees, pitch and roll within 8.
        let options = RenderOptions { pose_spread: 0.25, ..RenderOptions::crop(side) };
        let mut clip = ClipSource::new(17, person, options)?;
        let start = Instant::now();
        for _ in 0..TIMED {
            clip.next_frame()?;
        }
        drawing += start.elapsed();
        drawn += TIMED;
        let (frame, labels) = clip.frame_at(3.0)?;
        finder.find(&frame, &mut faces)?;
        found += usize::from(faces.iter().any(|f| f.bbox.iou(&labels.bbox) > MIN_IOU));
        let name = format!("{person:05}_0.png");
        write!(csv, "\n{name}")?;
        labels.landmarks.iter().try_for_each(|p| write!(csv, ",{:.2},{:.2}", p.x, p.y))?;
        if let Some(dir) = &out {
            let path = dir.join(name);
            image::save_buffer(path, frame.rgb(), frame.width(), frame.height(), image::ColorType::Rgb8)?;
        }
    }
    let pictures = csv.lines().count() - 1;
    println!("SeetaFace finds {found} of {pictures} ({:.1} %)", 100.0 * found as f64 / pictures as f64);
    println!("{side} px: {:.0} frames/s on one core", drawn as f64 / drawing.as_secs_f64());
    if let Some(dir) = &out {
        std::fs::write(dir.join("landmarks.csv"), csv + "\n")?;
    }
    Ok(())
}
