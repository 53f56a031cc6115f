//! The HTTP server of the `edge` program against its own description, slow clients and hostile ones.

#![allow(clippy::unwrap_used)]

mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use semblance_calib::Heads;
use semblance_calib::profile::Profiles;
use semblance_edge::http::{About, HttpOptions, Limits, Server};
use semblance_edge::hub::Overflow;
use semblance_edge::learn::Learner;
use semblance_edge::prediction::{FrameReport, Prediction};
use semblance_edge::run::Shared;
use semblance_edge::telemetry::SourceState;
use semblance_edge::users::Users;
use serde_json::{Value, json};
use serving::{LEARNING, Serving, Spec, SseClient, ask, connect, edge, exchange, get, request, send};

/// A server in this process, whose run this process plays.
fn start_here(limits: Limits) -> (Server, Arc<Shared>, SocketAddr) {
    let shared = Arc::new(Shared::default());
    let options = HttpOptions { limits, ..HttpOptions::new("127.0.0.1:0".parse().unwrap()) };
    let about = About { version: "0.0.0".to_owned(), ..About::default() };
    let nobody = Users::new(Heads::new(1, []).unwrap(), "", Profiles::new("/nowhere"));
    let learner = Arc::new(Learner::start(Arc::new(nobody), &shared.hub, None).unwrap());
    let server = Server::start(&options, Arc::clone(&shared), about, learner).unwrap();
    let addr = server.local_addr();
    (server, shared, addr)
}

fn report(frame: u64) -> Arc<FrameReport> {
    let face = Prediction {
        t: frame as f64,
        frame,
        track: 1,
        bbox: [1.0, 2.0, 3.0, 4.0],
        score: 0.5,
        ..Prediction::default()
    };
    let report = FrameReport { frame, size: [640, 480], faces: vec![face], ..FrameReport::default() };
    Arc::new(report)
}

/// What a request's body can be.
struct Bodies {
    method: &'static str,
    path: &'static str,
    good: &'static str,
    /// It has the form that is asked for, and cannot be done.
    unusable: &'static str,
}

