//! `mqtt://…` as it stands on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Where a password may stand, too: other users of the machine can read command lines.
pub(super) const PASSWORD_VARIABLE: &str = "SEMBLANCE_MQTT_PASSWORD";

const DEFAULT_PORT: u16 = 1883;
const DEFAULT_RATE: f64 = 5.0;
const DEFAULT_DISCOVERY: &str = "homeassistant";
/// Brokers allow far longer topics; Home Assistant's names are made of these.
const MOST_PREFIX_BYTES: usize = 128;
const FORM: &str = "mqtt://[USER[:PASSWORD]@]HOST[:PORT]/PREFIX";

/// `mqtt://[USER[:PASSWORD]@]HOST[:PORT]/PREFIX[?OPTION=VALUE[&…]]`: a broker and the topic under which is published.
///
/// Options: `rate`, messages on `PREFIX/state` a second at most, 0.01 to 1000, else 5; `predictions=true` publishes every
/// prediction on `PREFIX/predictions`; `discovery`, Home Assistant's discovery prefix, else `homeassistant`, or `off`. In
/// user, password and prefix `%40` stands for `@`, and so on. Devices that share a broker need a prefix each.
///
/// Neither user nor password is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct MqttSpec {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
    prefix: String,
    interval: Duration,
    predictions: bool,
    discovery: Option<String>,
    shown: String,
}

impl MqttSpec {
    /// Name or address of the broker; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The broker's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User and password, the latter from the environment where it is not given here.
    pub(super) fn credentials(&self) -> Option<(String, String)> {
        let user = self.user.clone()?;
        let password = self.password.clone().or_else(|| std::env::var(PASSWORD_VARIABLE).ok());
        Some((user, password.unwrap_or_default()))
    }

    /// The topic `name` under the prefix.
    pub(super) fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The prefix in the characters that client and entity ids may have.
    pub(super) fn node(&self) -> String {
        let mut node = String::new();
        for byte in self.prefix.bytes() {
            match byte {
                b'/' => node.push('_'),
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'-' => node.push(char::from(byte)),
                _ => node.push_str(&format!("{byte:02x}")),
            }
        }
        node
    }

    /// Least time from one state to the next.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn sends_predictions(&self) -> bool {
        self.predictions
    }

    /// Home Assistant's discovery prefix, where it is wanted.
    pub(super) fn discovery(&self) -> Option<&str> {
        self.discovery.as_deref()
    }
}

impl FromStr for MqttSpec {
    type Err = String;

    /// The error does not repeat the text, for the sake of the password.
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("mqtt://").ok_or_else(|| format!("give {FORM}"))?;
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, prefix) = rest
            .split_once('/')
            .ok_or_else(|| format!("the topic prefix is missing: {FORM}, such as mqtt://broker/home/desk"))?;
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some(("", _)) => return Err(format!("the user's name is missing before '@': {FORM}")),
            Some((user, "")) => (Some(decoded(user)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
            None => (None, None),
        };
        let (host, port) = host_and_port(address)?;
        let prefix = topic(prefix, "topic prefix")?;
        let mut spec = Self {
            host,
            port,
            user,
            password,
            prefix,
            interval: Duration::from_secs_f64(1.0 / DEFAULT_RATE),
            predictions: false,
            discovery: Some(DEFAULT_DISCOVERY.to_owned()),
            shown: match login {
                Some(login) => text.replacen(&format!("{login}@"), "", 1),
                None => text.to_owned(),
            },
        };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            spec.set(option)?;
        }
        Ok(spec)
    }
}

impl MqttSpec {
    fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("rate", rate)) => {
                let rate = rate.parse().ok().filter(|rate| (0.01..=1000.0).contains(rate));
                let rate: f64 = rate.ok_or("rate= is from 0.01 to 1000 messages a second")?;
                self.interval = Duration::from_secs_f64(1.0 / rate);
            }
            Some(("predictions", flag)) => {
                self.predictions = flag.parse().map_err(|_| "predictions= is true or false")?;
            }
            Some(("discovery", "off")) => self.discovery = None,
            Some(("discovery", prefix)) => self.discovery = Some(topic(prefix, "discovery prefix")?),
            _ => return Err("there are the options rate=, predictions= and discovery=".to_owned()),
        }
        Ok(())
    }
}

impl fmt::Display for MqttSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for MqttSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MqttSpec").field(&self.shown).finish()
    }
}

fn host_and_port(address: &str) -> Result<(String, u16), String> {
    let bad_port = || "the port is from 1 to 65535".to_owned();
    // The colons of an IPv6 address stand in brackets.
    let (host, port) = match address.rfind(':').filter(|&at| at > address.rfind(']').unwrap_or(0)) {
        Some(at) => (&address[..at], address[at + 1..].parse().map_err(|_| bad_port())?),
        None => (address, DEFAULT_PORT),
    };
    if port == 0 {
        return Err(bad_port());
    }
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fits = match plain {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)),
    };
    if fits {
        Ok((host.to_owned(), port))
    } else {
        Err(format!("that is no name or address of a host: {FORM}, IPv6 as [::1]"))
    }
}

