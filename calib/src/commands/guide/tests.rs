#![allow(clippy::unwrap_used)]
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::TcpListener;

use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use semblance_calib::candidate::Candidate;
use semblance_calib::fit::FitOptions;
use semblance_calib::session::{Phase, Session, Sight};
use semblance_calib::{HeadKind, Heads, LinearHead};
use serde_json::Value;

use super::*;

const DIM: usize = 4;

/// `edge` without HTTP: the session and the fit are the real ones, the person shows along each axis another expression.
struct Fake {
    session: RefCell<Option<Session>>,
    heads: Heads,
    now: Cell<f64>,
    asked: RefCell<Vec<(Method, String, Option<Value>)>>,
    ends: Cell<bool>,
}

impl Fake {
    fn new(protocol: &str) -> Self {
        let labels: Vec<String> = ["neutral", "happy", "surprise"].map(str::to_owned).to_vec();
        let head =
            LinearHead::new("expression", labels.clone(), DIM, vec![0.0; 3 * DIM], vec![0.0; 3]).unwrap();
        let heads = Heads::new(DIM, [(HeadKind::Expression, head)]).unwrap();
        let session = Session::start(Protocol::named(protocol).unwrap(), &labels, DIM, 0.0).unwrap();
        Self {
            session: RefCell::new(Some(session)),
            heads,
            now: Cell::new(0.0),
            asked: RefCell::default(),
            ends: Cell::new(false),
        }
    }

    fn phase(&self) -> Phase {
        self.session.borrow().as_ref().map_or(Phase::Done, |session| session.snapshot(self.now.get()).phase)
    }

    fn goes_on(&self) {
        const GOOD: Sight =
            Sight { faces: 1, yaw_deg: None, pitch_deg: None, light: 0.5, centre: [9.0, 9.0], width: 50.0 };
        self.now.set(self.now.get() + 0.25);
        let now = self.now.get();
        if let Some(session) = self.session.borrow_mut().as_mut() {
            let expression = session.snapshot(now).expression.unwrap_or_default();
            let mut embedding = [0.1 * (now * 7.0).sin() as f32, 0.0, 0.0, 1.0];
            embedding[["neutral", "happy", "surprise"].iter().position(|e| *e == expression).unwrap_or(0)] +=
                1.0;
            session.observe(now, now, &GOOD, Some(&embedding));
        }
    }
}

impl Edge for Fake {
    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.asked.borrow_mut().push((method, path.to_owned(), body.cloned()));
        match (method, path) {
            (Method::Get, "/v1/calibration") => {
                self.goes_on();
                if self.ends.get() {
                    *self.session.borrow_mut() = None;
                }
            }
            (Method::Post, "/v1/calibration/rating") => {
                let [valence, arousal] =
                    ["valence", "arousal"].map(|v| body.unwrap()[v].as_f64().unwrap() as f32);
                self.session.borrow_mut().as_mut().unwrap().rate(self.now.get(), valence, arousal)?;
            }
            (Method::Post, "/v1/calibration/redo") => {
                self.session.borrow_mut().as_mut().unwrap().redo(self.now.get());
            }
            (Method::Post, "/v1/fit") => {
                let session = self.session.borrow_mut().take().context("no labels")?;
                let options = FitOptions::default();
                return Ok(Candidate::fit(&self.heads, "sha", None, session.data(), None, &options)?
                    .report()
                    .clone());
            }
            (Method::Post, "/v1/fit/accept") | (Method::Delete, _) => {}
            _ => bail!("there is nothing at {path}"),
        }
        let session = self.session.borrow();
        let snapshot = session.as_ref().map(|session| session.snapshot(self.now.get()));
        Ok(json!({ "user": "ada", "session": snapshot, "labels": { "total": 0 } }))
    }
}

fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::from(code)
}

