//! `calib show`: a profile, its history, and what its calibration changed.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use semblance_calib::HeadKind;
use semblance_calib::profile::State;
use serde_json::{Value, json};

use super::{ProfileArgs, plot};

pub(crate) const EXAMPLES: &str = "\
Examples:
  calib show --user ada                         what is in force, and since when
  calib show --user ada --svg ada.svg           before and after as a picture
  calib show --user ada --json | jq .states";

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// Draw before and after into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn command(args: &ShowArgs) -> anyhow::Result<()> {
    let user = &args.profile.user;
    let Some(opened) = args.profile.open()? else {
        let users = args.profile.profiles().users()?;
        let known: Vec<_> = users.iter().map(ToString::to_string).collect();
        let known = if known.is_empty() {
            "nobody has one".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        bail!("there is no profile of '{user}': {known}");
    };
    let report: Value = serde_json::from_str(&opened.state.report).unwrap_or(Value::Null);
    if let Some(file) = &args.svg {
        let picture = plot::svg(&report, &format!("{user}: {}", opened.state.reason));
        fs::write(file, picture).with_context(|| file.display().to_string())?;
    }
    let history = args.profile.profiles().history(user)?;
    if args.json {
        let states: Vec<Value> = history
            .iter()
            .map(|(serial, state)| match state {
                Ok(state) => described(*serial, state),
                Err(error) => json!({ "state": serial, "error": error.to_string() }),
            })
            .collect();
        println!(
            "{}",
            json!({ "user": user.as_str(), "state": opened.serial, "report": report, "states": states })
        );
        return Ok(());
    }
    println!("{user}, state {}: {}", opened.serial, opened.state.reason);
    print!("{}", plot::text(&report));
    println!("history:");
    for (serial, state) in &history {
        match state {
            Ok(state) => {
                let labels =
                    state.labelled.as_ref().map_or(String::new(), |l| format!(", {} labels kept", l.len()));
                println!("  {serial:>4}  {}  {}{labels}", date(state.saved_unix_secs), state.reason);
            }
            Err(error) => println!("  {serial:>4}  {error}"),
        }
    }
    Ok(())
}

fn described(serial: u64, state: &State) -> Value {
    let heads = HeadKind::ALL.into_iter().filter(|kind| state.heads.get(*kind).is_some());
    json!({
        "state": serial,
        "saved_unix_secs": state.saved_unix_secs,
        "reason": state.reason,
        "bundle": state.bundle,
        "heads": heads.map(HeadKind::name).collect::<Vec<_>>(),
        "labels": state.labelled.as_ref().map(semblance_calib::Dataset::len),
        "adapted": state.correction.is_some(),
    })
}

/// Date and time in UTC; the seconds themselves where no calendar reaches.
fn date(unix_secs: u64) -> String {
    let time = i64::try_from(unix_secs).ok().and_then(|secs| Timestamp::from_second(secs).ok());
    time.map_or_else(|| format!("{unix_secs} s"), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From date(1): date -u -d @SECS
        for (secs, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_827_696, "2000-02-29 12:34 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(secs), text);
        }
    }
}
