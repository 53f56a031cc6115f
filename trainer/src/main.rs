//! The `trainer` program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use semblance_trainer::{prepare, pretrain};

/// Trains face encoders from unlabelled pictures and video, judges them, and exports them for the edge.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a data set into a clip store
    #[command(after_help = "Examples:\n  \
        trainer prepare --layout fer2013 --src fer2013.csv --out stores/fer2013\n  \
        trainer prepare --layout frames --src voxceleb/ --fps 4 --out stores/voxceleb")]
    Prepare(prepare::PrepareArgs),
    /// Train an encoder without labels
    #[command(after_help = "Examples:\n  \
        trainer pretrain --method simclr --data stores/fer2013 --backbone edge --out runs/simclr\n  \
        trainer pretrain --config recipe.toml --data stores/fer2013 --out runs/simclr --resume")]
    Pretrain(pretrain::PretrainArgs),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let result = match Cli::parse().command {
        Command::Prepare(args) => prepare::run(&args),
        Command::Pretrain(args) => pretrain::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trainer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
