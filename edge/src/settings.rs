//! Settings from everywhere: defaults < a TOML file < the environment < flags.
//!
//! A file holds flags by their names, with `_` for `-`: `max_fps = 15`, `out = ["jsonl", "csv:faces.csv"]`. What it says is
//! read by the same parsers as the command line, so that there is one meaning of each setting and one set of errors.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use semblance_face::url;
use thiserror::Error;

/// The flag that names the file.
pub const CONFIG: &str = "config";
/// Read where it is there and no other is named.
pub const DEFAULT_FILE: &str = "/etc/semblance/edge.toml";

/// Why there are no settings.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The command line itself is wrong, or asks for help: clap's own words.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The file sets something that there is not.
    #[error("{}: '{key}' is no setting; there are {known}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it sets.
        key: String,
        /// What it could set.
        known: String,
    },
    /// A value of the file makes no sense.
    #[error("{}: {key}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The command line.
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A parsed command line, completed by a file.
#[derive(Debug)]
pub struct Settings {
    /// What clap makes of all of it.
    pub matches: ArgMatches,
    /// The file that was read.
    file: Option<PathBuf>,
    /// Settings that the file decided.
    from_file: Vec<String>,
}

impl Settings {
    /// Reads the command line `args` (with the program's name) of `command`, and the file that its subcommand's
    /// `--config` names. The file may set whatever `full`, a subcommand, has flags for; what the chosen subcommand has no
    /// flag for is not used.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn read(
        command: &Command,
        full: &str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, SettingsError> {
        let args: Vec<OsString> = args.into_iter().collect();
        let matches = command.clone().try_get_matches_from(&args)?;
        let alone = |matches| Self { matches, file: None, from_file: Vec::new() };
        let Some((name, sub)) = matches.subcommand() else { return Ok(alone(matches)) };
        let Some(path) = config_file(sub) else { return Ok(alone(matches)) };
        let (Some(chosen), Some(full)) = (command.find_subcommand(name), command.find_subcommand(full))
        else {
            return Ok(alone(matches));
        };
        let table = read_table(&path)?;
        check_keys(full, &table, &path)?;
        let (mut all, mut from_file) = (args, Vec::new());
        for (key, value) in &table {
            let Some(arg) = arg_of(chosen, key) else { continue };
            let decided = sub.value_source(arg.get_id().as_str());
            if matches!(decided, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
                continue;
            }
            let flags = flags_of(arg, key, value, &path)?;
            // Each setting by itself first, so that an error names it.
            let one = [args_head(&all), name.into()].into_iter().chain(flags.iter().cloned());
            command.clone().try_get_matches_from(one).map_err(|e| SettingsError::Value {
                path: path.clone(),
                key: key.clone(),
                reason: first_line(&e),
            })?;
            all.extend(flags);
            from_file.push(arg.get_id().to_string());
        }
        let matches = command.clone().try_get_matches_from(all)?;
        Ok(Self { matches, file: Some(path), from_file })
    }

    /// Where the value of the setting `id` of the subcommand came from.
    pub fn origin(&self, id: &str, arg: &Arg) -> Origin {
        let sub = self.matches.subcommand().map(|(_, sub)| sub);
        match (sub.and_then(|sub| sub.value_source(id)), &self.file) {
            (Some(ValueSource::CommandLine), Some(file)) if self.from_file.iter().any(|k| k == id) => {
                Origin::File(file.clone())
            }
            (Some(ValueSource::CommandLine), _) => Origin::Flag,
            (Some(ValueSource::EnvVariable), _) => Origin::Environment(
                arg.get_env().map(|v| v.to_string_lossy().into_owned()).unwrap_or_default(),
            ),
            _ => Origin::Default,
        }
    }

