//! Linear heads: `logits = W x + b` over an embedding, and the file they are kept in.

use std::collections::HashMap;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors, View};
use thiserror::Error;

/// The version of `heads.safetensors` that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Why heads could not be made or read.
#[derive(Debug, Error)]
pub enum HeadsError {
    /// The bytes are no safetensors file.
    #[error("not a readable safetensors file: {0}")]
    Container(String),
    /// The file was written by a newer version.
    #[error("heads format {found} is newer than this build reads (up to {FORMAT}): update Semblance")]
    Newer {
        /// The version that the file states.
        found: u32,
    },
    /// Something that the format asks for is missing or cannot be parsed.
    #[error("heads file: {0}")]
    Malformed(String),
    /// Weight, bias and labels do not fit together.
    #[error(
        "head '{head}' has {labels} labels and an embedding of {dim} values, but {weights} weights and {biases} biases"
    )]
    Shape {
        /// Name of the head.
        head: String,
        /// Number of its labels (rows).
        labels: usize,
        /// Values of an embedding (columns).
        dim: usize,
        /// Weights given.
        weights: usize,
        /// Biases given.
        biases: usize,
    },
    /// The place of faces at rest is no place among the embeddings.
    #[error("the neutral place has {found} values, but an embedding has {dim}")]
    Neutral {
        /// Values given.
        found: usize,
        /// Values of an embedding.
        dim: usize,
    },
    /// A weight or bias is NaN or infinite.
    #[error("head '{head}' holds a value that is not finite")]
    NotFinite {
        /// Name of the head.
        head: String,
    },
    /// A head's labels are not those of its kind.
    #[error("head '{head}' has the labels {found}: {expected}")]
    Labels {
        /// Name of the head.
        head: &'static str,
        /// Its labels.
        found: String,
        /// What they should be.
        expected: String,
    },
}

/// One linear map from an embedding to a score (logit) a label.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearHead {
    labels: Arc<[String]>,
    dim: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl LinearHead {
    /// A head with a row of `dim` weights and a bias for each label; `weight` is row-major `[labels, dim]`.
    ///
    /// # Errors
    /// [`HeadsError::Shape`] and [`HeadsError::NotFinite`], which carry `name`.
    pub fn new(
        name: &str,
        labels: Vec<String>,
        dim: usize,
        weight: Vec<f32>,
        bias: Vec<f32>,
    ) -> Result<Self, HeadsError> {
        let rows = labels.len();
        if rows == 0 || dim == 0 || weight.len() != rows * dim || bias.len() != rows {
            return Err(HeadsError::Shape {
                head: name.to_owned(),
                labels: rows,
                dim,
                weights: weight.len(),
                biases: bias.len(),
            });
        }
        if !weight.iter().chain(&bias).all(|v| v.is_finite()) {
            return Err(HeadsError::NotFinite { head: name.to_owned() });
        }
        Ok(Self { labels: labels.into(), dim, weight, bias })
    }

    /// What each row scores, in order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The same, to be kept.
    pub fn shared_labels(&self) -> Arc<[String]> {
        Arc::clone(&self.labels)
    }

    /// Values of the embedding that it reads.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row-major weights, `[labels, dim]`.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// One bias a label.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// The row of a label.
    pub fn row(&self, label: &str) -> Option<usize> {
        self.labels.iter().position(|known| known == label)
    }

    /// The row that an embedding scores highest in.
    ///
    /// # Panics
    /// As [`LinearHead::logits_into`].
    pub fn classify(&self, embedding: &[f32]) -> usize {
        let mut logits = [0.0; MAX_LABELS];
        let logits = &mut logits[..self.labels.len()];
        self.logits_into(embedding, logits);
        argmax(logits)
    }

    /// Writes the logits of `embedding` (length [`LinearHead::dim`]) into `out` (one a label).
    ///
    /// # Panics
    /// Where a length does not fit: that is the caller's error, not the data's.
    pub fn logits_into(&self, embedding: &[f32], out: &mut [f32]) {
        assert_eq!(embedding.len(), self.dim, "length of the embedding");
        assert_eq!(out.len(), self.labels.len(), "length of the output");
        for ((row, bias), out) in self.weight.chunks_exact(self.dim).zip(&self.bias).zip(out) {
            *out = bias + row.iter().zip(embedding).map(|(w, x)| w * x).sum::<f32>();
        }
    }
}

