//! The MQTT output against mosquitto, which the tests start on loopback.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// mosquitto in a folder of its own; killed when dropped.
struct Broker {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Broker {
    /// `None`, with a line that says so, where mosquitto or its clients are missing.
    fn start(more_config: &str) -> Option<Self> {
        for program in ["mosquitto", "mosquitto_sub", "mosquitto_pub", "mosquitto_passwd"] {
            if Command::new(program)
                .arg("--help")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
            {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        // It would change to another user where it is started by root, who may not read this folder.
        let config = format!("listener {port} 127.0.0.1\nuser root\npersistence false\n{more_config}\n");
        fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        Some(Self { child: Self::spawn(dir.path(), port), port, dir })
    }

    fn spawn(dir: &Path, port: u16) -> Child {
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(dir.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        within("the broker listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        child
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Self::spawn(self.dir.path(), self.port);
    }

    /// `mqtt://127.0.0.1:PORT/` and `rest`.
    fn url(&self, rest: &str) -> String {
        format!("mqtt://127.0.0.1:{}/{rest}", self.port)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command
    }

    /// Listens to everything, from now on.
    fn listen(&self) -> Listener {
        let mut child = self
            .client("mosquitto_sub")
            .args(["-t", "#", "-F", "%r\t%t\t%p"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut parts = line.splitn(3, '\t').map(str::to_owned);
                let mut part = || parts.next().unwrap();
                let message = Message { retained: part() == "1", topic: part(), payload: part() };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let listener = Listener { child, messages };
        // What is heard of itself shows that it listens.
        let mut asked = Instant::now();
        within("the listener hears", || {
            if asked.elapsed() > Duration::from_millis(200) {
                self.publish("test/hello", "");
                asked = Instant::now();
            }
            listener.messages.try_iter().find(|message| message.topic == "test/hello")
        });
        listener
    }

    fn publish(&self, topic: &str, payload: &str) {
        assert!(self.client("mosquitto_pub").args(["-t", topic, "-m", payload]).status().unwrap().success());
    }

    /// What is retained under a topic.
    fn retained(&self, topic: &str) -> Vec<Message> {
        let output = self
            .client("mosquitto_sub")
            .args(["-t", topic, "-F", "%r\t%t\t%p", "--retained-only", "-W", "1"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let message = |line: &str| {
            let parts: Vec<&str> = line.splitn(3, '\t').collect();
            Message { retained: parts[0] == "1", topic: parts[1].to_owned(), payload: parts[2].to_owned() }
        };
        text.lines().map(message).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Debug)]
struct Message {
    retained: bool,
    topic: String,
    payload: String,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_str(&self.payload).unwrap()
    }
}

struct Listener {
    child: Child,
    messages: Receiver<Message>,
}

impl Listener {
    /// The next message that is the one waited for; those before it are passed over.
    fn next(&self, what: &str, is_it: impl Fn(&Message) -> bool) -> Message {
        within(what, || self.messages.try_iter().find(|message| is_it(message)))
    }

    /// Everything up to `payload` on `topic`.
    fn until(&self, topic: &str, payload: &str) -> Vec<Message> {
        let mut all = Vec::new();
        within(&format!("{payload} on {topic}"), || {
            for message in self.messages.try_iter() {
                let last = message.topic == topic && message.payload == payload;
                all.push(message);
                if last {
                    return Some(());
                }
            }
            None
        });
        all
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer.
fn within<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn edge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
    command.args(args).env("SEMBLANCE_BUNDLE", bundle).env("SEMBLANCE_HTTP", "off").stdout(Stdio::null());
    // SIGHUP would end it where standard input or error is a terminal.
    command.stdin(Stdio::null());
    command
}

/// A run that goes on until it is killed, which it is when dropped.
struct Running(Child);

impl Running {
    fn start(args: &[&str]) -> Self {
        Self(edge(args).stderr(Stdio::null()).spawn().unwrap())
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn what_is_predicted_arrives_and_home_assistant_finds_the_device() {
    let Some(broker) = Broker::start("allow_anonymous true") else { return };
    let listener = broker.listen();
    let file = broker.dir.path().join("out.jsonl");
    let (mqtt, jsonl) =
        (broker.url("home/desk?predictions=true&rate=4"), format!("jsonl:{}", file.display()));
    let begun = Instant::now();
    let output = edge(&["run", "--source", "demo", "--max-frames", "60", "--max-fps", "20"])
        .args(["--out", &mqtt, "--out", &jsonl])
        .output()
        .unwrap();
    let took = begun.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let heard = listener.until("home/desk/available", "offline");
    let of = |topic: &str| heard.iter().filter(|m| m.topic == topic).cloned().collect::<Vec<_>>();
    let payloads = |topic: &str| of(topic).into_iter().map(|m| m.payload).collect::<Vec<_>>();
    assert_eq!(payloads("home/desk/available"), ["online", "offline"]);
    let expected = lines(&file);
    assert!(expected.len() >= 50, "{}", expected.len());
    assert_eq!(payloads("home/desk/predictions"), expected, "byte for byte");
    let states = of("home/desk/state");
    let most = (took.as_secs_f64() * 4.0) as usize + 2;
    assert!((3..=most).contains(&states.len()), "{} states in {took:?}", states.len());
    for state in states.iter().map(Message::json) {
        assert_eq!(state["faces"], u64::from(!state["track"].is_null()), "{state}");
        assert!(state["fps"].is_null() || state["fps"].as_f64().unwrap() > 0.0);
    }
    // The last state is the last frame's; a busy machine may have left some out.
    let last: Value = serde_json::from_str(expected.last().unwrap()).unwrap();
    assert!(last["frame"].as_u64() >= Some(59), "{last}");
    assert_eq!(states.last().unwrap().json()["frame"], last["frame"]);

    let config = broker.retained("homeassistant/#");
    let mut ids = BTreeSet::new();
    let mut components = BTreeSet::new();
    for message in &config {
        let entity = message.json();
        assert!(message.retained && message.topic.ends_with("/config"), "{message:?}");
        assert!(ids.insert(entity["unique_id"].as_str().unwrap().to_owned()), "{entity}");
        assert_eq!(entity["state_topic"], "home/desk/state");
        assert_eq!(entity["availability_topic"], "home/desk/available");
        assert!(entity["expire_after"].as_u64().unwrap() > 0 && entity["device"]["identifiers"].is_array());
        let parts: Vec<&str> = message.topic.split('/').collect();
        assert_eq!(parts[2], "home_desk");
        components.insert(format!("{}/{}", parts[1], parts[3]));
    }
    for entity in ["binary_sensor/person", "sensor/expression", "sensor/faces", "sensor/fps"] {
        assert!(components.contains(entity), "{entity}: {components:?}");
    }
    assert_eq!(broker.retained("home/desk/available")[0].payload, "offline");
}

#[test]
fn a_client_that_is_killed_is_offline_and_home_assistants_start_is_heard() {
    let Some(broker) = Broker::start("allow_anonymous true") else { return };
    let listener = broker.listen();
    let mut run =
        Running::start(&["run", "--source", "demo", "--max-fps", "10", "--out", &broker.url("a/b")]);
    listener.next("a state", |m| m.topic == "a/b/state");
    let expression = "homeassistant/sensor/a_b/expression/config";
    broker.publish("homeassistant/status", "online");
    listener.next("discovery again", |m| m.topic == expression);
    listener.next("availability again", |m| m.topic == "a/b/available" && m.payload == "online");
    listener.next("a state after it", |m| m.topic == "a/b/state");
    // SIGKILL: the program cannot say anything any more.
    run.0.kill().unwrap();
    listener.next("the last will", |m| m.topic == "a/b/available" && m.payload == "offline");
    assert_eq!(broker.retained("a/b/available")[0].payload, "offline");
}

#[test]
fn a_broker_that_goes_away_slows_nothing_and_is_found_again() {
    let Some(mut broker) = Broker::start("allow_anonymous true") else { return };
    let file = broker.dir.path().join("out.jsonl");
    let jsonl = format!("jsonl:{}", file.display());
    let listener = broker.listen();
    let mqtt = broker.url("a?predictions=true");
    // Slow enough for a busy machine: what is measured is the broker's influence.
    let run = Running::start(&["run", "--source", "demo", "--max-fps", "5", "--out", &mqtt, "--out", &jsonl]);
    listener.next("a prediction", |m| m.topic == "a/predictions");
    let measure = |seconds| {
        let (before, begun) = (lines(&file).len(), Instant::now());
        std::thread::sleep(Duration::from_secs(seconds));
        (lines(&file).len() - before) as f64 / begun.elapsed().as_secs_f64()
    };
    let connected = measure(5);
    drop(listener);
    broker.kill();
    let resident = run.resident_kib();
    let alone = measure(6);
    let grown = run.resident_kib().saturating_sub(resident);
    eprintln!("{connected:.1} lines/s with a broker, {alone:.1} without; {grown} KiB grown in 6 s");
    assert!(alone > 0.8 * connected, "{alone} lines/s without a broker, {connected} with one");
    assert!(grown < 8 * 1024, "{grown} KiB");

    broker.restart();
    let listener = broker.listen();
    listener.next("predictions again", |m| m.topic == "a/predictions");
    listener.next("a state", |m| m.topic == "a/state");
    // This broker remembers nothing from before.
    assert_eq!(broker.retained("a/available")[0].payload, "online");
    assert!(broker.retained("homeassistant/#").len() >= 4);
}

#[test]
fn a_reload_tells_that_it_is_gone_and_back() {
    let Some(broker) = Broker::start("allow_anonymous true") else { return };
    let listener = broker.listen();
    let run = Running::start(&["run", "--source", "demo", "--max-fps", "5", "--out", &broker.url("a")]);
    listener.next("a state", |m| m.topic == "a/state");
    assert!(Command::new("kill").args(["-HUP", &run.0.id().to_string()]).status().unwrap().success());
    listener.until("a/available", "offline");
    let heard = listener.until("a/available", "online");
    assert!(heard.iter().all(|m| m.topic != "a/state"), "{heard:?}");
    listener.next("a state after it", |m| m.topic == "a/state");
    assert_eq!(broker.retained("a/available")[0].payload, "online");
}

#[test]
fn a_wrong_password_is_a_plain_word_and_the_run_goes_on() {
    let Some(mut broker) = Broker::start("") else { return };
    broker.kill();
    let passwords = broker.dir.path().join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["me", "sesame"])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let config = broker.dir.path().join("mosquitto.conf");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}password_file {}\n", passwords.display())).unwrap();
    broker.restart();
    let file = broker.dir.path().join("out.jsonl");
    let run = |login: &str, password: &str| {
        let mqtt = broker.url("a").replace("mqtt://", &format!("mqtt://{login}@"));
        edge(&["run", "--source", "demo", "--max-frames", "30", "--max-fps", "30", "--out", &mqtt])
            .args(["--out", &format!("jsonl:{}", file.display())])
            .env("SEMBLANCE_MQTT_PASSWORD", password)
            .output()
            .unwrap()
    };
    let refused = run("me:open-barley", "");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("refuses user or password") && message.contains("30 frames"), "{message}");
    assert!(!message.contains("open-barley"), "{message}");
    assert!(lines(&file).len() >= 25, "the other output has everything");
    // Nothing of the run has arrived where it should.
    assert_eq!(refused.status.code(), Some(1), "{message}");
    // From the environment, where no list of processes shows it.
    let accepted = run("me", "sesame");
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
}

#[test]
fn what_is_no_address_or_topic_is_wrong_usage_and_no_password_is_repeated() {
    for out in [
        "mqtt://me:sesame@broker",
        "mqtt://me:sesame@broker/a/+/b",
        "mqtt://me:sesame@broker/a/#",
        "mqtt://me:sesame@broker//a",
        "mqtt://me:sesame@broker:x/a",
        "mqtt://me:sesame@broker/a?rate=often",
        "mqtts://me:sesame@broker/a",
    ] {
        let output = edge(&["run", "--source", "demo", "--out", out]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{out}: {message}");
        assert!(message.contains("--out") && !message.contains("sesame"), "{message}");
    }
}
