//! One file with everything that a run needs to go on: weights, buffers, optimiser state and progress.
//!
//! A checkpoint is a safetensors file. Tensors are named `model.<variable>` and as the optimiser names its own; the
//! metadata entry `semblance` holds a description as JSON, [`Meta`] for encoders. It is written beside its place and renamed, so a crash leaves
//! the previous one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View};
use semblance_face::bundle::sha256_hex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};
use thiserror::Error;

use crate::files;
use crate::nets::Backbone;
use crate::store::Store;

/// The version of checkpoint that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// The file's name within a run's folder.
pub const FILE_NAME: &str = "checkpoint.safetensors";

const META_KEY: &str = "semblance";
const MODEL: &str = "model.";
const AVERAGE: &str = "average.";

/// What a checkpoint is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Format version, [`FORMAT`].
    pub format: u32,
    /// The encoder's architecture.
    pub backbone: Backbone,
    /// Side of its input in pixels.
    pub side_px: u32,
    /// Channel means that crops in `[0,1]` are normalised with.
    pub mean: [f32; 3],
    /// Channel deviations that crops in `[0,1]` are normalised with.
    pub std: [f32; 3],
    /// How the weights came to be: a method, or `finetune`.
    pub method: String,
    /// Labels of the linear head `head.*`, where the run trained one.
    pub labels: Vec<String>,
    /// Rows of each head that was trained together with others, by its place among the weights.
    #[serde(default)]
    pub heads: BTreeMap<String, Vec<String>>,
    /// Steps done.
    pub step: i64,
    /// The run's configuration.
    pub config: toml::Table,
    /// Scores measured at its end, by name.
    pub scores: toml::Table,
    /// The stores that it was pretrained on, in order; none where an earlier build wrote it.
    #[serde(default)]
    pub data: Vec<StoreMark>,
    /// SHA-256 of the checkpoints that it began with or learnt from, by what they were to it; not known of an earlier build's.
    #[serde(default)]
    pub origins: Option<BTreeMap<String, String>>,
}

/// What a store is known again by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMark {
    /// Its folder's name, for messages.
    pub name: String,
    /// Its frames.
    pub frames: u64,
    /// The checksum of its index.
    pub checksum: u32,
}

impl StoreMark {
    /// That of a store as it is.
    pub fn of(store: &Store) -> Self {
        Self { name: files::name_of(store.dir()), frames: store.header().frames, checksum: store.checksum() }
    }
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a checkpoint, or a damaged one.
    #[error("{}: not a readable checkpoint: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer version wrote it.
    #[error("{}: checkpoint format {found} is newer than this build reads (up to {FORMAT}): update Semblance", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version that it states.
        found: u32,
    },
    /// It does not hold a tensor that the model needs, or holds another shape.
    #[error("{}: tensor '{name}' {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Weights and buffers of `vs`, named for a checkpoint.
pub fn model_tensors(vs: &nn::VarStore) -> Vec<(String, Tensor)> {
    vs.variables().into_iter().map(|(name, tensor)| (format!("{MODEL}{name}"), tensor)).collect()
}

/// A moving average of weights, by the names that they have in their store of variables, named for a checkpoint.
pub fn average_tensors(average: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    average.iter().map(|(name, tensor)| (format!("{AVERAGE}{name}"), tensor.shallow_clone())).collect()
}

/// Writes a checkpoint to `path`, whole or not at all.
///
/// # Errors
/// [`CheckpointError::Io`] where the disk does not take it; a checkpoint that was there stays.
pub fn save(
    path: &Path,
    meta: &impl Serialize,
    tensors: Vec<(String, Tensor)>,
) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let malformed = |reason: String| CheckpointError::Malformed { path: path.to_owned(), reason };
    let json = serde_json::to_string(meta).map_err(|e| malformed(e.to_string()))?;
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = Floats::of(&tensor).map_err(|e| malformed(format!("tensor '{name}': {e}")))?;
        views.push((name, view));
    }
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let bytes = safetensors::serialize(views, Some(HashMap::from([(META_KEY.to_owned(), json)])))
        .map_err(|e| malformed(e.to_string()))?;
    files::replace(path, &bytes).map_err(io)
}

/// A checkpoint in memory, described by an `M` with a field `format`.
#[derive(Debug)]
pub struct Checkpoint<M = Meta> {
    path: PathBuf,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What it is of.
    pub meta: M,
    tensors: HashMap<String, Tensor>,
}