/// Turns logits into probabilities that sum to 1, without overflow.
pub fn softmax_in_place(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in values.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    for v in values {
        *v /= sum;
    }
}

/// The place of the largest value (the first of equals); 0 for an empty slice.
pub fn argmax<T: PartialOrd>(values: &[T]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

/// `1 / (1 + e^-logit)`: the probability behind the logit of an action unit.
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// What a head of a bundle tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// Logits of the expressions, to be put through [`softmax_in_place`].
    Expression,
    /// Valence and arousal themselves, to be clamped to `[-1, 1]`.
    ValenceArousal,
    /// A logit an action unit, to be put through [`sigmoid`].
    ActionUnits,
}

impl HeadKind {
    /// In the order of [`Heads`].
    pub const ALL: [Self; 3] = [Self::Expression, Self::ValenceArousal, Self::ActionUnits];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expression => "expression",
            Self::ValenceArousal => "va",
            Self::ActionUnits => "au",
        }
    }

    /// What the labels should have been, where they are not.
    fn problem(self, labels: &[String]) -> Option<String> {
        match self {
            Self::ValenceArousal if labels != VALENCE_AROUSAL => {
                Some(format!("it should have {}", VALENCE_AROUSAL.join(", ")))
            }
            _ if labels.len() > MAX_LABELS => Some(format!("it may have {MAX_LABELS}")),
            _ => None,
        }
    }
}

/// The rows of a valence and arousal head.
pub const VALENCE_AROUSAL: [&str; 2] = ["valence", "arousal"];

/// Most labels of a head: whoever keeps predictions in fixed memory may rely on it.
pub const MAX_LABELS: usize = 32;

/// Name of the expression of a face at rest, and of the tensor that tells where such faces lie.
pub const NEUTRAL: &str = "neutral";

/// The heads of a bundle. All read the same embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    dim: usize,
    heads: [Option<LinearHead>; HeadKind::ALL.len()],
    neutral: Option<Arc<[f32]>>,
}

impl Heads {
    /// Heads over an embedding of `dim` values; of two of a kind the later one counts.
    ///
    /// # Errors
    /// [`HeadsError::Shape`] where a head reads an embedding of another size, and [`HeadsError::Labels`].
    pub fn new(
        dim: usize,
        heads: impl IntoIterator<Item = (HeadKind, LinearHead)>,
    ) -> Result<Self, HeadsError> {
        let mut all = Self { dim, heads: Default::default(), neutral: None };
        for (kind, head) in heads {
            if head.dim != dim {
                return Err(HeadsError::Shape {
                    head: kind.name().to_owned(),
                    labels: head.labels.len(),
                    dim,
                    weights: head.weight.len(),
                    biases: head.bias.len(),
                });
            }
            if let Some(expected) = kind.problem(&head.labels) {
                return Err(HeadsError::Labels {
                    head: kind.name(),
                    found: head.labels.join(", "),
                    expected,
                });
            }
            all.heads[kind as usize] = Some(head);
        }
        Ok(all)
    }

    /// The same heads, with the place where the embeddings of the people lie that they were trained on while their faces rest;
    /// `None` where it is not known.
    ///
    /// # Errors
    /// [`HeadsError::Neutral`] where it has another size, [`HeadsError::NotFinite`].
    pub fn with_neutral(self, neutral: Option<Arc<[f32]>>) -> Result<Self, HeadsError> {
        if let Some(place) = &neutral {
            if place.len() != self.dim {
                return Err(HeadsError::Neutral { found: place.len(), dim: self.dim });
            }
            if !place.iter().all(|v| v.is_finite()) {
                return Err(HeadsError::NotFinite { head: NEUTRAL.to_owned() });
            }
        }
        Ok(Self { neutral, ..self })
    }

