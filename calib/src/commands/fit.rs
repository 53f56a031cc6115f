//! `calib fit`: heads from a recording with labels.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use semblance_calib::HeadKind;
use semblance_calib::bundle::{self, Shipped};
use semblance_calib::candidate::Candidate;
use semblance_calib::fit::FitOptions;
use semblance_calib::profile::now_unix_secs;
use semblance_calib::recording::{self, Names};
use serde_json::json;

use super::{ProfileArgs, plot};

pub(crate) const EXAMPLES: &str = "\
Examples:
  edge run --record desk.record                     then add labels to its rows: \"label\":{\"expression\":\"happy\"}
  calib fit --embeddings desk.record --user ada     fits, judges, and keeps what is better
  calib fit --embeddings desk.record --user ada --dry-run --json";

#[derive(Debug, Args)]
pub(crate) struct FitArgs {
    /// Recording of edge run --record with labels: \"label\":{\"expression\":\"happy\",\"valence\":0.5,\"arousal\":0.2}, any
    /// part of it, and \"au\":{\"AU12\":1}
    #[arg(long, value_name = "FILE")]
    embeddings: PathBuf,

    #[command(flatten)]
    profile: ProfileArgs,

    /// Bundle that the recording was made with: a folder, or the name of an installed one [default: default]
    #[arg(long, value_name = "DIR|NAME", env = "SEMBLANCE_BUNDLE")]
    bundle: Option<PathBuf>,

    /// Names of action units to fit, where the bundle has no head for them, as AU06,AU12
    #[arg(long, value_delimiter = ',')]
    au: Vec<String>,

    /// Judge, but keep nothing
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn command(args: &FitArgs) -> anyhow::Result<()> {
    let shipped = Shipped::open(&bundle::find(args.bundle.as_deref())?)?;
    let options = FitOptions { action_unit_labels: args.au.clone(), ..FitOptions::default() };
    let rows = |kind, spare: &[String]| {
        shipped.heads.get(kind).map_or_else(|| spare.to_vec(), |head| head.labels().to_vec())
    };
    let names = Names {
        expressions: rows(HeadKind::Expression, &[]),
        action_units: rows(HeadKind::ActionUnits, &args.au),
    };
    let at = || args.embeddings.display().to_string();
    let file = File::open(&args.embeddings).with_context(at)?;
    let (new, rows) = recording::read(BufReader::new(file), shipped.heads.dim(), &names).with_context(at)?;
    ensure!(!new.is_empty(), "{}: none of its {rows} rows has a label", at());

    let before = args.profile.open()?;
    let place = before.as_ref().and_then(|opened| opened.state.correction.as_ref());
    let candidate = Candidate::fit(&shipped.heads, &shipped.encoder, before.as_ref(), &new, place, &options)?;
    let saved = if candidate.is_better() && !args.dry_run {
        let profiles = args.profile.profiles();
        Some(candidate.save(&profiles, &args.profile.user, "calib fit", now_unix_secs())?)
    } else {
        None
    };
    if args.json {
        let mut report = candidate.report().clone();
        report["state"] = json!(saved);
        println!("{report}");
        return Ok(());
    }
    println!("{} labels, {} of them new", candidate.data().len(), new.len());
    print!("{}", plot::text(candidate.report()));
    match saved {
        Some(serial) => {
            println!("kept as state {serial} of '{}'; calib rollback undoes it", args.profile.user);
        }
        None if candidate.is_better() => println!("nothing was kept (--dry-run)"),
        None => println!("nothing was changed: nothing is better than as shipped by more than noise"),
    }
    Ok(())
}
