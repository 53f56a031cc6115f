//! The `edge` program.

mod commands;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use semblance_edge::logging::{self, LogFormat};
use semblance_edge::service::{self, Signals};
use semblance_edge::settings::{Settings, SettingsError};
use semblance_edge::telemetry::process_started;
use semblance_manual::ManualArgs;

use commands::bench::BenchArgs;
use commands::cameras::CamerasArgs;
use commands::check::CheckArgs;
use commands::config::ConfigArgs;
use commands::run::{Outcome, RunArgs};
use commands::{bench, cameras, check, config, run};

/// Reads facial expression from cameras, video and pictures, on the device.
#[derive(Debug, Parser)]
#[command(name = "edge", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Predict on every face of a source: one JSON object a face a frame
    #[command(after_help = run::EXAMPLES)]
    Run(RunArgs),
    /// List the cameras with their formats, sizes, rates and controls
    Cameras(CamerasArgs),
    /// Measure what each stage of a frame costs on this machine
    #[command(after_help = bench::EXAMPLES)]
    Bench(BenchArgs),
    /// Look whether this machine can run: models, camera, disk, clock, memory, heat; one line each
    #[command(after_help = check::EXAMPLES)]
    Check(CheckArgs),
    /// Print the settings of a run, and where each came from
    #[command(after_help = config::EXAMPLES)]
    Config(ConfigArgs),
    /// Write man pages and shell completions
    #[command(hide = true)]
    Manual(ManualArgs),
}

fn main() -> ExitCode {
    process_started();
    let (settings, cli) = match read_settings() {
        Ok(read) => read,
        Err(SettingsError::CommandLine(error)) => error.exit(),
        Err(error) => {
            logging::fail(error);
            return ExitCode::FAILURE;
        }
    };
    let result = match cli.command {
        Command::Run(args) => {
            if let Some(message) = args.conflict() {
                Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
            }
            logging::init(args.log_format);
            run_until_done(args)
        }
        Command::Bench(args) => {
            logging::init(LogFormat::Auto);
            bench::command(&args)
        }
        Command::Cameras(args) => {
            logging::init(LogFormat::Auto);
            cameras::command(&args)
        }
        Command::Check(args) => {
            logging::init(LogFormat::Auto);
            return check::command(&args);
        }
        Command::Manual(args) => args.write(&Cli::command()).map_err(Into::into),
        Command::Config(_) => {
            config::command(&settings, &Cli::command());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::fail(semblance_face::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn read_settings() -> Result<(Settings, Cli), SettingsError> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let settings = Settings::read(&Cli::command(), "run", args)?;
    let cli = Cli::from_arg_matches(&settings.matches)?;
    Ok((settings, cli))
}

/// After a reload: how long before something that cannot be opened is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Runs, and after a SIGHUP runs again with settings read anew; where those are wrong, with the ones before. A reload does not
/// end the program: what cannot be opened then is tried again.
fn run_until_done(mut args: RunArgs) -> anyhow::Result<()> {
    let signals = Signals::listen().context("cannot listen to signals")?;
    let mut again = false;
    let mut before = None;
    loop {
        let outcome = match run::open(&args, again) {
            Ok(opened) => opened.run(&signals)?,
            Err(error) if again => {
                let reason = semblance_face::describe(error.as_ref());
                log::error!("{reason}");
                service::notify_waiting(&reason);
                match before.take() {
                    Some(earlier) => {
                        log::error!("the settings stay as they were");
                        args = earlier;
                    }
                    None => std::thread::park_timeout(RETRY),
                }
                if !signals.stop().load(Ordering::Relaxed) {
                    continue;
                }
                if signals.take_reload() { Outcome::Reload } else { Outcome::Done }
            }
            Err(error) => return Err(error),
        };
        if outcome == Outcome::Done {
            return Ok(());
        }
        again = true;
        match read_settings() {
            Ok((_, Cli { command: Command::Run(read) })) => match read.conflict() {
                None => {
                    log::info!("settings read anew");
                    before = Some(std::mem::replace(&mut args, read));
                }
                Some(conflict) => log::error!("the settings stay as they were: {conflict}"),
            },
            Ok(_) => {}
            Err(error) => log::error!("the settings stay as they were: {error}"),
        }
    }
}