/// A topic that can be published under.
fn topic(text: &str, what: &str) -> Result<String, String> {
    let topic = decoded(text)?;
    let problem = if topic.split('/').any(str::is_empty) {
        "it has an empty level: no slash may stand at its ends or beside another"
    } else if topic.contains(['#', '+']) {
        "'#' and '+' are MQTT's wildcards"
    } else if topic.starts_with('$') {
        "what begins with '$' is the broker's own"
    } else if topic.chars().any(char::is_control) {
        "it has a control character"
    } else if topic.len() > MOST_PREFIX_BYTES {
        "it is longer than 128 bytes"
    } else {
        return Ok(topic);
    };
    Err(format!("the {what} cannot be used: {problem}"))
}

/// `text` with each `%xx` replaced by the byte it stands for.
fn decoded(text: &str) -> Result<String, String> {
    let bad = || "'%' stands before two hexadecimal digits, and all of it is UTF-8".to_owned();
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).ok_or_else(bad)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> MqttSpec {
        text.parse().unwrap()
    }

    #[test]
    fn every_part_is_read() {
        let plain = parse("mqtt://broker.lan/home/desk");
        assert_eq!((plain.host(), plain.port(), plain.prefix()), ("broker.lan", 1883, "home/desk"));
        assert_eq!((plain.interval(), plain.sends_predictions()), (Duration::from_millis(200), false));
        assert_eq!((plain.discovery(), plain.user.as_deref()), (Some("homeassistant"), None));
        let full =
            parse("mqtt://a%40b:p%3A%2fw@[::1]:1884/k%C3%BCche?rate=0.5&predictions=true&discovery=ha/x");
        assert_eq!((full.host(), full.port(), full.prefix()), ("[::1]", 1884, "küche"));
        assert_eq!(full.credentials(), Some(("a@b".to_owned(), "p:/w".to_owned())));
        assert_eq!((full.interval(), full.sends_predictions()), (Duration::from_secs(2), true));
        assert_eq!((full.discovery(), full.node().as_str()), (Some("ha/x"), "kc3bcche"));
        assert_eq!(parse("mqtt://h/a/b?discovery=off").discovery(), None);
    }

    #[test]
    fn the_password_is_shown_nowhere() {
        for text in
            ["mqtt://me:sesame@h/a", "mqtt://me:sesame@h:1/me:x@y?rate=1", "mqtt://m:it's se@sesame@h/a"]
        {
            let spec = parse(text);
            for shown in [spec.to_string(), format!("{spec:?}")] {
                assert!(!shown.contains("sesame@") && shown.contains("mqtt://h"), "{shown}");
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason_and_without_the_password() {
        for (text, reason) in [
            ("mqtt://me:sesame@host", "prefix is missing"),
            ("mqtt://me:sesame@/a", "no name or address"),
            ("mqtt://me:sesame@ho st/a", "no name or address"),
            ("mqtt://::1/a", "no name or address"),
            ("mqtt://[::g]/a", "no name or address"),
            ("mqtt://:sesame@host/a", "user's name"),
            ("mqtt://me:sesame@host:0/a", "port"),
            ("mqtt://me:sesame@host:70000/a", "port"),
            ("mqtt://me:sesame@host/", "empty level"),
            ("mqtt://host//a", "empty level"),
            ("mqtt://host/a/", "empty level"),
            ("mqtt://host/a/%23", "wildcard"),
            ("mqtt://host/a+", "wildcard"),
            ("mqtt://host/$SYS", "broker's own"),
            ("mqtt://host/a%00", "control"),
            ("mqtt://host/a%zz", "hexadecimal"),
            ("mqtt://host/a%f", "hexadecimal"),
            ("mqtt://host/a%ff", "UTF-8"),
            ("mqtt://host/a?rate=0", "rate="),
            ("mqtt://host/a?rate=nan", "rate="),
            ("mqtt://host/a?predictions=yes", "true or false"),
            ("mqtt://host/a?discovery=", "empty level"),
            ("mqtt://host/a?tls=on", "discovery="),
            ("mqtt:host/a", "mqtt://"),
        ] {
            let error = text.parse::<MqttSpec>().unwrap_err();
            assert!(error.contains(reason) && !error.contains("sesame"), "{text}: {error}");
        }
        let long = format!("mqtt://host/{}", "a".repeat(129));
        assert!(long.parse::<MqttSpec>().unwrap_err().contains("128"));
    }
}