const BODIES: [Bodies; 5] = [
    Bodies { method: "put", path: "/v1/user", good: r#"{"user":null}"#, unusable: r#"{"user":"../ada"}"# },
    Bodies { method: "post", path: "/v1/calibration", good: r#"{"protocol":"quick"}"#, unusable: "{}" },
    Bodies {
        method: "post",
        path: "/v1/calibration/rating",
        good: r#"{"valence":0,"arousal":0}"#,
        unusable: "",
    },
    Bodies { method: "post", path: "/v1/label", good: r#"{"expression":"happy"}"#, unusable: "{}" },
    Bodies { method: "post", path: "/v1/rollback", good: "{}", unusable: "" },
];

#[test]
fn every_path_and_status_is_as_described_and_nothing_else_is_served() {
    let spec = Spec::read();
    let open = Serving::start("127.0.0.1", &["--max-fps", "20", "--landmarks"]);
    let guarded = Serving::start("0.0.0.0", &["--max-fps", "5"]);
    let token = fs::read_to_string(guarded.token_file()).unwrap().trim().to_owned();
    let (_ill, ill_run, ill) = start_here(Limits::default());
    let (_strict, _, strict) =
        start_here(Limits { burst: 0.0, requests_per_second: 0.0, ..Limits::default() });
    open.wait_for_frames();
    assert_eq!(get(open.addr, "/openapi.json", &[]).json(), spec.0);

    let not_a_folder = open.dir.path().join("file");
    fs::write(&not_a_folder, "").unwrap();
    let broken =
        Serving::start("127.0.0.1", &["--max-fps", "5", "--profiles", not_a_folder.to_str().unwrap()]);

    for (path, method, status) in spec.answers() {
        // What depends on what was asked for before is looked at in tests/calibration.rs.
        if LEARNING.contains(&path.as_str()) && [200, 409, 422, 500].contains(&status) {
            continue;
        }
        let body = BODIES.iter().find(|body| (body.method, body.path) == (method.as_str(), path.as_str()));
        // A query that it cannot do without.
        let full = if path == "/v1/example.jpg" { format!("{path}?expression=happy") } else { path.clone() };
        let sent = |addr, headers: &[(&str, &str)], body| send(&method, addr, &full, headers, body);
        let good = body.map_or("", |body| body.good);
        let asked = |addr, headers: &[(&str, &str)]| sent(addr, headers, good);
        let answer = match status {
            200 => asked(open.addr, &[]),
            303 => get(guarded.addr, &format!("{path}?token={token}"), &[]),
            400 if body.is_some() => sent(open.addr, &[], "{"),
            400 => {
                let nameless = format!("{} {path} HTTP/1.1\r\n\r\n", method.to_uppercase());
                ask(open.addr, nameless.as_bytes()).unwrap()
            }
            401 => asked(guarded.addr, &[]),
            403 => asked(open.addr, &[("Origin", "https://evil.example")]),
            405 => send("patch", open.addr, &path, &[], ""),
            413 => ask(
                open.addr,
                &request(&method.to_uppercase(), open.addr, &path, &[("Content-Length", "70000")]),
            )
            .unwrap(),
            415 => sent(open.addr, &[("Content-Type", "text/plain")], good),
            421 => asked(open.addr, &[("Host", "evil.example")]),
            422 => sent(open.addr, &[], body.unwrap().unusable),
            429 => asked(strict, &[]),
            500 => asked(broken.addr, &[]),
            503 => asked(ill, &[]),
            other => panic!("{path}: this test does not know how to get {other}"),
        };
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        spec.assert_describes(&method, &path, &answer);
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path} {status}");
        }
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(answer.header("access-control-allow-origin").is_none());
        if status == 200 {
            let bearer = format!("Bearer {token}");
            let with_token = asked(guarded.addr, &[("Authorization", &bearer)]);
            assert_eq!(with_token.status, 200, "{path}");
            spec.assert_describes(&method, &path, &with_token);
        }
    }

    let nowhere = get(open.addr, "/v1/nothing", &[]);
    assert_eq!(nowhere.status, 404);
    spec.assert_valid(&json!({ "$ref": "#/components/schemas/Error" }), &nowhere.json(), "404");
    let routed: BTreeSet<String> = include_str!("../src/http/api.rs")
        .split(".route(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    assert_eq!(routed, spec.paths(), "what is routed is described, and the other way round");

    // Events, each kind against its schema.
    let kinds = &spec.response("get", "/v1/stream", 200)["x-events"];
    let mut seen = BTreeMap::new();
    for (kind, data) in SseClient::open(open.addr, "/v1/stream").take(60) {
        let data: Value = serde_json::from_str(&data).unwrap();
        spec.assert_valid(&kinds[&kind], &data, &kind);
        *seen.entry(kind).or_insert(0) += 1;
    }
    assert!(seen["prediction"] > 20 && seen["state"] >= 2, "{seen:?}");

    let nobody = FrameReport { frame: 7, ..FrameReport::default() };
    let mut faceless = SseClient::open(ill, "/v1/stream?events=frame");
    ill_run.hub.publish(&Arc::new(nobody), &|| true);
    let (kind, data) = faceless.next().unwrap();
    spec.assert_valid(&kinds[&kind], &serde_json::from_str(&data).unwrap(), &kind);
    assert_eq!(data, r#"{"t":0.0,"frame":7,"faces":0}"#);
    assert_eq!(get(ill, "/v1/stream?events=everything", &[]).status, 400);
}

#[test]
fn a_body_is_read_only_where_it_is_what_is_asked_for() {
    let serving = Serving::start("127.0.0.1", &["--max-fps", "5"]);
    let put = |headers: &[(&str, &str)], body: &str| send("put", serving.addr, "/v1/user", headers, body);
    let user = || serving.state()["user"].clone();
    for (body, expected) in [
        (r#"{"user":"ada"}"#, 200),
        (r#"{}"#, 400),
        (r#"{"user":"bob","admin":true}"#, 400),
        (r#"{"user":7}"#, 400),
        (r#"{"user":"bob"}{"#, 400),
        ("\"bob\"", 400),
        (r#"{"user":"Bob"}"#, 422),
        (r#"{"user":""}"#, 422),
        (r#"{"user":"con"}"#, 422),
    ] {
        let answer = put(&[], body);
        assert_eq!(answer.status, expected, "{body}: {answer:?}");
        assert_eq!(user(), "ada", "{body}");
    }
    // What a page of another site can send without being asked.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        assert_eq!(put(&[("Content-Type", kind)], r#"{"user":null}"#).status, 415, "{kind}");
    }
    let long = format!(r#"{{"user":null{}}}"#, " ".repeat(65_536));
    assert_eq!(put(&[], &long).status, 413);
    assert_eq!(put(&[("Origin", "https://evil.example")], r#"{"user":null}"#).status, 403);
    assert_eq!(user(), "ada");
    assert_eq!(put(&[("Content-Type", "Application/JSON; charset=utf-8")], r#"{"user":null}"#).status, 200);
    assert_eq!(user(), Value::Null);
}

#[test]
fn events_are_the_lines_of_jsonl() {
    let mut serving = Serving::start("127.0.0.1", &["--max-frames", "120", "--max-fps", "40"]);
    let events: Vec<String> =
        SseClient::open(serving.addr, "/v1/stream?events=prediction").map(|(_, data)| data).collect();
    assert!(serving.child.wait().unwrap().success());
    let text = fs::read_to_string(serving.jsonl()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(events.len() > 60, "{} events of {} lines", events.len(), lines.len());
    let first = lines.iter().position(|line| *line == events[0]).expect("an event is a line");
    let followed: Vec<&str> = lines[first..].iter().copied().take(events.len()).collect();
    assert_eq!(events, followed, "none is missing, none is another");
}

#[test]
fn the_preview_is_a_stream_of_jpegs() {
    let serving = Serving::start("127.0.0.1", &[]);
    let response = ureq::get(format!("http://{}/v1/preview.mjpg", serving.addr)).call().unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let boundary = format!("--{}", kind.strip_prefix("multipart/x-mixed-replace; boundary=").unwrap());
    let mut reader = BufReader::new(response.into_body().into_reader());
    let line = |reader: &mut BufReader<_>| {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(line(&mut reader), boundary);
    let start = Instant::now();
    let mut last_frame = None;
    const PARTS: u32 = 16;
    for _ in 0..PARTS {
        let head: BTreeMap<String, String> =
            std::iter::from_fn(|| Some(line(&mut reader)).filter(|line| !line.is_empty()))
                .map(|line| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap())
                .collect();
        assert_eq!(head["Content-Type"], "image/jpeg");
        let frame: u64 = head["X-Frame"].parse().unwrap();
        assert!(Some(frame) > last_frame);
        last_frame = Some(frame);
        let mut jpeg = vec![0; head["Content-Length"].parse().unwrap()];
        reader.read_exact(&mut jpeg).unwrap();
        let picture = image::load_from_memory_with_format(&jpeg, image::ImageFormat::Jpeg).unwrap();
        assert_eq!((picture.width(), picture.height()), (640, 480));
        assert_eq!([line(&mut reader), line(&mut reader)], [String::new(), boundary.clone()]);
    }
    let rate = f64::from(PARTS - 1) / start.elapsed().as_secs_f64();
    assert!(rate < 15.5, "{rate:.1} a second");
}

#[test]
fn metrics_are_in_the_format_of_prometheus() {
    let serving = Serving::start("127.0.0.1", &["--max-fps", "20"]);
    serving.wait_for_frames();
    std::thread::sleep(Duration::from_millis(1200));
    let text = get(serving.addr, "/metrics", &[]).text();
    let (mut types, mut values) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').unwrap().1.ends_with('.'), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                let base = name.strip_suffix(end)?;
                (types.get(base).map(String::as_str) == Some("histogram")).then_some(base)
            });
            let kind = types.get(family.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no type"));
            assert!(
                name.starts_with("semblance_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            let value: f64 = value.parse().unwrap();
            assert!(values.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
    }
    let of = |series: &str| *values.get(series).unwrap_or_else(|| panic!("no {series} in\n{text}"));
    let fps = of("semblance_fps");
    assert!(fps > 0.2 && fps < 25.0, "{fps}");
    assert!(of("semblance_frames_total") >= 3.0 && of("semblance_resident_memory_bytes") > 1e6);
    assert!(of("semblance_uptime_seconds") > 1.0 && of("semblance_source_up") == 1.0);
    assert!(of("semblance_frames_skipped_total{reason=\"replaced\"}") >= 0.0);
    assert!(of("semblance_output_dropped_total{output=\"http\"}") == 0.0);
    let buckets: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("semblance_inference_seconds_bucket"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(buckets.len() > 10 && buckets.is_sorted(), "{buckets:?}");
    assert_eq!(*buckets.last().unwrap(), of("semblance_inference_seconds_count"));
    assert!(of("semblance_inference_seconds_sum") > 0.0);
}

#[test]
fn health_follows_source_and_outputs() {
    let (_server, shared, addr) = start_here(Limits::default());
    let health = || {
        let answer = get(addr, "/healthz", &[]);
        (answer.status, answer.json()["reasons"].to_string())
    };
    assert_eq!(health().0, 503);
    shared.telemetry.source.set(SourceState::Live, "a camera");
    assert_eq!(health().0, 200);
    shared.telemetry.source.set(SourceState::Frozen, "no frame for 2 s");
    let (status, reasons) = health();
    assert!(status == 503 && reasons.contains("no frame for 2 s"), "{reasons}");
    shared.telemetry.source.set(SourceState::Live, "a camera");
    shared.telemetry.source.set_undecodable(Some("no picture".to_owned()));
    let (status, reasons) = health();
    assert!(status == 503 && reasons.contains("no frame can be decoded: no picture"), "{reasons}");
    let state = get(addr, "/v1/state", &[]).json();
    assert_eq!(state["source"]["detail"], "a camera: no frame can be decoded: no picture");
    assert!(get(addr, "/metrics", &[]).text().contains("semblance_source_up 0\n"));
    shared.telemetry.source.set_undecodable(None);
    assert_eq!(health().0, 200);
    shared.telemetry.sink_failed("mqtt://me:secret@broker", "gone");
    let (status, reasons) = health();
    assert!(status == 503 && reasons.contains("broker") && !reasons.contains("secret"), "{reasons}");
    let state = get(addr, "/v1/state", &[]).text();
    assert!(state.contains("broker") && !state.contains("secret"), "{state}");
}

#[test]
fn beyond_loopback_nothing_goes_without_the_token() {
    let serving = Serving::start("0.0.0.0", &["--max-fps", "5"]);
    let addr = serving.addr;
    let token = fs::read_to_string(serving.token_file()).unwrap().trim().to_owned();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&serving.token_file()), 0o600);
        assert_eq!(mode(serving.token_file().parent().unwrap()), 0o700);
    }
    let status = |path: &str, headers: &[(&str, &str)]| get(addr, path, headers).status;
    let bearer = |token: &str| format!("Bearer {token}");
    let wrong = token.replace(|c: char| c.is_ascii_digit(), "f");
    for path in [
        "/",
        "/v1/state",
        "/v1/stream",
        "/v1/preview.mjpg",
        "/metrics",
        "/healthz",
        "/openapi.json",
        "/nothing",
    ] {
        assert_eq!(status(path, &[]), 401, "{path}");
        for wrong in [wrong.as_str(), "", &token[..63]] {
            assert_eq!(status(path, &[("Authorization", &bearer(wrong))]), 401, "{path}");
            assert_eq!(status(path, &[("Cookie", &format!("semblance_token={wrong}"))]), 401, "{path}");
        }
        assert_eq!(status(&format!("{path}?token={wrong}"), &[]), 401, "{path}");
    }
    assert_eq!(
        status(&format!("/v1/state?token={token}"), &[]),
        401,
        "a URL that is passed on holds no token"
    );
    assert_eq!(status("/v1/state", &[("Authorization", &bearer(&token))]), 200);

    // As a browser does it.
    let welcome = get(addr, &format!("/?token={token}"), &[]);
    assert_eq!((welcome.status, welcome.header("location")), (303, Some("/")));
    let cookie = welcome.header("set-cookie").unwrap();
    assert!(["HttpOnly", "SameSite=Strict", "Path=/"].iter().all(|part| cookie.contains(part)), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(status("/", &[("Cookie", cookie)]), 200);
    assert_eq!(status("/v1/state", &[("Cookie", &format!("a=b; {cookie}"))]), 200);
}

#[test]
fn strangers_names_and_origins_are_refused() {
    let serving = Serving::start(
        "127.0.0.1",
        &["--max-fps", "5", "--http-host", "camera.local", "--cors", "https://friend.example"],
    );
    let addr = serving.addr;
    let own = format!("http://{addr}");
    let status = |headers: &[(&str, &str)]| get(addr, "/v1/state", headers).status;
    for (host, expected) in [
        ("localhost", 200),
        ("localhost:9999", 200),
        ("[::1]:8017", 200),
        ("camera.local:8017", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.0.2.1", 421),
        ("localhost@evil.example", 400),
        ("a b", 400),
        ("", 400),
    ] {
        assert_eq!(status(&[("Host", host)]), expected, "{host}");
    }
    assert_eq!(status(&[("Host", "localhost"), ("Host", "evil.example")]), 400);
    let absolute = format!("GET http://evil.example/v1/state HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    assert_eq!(ask(addr, absolute.as_bytes()).unwrap().status, 421);

    assert_eq!(status(&[("Origin", &own)]), 200);
    for origin in
        ["https://evil.example", "null", "http://127.0.0.1:1", "https://friend.example.evil.example"]
    {
        assert_eq!(status(&[("Origin", origin)]), 403, "{origin}");
    }
    let friend = get(addr, "/v1/state", &[("Origin", "https://friend.example")]);
    assert_eq!(friend.header("access-control-allow-origin"), Some("https://friend.example"));
    let ask_before = [("Origin", "https://friend.example"), ("Access-Control-Request-Method", "GET")];
    let before = ask(addr, &request("OPTIONS", addr, "/v1/state", &ask_before)).unwrap();
    assert_eq!(
        (before.status, before.header("access-control-allow-headers")),
        (204, Some("Authorization, Content-Type"))
    );
}

#[test]
fn malformed_huge_and_climbing_requests_do_no_harm() {
    let serving = Serving::start("127.0.0.1", &["--max-fps", "5"]);
    let addr = serving.addr;
    let long = "a".repeat(100_000);
    let mut hostile: Vec<Vec<u8>> = [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "GET /v1/state HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET //etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /v1/..%2f..%2fetc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /v1/state/../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /v1/stream?events=%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    hostile.push(format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes());
    hostile.push(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n").into_bytes());
    hostile
        .push(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(2000)).into_bytes());
    hostile.push(long.into_bytes());
    // The first bytes of TLS, and noise.
    hostile.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec());
    let mut noise = 1u32;
    hostile.extend((0..50).map(|_| {
        let byte = |noise: &mut u32| {
            *noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (*noise >> 24) as u8
        };
        let mut bytes: Vec<u8> = (0..200).map(|_| byte(&mut noise)).collect();
        bytes.extend(b"\r\n\r\n");
        bytes
    }));
    for bytes in hostile {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        if let Some(answer) = ask(addr, &bytes) {
            assert!((400..=505).contains(&answer.status), "{shown:?}: {answer:?}");
        }
        assert_eq!(get(addr, "/healthz", &[]).status, 200, "after {shown:?}");
    }
    // A long body that was not announced: it is not read.
    let mut stream = connect(addr);
    stream
        .write_all(b"GET /v1/state HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let sent = (0..2000).take_while(|_| {
        stream.write_all(&[b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat()).is_ok()
    });
    assert!(sent.count() < 2000, "8 MB were taken");
}

#[test]
fn slow_senders_and_idle_connections_are_let_go() {
    let limits = Limits { header_timeout: Duration::from_millis(500), ..Limits::default() };
    let (_server, shared, addr) = start_here(limits);
    shared.telemetry.source.set(SourceState::Live, "");
    let closed_after = |dribble: &[u8], first: &[u8]| {
        let mut stream = connect(addr);
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream.write_all(first).unwrap();
        let (start, mut sink) = (Instant::now(), [0; 4096]);
        while start.elapsed() < Duration::from_secs(10) {
            match stream.read(&mut sink) {
                Ok(0) => return start.elapsed(),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return start.elapsed(),
                _ => {}
            }
            if stream.write_all(dribble).is_err() {
                return start.elapsed();
            }
        }
        start.elapsed()
    };
    let limit = Duration::from_secs(3);
    assert!(closed_after(b"a", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ") < limit, "headers, byte by byte");
    assert!(closed_after(b"", b"") < limit, "silence from the start");
    assert!(
        closed_after(b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") < limit,
        "silence after an answer"
    );
    assert_eq!(get(addr, "/healthz", &[]).status, 200);
}

#[test]
fn connections_and_requests_are_bounded() {
    let limits = Limits { connections: 3, burst: 30.0, requests_per_second: 10.0, ..Limits::default() };
    let (_server, shared, addr) = start_here(limits);
    shared.telemetry.source.set(SourceState::Live, "");
    let stream = || exchange(addr, &request("GET", addr, "/v1/stream", &[])).unwrap();
    let mut open = vec![stream(), stream(), stream()];
    let one_more = ask(addr, &request("GET", addr, "/healthz", &[]));
    assert!(one_more.is_none_or(|answer| answer.status == 503), "closed, or told why");
    open.pop();
    let deadline = Instant::now() + Duration::from_secs(5);
    while ask(addr, &request("GET", addr, "/healthz", &[])).is_none_or(|answer| answer.status != 200) {
        assert!(Instant::now() < deadline, "a connection that ended makes room");
        std::thread::sleep(Duration::from_millis(150));
    }
    let statuses: Vec<u16> = (0..60)
        .filter_map(|_| {
            Some(ask(addr, &request("GET", addr, "/healthz", &[("Connection", "close")]))?.status)
        })
        .collect();
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(get(addr, "/healthz", &[]).status, 200, "who waits may ask again");
}

/// Publishes so many frames at a fast, even rate; returns the longest that one took.
fn publish(shared: &Shared, frames: std::ops::Range<u64>) -> Duration {
    let mut longest = Duration::ZERO;
    for frame in frames {
        let report = report(frame);
        let start = Instant::now();
        shared.hub.publish(&report, &|| true);
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_micros(500));
    }
    longest
}

#[test]
fn a_client_that_does_not_read_loses_events_and_delays_nobody() {
    let limits = Limits { stall_timeout: Duration::from_secs(60), ..Limits::default() };
    let (_server, shared, addr) = start_here(limits);
    let file = shared.hub.subscribe("file", 8192, Overflow::DropOldest);
    let (_, mut stuck) = exchange(addr, &request("GET", addr, "/v1/stream", &[])).unwrap();
    let reading = SseClient::open(addr, "/v1/stream?events=prediction");
    const FRAMES: u64 = 6000;
    let reader = std::thread::spawn(move || {
        let mut frames = Vec::new();
        for (kind, data) in reading {
            assert_eq!(kind, "prediction", "this one keeps up: {data}");
            frames.push(serde_json::from_str::<Value>(&data).unwrap()["frame"].as_u64().unwrap());
            if frames.last() == Some(&(FRAMES - 1)) {
                break;
            }
        }
        frames
    });
    let longest = publish(&shared, 0..FRAMES);
    let frames = reader.join().unwrap();
    assert!(longest < Duration::from_millis(50), "publishing waits for nobody: {longest:?}");
    assert_eq!(
        frames.len() as u64 + shared.hub.stats().iter().find(|s| s.name == "http").unwrap().dropped(),
        FRAMES
    );
    assert!(frames.len() as u64 > FRAMES * 9 / 10, "{}", frames.len());
    assert_eq!((file.stats().delivered(), file.stats().dropped()), (FRAMES, 0));
    // Once it reads again, it is told what it lost and gets the newest.
    let mut line = String::new();
    let lost = loop {
        line.clear();
        assert!(stuck.read_line(&mut line).unwrap() > 0);
        if let Some(count) = line.trim().strip_prefix(": ").and_then(|l| l.strip_suffix(" events lost")) {
            break count.parse::<u64>().unwrap();
        }
    };
    assert!(lost > 100, "{lost} lost");
}

#[test]
fn a_client_that_takes_nothing_for_long_is_let_go() {
    let limits = Limits { stall_timeout: Duration::from_millis(700), ..Limits::default() };
    let (_server, shared, addr) = start_here(limits);
    let _stuck = exchange(addr, &request("GET", addr, "/v1/stream", &[])).unwrap();
    let clients = || {
        let text = get(addr, "/metrics", &[]).text();
        let line = text.lines().find_map(|line| line.strip_prefix("semblance_http_stream_clients "));
        line.unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(clients(), 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut frame = 0;
    while clients() == 1 {
        assert!(Instant::now() < deadline);
        publish(&shared, frame..frame + 500);
        frame += 500;
    }
}

#[test]
fn stuck_clients_change_neither_the_output_nor_other_clients() {
    let serving = Serving::start("127.0.0.1", &["--max-fps", "20", "--landmarks"]);
    serving.wait_for_frames();
    let lines = || fs::read_to_string(serving.jsonl()).unwrap().lines().count();
    let mut client = SseClient::open(serving.addr, "/v1/stream?events=prediction");
    let mut measure = || {
        let (before, start) = (lines(), Instant::now());
        let events = client.by_ref().take_while(|_| start.elapsed() < Duration::from_secs(5)).count();
        let seconds = start.elapsed().as_secs_f64();
        [(lines() - before) as f64 / seconds, events as f64 / seconds]
    };
    let alone = measure();
    let stuck: Vec<TcpStream> = (0..40)
        .map(|i| {
            let path = if i % 2 == 0 { "/v1/stream" } else { "/v1/preview.mjpg" };
            let mut stream = connect(serving.addr);
            stream.write_all(&request("GET", serving.addr, path, &[])).unwrap();
            stream
        })
        .collect();
    let beside = measure();
    eprintln!(
        "lines and events a second: alone {alone:.1?}, beside {} stuck clients {beside:.1?}",
        stuck.len()
    );
    // A queue that waited would bring either to nothing; what encoding the preview costs is allowed for.
    for (alone, beside) in alone.iter().zip(beside) {
        assert!(beside > 0.6 * alone, "{alone:.1} a second before, {beside:.1} beside stuck clients");
    }
}

#[test]
fn two_hundred_clients_at_once() {
    let serving = Serving::start("127.0.0.1", &["--max-fps", "10"]);
    serving.wait_for_frames();
    let clients: Vec<SseClient> =
        (0..200).map(|_| SseClient::open(serving.addr, "/v1/stream?events=prediction")).collect();
    let rss = || serving.state()["memory_rss_bytes"].as_u64().unwrap() >> 20;
    let before = rss();
    for client in clients {
        assert_eq!(client.take(10).filter(|(kind, _)| kind == "prediction").count(), 10);
    }
    eprintln!("resident memory: {before} MiB with 200 clients, {} MiB after", rss());
}

#[test]
fn it_stops_at_once_whoever_is_connected() {
    let (server, _shared, addr) = start_here(Limits::default());
    let open: Vec<_> = ["/v1/stream", "/v1/preview.mjpg", "/v1/stream"]
        .iter()
        .map(|path| exchange(addr, &request("GET", addr, path, &[])).unwrap())
        .collect();
    let idle = connect(addr);
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    for (_, mut reader) in open {
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
    }
    drop(idle);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_port_that_is_taken_is_named_and_without_having_been_asked_for_is_no_failure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = edge(&["run", "--source", "demo", "--max-frames", "2", "--http", &addr]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains(&addr) && message.contains("is taken") && message.contains("--http"),
        "{message}"
    );

    // Whether it is us or somebody else who holds the usual port.
    let _usual = TcpListener::bind(semblance_edge::http::DEFAULT_ADDR);
    let output = edge(&["run", "--source", "demo", "--max-frames", "2"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && message.contains("no dashboard"), "{message}");
    let output = edge(&["run", "--source", "demo", "--max-frames", "2", "--http", "off"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !message.contains("dashboard"), "{message}");
    for wrong in ["8017", "localhost", "on"] {
        let output = edge(&["run", "--source", "demo", "--http", wrong]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn a_recording_has_no_dashboard_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    image::RgbImage::new(64, 64).save(dir.path().join("a.png")).unwrap();
    let source = dir.path().to_str().unwrap();
    for (args, expected) in [(&[][..], false), (&["--http", "127.0.0.1:0"], true)] {
        let output = edge(&["run", "--source", source]).args(args).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && message.contains("dashboard") == expected, "{message}");
    }
}
