//! Protocols: what a person is asked to do, in a TOML file that anybody can write.

use serde::Deserialize;
use thiserror::Error;

/// The version of a protocol that this build reads.
pub const FORMAT: u32 = 1;

const SHIPPED: [&str; 3] = [
    include_str!("../../protocols/quick.toml"),
    include_str!("../../protocols/basic7.toml"),
    include_str!("../../protocols/va.toml"),
];

const MAX_NAME: usize = 32;
const MAX_PROMPTS: usize = 32;
const MAX_TEXT: usize = 200;

/// Why a protocol cannot be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ProtocolError {
    /// It is no TOML, or has other keys.
    #[error("the protocol cannot be read: {0}")]
    Toml(String),
    /// It was written for a newer version.
    #[error(
        "the protocol has the format {0}, newer than this build reads (up to {FORMAT}): update Semblance"
    )]
    Newer(u32),
    /// A value is out of its range.
    #[error("the protocol's {key} is {found}: {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it can be.
        expected: &'static str,
    },
    /// A prompt asks for what the heads do not know.
    #[error("the protocol asks for '{expression}', which the bundle does not know: it knows {known}")]
    Unknown {
        /// The expression.
        expression: String,
        /// The head's rows.
        known: String,
    },
}

/// What a person is asked to do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    format: u32,
    /// Its name: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// What it is for, in a sentence or two.
    pub about: String,
    /// How often every prompt comes, 1 to 10. The labels of each time are judged as one stretch of time.
    pub blocks: u32,
    /// Seconds from a prompt to when it is held, 0.5 to 30.
    pub ready_secs: f64,
    /// Seconds that it is held, 1.5 to 30: less leaves too few frames.
    pub hold_secs: f64,
    /// Seconds of rest after it, 0 to 30.
    pub rest_secs: f64,
    /// What is asked for, 1 to 32.
    pub prompts: Vec<Prompt>,
}

/// One thing that is asked for: an expression to show, or a moment to be rated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// What the person reads.
    pub say: String,
    /// The expression to show.
    pub expression: Option<String>,
    /// Whether the person rates the moment on sliders for valence and arousal.
    #[serde(default)]
    pub rate: bool,
}

impl Protocol {
    /// Those that come with the program.
    pub fn shipped() -> Vec<Self> {
        SHIPPED.iter().filter_map(|text| Self::parse(text).ok()).collect()
    }

    /// The one of this name that comes with the program.
    pub fn named(name: &str) -> Option<Self> {
        Self::shipped().into_iter().find(|protocol| protocol.name == name)
    }

