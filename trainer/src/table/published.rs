//! The papers' tables: rows, the recipes behind them, and the published figures.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::measure::Measure;
use crate::config;
use crate::nets::PclFeatures;
use crate::pretrain::Recipe;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../tables/", $name, ".toml"))),)*]
    };
}

/// A table's name and text.
const TABLES: [(&str, &str); 11] = embedded![
    "sslfer-1", "sslfer-2", "sslfer-4", "pcl-1", "pcl-5", "pcl-6", "pcl-7", "clp-1", "clp-4", "fabnet",
    "methods"
];

/// A table that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableName(usize);

impl TableName {
    /// Every table.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TABLES.len()).map(Self)
    }

    /// What is in it.
    ///
    /// # Errors
    /// Where it makes no sense, which a test holds against.
    pub fn read(self) -> anyhow::Result<Table> {
        let (name, text) = TABLES[self.0];
        config::parse(text.parse()?, name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TABLES[self.0].0)
    }
}

impl FromStr for TableName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().find(|table| table.to_string() == name).ok_or_else(|| {
            let names: Vec<_> = Self::all().map(|table| table.to_string()).collect();
            format!("no table has this name: give one of {}", names.join(", "))
        })
    }
}

/// A table of a paper.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it is.
    pub title: String,
    /// Columns that were published.
    #[serde(default)]
    pub published: Vec<Column>,
    /// The rows.
    pub row: Vec<Row>,
}

/// A published column.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Data set, measure and unit.
    pub name: String,
    /// What of ours it is set beside.
    pub measure: Measure,
    /// Whether less is better, there and here.
    #[serde(default)]
    pub lower_is_better: bool,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The recipe that trains it.
    #[serde(deserialize_with = "recipe")]
    pub recipe: Recipe,
    /// What of a run of PCL is judged.
    #[serde(default)]
    pub features: PclFeatures,
    /// The published figures, one a column; NaN for one that there is not.
    #[serde(default)]
    pub published: Vec<f64>,
}

fn recipe<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Recipe, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_table_is_a_file_whose_rows_fit_its_columns() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tables");
        let files = std::fs::read_dir(root).unwrap().count();
        assert_eq!(files, TABLES.len());
        for name in TableName::all() {
            let table = name.read().unwrap_or_else(|e| panic!("{name}: {e:#}"));
            for row in &table.row {
                let figures = row.published.len();
                assert!(figures == table.published.len() || figures == 0, "{name}: {}", row.name);
                assert!(row.recipe.twin().is_some(), "{name}: {} has a small twin", row.name);
            }
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert!("pcl-9".parse::<TableName>().unwrap_err().contains("pcl-5"));
    }
}
