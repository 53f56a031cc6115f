//! Log lines on standard error: for people, for journald, or as JSON for collectors.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use env_logger::fmt::Formatter;
use log::{Level, Record};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// As for journald where systemd reads standard error, else as text
    #[default]
    Auto,
    /// `[WARN] message`
    Text,
    /// `<4>message`: journald takes the priority from the number and has the time itself
    Journal,
    /// One JSON object a line: time, level, target, message
    Json,
}

/// Starts logging: what `RUST_LOG` says, else warnings and worse; for collectors of logs, what changes, too.
pub fn init(format: LogFormat) {
    let format = resolve(format, journal_reads_us());
    IS_COLLECTED.store(format != LogFormat::Text, Ordering::Relaxed);
    let usual = if format == LogFormat::Text { "warn" } else { "warn,edge=info,semblance_edge=info" };
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(usual));
    match format {
        LogFormat::Journal => builder.format(journal),
        LogFormat::Json => builder.format(json),
        LogFormat::Auto | LogFormat::Text => &mut builder,
    };
    builder.init();
}

/// Whether log lines are for collectors rather than for people.
static IS_COLLECTED: AtomicBool = AtomicBool::new(false);

/// Tells people what they asked for (a summary, where the dashboard is) on standard error; collectors get it as a log line.
pub fn tell(message: impl Display) {
    if IS_COLLECTED.load(Ordering::Relaxed) {
        log::info!("{message}");
    } else {
        // The terminal may be gone.
        let _ = writeln!(io::stderr(), "{message}");
    }
}

/// Tells why the program ends with a failure: as [`tell`], but an error.
pub fn fail(reason: impl Display) {
    if IS_COLLECTED.load(Ordering::Relaxed) {
        log::error!("{reason}");
    } else {
        let _ = writeln!(io::stderr(), "edge: {reason}");
    }
}

/// Whether standard error is the stream that systemd connected to its journal (systemd.exec(5)): programs that it did not
/// start itself may have inherited the variable.
fn journal_reads_us() -> bool {
    #[cfg(target_os = "linux")]
    if let (Ok(named), Ok(ours)) = (std::env::var("JOURNAL_STREAM"), std::fs::metadata("/proc/self/fd/2")) {
        use std::os::linux::fs::MetadataExt;
        return named == format!("{}:{}", ours.st_dev(), ours.st_ino());
    }
    false
}

fn resolve(format: LogFormat, under_systemd: bool) -> LogFormat {
    match format {
        LogFormat::Auto if under_systemd => LogFormat::Journal,
        LogFormat::Auto => LogFormat::Text,
        other => other,
    }
}

/// sd-daemon(3): a line that starts with its syslog priority.
fn journal(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let message = record.args().to_string();
    for line in message.lines() {
        writeln!(out, "<{priority}>{line}")?;
    }
    Ok(())
}

fn json(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let line = serde_json::json!({
        "time": out.timestamp_millis().to_string(),
        "level": record.level().as_str().to_lowercase(),
        "target": record.target(),
        "message": record.args().to_string(),
    });
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_gets_its_own_lines() {
        assert_eq!(resolve(LogFormat::Auto, true), LogFormat::Journal);
        assert_eq!(resolve(LogFormat::Auto, false), LogFormat::Text);
        assert_eq!(resolve(LogFormat::Json, true), LogFormat::Json);
    }
}
