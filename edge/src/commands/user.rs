//! Whose face is read, and with which heads.

use std::path::{Path, PathBuf};

use clap::Args;
use semblance_calib::Heads;
use semblance_calib::profile::{FOLDER, Profiles, UserName};
use semblance_edge::users::Users;
use semblance_face::Bundle;

/// The user.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// Whose face it is: predictions carry the name, and are made by the heads that calib fitted to this person. The dashboard
    /// can choose another
    #[arg(long, value_name = "NAME", env = "SEMBLANCE_USER")]
    user: Option<UserName>,

    /// Folder with the profiles of all users [default: profiles in the state folder]
    #[arg(long, value_name = "DIR", env = "SEMBLANCE_PROFILES")]
    profiles: Option<PathBuf>,
}

impl UserArgs {
    /// The device's users, read with the `shipped` heads where they have none, and the one that was asked for chosen. What should
    /// be known of that is logged.
    pub(crate) fn open(&self, bundle: &Bundle, shipped: Heads, state_dir: &Path) -> anyhow::Result<Users> {
        let profiles = Profiles::new(self.profiles.clone().unwrap_or_else(|| state_dir.join(FOLDER)));
        let users = Users::new(shipped, &bundle.manifest().encoder.file.sha256, profiles);
        users.choose(self.user.as_ref())?.iter().for_each(|note| log::warn!("{note}"));
        Ok(users)
    }
}