    /// Where the embeddings of the people whom the heads were trained on lie while their faces rest, `[dim]`.
    pub fn neutral(&self) -> Option<&Arc<[f32]>> {
        self.neutral.as_ref()
    }

    /// Values of the embedding that they read.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The head of a kind, where there is one.
    pub fn get(&self, kind: HeadKind) -> Option<&LinearHead> {
        self.heads[kind as usize].as_ref()
    }

    /// The expression head.
    pub fn expression(&self) -> Option<&LinearHead> {
        self.get(HeadKind::Expression)
    }

    /// Reads `heads.safetensors`: tensors `<head>.weight` `[labels, dim]` and `<head>.bias` `[labels]` in f32, perhaps `neutral`
    /// `[dim]` (see [`Heads::neutral`]), and the metadata `format`, `dim` and `<head>.labels` (comma-separated).
    ///
    /// # Errors
    /// [`HeadsError`] for what is damaged, newer, or does not fit together.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, HeadsError> {
        let container = |e: safetensors::SafeTensorError| HeadsError::Container(e.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let number = |key: &str| -> Result<u32, HeadsError> {
            metadata
                .get(key)
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| HeadsError::Malformed(format!("the metadata lacks a number '{key}'")))
        };
        let format = number("format")?;
        if format > FORMAT {
            return Err(HeadsError::Newer { found: format });
        }
        let dim = number("dim")? as usize;
        let mut heads = Vec::new();
        for kind in HeadKind::ALL {
            if let Some(labels) = metadata.get(&format!("{}.labels", kind.name())) {
                heads.push((kind, read_head(&tensors, kind.name(), labels, dim)?));
            }
        }
        let neutral = match tensors.tensor(NEUTRAL) {
            Ok(_) => Some(read_values(&tensors, NEUTRAL)?.into()),
            Err(_) => None,
        };
        Self::new(dim, heads)?.with_neutral(neutral)
    }

    /// The bytes of `heads.safetensors`; [`Heads::from_safetensors`] reads them back to the same values.
    ///
    /// # Errors
    /// [`HeadsError::Container`] where the container's writer fails.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, HeadsError> {
        let mut metadata =
            HashMap::from([("format".into(), FORMAT.to_string()), ("dim".into(), self.dim.to_string())]);
        let mut tensors = Vec::new();
        for kind in HeadKind::ALL {
            let Some(head) = self.get(kind) else { continue };
            let (name, rows) = (kind.name(), head.labels.len());
            metadata.insert(format!("{name}.labels"), head.labels.join(","));
            tensors.push((format!("{name}.weight"), F32(vec![rows, head.dim], bytes_of(&head.weight))));
            tensors.push((format!("{name}.bias"), F32(vec![rows], bytes_of(&head.bias))));
        }
        if let Some(place) = &self.neutral {
            tensors.push((NEUTRAL.to_owned(), F32(vec![self.dim], bytes_of(place))));
        }
        safetensors::serialize(tensors, Some(metadata)).map_err(|e| HeadsError::Container(e.to_string()))
    }
}

fn read_head(
    tensors: &SafeTensors<'_>,
    name: &str,
    labels: &str,
    dim: usize,
) -> Result<LinearHead, HeadsError> {
    let values = |part: &str| read_values(tensors, &format!("{name}.{part}"));
    let labels = labels.split(',').map(str::to_owned).collect();
    LinearHead::new(name, labels, dim, values("weight")?, values("bias")?)
}