/// Runs the guide against the fake while `person` presses keys, by the phase and the turn.
fn guide(fake: &Fake, mut person: impl FnMut(Phase, usize) -> Option<KeyCode>) -> End {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let mut turn = 0;
    run(&mut terminal, fake, |_| {
        turn += 1;
        assert!(turn < 5000, "it never ends");
        Ok(person(fake.phase(), turn).map(key))
    })
    .unwrap()
}

#[test]
fn a_session_is_guided_fitted_and_kept() {
    let fake = Fake::new("quick");
    let end = guide(&fake, |phase, turn| match phase {
        Phase::Done if turn % 2 == 0 => Some(KeyCode::Char('a')),
        Phase::Done => Some(KeyCode::Enter),
        _ => None,
    });
    assert_eq!(end, End::Kept);
    let asked = fake.asked.borrow();
    let last: Vec<&str> = asked[asked.len() - 2..].iter().map(|(_, path, _)| path.as_str()).collect();
    assert_eq!(last, ["/v1/fit", "/v1/fit/accept"]);
}

#[test]
fn ratings_are_set_by_arrows_and_a_session_stops_at_the_second_q() {
    let fake = Fake::new("va");
    let keys = [KeyCode::Right, KeyCode::Right, KeyCode::Down, KeyCode::Left, KeyCode::Enter];
    let mut pressed = 0;
    let mut rated = false;
    let end = guide(&fake, |phase, _| {
        if phase == Phase::Rate && !rated {
            pressed += 1;
            rated = pressed == keys.len();
            return Some(keys[pressed - 1]);
        }
        rated.then_some(KeyCode::Char('q'))
    });
    assert_eq!(end, End::NotKept);
    let asked = fake.asked.borrow();
    let ratings: Vec<&Value> = asked
        .iter()
        .filter(|(_, path, _)| path.ends_with("rating"))
        .map(|(.., body)| body.as_ref().unwrap())
        .collect();
    assert_eq!(ratings.len(), 1);
    for (what, value) in [("valence", 0.2), ("arousal", -0.1)] {
        assert!((ratings[0][what].as_f64().unwrap() - value).abs() < 1e-6, "{ratings:?}");
    }
    assert_eq!(asked.last().unwrap().0, Method::Delete);
}

#[test]
fn a_session_that_was_ended_elsewhere_and_a_refusal_are_shown() {
    let fake = Fake::new("quick");
    fake.ends.set(true);
    let mut screen = Screen::default();
    screen.look(&fake);
    assert!(shown(&screen, 80, 24).contains("No session goes on"));
    assert!(grant(&mut screen, &fake, Wish::Fit).is_err_and(|error| {
        screen.warn(&error);
        true
    }));
    assert!(shown(&screen, 80, 24).contains("no labels"));
    assert_eq!(screen.press(key(KeyCode::Char('q'))), Some(Wish::Leave));
}

fn shown(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    buffer
        .content
        .chunks(usize::from(width).max(1))
        .map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n")
        .collect()
}

#[test]
fn every_phase_fits_a_terminal_of_any_size() {
    for protocol in ["quick", "va"] {
        let fake = Fake::new(protocol);
        let mut screen = Screen::default();
        let mut seen = Vec::new();
        while fake.phase() != Phase::Done {
            screen.look(&fake);
            let phase = fake.phase();
            if !seen.contains(&phase) {
                seen.push(phase);
                for (width, height) in [(80, 24), (200, 60), (20, 8), (3, 2), (1, 1)] {
                    shown(&screen, width, height);
                }
                let full = shown(&screen, 100, 30);
                let word = match phase {
                    Phase::Ready => "ready?",
                    Phase::Hold => "hold it",
                    Phase::Rate => "unpleasant",
                    Phase::Rest => "Relax",
                    Phase::Done => "thank you",
                };
                assert!(full.contains(word) && full.contains("step "), "{full}");
            }
            if phase == Phase::Rate {
                grant(&mut screen, &fake, Wish::Rate([0.5, -0.5])).unwrap();
            }
        }
        screen.look(&fake);
        assert!(shown(&screen, 100, 30).contains("moments were taken"));
        grant(&mut screen, &fake, Wish::Fit).unwrap();
        let report = shown(&screen, 100, 30);
        assert!(report.contains("before") && report.contains("gain"), "{report}");
        for (width, height) in [(20, 8), (1, 1)] {
            shown(&screen, width, height);
        }
    }
}

