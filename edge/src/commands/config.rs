//! `edge config`: the settings of a run, and where each came from.

use clap::{Args, Command};
use semblance_edge::settings::Settings;

use super::run::RunArgs;

pub(crate) const EXAMPLES: &str = "\
Examples:
  edge config --config edge.toml            what the file, the environment and the defaults make together
  edge config --max-fps 15 > edge.toml      a file to start from: it can be read again as it is";

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    run: RunArgs,
}

/// Prints them as the file that would set them.
pub(crate) fn command(settings: &Settings, cli: &Command) {
    if let Some(chosen) = cli.find_subcommand("config") {
        print!("{}", settings.describe(chosen));
    }
}
