//! `calib guide`: the guided session of a running `edge`, from a terminal.

mod client;
mod screen;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use ratatui::Terminal;
use ratatui::backend::Backend;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use semblance_calib::profile::UserName;
use semblance_calib::session::Protocol;
use serde_json::json;

use client::{Client, Edge, Method};
use screen::{Screen, Wish};

pub(crate) const EXAMPLES: &str = "\
Examples:
  calib guide --user ada                        seven expressions, in some three minutes
  calib guide --user ada --protocol va          how eight scenes feel
  calib guide --user ada --protocol mine.toml   a protocol of your own
  calib guide --user ada --edge http://camera.local:8017 --token-file token

Keys: r does a step again, q stops, arrows and Enter rate. What is fitted is kept only when you say so.";

#[derive(Debug, Args)]
pub(crate) struct GuideArgs {
    /// Who sits before the camera: lower-case letters, digits, - and _
    #[arg(long, env = "SEMBLANCE_USER")]
    user: UserName,

    /// The session: basic7, quick, va, or a TOML file of your own
    #[arg(long, default_value = "basic7")]
    protocol: String,

    /// Where edge runs
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8017", env = "SEMBLANCE_EDGE")]
    edge: String,

    /// File with the token that edge asks other machines for
    #[arg(long, value_name = "FILE", env = "SEMBLANCE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

pub(crate) fn command(args: &GuideArgs) -> anyhow::Result<()> {
    let token = args.token_file.as_ref().map(|file| {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Ok::<_, anyhow::Error>(text.trim().to_owned())
    });
    let client = Client::new(&args.edge, token.transpose()?);
    let start = start_of(&args.protocol)?;
    ensure!(
        io::stdin().is_terminal() && io::stdout().is_terminal(),
        "a guided session needs a terminal: labels of a recording are fitted by calib fit"
    );
    client.ask(Method::Put, "/v1/user", Some(&json!({ "user": args.user.as_str() })))?;
    client.ask(Method::Post, "/v1/calibration", Some(&start))?;
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let ended = run(&mut terminal, &client, next_key);
    ratatui::restore();
    match ended? {
        End::Kept => {
            println!(
                "The heads fitted to {0} are in force. To undo it: calib rollback --user {0}",
                args.user
            );
        }
        End::NotKept => println!("Nothing was kept."),
        End::Left(labels) => {
            println!(
                "{labels} labels wait in edge: they can be fitted, and what was fitted kept, on its dashboard until it ends."
            );
        }
    }
    Ok(())
}

/// What starts a session: the name of a protocol that is shipped, or a file's text.
fn start_of(protocol: &str) -> anyhow::Result<serde_json::Value> {
    if Protocol::named(protocol).is_some() {
        return Ok(json!({ "protocol": protocol }));
    }
    match std::fs::read_to_string(protocol) {
        Ok(text) => {
            Protocol::parse(&text).with_context(|| protocol.to_owned())?;
            Ok(json!({ "toml": text }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let known: Vec<String> = Protocol::shipped().into_iter().map(|p| p.name).collect();
            bail!("'{protocol}' is no protocol ({}) and no file", known.join(", "))
        }
        Err(error) => Err(error).with_context(|| protocol.to_owned()),
    }
}

/// The next key that is pressed within a time.
fn next_key(within: Duration) -> io::Result<Option<KeyEvent>> {
    let until = Instant::now() + within;
    while event::poll(until.saturating_duration_since(Instant::now()))? {
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// How a guided session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The person kept what was fitted.
    Kept,
    /// There is nothing to keep, or the person did not want it.
    NotKept,
    /// The person left with so many labels taken and not fitted.
    Left(u64),
}

/// Time from one look at the session to the next.
const LOOK: Duration = Duration::from_millis(100);

fn run<B: Backend>(
    terminal: &mut Terminal<B>,
    edge: &impl Edge,
    mut next_key: impl FnMut(Duration) -> io::Result<Option<KeyEvent>>,
) -> anyhow::Result<End>
where
    B::Error: Send + Sync + 'static,
{
    let mut screen = Screen::default();
    loop {
        screen.look(edge);
        terminal.draw(|frame| screen.draw(frame))?;
        if let Some(key) = next_key(LOOK)?
            && let Some(wish) = screen.press(key)
        {
            match grant(&mut screen, edge, wish) {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {}
                Err(error) => screen.warn(&error),
            }
        }
    }
}

/// Does what the person wants; the end, where it is one.
fn grant(screen: &mut Screen, edge: &impl Edge, wish: Wish) -> anyhow::Result<Option<End>> {
    match wish {
        Wish::Stop => {
            edge.ask(Method::Delete, "/v1/calibration", None)?;
            return Ok(Some(End::NotKept));
        }
        Wish::Redo => _ = edge.ask(Method::Post, "/v1/calibration/redo", None)?,
        Wish::Rate([valence, arousal]) => {
            let rating = json!({ "valence": valence, "arousal": arousal });
            edge.ask(Method::Post, "/v1/calibration/rating", Some(&rating))?;
        }
        Wish::Fit => {
            screen.report(edge.ask(Method::Post, "/v1/fit", None)?);
        }
        Wish::Accept => {
            edge.ask(Method::Post, "/v1/fit/accept", None)?;
            return Ok(Some(End::Kept));
        }
        Wish::Reject => {
            edge.ask(Method::Delete, "/v1/fit", None)?;
            return Ok(Some(End::NotKept));
        }
        Wish::Leave => return Ok(Some(End::Left(screen.labels()))),
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
