//! The bundle: a folder with an encoder, its heads, the networks that find faces and the settings they were trained with.
//!
//! `bundle.toml` names every other file with its SHA-256, and each is checked before it is used. A bundle is written
//! beside its place and renamed, so that there is never half of one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::CropTemplate;

/// The version of bundle that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 2;

/// The file that a folder is known as a bundle by.
pub const MANIFEST: &str = "bundle.toml";

/// Why a bundle could not be read or written.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `bundle.toml` is not as it should be.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, in one line.
        reason: String,
    },
    /// A newer version wrote the bundle.
    #[error("{}: bundle format {found} is newer than this build reads (up to {FORMAT}): update Semblance", path.display())]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// The version that it states.
        found: u32,
    },
    /// A file is not the one that the manifest was written for.
    #[error("{}: sha256 is {found}, but bundle.toml says {expected}: the file is damaged, fetch or export the bundle again", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// The manifest's hash.
        expected: String,
        /// The file's hash.
        found: String,
    },
}

/// A file of the bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name in the bundle's folder.
    pub file: String,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// The encoder's file and how it wants its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderEntry {
    /// ONNX, `[N,3,S,S]` f32 to `[N,D]` f32.
    #[serde(flatten)]
    pub file: FileEntry,
    /// Architecture, as the trainer calls it.
    pub backbone: String,
    /// `S`, in pixels.
    pub input_side_px: u32,
    /// What is subtracted from each channel in `[0,1]`.
    pub mean: [f32; 3],
    /// What each channel is then divided by.
    pub std: [f32; 3],
    /// `D`.
    pub embedding_size: usize,
}

/// A network that finds faces or landmarks, and how it was trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaceNetEntry {
    /// ONNX: see [`crate::finder::ConvFinder::new`] and [`crate::Landmarker::new`].
    #[serde(flatten)]
    pub file: FileEntry,
    /// Side of the input in pixels; for a finder, the longer side that it is meant for.
    pub input_side_px: u32,
    /// How it was trained.
    #[serde(default)]
    pub training: toml::Table,
}

/// The names behind the heads' rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelSets {
    /// Expressions, in the order of the head.
    pub expression: Vec<String>,
    /// Action units, in the order of the head.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub au: Vec<String>,
}

/// The content of `bundle.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version, [`FORMAT`].
    pub format: u32,
    /// The bundle's name.
    pub name: String,
    /// The encoder.
    pub encoder: EncoderEntry,
    /// The face finder; bundles of format 1 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finder: Option<FaceNetEntry>,
    /// The landmark network; bundles of format 1 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landmarks: Option<FaceNetEntry>,
    /// The framing that the encoder was trained on.
    pub crop: CropTemplate,
    /// The linear heads, a file of crate `semblance-calib`.
    pub heads: FileEntry,
    /// The names behind the heads' rows.
    pub labels: LabelSets,
    /// How it was trained.
    #[serde(default)]
    pub training: toml::Table,
    /// How it scored.
    #[serde(default)]
    pub scores: toml::Table,
}

/// A bundle in memory, every file checked.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    encoder: Vec<u8>,
    finder: Option<Vec<u8>>,
    landmarks: Option<Vec<u8>>,
    heads: Vec<u8>,
}

impl Bundle {
    /// Reads and checks the bundle in `dir`.
    ///
    /// # Errors
    /// [`BundleError`], which names the file.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        let text =
            fs::read_to_string(&path).map_err(|source| BundleError::Io { path: path.clone(), source })?;
        let bad = |e: toml::de::Error| BundleError::Manifest {
            path: path.clone(),
            reason: e.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = toml::from_str(&text).map_err(bad)?;
        if version.format > FORMAT {
            return Err(BundleError::Newer { path, found: version.format });
        }
        let manifest: Manifest = toml::from_str(&text).map_err(bad)?;
        if let Some(reason) = manifest.problem() {
            return Err(BundleError::Manifest { path, reason });
        }
        let encoder = read_checked(dir, &manifest.encoder.file)?;
        let heads = read_checked(dir, &manifest.heads)?;
        let net = |entry: &Option<FaceNetEntry>| {
            entry.as_ref().map(|entry| read_checked(dir, &entry.file)).transpose()
        };
        let (finder, landmarks) = (net(&manifest.finder)?, net(&manifest.landmarks)?);
        Ok(Self { dir: dir.to_owned(), manifest, encoder, finder, landmarks, heads })
    }

    /// Where it was read from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bytes of the encoder's ONNX file.
    pub fn encoder_onnx(&self) -> &[u8] {
        &self.encoder
    }

