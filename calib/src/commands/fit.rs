//! `calib fit`: heads from a recording with labels.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use semblance_calib::bundle::Shipped;
use semblance_calib::fit::{FitOptions, Fitted, Verdict, fit};
use semblance_calib::labelled::{CAPACITY, Labelled};
use semblance_calib::profile::{MAX_REPORT, Opened, State};
use semblance_calib::recording::{self, Names};
use semblance_calib::{Dataset, HeadKind, Moment};
use serde_json::{Value, json};

use super::{ProfileArgs, now_unix_secs, plot};

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

    /// Folder of the bundle that the recording was made with
    #[arg(long, value_name = "DIR", default_value = "models/default", env = "SEMBLANCE_BUNDLE")]
    bundle: PathBuf,

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
    let shipped = Shipped::open(&args.bundle)?;
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
    let known = before.as_ref().map(|opened| opened.for_bundle(&shipped.encoder)).transpose()?;
    let data = joined(known.and_then(|state| state.labelled.as_ref()), &new)?;
    let fitted = fit(&shipped.heads, &data, &options)?;
    let accepted = fitted.fits.iter().any(|fit| fit.verdict == Verdict::Accepted);
    let mut report = serde_json::to_value(&fitted)?;
    let saved = if accepted && !args.dry_run {
        Some(save(args, &shipped, &data, (&fitted, &report), before.as_ref())?)
    } else {
        None
    };
    if args.json {
        report["labels"] = json!(data.len());
        report["state"] = json!(saved);
        println!("{report}");
        return Ok(());
    }
    println!("{} labels, {} of them new", data.len(), new.len());
    print!("{}", plot::text(&report));
    match saved {
        Some(serial) => {
            println!("kept as state {serial} of '{}'; calib rollback undoes it", args.profile.user);
        }
        None if accepted => println!("nothing was kept (--dry-run)"),
        None => println!("nothing was changed: no head is better than the shipped one by more than noise"),
    }
    Ok(())
}

/// What was known and what is new; the new blocks follow the known ones.
fn joined(known: Option<&Dataset>, new: &Dataset) -> anyhow::Result<Dataset> {
    let mut data = Dataset::new(new.dim());
    let mut first = 0;
    for part in known.into_iter().chain([new]) {
        let mut last = first;
        for (i, moment) in part.moments().iter().enumerate() {
            let block = first + moment.block;
            last = last.max(block + 1);
            data.push(Moment { block, ..*moment }, part.embedding(i))?;
        }
        first = last;
    }
    Ok(data)
}

fn save(
    args: &FitArgs,
    shipped: &Shipped,
    data: &Dataset,
    (fitted, report): (&Fitted, &Value),
    before: Option<&Opened>,
) -> anyhow::Result<u64> {
    let mut kept = Labelled::new(data.dim(), CAPACITY);
    for (i, moment) in data.moments().iter().enumerate() {
        kept.push(*moment, data.embedding(i))?;
    }
    let state = State {
        bundle: shipped.encoder.clone(),
        heads: fitted.heads().clone(),
        // It was learned on other heads.
        correction: None,
        labelled: Some(kept.data().clone()),
        saved_unix_secs: now_unix_secs(),
        reason: format!("calib fit, {} labels", data.len()),
        report: shortened(report),
    };
    let after = before.map_or(0, |opened| opened.serial);
    Ok(args.profile.profiles().save(&args.profile.user, &state, Some(after))?)
}

/// The report as JSON, without the scores of single classes where it would be too long to keep.
fn shortened(report: &Value) -> String {
    let mut value = report.clone();
    if value.to_string().len() > MAX_REPORT {
        for head in value["heads"].as_array_mut().into_iter().flatten() {
            if let Some(metrics) = head["metrics"].as_array_mut() {
                let of_class = |metric: &Value| {
                    let name = metric["name"].as_str().unwrap_or_default();
                    name.starts_with("recall_") || name.starts_with("f1_AU")
                };
                metrics.retain(|metric| !of_class(metric));
            }
        }
    }
    value.to_string()
}