fn read_values(tensors: &SafeTensors<'_>, key: &str) -> Result<Vec<f32>, HeadsError> {
    let view =
        tensors.tensor(key).map_err(|_| HeadsError::Malformed(format!("tensor '{key}' is missing")))?;
    if view.dtype() != Dtype::F32 {
        return Err(HeadsError::Malformed(format!("tensor '{key}' is {:?}, not F32", view.dtype())));
    }
    let (fours, _) = view.data().as_chunks::<4>();
    Ok(fours.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// A shape and its values in little-endian f32.
struct F32(Vec<usize>, Vec<u8>);

impl View for F32 {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.1.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.1.len()
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn example() -> Heads {
        let labels = vec!["neutral".to_owned(), "happy".to_owned()];
        let head =
            LinearHead::new("expression", labels, 3, vec![1.0, -2.0, 0.5, 0.0, 3.0, 1.0], vec![0.25, -1.0]);
        let va =
            LinearHead::new("va", VALENCE_AROUSAL.map(str::to_owned).to_vec(), 3, vec![0.5; 6], vec![0.0; 2]);
        let au = LinearHead::new("au", vec!["AU12".to_owned()], 3, vec![1.5; 3], vec![-0.5]);
        let heads = [
            (HeadKind::Expression, head.unwrap()),
            (HeadKind::ValenceArousal, va.unwrap()),
            (HeadKind::ActionUnits, au.unwrap()),
        ];
        Heads::new(3, heads).unwrap()
    }

    #[test]
    fn logits_are_the_matrix_product() {
        let heads = example();
        let mut out = [0.0; 2];
        heads.expression().unwrap().logits_into(&[2.0, 1.0, 4.0], &mut out);
        assert_eq!(out, [2.0 - 2.0 + 2.0 + 0.25, 3.0 + 4.0 - 1.0]);
    }

    #[test]
    fn softmax_survives_huge_logits() {
        let mut p = [1000.0, 1000.0 + 2f32.ln(), -1e30];
        softmax_in_place(&mut p);
        assert!((p[0] - 1.0 / 3.0).abs() < 1e-4 && (p[1] - 2.0 / 3.0).abs() < 1e-4 && p[2] == 0.0, "{p:?}");
        assert_eq!(argmax(&p), 1);
    }

    #[test]
    fn sigmoid_is_symmetric_and_bounded() {
        assert!((sigmoid(3f32.ln()) - 0.75).abs() < 1e-6 && (sigmoid(-(3f32.ln())) - 0.25).abs() < 1e-6);
        assert_eq!((sigmoid(-1e30), sigmoid(1e30)), (0.0, 1.0));
    }

    #[test]
    fn heads_come_back_from_their_file_unchanged() {
        let heads = example();
        let bytes = heads.to_safetensors().unwrap();
        assert_eq!(Heads::from_safetensors(&bytes).unwrap(), heads);
        let neutral = heads.with_neutral(Some([0.5, -1.0, 2.0].into())).unwrap();
        let bytes = neutral.to_safetensors().unwrap();
        assert_eq!(Heads::from_safetensors(&bytes).unwrap(), neutral);
        assert_eq!(neutral.neutral().map(|place| place.to_vec()), Some(vec![0.5, -1.0, 2.0]));
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_and_never_a_panic() {
        let bytes = example().to_safetensors().unwrap();
        for end in 0..bytes.len() {
            assert!(Heads::from_safetensors(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let bytes = example().to_safetensors().unwrap();
        let stated = br#""format":"1""#;
        let at = bytes.windows(stated.len()).position(|w| w == stated).unwrap();
        let mut newer = bytes;
        newer[at + stated.len() - 2] = b'7';
        let error = Heads::from_safetensors(&newer).unwrap_err().to_string();
        assert!(error.contains("format 7 is newer"), "{error}");
    }

    #[test]
    fn wrong_shapes_and_nan_are_refused() {
        let labels = || vec!["a".to_owned(), "b".to_owned()];
        assert!(LinearHead::new("h", labels(), 2, vec![0.0; 3], vec![0.0; 2]).is_err());
        assert!(LinearHead::new("h", labels(), 2, vec![f32::NAN; 4], vec![0.0; 2]).is_err());
        let head = example().expression().unwrap().clone();
        assert!(Heads::new(5, [(HeadKind::Expression, head.clone())]).is_err());
        let error = Heads::new(3, [(HeadKind::ValenceArousal, head)]).unwrap_err().to_string();
        assert!(error.contains("neutral, happy") && error.contains("valence, arousal"), "{error}");
    }
}