    /// The bytes of the finder's ONNX file, where there is one.
    pub fn finder_onnx(&self) -> Option<&[u8]> {
        self.finder.as_deref()
    }

    /// The bytes of the landmark network's ONNX file, where there is one.
    pub fn landmarks_onnx(&self) -> Option<&[u8]> {
        self.landmarks.as_deref()
    }

    /// The bytes of the heads' safetensors file.
    pub fn heads_safetensors(&self) -> &[u8] {
        &self.heads
    }

    /// Its manifest and its files by name, to write it anew with something changed.
    pub fn into_parts(self) -> (Manifest, BTreeMap<String, Vec<u8>>) {
        let name = |net: &FaceNetEntry| net.file.file.clone();
        let nets = [
            self.manifest.finder.as_ref().map(name).zip(self.finder),
            self.manifest.landmarks.as_ref().map(name).zip(self.landmarks),
        ];
        let own = [
            (self.manifest.encoder.file.file.clone(), self.encoder),
            (self.manifest.heads.file.clone(), self.heads),
        ];
        let files = own.into_iter().chain(nets.into_iter().flatten()).collect();
        (self.manifest, files)
    }

    /// Writes a bundle to `dir`, whole or not at all; one that is there is replaced. `files` maps names to contents;
    /// the hashes in the manifest are filled in from them. Files of an earlier bundle that `keep` names (a model
    /// card, say) stay.
    ///
    /// # Errors
    /// [`BundleError::Io`] where the disk does not take it, [`BundleError::Manifest`] where the manifest is not valid
    /// or names a file that is not given.
    pub fn write(
        dir: &Path,
        mut manifest: Manifest,
        files: &BTreeMap<String, Vec<u8>>,
        keep: &[&str],
    ) -> Result<(), BundleError> {
        let bad = |reason: String| BundleError::Manifest { path: dir.join(MANIFEST), reason };
        manifest.format = FORMAT;
        for entry in manifest.files_mut() {
            let bytes =
                files.get(&entry.file).ok_or_else(|| bad(format!("file '{}' is not given", entry.file)))?;
            entry.sha256 = sha256_hex(bytes);
        }
        if let Some(reason) = manifest.problem() {
            return Err(bad(reason));
        }
        let text = toml::to_string(&manifest).map_err(|e| bad(e.to_string()))?;
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let fresh = parent.join(format!(".{name}.partial"));
        let old = parent.join(format!(".{name}.old"));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| BundleError::Io { path, source }
        };
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).map_err(at(&fresh))?;
        for (file, bytes) in files {
            write_synced(&fresh.join(file), bytes)?;
        }
        write_synced(&fresh.join(MANIFEST), text.as_bytes())?;
        for file in keep {
            if dir.join(file).is_file() && !files.contains_key(*file) {
                fs::copy(dir.join(file), fresh.join(file)).map_err(at(&fresh.join(file)))?;
            }
        }
        if dir.exists() {
            let _ = fs::remove_dir_all(&old);
            fs::rename(dir, &old).map_err(at(dir))?;
        }
        fs::rename(&fresh, dir).map_err(at(dir))?;
        let _ = fs::remove_dir_all(&old);
        File::open(parent).and_then(|f| f.sync_all()).map_err(at(parent))
    }
}

impl Manifest {
    /// Every file of the bundle besides the manifest.
    fn files(&self) -> impl Iterator<Item = &FileEntry> {
        let nets = [&self.finder, &self.landmarks].into_iter().flatten().map(|net| &net.file);
        [&self.encoder.file, &self.heads].into_iter().chain(nets)
    }

    fn files_mut(&mut self) -> impl Iterator<Item = &mut FileEntry> {
        let nets = [&mut self.finder, &mut self.landmarks].into_iter().flatten().map(|net| &mut net.file);
        [&mut self.encoder.file, &mut self.heads].into_iter().chain(nets)
    }

    /// The first thing that makes no sense, in words.
    fn problem(&self) -> Option<String> {
        let encoder = &self.encoder;
        for entry in self.files() {
            let plain = Path::new(&entry.file).file_name().is_some_and(|name| name == entry.file.as_str());
            if !plain {
                return Some(format!("'{}' is not a plain file name", entry.file));
            }
        }
        if !(8..=1024).contains(&encoder.input_side_px) {
            return Some(format!("input_side_px = {} is outside 8 to 1024", encoder.input_side_px));
        }
        for (name, net) in [("finder", &self.finder), ("landmarks", &self.landmarks)] {
            if let Some(net) = net.as_ref().filter(|net| !(32..=1024).contains(&net.input_side_px)) {
                return Some(format!("{name}: input_side_px = {} is outside 32 to 1024", net.input_side_px));
            }
        }
        if encoder.embedding_size == 0 {
            return Some("embedding_size is 0".to_owned());
        }
        if !(encoder.mean.iter().all(|v| v.is_finite())
            && encoder.std.iter().all(|v| v.is_normal() && *v > 0.0))
        {
            return Some("mean must be finite and std above 0".to_owned());
        }
        let crop = &self.crop;
        let numbers = crop.points.as_flattened().iter().chain(&crop.box_shift);
        if !(numbers.clone().all(|v| v.is_finite()) && crop.box_scale.is_normal() && crop.box_scale > 0.0) {
            return Some("the crop template must be finite and box_scale above 0".to_owned());
        }
        None
    }
}

