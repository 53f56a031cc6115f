//! Names of users, which are names of folders.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Most characters of a name.
const MAX_LEN: usize = 32;
/// Names that mean devices on Windows.
const RESERVED: [&str; 4] = ["con", "prn", "aux", "nul"];
/// The same with a digit behind them.
const RESERVED_NUMBERED: [&str; 2] = ["com", "lpt"];

/// Why a name was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "'{}' is no user name: write 1 to {MAX_LEN} of a-z, 0-9, - and _, a letter or digit first, and no device name of Windows",
    .0.escape_debug()
)]
pub struct NameError(String);

/// A user's name: 1 to 32 of `a-z`, `0-9`, `-` and `_`, a letter or a digit first. Names that Windows keeps for devices
/// (`con`, `com1` and so on) are refused everywhere, so that a profile can move; there are no capitals, so that two names
/// never mean one folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let allowed = name.len() <= MAX_LEN
            && name.bytes().all(|b| letter(b) || b == b'-' || b == b'_')
            && name.bytes().next().is_some_and(letter);
        let numbered = |name: &str| {
            let base = name.strip_suffix(|c: char| c.is_ascii_digit());
            base.is_some_and(|base| RESERVED_NUMBERED.contains(&base))
        };
        if !allowed || RESERVED.contains(&name) || numbered(name) {
            return Err(NameError(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_folder_of_their_own_are_refused() {
        let long = "a".repeat(MAX_LEN + 1);
        for wrong in [
            "", ".", "..", "../x", "a/b", "a\\b", "/etc", "a.b", "a.", ".lock", "-a", "_a", "a b", "a\0b",
            "a\n", "Alice", "zoë", "con", "nul", "com1", "lpt9", "c:", &long,
        ] {
            assert_eq!(wrong.parse::<UserName>(), Err(NameError(wrong.to_owned())));
        }
        for right in ["alice", "bob-2", "0_a", "console", "com", "com10", &long[1..]] {
            assert!(right.parse::<UserName>().is_ok(), "{right}");
        }
    }
}
