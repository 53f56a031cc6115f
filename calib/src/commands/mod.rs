//! The subcommands.

pub(crate) mod fit;
pub(crate) mod guide;
pub(crate) mod manage;
pub(crate) mod plot;
pub(crate) mod show;

use std::path::PathBuf;

use clap::Args;
use semblance_calib::profile::{self, Opened, Profiles, UserName};

/// Whose profile, and where profiles are.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// The user: lower-case letters, digits, - and _
    #[arg(long, env = "SEMBLANCE_USER")]
    pub(crate) user: UserName,

    /// Folder with the profiles of all users [default: profiles in the state folder]
    #[arg(long, value_name = "DIR", env = "SEMBLANCE_PROFILES")]
    profiles: Option<PathBuf>,

    /// Folder for what outlives edge [default: systemd's state folder, or ~/.local/state/semblance]
    #[arg(long, value_name = "DIR", env = "SEMBLANCE_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

impl ProfileArgs {
    /// The profiles of all users.
    pub(crate) fn profiles(&self) -> Profiles {
        let state_dir = || self.state_dir.clone().unwrap_or_else(profile::state_dir);
        Profiles::new(self.profiles.clone().unwrap_or_else(|| state_dir().join(profile::FOLDER)))
    }

    /// The user's newest sound state, where there is one; damaged newer ones are told.
    pub(crate) fn open(&self) -> anyhow::Result<Option<Opened>> {
        let opened = self.profiles().open(&self.user)?;
        for damaged in opened.iter().flat_map(|opened| &opened.damaged) {
            eprintln!("calib: {damaged}");
        }
        Ok(opened)
    }
}