    /// Reads a protocol.
    ///
    /// # Errors
    /// [`ProtocolError`], which names the key.
    pub fn parse(text: &str) -> Result<Self, ProtocolError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let one_line = |e: toml::de::Error| ProtocolError::Toml(e.to_string().trim().replace('\n', " "));
        let Version { format } = toml::from_str(text).map_err(one_line)?;
        if format > FORMAT {
            return Err(ProtocolError::Newer(format));
        }
        let protocol: Self = toml::from_str(text).map_err(one_line)?;
        protocol.check()?;
        Ok(protocol)
    }

    fn check(&self) -> Result<(), ProtocolError> {
        let wrong = |key: &str, found: String, expected| {
            Err(ProtocolError::Value { key: key.to_owned(), found, expected })
        };
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.bytes().all(letter) {
            return wrong("name", format!("'{}'", self.name), "1 to 32 of a-z, 0-9 and -");
        }
        for (key, text) in [("title", &self.title), ("about", &self.about)] {
            if text.is_empty() || text.chars().count() > MAX_TEXT {
                return wrong(
                    key,
                    format!("{} characters long", text.chars().count()),
                    "1 to 200 characters",
                );
            }
        }
        if !(1..=10).contains(&self.blocks) {
            return wrong("blocks", self.blocks.to_string(), "1 to 10");
        }
        for (key, value, range, expected) in [
            ("ready_secs", self.ready_secs, 0.5..=30.0, "0.5 to 30 seconds"),
            ("hold_secs", self.hold_secs, 1.5..=30.0, "1.5 to 30 seconds"),
            ("rest_secs", self.rest_secs, 0.0..=30.0, "0 to 30 seconds"),
        ] {
            if !range.contains(&value) {
                return wrong(key, value.to_string(), expected);
            }
        }
        if !(1..=MAX_PROMPTS).contains(&self.prompts.len()) {
            return wrong("prompts", format!("a list of {}", self.prompts.len()), "1 to 32 prompts");
        }
        for (i, prompt) in self.prompts.iter().enumerate() {
            let length = prompt.say.chars().count();
            if !(1..=MAX_TEXT).contains(&length) {
                return wrong(
                    &format!("prompts[{i}].say"),
                    format!("{length} characters long"),
                    "1 to 200 characters",
                );
            }
            if prompt.expression.is_some() == prompt.rate {
                let found = if prompt.rate { "both" } else { "neither" }.to_owned();
                return wrong(&format!("prompts[{i}]"), found, "either an expression, or rate = true");
            }
        }
        Ok(())
    }

    /// Whether heads with these expressions know all that is asked for.
    ///
    /// # Errors
    /// [`ProtocolError::Unknown`].
    pub fn check_against(&self, expressions: &[String]) -> Result<(), ProtocolError> {
        let asked = self.prompts.iter().filter_map(|prompt| prompt.expression.as_ref());
        match asked.into_iter().find(|asked| !expressions.contains(asked)) {
            None => Ok(()),
            Some(unknown) => Err(ProtocolError::Unknown {
                expression: unknown.clone(),
                known: if expressions.is_empty() { "none".to_owned() } else { expressions.join(", ") },
            }),
        }
    }

    /// Prompts in all.
    pub fn steps(&self) -> usize {
        self.blocks as usize * self.prompts.len()
    }

    /// The prompt of a step, from 0. Each round begins one prompt later than the one before, so that what comes after what, and
    /// when, tells nothing of the expression.
    pub fn prompt(&self, step: usize) -> &Prompt {
        let count = self.prompts.len();
        &self.prompts[(step % count + step / count) % count]
    }

    /// Seconds that it takes a person who needs no second try and no time for ratings.
    pub fn duration_secs(&self) -> f64 {
        self.steps() as f64 * (self.ready_secs + self.hold_secs + self.rest_secs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn those_that_are_shipped_can_be_used_with_the_seven_expressions() {
        let seven: Vec<String> =
            "neutral happy sad surprise fear disgust angry".split(' ').map(str::to_owned).collect();
        let shipped = Protocol::shipped();
        assert_eq!(shipped.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["quick", "basic7", "va"]);
        for protocol in &shipped {
            protocol.check_against(&seven).unwrap();
            let mut counts = vec![0; protocol.prompts.len()];
            for step in 0..protocol.steps() {
                let asked = protocol.prompt(step);
                counts[protocol.prompts.iter().position(|p| p == asked).unwrap()] += 1;
            }
            assert!(counts.iter().all(|&n| n == protocol.blocks), "{}: {counts:?}", protocol.name);
        }
        let basic7 = Protocol::named("basic7").unwrap();
        assert_eq!((basic7.steps(), basic7.duration_secs()), (21, 147.0));
        assert_ne!(basic7.prompt(0), basic7.prompt(7), "the second round begins elsewhere");
        let error = basic7.check_against(&seven[..3]).unwrap_err().to_string();
        assert!(error.contains("surprise") && error.contains("neutral, happy, sad"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = "format = 1\nname = \"x\"\ntitle = \"X\"\nabout = \"y\"\nblocks = 1\nready_secs = 1.0\nhold_secs = 1.5\nrest_secs = 0.0\n";
        let prompt = "[[prompts]]\nsay = \"a\"\nexpression = \"happy\"\n";
        assert!(Protocol::parse(&format!("{good}{prompt}")).is_ok());
        let many = prompt.repeat(33);
        for (from, to, key) in [
            ("format = 1", "format = 2", "format 2"),
            ("name = \"x\"", "name = \"X y\"", "name"),
            ("blocks = 1", "blocks = 0", "blocks"),
            ("blocks = 1", "blocks = \"many\"", "blocks"),
            ("ready_secs = 1.0", "ready_secs = nan", "ready_secs"),
            ("hold_secs = 1.5", "hold_secs = 31.0", "hold_secs"),
            ("rest_secs = 0.0", "rest_secs = -1.0", "rest_secs"),
            ("rest_secs = 0.0", "rest_secs = 0.0\nmusic = true", "music"),
            ("title = \"X\"\n", "", "title"),
            ("say = \"a\"", "say = \"\"", "prompts[0].say"),
            ("expression = \"happy\"\n", "", "prompts[0]"),
            ("expression = \"happy\"", "expression = \"happy\"\nrate = true", "prompts[0]"),
            (prompt, &many, "prompts"),
            (prompt, "", "prompts"),
        ] {
            let text = format!("{good}{prompt}").replace(from, to);
            let error = Protocol::parse(&text).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
