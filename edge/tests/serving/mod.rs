//! A running `edge` with its HTTP server, and a client that sends exactly what it is told to.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

pub fn edge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
    command.args(args).env("SEMBLANCE_BUNDLE", bundle).env_remove("SEMBLANCE_HTTP");
    // SIGHUP would end it where standard input or error is a terminal.
    command.stdin(Stdio::null());
    command
}

/// `edge run` on the demo, or on what comes on its standard input where the arguments name that, until this is dropped.
pub struct Serving {
    pub child: Child,
    pub addr: SocketAddr,
    pub dir: tempfile::TempDir,
    ip: String,
    args: Vec<String>,
}

impl Serving {
    /// Listens on a free port of `ip`; predictions go to [`Self::jsonl`].
    pub fn start(ip: &str, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let (child, port) = launch(&format!("{ip}:0"), &dir, &args);
        let reached = if ip == "0.0.0.0" { "127.0.0.1" } else { ip };
        let addr = SocketAddr::new(reached.parse().unwrap(), port);
        Self { child, addr, dir, ip: ip.to_owned(), args }
    }

    /// Ends it and starts it again, two seconds later, at the same address.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        let at = format!("{}:{}", self.ip, self.addr.port());
        self.child = launch(&at, &self.dir, &self.args).0;
    }

    pub fn jsonl(&self) -> PathBuf {
        self.dir.path().join("out.jsonl")
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("state/http-token")
    }

    pub fn state(&self) -> Value {
        get(self.addr, "/v1/state", &[]).json()
    }

    /// Waits until frames are processed.
    pub fn wait_for_frames(&self) {
        while self.state()["frames"].as_u64().unwrap() < 3 || self.state()["source"]["size"].is_null() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program, and waits until it says where it listens.
fn launch(at: &str, dir: &tempfile::TempDir, args: &[String]) -> (Child, u16) {
    let out = format!("jsonl:{}", dir.path().join("out.jsonl").display());
    let mut command = edge(&["run", "--out", &out, "--http", at]);
    command.arg("--state-dir").arg(dir.path().join("state")).args(args).stderr(Stdio::piped());
    match args.iter().any(|arg| arg == "--source") {
        true => command.stdin(Stdio::piped()),
        false => command.args(["--source", "demo"]),
    };
    let mut child = command.spawn().unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    let mut all = String::new();
    let port = loop {
        let mut line = String::new();
        assert!(messages.read_line(&mut line).unwrap() > 0, "it ended: {all}");
        all += &line;
        if let Some((_, url)) = line.split_once("dashboard at http://") {
            break url.split('/').next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        }
    };
    // What follows is read, so that the pipe never fills.
    std::thread::spawn(move || std::io::copy(&mut messages, &mut std::io::sink()));
    (child, port)
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends bytes and reads an answer's head; `None` where the connection was closed without one.
pub fn exchange(addr: SocketAddr, request: &[u8]) -> Option<(Answer, BufReader<TcpStream>)> {
    let mut stream = connect(addr);
    // A server that has seen enough may close before it has all.
    let _ = stream.write_all(request);
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => return None,
            Ok(_) if line == "\r\n" => break,
            Ok(_) => lines.push(line.trim_end().to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines[1..]
        .iter()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some((Answer { status, headers, body: Vec::new() }, reader))
}

/// An answer as a whole; of a stream without end, its head.
pub fn ask(addr: SocketAddr, request: &[u8]) -> Option<Answer> {
    let (mut answer, mut reader) = exchange(addr, request)?;
    if let Some(length) = answer.header("content-length").map(|v| v.parse().unwrap()) {
        answer.body = vec![0; length];
        reader.read_exact(&mut answer.body).unwrap();
    }
    Some(answer)
}

/// A request in full, with a Host header unless `headers` has one.
pub fn request(method: &str, addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += &format!("Host: {addr}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

pub fn get(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(addr, &request("GET", addr, path, headers)).unwrap()
}

/// A request with a body of JSON, unless `headers` says of what.
pub fn send(method: &str, addr: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    if !body.is_empty() {
        all.push(("Content-Length", &length));
        if !headers.iter().any(|(name, _)| *name == "Content-Type") {
            all.push(("Content-Type", "application/json"));
        }
    }
    let mut bytes = request(&method.to_uppercase(), addr, path, &all);
    bytes.extend(body.as_bytes());
    ask(addr, &bytes).unwrap()
}

/// Paths whose answers depend on what was asked for before.
pub const LEARNING: [&str; 7] = [
    "/v1/calibration",
    "/v1/calibration/redo",
    "/v1/calibration/rating",
    "/v1/label",
    "/v1/fit",
    "/v1/fit/accept",
    "/v1/rollback",
];

/// The description, and the validators made from it.
pub struct Spec(pub Value);

impl Spec {
    pub fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../src/http/openapi.json")).unwrap())
    }

    pub fn paths(&self) -> BTreeSet<String> {
        self.0["paths"].as_object().unwrap().keys().cloned().collect()
    }

    /// Path, method and status of everything that is described.
    pub fn answers(&self) -> Vec<(String, String, u16)> {
        let mut all = Vec::new();
        for (path, methods) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    all.push((path.clone(), method.clone(), status.parse().unwrap()));
                }
            }
        }
        all
    }

    pub fn response(&self, method: &str, path: &str, status: u16) -> &Value {
        let response = &self.0["paths"][path][method]["responses"][status.to_string()];
        match response["$ref"].as_str() {
            Some(to) => self.0.pointer(to.strip_prefix('#').unwrap()).unwrap(),
            None => response,
        }
    }

    pub fn assert_valid(&self, schema: &Value, value: &Value, what: &str) {
        let whole = json!({ "allOf": [schema], "components": self.0["components"] });
        let validator = jsonschema::validator_for(&whole).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{what}: {errors:?} in {value}");
    }

    /// An answer is as described: status, headers, type, and what it holds.
    pub fn assert_describes(&self, method: &str, path: &str, answer: &Answer) {
        let what = format!("{method} {path} {}", answer.status);
        let response = self.response(method, path, answer.status);
        assert!(response.is_object(), "{what} is not described: {answer:?}");
        for name in response["headers"].as_object().into_iter().flatten().map(|(name, _)| name) {
            assert!(answer.header(name).is_some(), "{what} lacks {name}: {answer:?}");
        }
        let Some(content) = response["content"].as_object() else {
            assert!(answer.body.is_empty(), "{what}: {answer:?}");
            return;
        };
        let kind = answer.header("content-type").unwrap().split(';').next().unwrap();
        let described = content.get(kind).unwrap_or_else(|| panic!("{what} is {kind}"));
        if kind == "application/json" {
            self.assert_valid(&described["schema"], &answer.json(), &what);
        }
    }
}

/// Events of a stream: kind and data of each, comments as kind `:`. Read through an HTTP client of another make.
pub struct SseClient(BufReader<ureq::BodyReader<'static>>);

impl SseClient {
    pub fn open(addr: SocketAddr, path: &str) -> Self {
        let response = ureq::get(format!("http://{addr}{path}")).call().unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(BufReader::new(response.into_body().into_reader()))
    }
}

impl Iterator for SseClient {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut kind, mut data) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let line = line.strip_suffix('\n').unwrap();
            if let Some(comment) = line.strip_prefix(':') {
                (kind, data) = (":".to_owned(), comment.trim().to_owned());
            } else if let Some((field, value)) = line.split_once(": ") {
                match field {
                    "event" => value.clone_into(&mut kind),
                    "data" => value.clone_into(&mut data),
                    other => assert_eq!(other, "retry"),
                }
            } else if !kind.is_empty() {
                assert_eq!(line, "");
                return Some((kind, data));
            }
        }
    }
}