    /// The settings of the subcommand `chosen` as a file that would set them, each with where it came from. What is not set
    /// is told in a comment, and so is what may be secret, without what may be.
    pub fn describe(&self, chosen: &Command) -> String {
        let Some((_, sub)) = self.matches.subcommand() else { return String::new() };
        let mut lines = BTreeMap::new();
        for arg in chosen.get_arguments().filter(|arg| is_setting(arg)) {
            let (id, key) = (arg.get_id().as_str(), key_of(arg));
            let raw = sub.try_get_raw(id).ok().flatten().into_iter().flatten();
            let given: Vec<_> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
            let values: Vec<_> = given.iter().map(|value| url::public(value)).collect();
            let text = match (arg.get_action(), values.as_slice()) {
                (ArgAction::SetTrue, _) => sub.get_flag(id).to_string(),
                (_, []) => {
                    let line = format!("# {key} is not set");
                    lines.insert(key, line);
                    continue;
                }
                (ArgAction::Append, many) => toml::Value::from(many.to_vec()).to_string(),
                (_, [one, ..]) => literal(one),
            };
            let origin = self.origin(id, arg);
            let line = if values == given {
                format!("{key} = {text}  # {origin}")
            } else {
                format!("# {key} = {text}  # {origin}; shown without what may be secret in it")
            };
            lines.insert(key, line);
        }
        let mut out = String::new();
        for line in lines.values() {
            let _ = writeln!(out, "{line}");
        }
        out
    }
}

/// What TOML reads as a number or a truth value as it is, anything else (`.5` and `007`, too) as a string.
fn literal(text: &str) -> String {
    let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let table = format!("x = {text}").parse::<toml::Table>().ok();
    match table.as_ref().and_then(|table| table.get("x")) {
        Some(toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_)) if is_word => {
            text.to_owned()
        }
        _ => toml::Value::from(text).to_string(),
    }
}

fn args_head(args: &[OsString]) -> OsString {
    args.first().cloned().unwrap_or_else(|| OsStr::new("edge").to_owned())
}

fn config_file(sub: &ArgMatches) -> Option<PathBuf> {
    let asked = sub.try_get_one::<PathBuf>(CONFIG).ok()?;
    let usual = Path::new(DEFAULT_FILE);
    asked.cloned().or_else(|| usual.is_file().then(|| usual.to_owned()))
}

fn read_table(path: &Path) -> Result<toml::Table, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Io { path: path.to_owned(), source })?;
    text.parse().map_err(|e: toml::de::Error| SettingsError::Syntax {
        path: path.to_owned(),
        // Without the line itself, which may hold a password.
        reason: match e.span() {
            Some(span) => format!("line {}: {}", 1 + text[..span.start].matches('\n').count(), e.message()),
            None => e.message().to_owned(),
        },
    })
}

/// Whether a file may set it.
fn is_setting(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|long| ![CONFIG, "help", "version"].contains(&long))
}

fn key_of(arg: &Arg) -> String {
    arg.get_long().unwrap_or_default().replace('-', "_")
}

fn arg_of<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| is_setting(arg) && key_of(arg) == key)
}

fn check_keys(full: &Command, table: &toml::Table, path: &Path) -> Result<(), SettingsError> {
    let Some(key) = table.keys().find(|key| arg_of(full, key).is_none()) else { return Ok(()) };
    let mut known: Vec<String> = full.get_arguments().filter(|arg| is_setting(arg)).map(key_of).collect();
    known.sort();
    Err(SettingsError::Unknown { path: path.to_owned(), key: key.clone(), known: known.join(", ") })
}

