//! The subcommands, one a file.

pub(crate) mod bench;
pub(crate) mod cameras;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod http;
pub(crate) mod run;
pub(crate) mod user;

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use semblance_calib::bundle;
use semblance_edge::pipeline::Pipeline;
use semblance_edge::sink::SinkSpec;
use semblance_face::follow::FinderKind;
use semblance_face::{Bundle, FollowOptions, Follower};

pub(crate) use http::HttpArgs;

/// What run and bench share: the models and how faces are found.
#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    /// Folder with the models, or the name of one in models/ in the working folder, beside the program, or installed
    /// [default: default]
    #[arg(long, value_name = "DIR|NAME", env = "SEMBLANCE_BUNDLE")]
    bundle: Option<PathBuf>,

    /// Which finder: the bundle's own, or SeetaFace's frontal detector
    #[arg(long, value_enum, default_value = "bundle", env = "SEMBLANCE_FINDER")]
    finder: FinderArg,

    /// Longer side, in pixels, of the reduced picture that the bundle's finder searches: 160 finds the faces of people
    /// before a webcam, 320 faces that are small in the picture [default: the bundle's]
    #[arg(long, env = "SEMBLANCE_SEARCH_SIDE", value_parser = clap::value_parser!(u32).range(32..=1280))]
    search_side: Option<u32>,

    /// Run the finder on every N-th frame; in between, and while nothing is lost, faces are followed by their landmarks
    #[arg(long, value_name = "N", default_value_t = Follower::DEFAULT_FIND_EVERY, env = "SEMBLANCE_FIND_EVERY",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) find_every: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FinderArg {
    Bundle,
    Seeta,
}

impl PipelineArgs {
    pub(crate) fn open(&self, bundle: &Bundle) -> anyhow::Result<Pipeline> {
        let at = || bundle.dir().display().to_string();
        let follower = Follower::from_bundle(bundle, &self.follow_options()).with_context(at)?;
        Ok(Pipeline::new(bundle, follower)?)
    }

    pub(crate) fn bundle(&self) -> anyhow::Result<Bundle> {
        Ok(Bundle::open(&bundle::find(self.bundle.as_deref())?)?)
    }

    pub(crate) fn follow_options(&self) -> FollowOptions {
        let finder = match self.finder {
            FinderArg::Bundle => FinderKind::Bundle,
            FinderArg::Seeta => FinderKind::Seeta,
        };
        FollowOptions { finder, search_side_px: self.search_side, find_every: self.find_every }
    }
}

/// Where the program keeps what outlives it.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// Folder for what outlives the program: the token [default: systemd's state folder, or ~/.local/state/semblance]
    #[arg(long, value_name = "DIR", env = "SEMBLANCE_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

impl StateArgs {
    /// The folder asked for, or the usual one.
    pub(crate) fn dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(semblance_calib::profile::state_dir)
    }
}

/// Reads a [`SinkSpec`]. clap's own parser would repeat in its message what was given, and with it a password.
#[derive(Clone)]
pub(crate) struct OutParser;

impl TypedValueParser for OutParser {
    type Value = SinkSpec;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<SinkSpec, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned()).and_then(str::parse);
        parsed.map_err(|reason| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value for '{arg}': {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}
