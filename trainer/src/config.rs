//! Configuration: defaults, then a TOML file, then the environment and flags.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The configuration in `path`, or the defaults where there is none; then `overrides`, a table of what flags and
/// environment set.
///
/// # Errors
/// Names the file and the setting that cannot be read.
pub fn layered<T: DeserializeOwned>(path: Option<&Path>, overrides: toml::Table) -> anyhow::Result<T> {
    let mut table = match path {
        Some(path) => read_table(path)?,
        None => toml::Table::new(),
    };
    merge(&mut table, overrides);
    let origin = path.map(|p| p.display().to_string());
    parse(table, origin.as_deref().unwrap_or("configuration"))
}

/// A table's settings; `origin` is what a message names as their source.
///
/// # Errors
/// Names the setting that is not known or makes no sense.
pub fn parse<T: DeserializeOwned>(table: toml::Table, origin: &str) -> anyhow::Result<T> {
    // Of all that it tells, only `Display` has the key.
    let one_line = |e: toml::de::Error| anyhow::anyhow!("{}", e.to_string().trim().replace('\n', " "));
    toml::Value::Table(table).try_into().map_err(one_line).with_context(|| origin.to_owned())
}

/// A TOML file as a table.
///
/// # Errors
/// Names the file.
pub fn read_table(path: &Path) -> anyhow::Result<toml::Table> {
    let at = || path.display().to_string();
    std::fs::read_to_string(path).with_context(at)?.parse().with_context(at)
}

/// The settings of `value` that are set (TOML has no null: `None` is left out).
///
/// # Errors
/// Where a value cannot stand in TOML.
pub fn table_of(value: &impl Serialize) -> anyhow::Result<toml::Table> {
    toml::Table::try_from(value).context("configuration")
}

/// Puts the settings of `over` over those of `base`, table by table.
pub fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The first setting that two tables have otherwise, with both values; `nothing` for one that is not set.
pub fn difference(a: &toml::Table, b: &toml::Table) -> Option<(String, String, String)> {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    for key in keys {
        match (a.get(key), b.get(key)) {
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                if let Some((inner, a, b)) = difference(a, b) {
                    return Some((format!("{key}.{inner}"), a, b));
                }
            }
            (a, b) if a == b => {}
            (a, b) => {
                let text =
                    |v: Option<&toml::Value>| v.map_or_else(|| "nothing".to_owned(), |v| v.to_string());
                return Some((key.clone(), text(a), text(b)));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn later_layers_win_key_by_key() {
        let mut base: toml::Table = "a = 1\n[t]\nx = 1\ny = 2".parse().unwrap();
        merge(&mut base, "b = 3\n[t]\ny = 5".parse().unwrap());
        assert_eq!(base, "a = 1\nb = 3\n[t]\nx = 1\ny = 5".parse().unwrap());
    }

    #[test]
    fn a_difference_is_named_with_its_tables() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        let a = table("a = 1\n[t]\nx = 1\n[t.u]\ny = 2");
        assert_eq!(difference(&a, &a), None);
        let named = |other: &str| difference(&a, &table(other)).unwrap();
        let of = |key: &str, a: &str, b: &str| (key.to_owned(), a.to_owned(), b.to_owned());
        assert_eq!(named("a = 1\n[t]\nx = 1\n[t.u]\ny = 3"), of("t.u.y", "2", "3"));
        assert_eq!(named("a = 1\nb = 2\n[t]\nx = 1\n[t.u]\ny = 2"), of("b", "nothing", "2"));
    }
}
