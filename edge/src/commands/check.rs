//! `edge check`: whether this machine can run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use semblance_calib::bundle;
use semblance_edge::check::{self, CheckOptions};
use semblance_edge::sink::SinkSpec;

use super::http::HttpChoice;
use super::{OutParser, PipelineArgs, StateArgs};

pub(crate) const EXAMPLES: &str = "\
Examples:
  edge check                                       ok, warn or FAIL on every line; exit status 1 where one fails
  edge check --source rtsp://10.0.0.7/stream       that source must be there, too
  edge check --config edge.toml                    what that file asks for
  edge check --out csv:/data/out.csv --json        that output's disk, too; one JSON object";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Source that must be there, as for run; without it a camera is looked for
    #[arg(long, env = "SEMBLANCE_SOURCE", hide_env_values = true)]
    source: Option<String>,

    /// Outputs to look at, as for run
    #[arg(long, env = "SEMBLANCE_OUT", hide_env_values = true, value_parser = OutParser)]
    out: Vec<SinkSpec>,

    /// TOML file with settings of run; those that matter here are taken from it [default: /etc/semblance/edge.toml, where it
    /// is there]
    #[arg(long, env = "SEMBLANCE_CONFIG")]
    config: Option<PathBuf>,

    /// Address of the server, as for run; beyond this machine it needs a folder for its token
    #[arg(long, value_name = "ADDR", env = "SEMBLANCE_HTTP")]
    http: Option<HttpChoice>,

    #[command(flatten)]
    state: StateArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Everything that is wrong stands in the report.
pub(crate) fn command(args: &CheckArgs) -> ExitCode {
    let bundle = bundle::find(args.pipeline.bundle.as_deref()).map_err(|e| e.to_string());
    let state_dir = args.state.dir();
    let report = check::check(&CheckOptions {
        bundle: bundle.as_deref().map_err(String::as_str),
        source: args.source.as_deref(),
        follow: args.pipeline.follow_options(),
        outputs: &args.out,
        state_dir: &state_dir,
        needs_token: args.http.is_some_and(HttpChoice::is_for_others),
    });
    if args.json {
        println!("{}", serde_json::json!(report));
    } else {
        report.checks.iter().for_each(|finding| println!("{finding}"));
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