#[test]
fn what_a_terminal_would_obey_is_not_shown() {
    struct Hostile;
    impl Edge for Hostile {
        fn ask(&self, _: Method, _: &str, _: Option<&Value>) -> anyhow::Result<Value> {
            Ok(json!({ "labels": { "total": 0 }, "session": {
                "title": "\u{1b}[2Jtitle", "phase": "ready", "say": "say \u{1b}]0;owned\u{7} it\u{9b}31m", "expression": null,
                "step": 1, "steps": 2, "left_secs": 1.0, "advice": "\u{1b}c", "good_frames": 0, "labels": 0,
                "trouble": "\r\n\u{8}", "skipped": 0,
            } }))
        }
    }
    let mut screen = Screen::default();
    screen.look(&Hostile);
    let text = shown(&screen, 80, 24);
    assert!(text.contains("┌ [2Jtitle ") && text.contains("say ]0;owned it31m"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

/// A server that answers every request alike; what it was sent.
fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        // The head, and the body where one is announced.
        while !String::from_utf8_lossy(&got).contains("\r\n\r\n")
            || got.ends_with(b"\r\n\r\n") && got.starts_with(b"PUT")
        {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                n => got.extend(&buffer[..n]),
            }
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(got).unwrap()
    });
    (base, thread)
}

#[test]
fn the_client_sends_its_token_and_tells_what_is_refused() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n{\"a\":1}";
    let (base, thread) = answering(ok);
    let client = Client::new(&base, Some("secret".to_owned()));
    let answer = client.ask(Method::Put, "/v1/user", Some(&json!({ "user": "ada" }))).unwrap();
    assert_eq!(answer, json!({ "a": 1 }));
    let sent = thread.join().unwrap().to_lowercase();
    assert!(sent.starts_with("put /v1/user http/1.1\r\n"), "{sent}");
    assert!(
        sent.contains("authorization: bearer secret") && sent.contains("content-type: application/json"),
        "{sent}"
    );
    assert!(sent.ends_with("{\"user\":\"ada\"}"), "{sent}");

    for (answer, word) in [
        ("HTTP/1.1 409 Conflict\r\nContent-Length: 20\r\n\r\n{\"error\":\"Not now.\"}", "Not now."),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno", "502"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "is it edge?"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{", "breaks off"),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "302"),
        ("nonsense\r\n\r\n", "does not answer"),
    ] {
        let (base, thread) = answering(answer);
        let error = Client::new(&base, None).ask(Method::Get, "/v1/calibration", None).unwrap_err();
        assert!(format!("{error:#}").contains(word), "{error:#}");
        assert!(!thread.join().unwrap().to_lowercase().contains("authorization"));
    }
    let nobody = Client::new("http://127.0.0.1:1", None).ask(Method::Get, "/", None).unwrap_err();
    assert!(format!("{nobody:#}").contains("edge does not answer at http://127.0.0.1:1"), "{nobody:#}");
}

#[test]
fn a_protocol_is_a_name_or_a_sound_file() {
    assert_eq!(start_of("va").unwrap(), json!({ "protocol": "va" }));
    assert!(start_of("basic8").unwrap_err().to_string().contains("basic7"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    std::fs::write(&file, "format = 9").unwrap();
    let error = format!("{:#}", start_of(file.to_str().unwrap()).unwrap_err());
    assert!(error.contains("mine.toml") && error.contains('9'), "{error}");
}
