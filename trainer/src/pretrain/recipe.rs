//! Settings that come with the program: the rows of the papers' tables.

use std::fmt;
use std::str::FromStr;

use crate::config;
use crate::method::Method;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../recipes/", $name, ".toml"))),)*]
    };
}

/// A row's name and text. A row of a method whose paper is its default ([`base_of`]) tells what it has otherwise.
const ROWS: [(&str, &str); 45] = embedded![
    "sslfer/byol",
    "sslfer/moco",
    "sslfer/simclr",
    "sslfer/table1-a",
    "sslfer/table1-b",
    "sslfer/table1-c",
    "sslfer/table1-d",
    "sslfer/table1-e",
    "sslfer/table1-f",
    "sslfer/table4-1",
    "sslfer/table4-2",
    "pcl/authors",
    "pcl/moco",
    "pcl/pcl",
    "pcl/simclr",
    "pcl/table5-1",
    "pcl/table5-2",
    "pcl/table5-3",
    "pcl/table5-4",
    "pcl/table5-5",
    "pcl/table6-flip",
    "clp/clp",
    "clp/moco",
    "clp/simclr",
    "clp/simsiam",
    "clp/table4-1",
    "clp/table4-2",
    "clp/table4-3",
    "clp/table4-4",
    "clp/table4-5",
    "clp/table4-6",
    "clp/table4-7",
    "clp/table4-8",
    "clp/table4-9",
    "fabnet/autoencoder",
    "fabnet/fabnet",
    "fabnet/no-curriculum",
    "fabnet/rotnet",
    "fabnet/splitbrain",
    "fabnet/three-sources",
    "facecycle/facecycle",
    "baseline/byol",
    "baseline/moco",
    "baseline/simclr",
    "baseline/simsiam",
];

/// What the small twins of a paper's rows have otherwise.
const SMALL: [(&str, &str); 5] =
    embedded!["sslfer/small", "pcl/small", "clp/small", "fabnet/small", "facecycle/small"];

const TWIN: &str = "small";

/// A row of a paper's table, or its small twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    row: &'static str,
    text: &'static str,
    /// What the twin has otherwise.
    small: Option<&'static str>,
}

impl Recipe {
    /// Every recipe, a row before its twin.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().flat_map(|&(row, text)| {
            let paper = row.split('/').next().unwrap_or_default();
            let small = SMALL.iter().find(|(name, _)| name.split('/').next() == Some(paper));
            let twin = small.map(|(_, small)| Self { row, text, small: Some(small) });
            [Some(Self { row, text, small: None }), twin].into_iter().flatten()
        })
    }

    /// Its small twin; itself where it is one.
    pub fn twin(self) -> Option<Self> {
        Self::all().find(|other| other.row == self.row && other.small.is_some())
    }

    /// What it is, in words.
    pub fn about(self) -> String {
        let lines = self.text.lines().take_while(|line| line.starts_with('#'));
        lines.map(|line| line.trim_start_matches('#').trim()).collect::<Vec<_>>().join(" ")
    }

    /// Its settings.
    ///
    /// # Errors
    /// Where it is no TOML, which a test holds against.
    pub fn table(self) -> anyhow::Result<toml::Table> {
        let mut table: toml::Table = self.text.parse()?;
        if let Some(small) = self.small {
            config::merge(&mut table, small.parse()?);
        }
        Ok(table)
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.small, self.row.split_once('/')) {
            (Some(_), Some((paper, row))) => write!(f, "{paper}/{TWIN}/{row}"),
            _ => f.write_str(self.row),
        }
    }
}

impl FromStr for Recipe {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all()
            .find(|recipe| recipe.to_string() == name)
            .ok_or_else(|| "no recipe has this name: `trainer recipes` lists those that there are".to_owned())
    }
}

/// The settings that a method has where nothing else is said; `None` where the program's defaults are meant.
pub(super) fn base_of(method: &str) -> anyhow::Result<Option<toml::Table>> {
    if method == Method::Sslfer.name() {
        return Ok(Some(toml::toml! {
            pairs = { time_aug = true, hard_neg = true, face_swap = true }
            mask_fn = { count = 1 }
        }));
    }
    let own = [
        (Method::Pcl, "pcl/pcl"),
        (Method::Clp, "clp/clp"),
        (Method::FabNet, "fabnet/fabnet"),
        (Method::Autoencoder, "fabnet/autoencoder"),
        (Method::RotNet, "fabnet/rotnet"),
        (Method::SplitBrain, "fabnet/splitbrain"),
        (Method::FaceCycle, "facecycle/facecycle"),
    ];
    let Some((_, row)) = own.into_iter().find(|(own, _)| own.name() == method) else { return Ok(None) };
    let text = ROWS.iter().find(|(name, _)| *name == row).map(|(_, text)| *text);
    Ok(text.map(str::parse).transpose()?)
}

/// Runs `trainer recipes`: every recipe with what it is.
pub fn list() {
    for recipe in Recipe::all() {
        if recipe.small.is_none() {
            println!("{:<26} {}", recipe.to_string(), recipe.about());
        }
    }
    println!("\nBefore the row, small/ names its twin for two cores: sslfer/small/table1-f.");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_is_a_recipe() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut files = BTreeSet::new();
        for paper in std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()) {
            if !paper.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(&paper).unwrap().map(|entry| entry.unwrap().path()) {
                let name = file.strip_prefix(&root).unwrap().with_extension("");
                files.insert(name.to_str().unwrap().to_owned());
            }
        }
        let known: BTreeSet<String> = ROWS.iter().chain(&SMALL).map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, known);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for recipe in Recipe::all() {
            assert_eq!(recipe.to_string().parse(), Ok(recipe));
            assert!(recipe.about().len() > 10, "{recipe}");
        }
        assert!("sslfer/small/table1-f".parse::<Recipe>().unwrap().small.is_some());
        assert!("sslfer-f".parse::<Recipe>().unwrap_err().contains("trainer recipes"));
    }
}
