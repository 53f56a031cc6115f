//! The names and the order of what is predicted: expressions and facial action units.

use serde::{Deserialize, Serialize};

/// A categorical facial expression. The order of the variants is the order of [`Expression::ALL`] everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expression {
    /// No expression.
    Neutral,
    /// Happiness.
    Happy,
    /// Sadness.
    Sad,
    /// Surprise.
    Surprise,
    /// Fear.
    Fear,
    /// Disgust.
    Disgust,
    /// Anger.
    Angry,
    /// Contempt.
    Contempt,
}

impl Expression {
    /// Every expression, in the project's order.
    pub const ALL: [Self; 8] = [
        Self::Neutral,
        Self::Happy,
        Self::Sad,
        Self::Surprise,
        Self::Fear,
        Self::Disgust,
        Self::Angry,
        Self::Contempt,
    ];

    /// Its name, as in predictions, bundles and stores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Neutral => "neutral",
            Self::Happy => "happy",
            Self::Sad => "sad",
            Self::Surprise => "surprise",
            Self::Fear => "fear",
            Self::Disgust => "disgust",
            Self::Angry => "angry",
            Self::Contempt => "contempt",
        }
    }

    /// The expression of this name, or `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.name() == name)
    }

    /// Its place in [`Expression::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The action units (FACS numbers) that Semblance names, in the project's order.
pub const ACTION_UNITS: [u8; 18] = [1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 43];

/// An action unit's name: `AU01` for 1.
pub fn action_unit_name(number: u8) -> String {
    format!("AU{number:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices_agree_with_the_order() {
        for (i, e) in Expression::ALL.into_iter().enumerate() {
            assert_eq!(e.index(), i);
            assert_eq!(Expression::from_name(e.name()), Some(e));
        }
        assert_eq!(Expression::from_name("bored"), None);
        assert_eq!(action_unit_name(1), "AU01");
        assert!(ACTION_UNITS.is_sorted());
    }
}