/// What would stand on the command line.
fn flags_of(arg: &Arg, key: &str, value: &toml::Value, path: &Path) -> Result<Vec<OsString>, SettingsError> {
    let long = arg.get_long().unwrap_or_default();
    let wrong = |reason: &str| SettingsError::Value {
        path: path.to_owned(),
        key: key.to_owned(),
        reason: reason.to_owned(),
    };
    let one = |value: &toml::Value| -> Result<OsString, SettingsError> {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            toml::Value::Datetime(time) => time.to_string(),
            toml::Value::Array(_) | toml::Value::Table(_) => return Err(wrong("give one value")),
        };
        Ok(format!("--{long}={text}").into())
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, toml::Value::Boolean(true)) => Ok(vec![format!("--{long}").into()]),
        (ArgAction::SetTrue, toml::Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err(wrong("give true or false")),
        (ArgAction::Append, toml::Value::Array(values)) => values.iter().map(one).collect(),
        (_, toml::Value::Array(_) | toml::Value::Table(_)) => Err(wrong("give one value, not several")),
        (_, value) => Ok(vec![one(value)?]),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::{Args, Parser, Subcommand};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, Subcommand)]
    enum Sub {
        Run(Run),
        Check(Check),
    }

    #[derive(Debug, Args)]
    struct Run {
        #[arg(long, default_value = "camera")]
        source: String,
        #[arg(long)]
        max_fps: Option<f64>,
        #[arg(long, default_value = "jsonl")]
        out: Vec<String>,
        #[arg(long)]
        landmarks: bool,
        // No test sets it: whoever runs them may.
        #[arg(long, env = "SEMBLANCE_TEST_OF_SETTINGS", default_value_t = 5)]
        find_every: u32,
        #[arg(long)]
        config: Option<PathBuf>,
    }

    #[derive(Debug, Args)]
    struct Check {
        #[arg(long, default_value = "camera")]
        source: String,
        #[arg(long)]
        config: Option<PathBuf>,
    }

    use clap::CommandFactory;

    struct File(tempfile::TempDir);

    impl File {
        fn with(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("edge.toml"), text).unwrap();
            Self(dir)
        }

        fn read(&self, args: &[&str]) -> Result<Settings, SettingsError> {
            let (first, rest) = args.split_first().unwrap();
            let file = self.0.path().join("edge.toml");
            let all =
                ["edge", first, "--config", file.to_str().unwrap()].into_iter().chain(rest.iter().copied());
            Settings::read(&Cli::command(), "run", all.map(OsString::from))
        }
    }

    fn described(settings: &Settings) -> String {
        settings.describe(Cli::command().find_subcommand("run").unwrap())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = File::with(
            "source = \"demo\"\nmax_fps = 7.5\nout = [\"jsonl:a\", \"csv:b\"]\nlandmarks = true\n",
        );
        let settings = file.read(&["run", "--max-fps", "9"]).unwrap();
        let (_, run) = settings.matches.subcommand().unwrap();
        assert_eq!(run.get_one::<String>("source").unwrap(), "demo");
        assert_eq!(run.get_one::<f64>("max_fps"), Some(&9.0));
        let out: Vec<_> = run.get_many::<String>("out").unwrap().collect();
        assert_eq!(out, ["jsonl:a", "csv:b"]);
        assert!(run.get_flag("landmarks"));
        let text = described(&settings);
        assert!(text.contains("max_fps = 9  # flag\n"), "{text}");
        assert!(text.contains("source = \"demo\"  # /"), "{text}");
        assert!(text.contains("find_every = 5  # default\n"), "{text}");
        // What is described sets the same again.
        let again = File::with(&text).read(&["run"]).unwrap();
        let origins =
            |text: &str| text.lines().map(|l| l.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(origins(&described(&again)), origins(&text));
        // A password is not shown; the setting is left out rather than changed.
        let secret = File::with("source = \"rtsp://me:sesame@camera/1\"\n").read(&["run"]).unwrap();
        let text = described(&secret);
        assert!(text.contains("\n# source = \"rtsp://camera/1\"  # /") && !text.contains("sesame"), "{text}");
        text.parse::<toml::Table>().unwrap();
    }

    #[test]
    fn values_are_written_as_toml_reads_them() {
        for plain in ["15", "-3", "0.5", "1e3", "true"] {
            assert_eq!(literal(plain), plain);
        }
        for text in [".5", "007", "demo", "1x", "1 # x", "2024-01-01"] {
            assert_eq!(literal(text), toml::Value::from(text).to_string());
            let table: toml::Table = format!("x = {}", literal(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let fail = |text: &str| File::with(text).read(&["run"]).unwrap_err().to_string();
        assert!(fail("sourse = \"demo\"").contains("'sourse' is no setting; there are find_every"));
        let message = fail("max_fps = \"fast\"");
        assert!(message.contains("edge.toml: max_fps: invalid value 'fast'"), "{message}");
        assert!(fail("landmarks = 1").contains("landmarks: give true or false"));
        assert!(fail("source = [\"a\", \"b\"]").contains("source: give one value"));
        let message = fail("landmarks = true\nout = [\"mqtt://u:sesame@h/x\"\nsource = 3");
        assert!(message.contains("edge.toml: line ") && !message.contains("sesame"), "{message}");
        let gone = Settings::read(
            &Cli::command(),
            "run",
            ["edge", "run", "--config", "/no/such.toml"].map(Into::into),
        );
        assert!(gone.unwrap_err().to_string().contains("/no/such.toml"));
    }

    #[test]
    fn a_command_takes_what_concerns_it() {
        let file = File::with("source = \"demo\"\nmax_fps = 3.0\n");
        let settings = file.read(&["check"]).unwrap();
        let (name, check) = settings.matches.subcommand().unwrap();
        assert_eq!((name, check.get_one::<String>("source").unwrap().as_str()), ("check", "demo"));
    }
}