impl<M: DeserializeOwned> Checkpoint<M> {
    /// Reads `path`: a checkpoint, or a run's folder with one in it.
    ///
    /// # Errors
    /// [`CheckpointError`], which names the file.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { path.to_owned() };
        let bytes =
            std::fs::read(&path).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        Self::parse(path, &bytes)
    }

    /// A checkpoint whose file is read already.
    ///
    /// # Errors
    /// [`CheckpointError`], which names the file.
    pub fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let malformed = |reason: String| CheckpointError::Malformed { path: path.clone(), reason };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| malformed(e.to_string()))?;
        let container = SafeTensors::deserialize(bytes).map_err(|e| malformed(e.to_string()))?;
        let json = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(META_KEY))
            .ok_or_else(|| malformed(format!("the metadata lacks '{META_KEY}'")))?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_str(json).map_err(|e| malformed(e.to_string()))?;
        if version.format > FORMAT {
            return Err(CheckpointError::Newer { path, found: version.format });
        }
        let meta = serde_json::from_str(json).map_err(|e| malformed(e.to_string()))?;
        let mut tensors = HashMap::new();
        for (name, view) in container.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(malformed(format!("tensor '{name}' is {:?}, not F32", view.dtype())));
            }
            let shape: Vec<i64> = view.shape().iter().map(|&d| d as i64).collect();
            tensors.insert(name, Tensor::from_slice(&floats_of(view.data())).reshape(shape));
        }
        Ok(Self { path, sha256: sha256_hex(bytes), meta, tensors })
    }

    /// A checkpoint that no run has written, of variables by the names that they have in a run.
    pub(crate) fn of(path: PathBuf, sha256: String, meta: M, variables: Vec<(String, Tensor)>) -> Self {
        let tensors =
            variables.into_iter().map(|(name, tensor)| (format!("{MODEL}{name}"), tensor)).collect();
        Self { path, sha256, meta, tensors }
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] where there is none.
    pub fn tensor(&self, name: &str) -> Result<Tensor, CheckpointError> {
        let tensor = self.tensors.get(name).map(Tensor::shallow_clone);
        tensor.ok_or_else(|| self.problem(name, "is missing".to_owned()))
    }

    /// The weight of this name as it is evaluated and exported: the moving average where the run kept one.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] where there is none.
    pub fn weight(&self, name: &str) -> Result<Tensor, CheckpointError> {
        self.average(name).or_else(|_| self.tensor(&format!("{MODEL}{name}")))
    }

    /// The moving average of the weight of this name.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] where there is none.
    pub fn average(&self, name: &str) -> Result<Tensor, CheckpointError> {
        self.tensor(&format!("{AVERAGE}{name}"))
    }

    /// Copies every variable of `vs` from the checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for one that is missing or has another shape.
    pub fn restore(&self, vs: &nn::VarStore) -> Result<(), CheckpointError> {
        self.copy(vs, |name| format!("{MODEL}{name}"))
    }

    /// As [`Checkpoint::restore`], but a weight that the run kept a moving average of is that average.
    ///
    /// # Errors
    /// As [`Checkpoint::restore`].
    pub fn restore_average(&self, vs: &nn::VarStore) -> Result<(), CheckpointError> {
        self.copy(vs, |name| {
            let average = format!("{AVERAGE}{name}");
            if self.tensors.contains_key(&average) { average } else { format!("{MODEL}{name}") }
        })
    }

    fn copy(&self, vs: &nn::VarStore, place: impl Fn(&str) -> String) -> Result<(), CheckpointError> {
        for (name, mut variable) in vs.variables() {
            let name = place(&name);
            let saved = self.tensor(&name)?;
            if saved.size() != variable.size() {
                let problem = format!("has shape {:?}, not {:?}", saved.size(), variable.size());
                return Err(self.problem(&name, problem));
            }
            tch::no_grad(|| variable.copy_(&saved));
        }
        Ok(())
    }

    fn problem(&self, name: &str, problem: String) -> CheckpointError {
        CheckpointError::Tensor { path: self.path.clone(), name: name.to_owned(), problem }
    }
}

/// A tensor's shape and values in little-endian f32.
struct Floats {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Floats {
    fn of(tensor: &Tensor) -> Result<Self, tch::TchError> {
        let values = floats(tensor)?;
        let shape = tensor.size().iter().map(|&d| d as usize).collect();
        Ok(Self { shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() })
    }
}

/// The values of little-endian f32, as files hold them; bytes at the end that make no whole value are left out.
pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    let (fours, _) = bytes.as_chunks::<4>();
    fours.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

/// The tensor's values in row-major order.
///
/// # Errors
/// Those of libtorch where the values cannot be copied to the host.
pub fn floats(tensor: &Tensor) -> Result<Vec<f32>, tch::TchError> {
    Vec::try_from(
        tensor.detach().to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous().flatten(0, -1),
    )
}

impl View for Floats {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
