//! Whose face is read, and with which heads.

use std::path::{Path, PathBuf};

use clap::Args;
use semblance_calib::profile::{FOLDER, Profiles, UserName};
use semblance_edge::pipeline::Pipeline;
use semblance_face::Bundle;

/// The user.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// Whose face it is: predictions carry the name, and are made by the heads that calib fitted to this person
    #[arg(long, value_name = "NAME", env = "SEMBLANCE_USER")]
    user: Option<UserName>,

    /// Folder with the profiles of all users [default: profiles in the state folder]
    #[arg(long, value_name = "DIR", env = "SEMBLANCE_PROFILES")]
    profiles: Option<PathBuf>,
}

impl UserArgs {
    pub(crate) fn name(&self) -> Option<String> {
        self.user.as_ref().map(ToString::to_string)
    }

    /// Gives a pipeline the user's heads. Where there is no profile, or it is for another encoder, the shipped heads stay,
    /// and that is told: a person who is not known yet is read, too.
    pub(crate) fn apply(
        &self,
        pipeline: Pipeline,
        bundle: &Bundle,
        state_dir: &Path,
    ) -> anyhow::Result<Pipeline> {
        let Some(user) = &self.user else { return Ok(pipeline) };
        let profiles = Profiles::new(self.profiles.clone().unwrap_or_else(|| state_dir.join(FOLDER)));
        let opened = profiles.open(user)?;
        for damaged in opened.iter().flat_map(|opened| &opened.damaged) {
            log::warn!("{damaged}");
        }
        let state = match &opened {
            None => {
                log::warn!("'{user}' has no profile yet: the shipped heads are used");
                None
            }
            Some(opened) => match opened.for_bundle(&bundle.manifest().encoder.file.sha256) {
                Ok(state) => Some(state),
                Err(error) => {
                    log::warn!("{error}: the shipped heads are used");
                    None
                }
            },
        };
        let heads = state.map(|state| match &state.correction {
            Some(correction) => correction.fold(&state.heads),
            None => Ok(state.heads.clone()),
        });
        Ok(pipeline.with_user(user.as_str(), heads.transpose()?)?)
    }
}
