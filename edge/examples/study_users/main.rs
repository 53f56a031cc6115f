//! What learning a person is worth: heads before and after a calibration, judged on what the person shows at other times.
//!
//! ```text
//! cargo run --release -p semblance-edge --example study_users -- synthetic --keep FOLDER
//! cargo run --release -p semblance-edge --example study_users -- lfw FOLDER_OF_LFW
//! ```

mod lfw;
mod people;
mod score;
mod stream;
mod synthetic;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use semblance_face::Bundle;

#[derive(Debug, Parser)]
#[command(about = "What learning a person is worth")]
struct Args {
    /// Bundle whose encoder embeds the faces
    #[arg(long, default_value = "models/default", global = true)]
    bundle: PathBuf,
    #[command(subcommand)]
    study: Study,
}

#[derive(Debug, Subcommand)]
enum Study {
    /// Drawn people with a style of their own, read with heads that were fitted to other drawn people
    Synthetic(synthetic::Args),
    /// People of LFW with ten labelled pictures or more, each picture read with heads that never saw it
    Lfw(lfw::Args),
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let bundle = Bundle::open(&args.bundle)?;
    match &args.study {
        Study::Synthetic(args) => synthetic::study(&bundle, args),
        Study::Lfw(args) => lfw::study(&bundle, args),
    }
}
