//! The `calib` program: heads that fit one person.

mod commands;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use semblance_manual::ManualArgs;

use commands::{fit, guide, manage, show};

/// Fits heads to one person, and keeps what was fitted: shown, undone, carried elsewhere, deleted.
#[derive(Debug, Parser)]
#[command(name = "calib", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Guide a person through a session before the camera of a running edge, fit heads to them, and keep them if they are better
    #[command(after_help = guide::EXAMPLES)]
    Guide(guide::GuideArgs),
    /// Fit heads to the labels of a recording; they are kept where they are better on labels that they were not fitted on
    #[command(after_help = fit::EXAMPLES)]
    Fit(fit::FitArgs),
    /// Show a user's profile, its history, and what each calibration changed
    #[command(after_help = show::EXAMPLES)]
    Show(show::ShowArgs),
    /// Put an older state of a profile in force again
    Rollback(manage::RollbackArgs),
    /// Write a profile to one file
    Export(manage::ExportArgs),
    /// Put an exported profile in force
    Import(manage::ImportArgs),
    /// Delete everything that is known of a user
    Delete(manage::DeleteArgs),
    /// Write man pages and shell completions
    #[command(hide = true)]
    Manual(ManualArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Guide(args) => guide::command(&args),
        Command::Fit(args) => fit::command(&args),
        Command::Show(args) => show::command(&args),
        Command::Rollback(args) => manage::rollback(&args),
        Command::Export(args) => manage::export(&args),
        Command::Import(args) => manage::import(&args),
        Command::Delete(args) => manage::delete(&args),
        Command::Manual(args) => args.write(&Cli::command()).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("calib: {error:#}");
            ExitCode::FAILURE
        }
    }
}
