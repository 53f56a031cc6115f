//! Pretraining methods, one file each.

mod simclr;

use serde::{Deserialize, Serialize};

pub use simclr::{Projection, SimClr};

/// A pretraining method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// SimCLR (Chen et al. 2020): two views of a picture attract, views of other pictures repel.
    #[value(name = "simclr")]
    SimClr,
}

impl Method {
    /// Its name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SimClr => "simclr",
        }
    }
}
