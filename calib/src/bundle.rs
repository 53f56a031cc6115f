//! What heads are fitted to needs of a bundle: its heads and which encoder they read.
//!
//! `face` reads bundles whole; this crate has no need of models, and reads the manifest's lines on heads and encoder alone.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::heads::{Heads, HeadsError};

/// The newest format of bundles that is known.
const FORMAT: u32 = 2;
const MANIFEST: &str = "bundle.toml";

/// Why a bundle's heads could not be read.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The bundle was written by a newer version.
    #[error("{}: bundle format {found} is newer than this build reads (up to {FORMAT}): update Semblance", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that it states.
        found: u32,
    },
    /// The heads are not those that the manifest names.
    #[error("{}: its sha256 is not the one in the bundle's manifest: fetch the bundle again", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
    },
    /// No usual place has a bundle of that name.
    #[error("no bundle '{name}' found (looked in {places}): name a folder with --bundle DIR")]
    NotFound {
        /// The name.
        name: String,
        /// The folders that were looked for.
        places: String,
    },
    /// The heads cannot be read, or do not fit the encoder.
    #[error("{}: {source}", path.display())]
    Heads {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: HeadsError,
    },
}

/// The name of the bundle that is used where none is asked for.
const DEFAULT: &str = "default";

/// Where packages put bundles.
const INSTALLED: &str = "/usr/share/semblance";

/// The folder of the bundle asked for: `asked` itself, or, where that is only a name, or nothing (which is `default`), the first
/// `models/NAME` in the working folder, beside the program, or installed.
///
/// # Errors
/// [`BundleError::NotFound`] of a name. Whether a folder that was asked for is a bundle is found out by who opens it.
pub fn find(asked: Option<&Path>) -> Result<PathBuf, BundleError> {
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    let roots = [Some(Path::new("")), beside, Some(Path::new(INSTALLED))];
    find_in(asked, roots.into_iter().flatten())
}

fn find_in<'a>(asked: Option<&Path>, roots: impl Iterator<Item = &'a Path>) -> Result<PathBuf, BundleError> {
    let name = asked.unwrap_or(Path::new(DEFAULT));
    if let Some(folder) = asked
        && (folder.exists() || !matches!(folder.components().collect::<Vec<_>>()[..], [Component::Normal(_)]))
    {
        return Ok(folder.to_owned());
    }
    let places: Vec<PathBuf> = roots.map(|root| root.join("models").join(name)).collect();
    places.iter().find(|folder| folder.join(MANIFEST).is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|folder| folder.display().to_string()).collect();
        BundleError::NotFound { name: name.display().to_string(), places: places.join(", ") }
    })
}

/// A bundle's heads and the identity of its encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Shipped {
    /// SHA-256 of the encoder, in hexadecimal: profiles are for embeddings of this one alone.
    pub encoder: String,
    /// The heads.
    pub heads: Heads,
}

#[derive(Deserialize)]
struct Manifest {
    format: u32,
    encoder: Encoder,
    heads: File,
}

#[derive(Deserialize)]
struct Encoder {
    sha256: String,
    embedding_size: usize,
}

#[derive(Deserialize)]
struct File {
    file: String,
    sha256: String,
}

impl Shipped {
    /// Reads the bundle in `dir`.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        let read =
            |path: &Path| fs::read(path).map_err(|source| BundleError::Io { path: path.to_owned(), source });
        let reason = |reason: String| BundleError::Manifest { path: path.clone(), reason };
        let text = String::from_utf8(read(&path)?).map_err(|e| reason(e.to_string()))?;
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| reason(e.message().to_owned()))?;
        // A newer format first: it may have other fields.
        let found = table.get("format").and_then(toml::Value::as_integer).unwrap_or(0);
        if found > i64::from(FORMAT) {
            return Err(BundleError::Newer { path, found: found.try_into().unwrap_or(u32::MAX) });
        }
        let manifest: Manifest =
            table.try_into().map_err(|e: toml::de::Error| reason(e.message().to_owned()))?;
        if manifest.format == 0 || Path::new(&manifest.heads.file).components().count() != 1 {
            return Err(reason("it names no format, or heads outside of the bundle".to_owned()));
        }
        let file = dir.join(&manifest.heads.file);
        let bytes = read(&file)?;
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if hash != manifest.heads.sha256 {
            return Err(BundleError::Hash { path: file });
        }
        let heads =
            Heads::from_safetensors(&bytes).map_err(|source| BundleError::Heads { path: file, source })?;
        if heads.dim() != manifest.encoder.embedding_size {
            let (reads, gives) = (heads.dim(), manifest.encoder.embedding_size);
            return Err(reason(format!("the heads read {reads} values, the encoder gives {gives}")));
        }
        Ok(Self { encoder: manifest.encoder.sha256, heads })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")
    }

    #[test]
    fn a_name_is_looked_for_where_bundles_lie_and_a_folder_taken_as_it_is() {
        let here = tempfile::tempdir().unwrap();
        let installed = tempfile::tempdir().unwrap();
        let find = |asked: Option<&str>| {
            find_in(asked.map(Path::new), [here.path(), installed.path()].into_iter())
                .map_err(|e| e.to_string())
        };
        let add = |root: &Path, name: &str| {
            let folder = root.join("models").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(MANIFEST), "").unwrap();
            folder
        };
        let reason = find(None).unwrap_err();
        assert!(
            reason.contains("'default'") && reason.contains(&here.path().display().to_string()),
            "{reason}"
        );
        let far = add(installed.path(), "default");
        assert_eq!(find(None).unwrap(), far);
        let near = add(here.path(), "default");
        assert_eq!(find(None).unwrap(), near, "the nearer one comes first");
        let small = add(installed.path(), "small");
        assert_eq!(find(Some("small")).unwrap(), small);
        assert!(find(Some("huge")).unwrap_err().contains("'huge'"));
        for folder in ["./huge", "/nowhere/huge", "models/huge"] {
            assert_eq!(find(Some(folder)).unwrap(), Path::new(folder));
        }
        assert_eq!(find(small.to_str()).unwrap(), small);
    }

    #[test]
    fn the_shipped_bundle_is_read_and_a_flipped_bit_or_a_newer_format_refused() {
        let bundle = Shipped::open(&shipped()).unwrap();
        assert_eq!((bundle.encoder.len(), bundle.heads.dim()), (64, 256));
        let dir = tempfile::tempdir().unwrap();
        let manifest = fs::read_to_string(shipped().join(MANIFEST)).unwrap();
        let mut heads = fs::read(shipped().join("heads.safetensors")).unwrap();
        let write = |manifest: &str, heads: &[u8]| {
            fs::write(dir.path().join(MANIFEST), manifest).unwrap();
            fs::write(dir.path().join("heads.safetensors"), heads).unwrap();
            Shipped::open(dir.path()).map_err(|e| e.to_string())
        };
        assert_eq!(write(&manifest, &heads).unwrap(), bundle);
        assert!(write(&manifest.replace("format = 2", "format = 9"), &heads).unwrap_err().contains("newer"));
        assert!(write("format = ", &heads).unwrap_err().contains(MANIFEST));
        let outside = manifest.replace("\"heads.safetensors\"", "\"../heads.safetensors\"");
        assert!(write(&outside, &heads).unwrap_err().contains("outside"));
        let last = heads.len() - 1;
        heads[last] ^= 1;
        assert!(write(&manifest, &heads).unwrap_err().contains("sha256"));
    }
}
