//! The dashboard in a real browser: headless Chromium, driven by chromedriver over loopback.

#![allow(clippy::unwrap_used)]

mod serving;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use semblance_calib::profile::{Profiles, State};
use semblance_calib::{HeadKind, Heads, LinearHead};
use semblance_edge::http::{About, HttpOptions, Server};
use semblance_edge::learn::Learner;
use semblance_edge::prediction::{ExpressionPrediction, FrameReport, Labels, Prediction, Scores};
use semblance_edge::run::Shared;
use semblance_edge::telemetry::SourceState;
use semblance_edge::users::Users;
use semblance_face::Bundle;
use serde_json::{Value, json};
use serving::Serving;

/// A browser, until this is dropped.
struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|file| file.is_file())
}

impl Browser {
    /// `None`, with a line that says so, where there is no Chromium or no chromedriver.
    fn start() -> Option<Self> {
        let programs = [find(&["chromium", "chromium-browser", "google-chrome"]), find(&["chromedriver"])];
        let [Some(chromium), Some(chromedriver)] = programs else {
            eprintln!("skipped: chromium or chromedriver is not installed");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new(chromedriver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        let args = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-first-run".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": chromium, "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let mut browser =
            Self { driver, session: format!("http://127.0.0.1:{port}/session"), _profile: profile };
        let session = browser.post("", &wanted);
        browser.session += &format!("/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn post(&self, command: &str, parameters: &Value) -> Value {
        let mut response = ureq::post(format!("{}{command}", self.session))
            .config()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .header("content-type", "application/json")
            .send(parameters.to_string())
            .unwrap();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        assert!(response.status().is_success(), "{command}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()["value"].take()
    }

    fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    fn evaluate(&self, expression: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": format!("return {expression}"), "args": [] }))
    }

    fn wait_for(&self, condition: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.evaluate(condition) != true {
            let seen = self.evaluate("document.body.innerText");
            assert!(Instant::now() < deadline, "{condition} never came true; the page shows {seen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Pretends a screen of this size, with a light or dark scheme.
    fn screen(&self, [width, height]: [u32; 2], scheme: &str) {
        let run = |cmd: &str, params: Value| {
            self.post("/goog/cdp/execute", &json!({ "cmd": cmd, "params": params }));
        };
        run(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        );
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        run("Emulation.setEmulatedMedia", json!({ "features": feature }));
    }

    /// Keeps the page as a picture among the artefacts of continuous integration.
    fn keep_screenshot(&self, name: &str) {
        let dir = std::env::var_os("SEMBLANCE_ARTIFACTS")
            .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("../ci-artifacts"), PathBuf::from);
        fs::create_dir_all(&dir).unwrap();
        let picture = self.post(
            "/goog/cdp/execute",
            &json!({ "cmd": "Page.captureScreenshot", "params": { "format": "png", "captureBeyondViewport": true } }),
        );
        let png = from_base64(picture["data"].as_str().unwrap());
        assert!(image::load_from_memory(&png).is_ok());
        fs::write(dir.join(name), png).unwrap();
    }

    /// What the console has said since it was last asked.
    fn console(&self) -> Vec<Value> {
        self.post("/se/log", &json!({ "type": "browser" })).as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|&byte| byte != b'=') {
        (held, bits) = (held << 6 | u32::from(digit(byte)), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}

/// What the page shows of the predictions.
const SHOWN: &str = "[...document.querySelectorAll('#expressions .value')].map(n => n.textContent).join() + document.querySelector('#frame').textContent";

fn wait_until_live(browser: &Browser) {
    browser.wait_for("document.querySelectorAll('#expressions li').length > 3 && document.querySelector('#label').textContent !== '–'");
    browser.wait_for("document.querySelector('#picture').naturalWidth > 0");
}

/// Waits until so many clients look at the preview.
fn wait_for_viewers(serving: &Serving, expected: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = serving::get(serving.addr, "/metrics", &[]).text();
        let viewers =
            text.lines().find_map(|line| line.strip_prefix("semblance_http_preview_clients ")).unwrap();
        if viewers.parse() == Ok(expected) {
            return;
        }
        assert!(Instant::now() < deadline, "{viewers} clients look, not {expected}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn url(addr: SocketAddr) -> String {
    format!("http://{addr}/")
}

#[test]
fn predictions_move_and_the_console_is_silent() {
    let Some(browser) = Browser::start() else { return };
    let serving = Serving::start("127.0.0.1", &["--max-fps", "20"]);
    browser.screen([1280, 900], "light");
    browser.open(&url(serving.addr));
    wait_until_live(&browser);
    let first = browser.evaluate(SHOWN);
    browser.wait_for(&format!("{SHOWN} !== {first}"));
    // A box is drawn, over the picture and without it.
    let drawn = "(() => { const c = document.querySelector('#boxes'), blank = document.createElement('canvas'); [blank.width, blank.height] = [c.width, c.height]; return c.toDataURL() !== blank.toDataURL(); })()";
    browser.wait_for(drawn);
    browser.evaluate("document.querySelector('#preview').click()");
    browser.wait_for(drawn);
    assert_eq!(browser.evaluate("document.querySelector('#picture').getAttribute('src')"), Value::Null);
    wait_for_viewers(&serving, 0);
    browser.evaluate("document.querySelector('#preview').click()");
    wait_until_live(&browser);

    // Paused it stands still; resumed it goes on.
    wait_for_viewers(&serving, 1);
    browser.evaluate("document.querySelector('#pause').click()");
    wait_for_viewers(&serving, 0);
    let still = browser.evaluate(SHOWN);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(browser.evaluate(SHOWN), still);
    browser.evaluate("document.querySelector('#pause').click()");
    browser.wait_for(&format!("{SHOWN} !== {still}"));

    // A while of timeline for the picture.
    std::thread::sleep(Duration::from_secs(10));
    for (name, screen, scheme) in [
        ("dashboard-light.png", [1280, 900], "light"),
        ("dashboard-dark.png", [1280, 900], "dark"),
        ("dashboard-phone.png", [360, 780], "light"),
    ] {
        browser.screen(screen, scheme);
        std::thread::sleep(Duration::from_millis(700));
        let overflow = browser.evaluate("document.documentElement.scrollWidth - window.innerWidth");
        assert!(overflow.as_i64().unwrap() <= 0, "{name} scrolls sideways by {overflow}");
        browser.keep_screenshot(name);
    }
    // Controls have names, pictures have texts.
    let nameless = "[...document.querySelectorAll('button, select, img')].filter(n => !(n.textContent.trim() || n.getAttribute('aria-label') || n.alt)).length";
    assert_eq!(browser.evaluate(nameless), 0);
    assert_eq!(
        browser.evaluate(
            "performance.getEntriesByType('resource').filter(e => !e.name.startsWith(location.origin)).length"
        ),
        0
    );
    assert_eq!(browser.console(), [Value::Null; 0], "the console is silent");
}

#[test]
fn the_token_opens_it_once_and_it_comes_back_after_a_restart() {
    let Some(browser) = Browser::start() else { return };
    let mut serving = Serving::start("0.0.0.0", &["--max-fps", "10"]);
    let token = fs::read_to_string(serving.token_file()).unwrap().trim().to_owned();
    browser.open(&format!("{}?token={token}", url(serving.addr)));
    wait_until_live(&browser);
    assert_eq!(browser.evaluate("location.href"), url(serving.addr));
    assert_eq!(browser.evaluate("document.cookie"), "", "no script reads the token");
    assert_eq!(browser.console(), [Value::Null; 0]);
    serving.restart();
    browser.wait_for("document.querySelector('#link').textContent.includes('not connected')");
    browser.wait_for("document.querySelector('#link').textContent === 'connected'");
    let shown = browser.evaluate(SHOWN);
    browser.wait_for(&format!("{SHOWN} !== {shown}"));
}

/// A run of a bundle that has every head, as it is told to the dashboard.
fn play(shared: &Shared, labels: &Labels, stop: &AtomicBool) {
    let (expressions, units): (Arc<[String]>, Arc<[String]>) =
        (labels.expression.clone().into(), labels.au.clone().into());
    shared.telemetry.source.set(SourceState::Live, "a test");
    for frame in 0.. {
        let t = frame as f64 / 20.0;
        let wave = |phase: f64| (t + phase).sin() as f32;
        let mut p: Vec<f32> = (0..expressions.len()).map(|i| (2.0 * wave(i as f64)).exp()).collect();
        let sum: f32 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
        let au: Vec<f32> = (0..units.len()).map(|i| wave(i as f64).abs()).collect();
        let face = |track: u64, bbox: [f32; 4]| Prediction {
            t,
            frame,
            track,
            bbox,
            score: 0.9,
            expression: Some(ExpressionPrediction { p: Scores::new(Arc::clone(&expressions), &p) }),
            valence: Some(0.6 * wave(0.0)),
            arousal: Some(0.6 * wave(1.0)),
            au: Some(Scores::new(Arc::clone(&units), &au)),
            ..Prediction::default()
        };
        let small = face(1, [40.0, 60.0, 90.0, 110.0]);
        let large = face(2, [500.0 + 80.0 * wave(0.0), 150.0, 240.0, 300.0]);
        let report =
            FrameReport { t, frame, size: [1280, 720], faces: vec![small, large], ..FrameReport::default() };
        shared.hub.publish(&Arc::new(report), &|| !stop.load(Ordering::Relaxed));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_new_person_is_guided_step_by_step() {
    let Some(browser) = Browser::start() else { return };
    let serving = Serving::start("127.0.0.1", &["--max-fps", "15"]);
    browser.screen([1280, 1000], "light");
    browser.open(&url(serving.addr));
    wait_until_live(&browser);
    browser.evaluate("(() => { document.querySelector('#name').value = 'dora'; document.querySelector('#newcomer').requestSubmit(); })()");
    browser.wait_for(
        "!document.querySelector('#learning').hidden && document.querySelector('#user').value === 'dora'",
    );
    // A label by hand, taken back, and given again.
    // Whoever was just chosen is unknown until the next frame, so that the button may have to be pressed again.
    let said = "/[0-9]+ happy/.test(document.querySelector('#said').textContent)";
    let happy = "[...document.querySelectorAll('#feedback button')].find(b => b.textContent === 'happy')";
    let say = format!("{said} || ({happy}.click(), false)");
    browser.wait_for(&say);
    browser.evaluate("document.querySelector('#unsay').click()");
    browser.wait_for("document.querySelector('#said').textContent === 'No new labels' && document.querySelector('#unsay').disabled");
    assert_eq!(serving.state()["adapted"], false);
    browser.wait_for(&say);

    browser.evaluate("document.querySelector('#protocol').value = 'quick'");
    browser.evaluate("document.querySelector('#start').click()");
    let guide =
        "document.querySelector('#guide').open && document.querySelector('#example').naturalWidth === 320";
    browser.wait_for(guide);
    browser.wait_for("document.querySelector('#count').className === 'hold'");
    browser.keep_screenshot("dashboard-guide.png");
    browser.wait_for("document.querySelector('#say').textContent.length > 20 && document.querySelector('#progress').textContent.includes('of 12')");
    browser.evaluate("document.querySelector('#stop').click()");
    browser.wait_for("!document.querySelector('#guide').open");
    // One stretch of time is too little to judge by, and that is said.
    browser.evaluate("document.querySelector('#fit').click()");
    browser.wait_for("document.querySelector('#report').textContent.includes('too few')");
    browser.evaluate("[...document.querySelectorAll('#report button')].find(b => b.textContent.startsWith('Forget')).click()");
    browser.wait_for("document.querySelector('#said').textContent === 'No new labels'");
    assert_eq!(serving.state()["adapted"], false);
    // A button that was pressed too early is refused, and the browser notes it.
    let complaints = browser.console().into_iter().filter(|entry| {
        let message = entry["message"].as_str().unwrap_or_default();
        !(message.contains("/v1/label") && message.contains("409"))
    });
    assert_eq!(complaints.collect::<Vec<_>>(), [Value::Null; 0]);
}

fn shipped() -> Bundle {
    Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")).unwrap()
}

/// The shipped bundle without its heads for valence and arousal and for action units.
fn of_one_head(dir: &Path) {
    let (mut manifest, mut files) = shipped().into_parts();
    let all = Heads::from_safetensors(&files[&manifest.heads.file]).unwrap();
    let head = all.expression().unwrap().clone();
    let one = Heads::new(head.dim(), [(HeadKind::Expression, head)]).unwrap();
    files.insert(manifest.heads.file.clone(), one.to_safetensors().unwrap());
    manifest.labels.au.clear();
    Bundle::write(dir, manifest, &files, &[]).unwrap();
}

/// Heads that tell these labels.
fn heads_of(labels: &Labels) -> Heads {
    let head = |kind: HeadKind, labels: Vec<String>| {
        let rows = labels.len();
        (kind, LinearHead::new(kind.name(), labels, 1, vec![0.0; rows], vec![0.0; rows]).unwrap())
    };
    let both = vec!["valence".to_owned(), "arousal".to_owned()];
    let heads = [
        head(HeadKind::Expression, labels.expression.clone()),
        head(HeadKind::ValenceArousal, both),
        head(HeadKind::ActionUnits, labels.au.clone()),
    ];
    Heads::new(1, heads).unwrap()
}

#[test]
fn whose_face_it_is_is_chosen_from_those_that_are_known() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let bundle = shipped();
    let state = State {
        bundle: bundle.manifest().encoder.file.sha256.clone(),
        heads: Heads::from_safetensors(bundle.heads_safetensors()).unwrap(),
        correction: None,
        labelled: None,
        saved_unix_secs: 1,
        reason: String::new(),
        report: String::new(),
    };
    for user in ["ada", "bob"] {
        Profiles::new(dir.path()).save(&user.parse().unwrap(), &state, None).unwrap();
    }
    let profiles = dir.path().to_str().unwrap();
    let serving =
        Serving::start("127.0.0.1", &["--max-fps", "10", "--user", "carol", "--profiles", profiles]);
    browser.open(&url(serving.addr));
    wait_until_live(&browser);
    let offered = "[...document.querySelector('#user').options].map(o => o.textContent).join()";
    browser.wait_for(&format!("{offered} === 'Anybody,ada,bob,carol (no profile)'"));
    assert_eq!(browser.evaluate("document.querySelector('#user').value"), "carol");
    let choose = |name: &str| {
        let script = format!(
            "(() => {{ const s = document.querySelector('#user'); s.value = '{name}'; s.dispatchEvent(new Event('change')); }})()"
        );
        browser.evaluate(&script);
    };
    choose("bob");
    browser.wait_for("document.querySelector('#who').textContent === 'bob, adapted'");
    assert_eq!(serving.state()["user"], "bob");
    browser.wait_for(&format!("{offered} === 'Anybody,ada,bob'"));
    choose("");
    browser.wait_for("document.querySelector('#who').textContent.startsWith('Face ')");
    // Somebody else chooses: the page follows.
    serving::send("put", serving.addr, "/v1/user", &[], r#"{"user":"ada"}"#);
    browser.wait_for("document.querySelector('#user').value === 'ada'");
    assert_eq!(browser.console(), [Value::Null; 0]);
}

#[test]
fn every_head_of_a_bundle_is_shown_and_absent_ones_are_named() {
    let Some(browser) = Browser::start() else { return };
    let names = |names: &str| names.split(' ').map(str::to_owned).collect();
    let labels = Labels {
        bundle: "of all heads".to_owned(),
        expression: names("neutral happy sad surprise fear disgust angry contempt"),
        valence_arousal: true,
        pose: true,
        landmarks: false,
        au: names("AU01 AU02 AU04 AU06 AU09 AU12 AU25 AU26"),
    };
    let shared = Arc::new(Shared::default());
    let options = HttpOptions::new("127.0.0.1:0".parse().unwrap());
    let about = About { version: "0.0.0".to_owned(), source: "a test".to_owned(), labels: labels.clone() };
    let nobody = Users::new(heads_of(&labels), "", Profiles::new("/nowhere"));
    let learner = Arc::new(Learner::start(Arc::new(nobody), &shared.hub, None).unwrap());
    let server = Server::start(&options, Arc::clone(&shared), about, learner).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| play(&shared, &labels, &stop));
        // Whatever fails, the player ends.
        let _stop = StopOnDrop(&stop);
        browser.screen([1280, 900], "dark");
        browser.open(&url(server.local_addr()));
        browser.wait_for("document.querySelectorAll('#units li').length === 8 && document.querySelector('#faces').textContent === '2'");
        // The larger of two faces is shown in full.
        browser.wait_for("document.querySelector('#who').textContent === 'Face 2'");
        let units = "[...document.querySelectorAll('#units .value')].map(n => n.textContent).join()";
        let plane = "document.querySelector('#plane').toDataURL()";
        for moving in [units, plane] {
            let first = browser.evaluate(moving);
            browser.wait_for(&format!("{moving} !== {first}"));
        }
        let visible = |id: &str| browser.evaluate(&format!("!document.querySelector('{id}').hidden"));
        for (here, absent) in
            [("#plane", "#no-plane"), ("#units", "#no-units"), ("#expressions", "#no-expressions")]
        {
            assert_eq!((visible(here), visible(absent)), (json!(true), json!(false)), "{here}");
        }
        std::thread::sleep(Duration::from_secs(5));
        browser.keep_screenshot("dashboard-all-heads.png");
        // What a bundle lacks is said.
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        of_one_head(&bundle);
        let serving = Serving::start("127.0.0.1", &["--max-fps", "10", "--bundle", bundle.to_str().unwrap()]);
        browser.open(&url(serving.addr));
        wait_until_live(&browser);
        assert_eq!((visible("#plane"), visible("#no-plane")), (json!(false), json!(true)));
        assert_eq!((visible("#units"), visible("#no-units")), (json!(false), json!(true)));
        assert_eq!(browser.console(), [Value::Null; 0]);
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
