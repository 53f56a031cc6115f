//! `calib rollback`, `export`, `import`, `delete`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use semblance_calib::bundle::{self, Shipped};
use semblance_calib::profile::now_unix_secs;

use super::ProfileArgs;

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// Number of the state, as calib show lists them [default: the one before the newest]
    #[arg(long, value_name = "STATE")]
    to: Option<u64>,
}

pub(crate) fn rollback(args: &RollbackArgs) -> anyhow::Result<()> {
    let opened = args.profile.profiles().rollback(&args.profile.user, args.to, now_unix_secs())?;
    println!("{}, as state {} of '{}'", opened.state.reason, opened.serial, args.profile.user);
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn export(args: &ExportArgs) -> anyhow::Result<()> {
    ensure!(!args.out.exists(), "{}: it is there already: name another file", args.out.display());
    args.profile.profiles().export_to(&args.profile.user, &args.out)?;
    println!("'{}' is in {}", args.profile.user, args.out.display());
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// File of calib export
    #[arg(long, value_name = "FILE")]
    from: PathBuf,

    /// Bundle that it is to be used with: a folder, or the name of an installed one [default: default]
    #[arg(long, value_name = "DIR|NAME", env = "SEMBLANCE_BUNDLE")]
    bundle: Option<PathBuf>,
}

pub(crate) fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let at = || args.from.display().to_string();
    let shipped = Shipped::open(&bundle::find(args.bundle.as_deref())?)?;
    let file = fs::read(&args.from).with_context(at)?;
    let profiles = args.profile.profiles();
    let serial = profiles.import(&args.profile.user, &file, shipped.heads.dim()).with_context(at)?;
    println!("'{}' is at state {serial}", args.profile.user);
    if let Some(opened) = args.profile.open()?
        && let Err(error) = opened.for_bundle(&shipped.encoder)
    {
        eprintln!("calib: {error}");
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// Do not ask for the user's name again
    #[arg(long)]
    yes: bool,
}

pub(crate) fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let user = &args.profile.user;
    if !args.yes {
        eprintln!(
            "Everything that is known of '{user}' will be deleted, and cannot be brought back. Type the name to go on:"
        );
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        ensure!(line.trim() == user.as_str(), "nothing was deleted");
    }
    let deletion = args.profile.profiles().delete(user)?;
    if !deletion.left.is_empty() {
        let left: Vec<_> =
            deletion.left.iter().map(|(path, why)| format!("{} ({why})", path.display())).collect();
        bail!("some of '{user}' is left: {}", left.join(", "));
    }
    println!("'{user}' is deleted: {} files", deletion.removed);
    Ok(())
}