fn read_checked(dir: &Path, entry: &FileEntry) -> Result<Vec<u8>, BundleError> {
    let path = dir.join(&entry.file);
    let bytes = fs::read(&path).map_err(|source| BundleError::Io { path: path.clone(), source })?;
    let found = sha256_hex(&bytes);
    if found != entry.sha256.to_lowercase() {
        return Err(BundleError::Hash { path, expected: entry.sha256.clone(), found });
    }
    Ok(bytes)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let io = |source| BundleError::Io { path: path.to_owned(), source };
    let mut file = File::create(path).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)
}

/// The SHA-256 of `bytes` in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest() -> Manifest {
        let file = |name: &str| FileEntry { file: name.to_owned(), sha256: String::new() };
        Manifest {
            format: FORMAT,
            name: "test".to_owned(),
            encoder: EncoderEntry {
                file: file("encoder.onnx"),
                backbone: "edge".to_owned(),
                input_side_px: 64,
                mean: [0.5; 3],
                std: [0.25; 3],
                embedding_size: 3,
            },
            finder: Some(FaceNetEntry {
                file: file("finder.onnx"),
                input_side_px: 160,
                training: toml::Table::new(),
            }),
            landmarks: None,
            crop: CropTemplate::default(),
            heads: file("heads.safetensors"),
            labels: LabelSets { expression: vec!["neutral".to_owned(), "happy".to_owned()], au: Vec::new() },
            training: toml::Table::new(),
            scores: toml::Table::new(),
        }
    }

    fn written(dir: &Path) -> PathBuf {
        let files = BTreeMap::from([
            ("encoder.onnx".to_owned(), vec![1, 2, 3]),
            ("heads.safetensors".to_owned(), vec![4, 5]),
            ("finder.onnx".to_owned(), vec![6, 7, 8]),
        ]);
        let bundle = dir.join("b");
        Bundle::write(&bundle, manifest(), &files, &[]).unwrap();
        bundle
    }

    #[test]
    fn a_bundle_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!(bundle.encoder_onnx(), [1, 2, 3]);
        assert_eq!(bundle.heads_safetensors(), [4, 5]);
        assert_eq!((bundle.finder_onnx(), bundle.landmarks_onnx()), (Some(&[6, 7, 8][..]), None));
        assert_eq!(bundle.manifest().encoder.input_side_px, 64);
        written(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the bundle");
    }

    #[test]
    fn a_flipped_bit_in_any_byte_of_any_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        for file in ["encoder.onnx", "heads.safetensors", "finder.onnx"] {
            let whole = fs::read(path.join(file)).unwrap();
            for i in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[i] ^= 1;
                fs::write(path.join(file), &damaged).unwrap();
                let error = Bundle::open(&path).unwrap_err().to_string();
                assert!(error.contains(file) && error.contains("sha256"), "{error}");
            }
            fs::write(path.join(file), whole).unwrap();
        }
        assert!(Bundle::open(&path).is_ok());
    }

    #[test]
    fn sha256_matches_the_standards_example() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), expected);
    }

    #[test]
    fn newer_outside_and_senseless_manifests_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let text = fs::read_to_string(path.join(MANIFEST)).unwrap();
        for (from, to, expected) in [
            ("format = 2", "format = 3\nunknown = 3", "format 3 is newer"),
            ("file = \"encoder.onnx\"", "file = \"../encoder.onnx\"", "plain file name"),
            ("input_side_px = 64", "input_side_px = 0", "input_side_px"),
            ("box_scale = ", "box_scale = -", "box_scale"),
            ("name = \"test\"", "", "name"),
        ] {
            assert!(text.contains(from), "{from} stands in {text}");
            fs::write(path.join(MANIFEST), text.replacen(from, to, 1)).unwrap();
            let error = Bundle::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(MANIFEST) && !error.contains('\n'), "{error}");
        }
    }
}
