//! What SSLFER's MaskFN compares (section 3.4, figure 5): descriptors of the eyes and of the mouth.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor, nn, no_grad};
use thiserror::Error;

use crate::augment::{EYES, Landmarks, MOUTH, affine_crops};
use crate::data::normalise;
use crate::hog::Hog;
use crate::nets::{Backbone, Encoder, Phase, Precision};
use crate::ntxent::unit_rows;

/// Side of the crops in pixels.
const SIDE: i64 = 64;
/// The box around the points of a region is widened by this share of its longer side on every side, so that lids and
/// lips are whole. Ours: neither the paper nor its authors' code says.
const MARGIN: f32 = 0.15;
/// What torchvision's weights expect.
pub(crate) const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
pub(crate) const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Cells of 8 px, blocks of 2x2 cells, 9 bins.
const HOG: Hog = Hog { cell_px: 8, block_cells: 2, bins: 9 };
const HOG_LEN: usize = 7 * 7 * 2 * 2 * 9;

/// Why weights could not be read.
#[derive(Debug, Error)]
pub enum DescriptorError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a safetensors file, or a damaged one.
    #[error("{}: not a readable safetensors file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It lacks a weight of torchvision's network, has another one under its name, or is of another network.
    #[error("{}: tensor '{name}' {problem}; the weights of torchvision's {network} are needed", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// torchvision's name.
        name: String,
        /// What is wrong with it.
        problem: String,
        /// torchvision's name of the network.
        network: &'static str,
    },
}

/// What describes the eyes and the mouth.
#[derive(Debug)]
pub enum Descriptor {
    /// Histograms of oriented gradients of both crops.
    Hog,
    /// Globally averaged features of a frozen ResNet-18 (the paper's: with ImageNet's weights), 512 a crop.
    Resnet18(Box<Frozen>),
}

/// A network that is not trained.
#[derive(Debug)]
pub struct Frozen {
    _vs: nn::VarStore,
    encoder: Encoder,
}

impl Descriptor {
    /// ResNet-18 with the weights in a safetensors file (torchvision's names; f32, f16 or bf16), or HOG where none is
    /// given.
    ///
    /// # Errors
    /// [`DescriptorError`], which names file and tensor.
    pub fn open(weights: Option<&Path>, device: Device) -> Result<Self, DescriptorError> {
        let Some(path) = weights else { return Ok(Self::Hog) };
        let vs = nn::VarStore::new(device);
        let encoder = Backbone::Resnet18.at(SIDE as u32).build(&vs.root());
        load_torchvision(&vs, path)?;
        Ok(Self::Resnet18(Box::new(Frozen { _vs: vs, encoder })))
    }

    /// Descriptors of pictures `[N,3,S,S]` in `[0,1]`, before any augmentation: `[N,D]`, rows of length 1, the eyes'
    /// values before the mouth's, without gradient. A picture whose landmarks are not known has a row of zeros.
    pub fn describe(&self, pictures: &Tensor, landmarks: &[Landmarks]) -> Tensor {
        no_grad(|| {
            let parts = [EYES, MOUTH].map(|region| {
                let crops = region_crops(pictures, landmarks, region);
                match self {
                    Self::Hog => describe_by_hog(&crops),
                    Self::Resnet18(frozen) => {
                        let crops = normalise(&crops, IMAGENET_MEAN, IMAGENET_STD);
                        frozen.encoder.forward(&crops, Phase::Eval, Precision::Auto)
                    }
                }
            });
            let known: Vec<f32> =
                landmarks.iter().map(|l| f32::from(u8::from(usable(l).is_some()))).collect();
            let known = Tensor::from_slice(&known).to_device(pictures.device()).unsqueeze(1);
            unit_rows(&Tensor::cat(&parts, 1)) * known
        })
    }
}

/// Landmarks that say something.
fn usable(landmarks: &Landmarks) -> Option<&[f32; 136]> {
    landmarks.as_ref().filter(|points| points.iter().all(|v| v.is_finite()))
}

/// The square around a region's points in each picture, `[N,3,64,64]`; the whole picture where they are not known.
fn region_crops(pictures: &Tensor, landmarks: &[Landmarks], region: std::ops::Range<usize>) -> Tensor {
    let maps = landmarks.iter().map(|landmarks| match usable(landmarks) {
        Some(points) => square_around(&points[2 * region.start..2 * region.end]),
        None => [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    });
    affine_crops(pictures, maps, SIDE)
}

/// The map from a crop's coordinates in `[-1,1]` to the picture's, for the widened square around these points, which
/// are in shares of the sides.
fn square_around(points: &[f32]) -> [f32; 6] {
    let bounds = |axis: usize| {
        let along = points.iter().skip(axis).step_by(2);
        along.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
    };
    let ((left, right), (top, bottom)) = (bounds(0), bounds(1));
    let side = (right - left).max(bottom - top).max(1e-3) * (1.0 + 2.0 * MARGIN);
    [side, 0.0, left + right - 1.0, 0.0, side, top + bottom - 1.0]
}

fn describe_by_hog(crops: &Tensor) -> Tensor {
    let grey = crops.mean_dim([1].as_slice(), false, None).to_device(Device::Cpu).contiguous();
    let pixels = (SIDE * SIDE) as usize;
    let mut values = vec![0.0f32; grey.numel()];
    grey.copy_data(&mut values, grey.numel());
    let mut described = vec![0.0; grey.size()[0] as usize * HOG_LEN];
    values.par_chunks_exact(pixels).zip(described.par_chunks_exact_mut(HOG_LEN)).for_each(|(grey, out)| {
        HOG.describe(grey, SIDE as usize, SIDE as usize, out).expect("both lengths follow from SIDE and HOG");
    });
    Tensor::from_slice(&described).view([-1, HOG_LEN as i64]).to_device(crops.device())
}

/// torchvision's name of a variable of [`Backbone::Resnet18`]; `None` for what it has no counterpart of.
fn torchvision_name(ours: &str) -> Option<String> {
    let parts: Vec<&str> = ours.split('.').collect();
    let (place, layer, kind, value) = match *parts.as_slice() {
        ["stem", kind, value] => (String::new(), "first", kind, value),
        [stage, block, layer, kind, value] => {
            let stage: usize = stage.strip_prefix("stage")?.parse().ok()?;
            (format!("layer{}.{}.", stage + 1, block.strip_prefix("block")?), layer, kind, value)
        }
        _ => return None,
    };
    let name = match (layer, kind) {
        ("first", "conv") => "conv1",
        ("first", "bn") => "bn1",
        ("second", "conv") => "conv2",
        ("second", "bn") => "bn2",
        ("shortcut", "conv") => "downsample.0",
        ("shortcut", "bn") => "downsample.1",
        _ => return None,
    };
    Some(format!("{place}{name}.{value}"))
}

/// Puts the weights of a safetensors file (f32, f16 or bf16) into the variables of `vs`. `name_of` gives the file's name of a
/// variable; `unused` tells what else the file may have; `network` is whose weights they are, for messages.
///
/// # Errors
/// [`DescriptorError`], which names file and tensor.
pub(crate) fn load_weights(
    vs: &nn::VarStore,
    path: &Path,
    network: &'static str,
    name_of: impl Fn(&str) -> Option<String>,
    unused: impl Fn(&str) -> bool,
) -> Result<(), DescriptorError> {
    let at = path.to_owned();
    let bytes = std::fs::read(path).map_err(|source| DescriptorError::Io { path: at.clone(), source })?;
    let malformed = |reason: String| DescriptorError::Malformed { path: at.clone(), reason };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
    let mut names: HashSet<&str> = file.names().into_iter().filter(|name| !unused(name)).collect();
    for (ours, mut variable) in vs.variables() {
        let name = name_of(&ours).ok_or_else(|| malformed(format!("'{ours}' has no counterpart")))?;
        let wrong = |problem: String| DescriptorError::Tensor {
            path: at.clone(),
            name: name.clone(),
            problem,
            network,
        };
        let view = file.tensor(&name).map_err(|_| wrong("is missing".to_owned()))?;
        let shape: Vec<i64> = view.shape().iter().map(|&d| d as i64).collect();
        if shape != variable.size() {
            return Err(wrong(format!("has shape {shape:?}, not {:?}", variable.size())));
        }
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            other => return Err(wrong(format!("is {other:?}, not F32, F16 or BF16"))),
        };
        let values = Tensor::from_data_size(view.data(), &shape, kind);
        if !bool::try_from(values.isfinite().all()).unwrap_or(false) {
            return Err(wrong("has values that are not finite".to_owned()));
        }
        no_grad(|| variable.copy_(&values));
        names.remove(name.as_str());
    }
    // The first layers of a deeper network fit too.
    match names.into_iter().min() {
        Some(other) => Err(DescriptorError::Tensor {
            path: at,
            name: other.to_owned(),
            problem: "is of another network".to_owned(),
            network,
        }),
        None => Ok(()),
    }
}

fn load_torchvision(vs: &nn::VarStore, path: &Path) -> Result<(), DescriptorError> {
    // Beside the weights that are used there are the classifier, and counts of batches.
    let unused = |name: &str| name.starts_with("fc.") || name.ends_with(".num_batches_tracked");
    load_weights(vs, path, "resnet18", torchvision_name, unused)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashMap;

    /// A weight file whose values any language can make: value `i` of tensor `name` is a sine of `i` and the name's
    /// length.
    fn formula(name: &str, shape: &[i64]) -> Vec<f32> {
        let count: i64 = shape.iter().product();
        let fan_in: i64 = shape.iter().skip(1).product();
        let wave = |i: i64| (0.1 * i as f64 + name.len() as f64).sin();
        let value = |i: i64| match () {
            () if shape.len() == 4 => wave(i) * (2.0 / fan_in as f64).sqrt(),
            () if name.ends_with("running_var") => 1.0 + 0.5 * wave(i).powi(2),
            () if name.ends_with("weight") => 1.0 + 0.1 * wave(i),
            () => 0.1 * wave(i),
        };
        (0..count).map(|i| value(i) as f32).collect()
    }

    /// The formula's weights, one a variable, after `change`.
    fn write_weights(path: &Path, change: impl FnOnce(&mut HashMap<String, (Vec<usize>, Vec<u8>)>)) {
        let vs = nn::VarStore::new(Device::Cpu);
        let _encoder = Backbone::Resnet18.at(SIDE as u32).build(&vs.root());
        let mut tensors = HashMap::new();
        for (ours, variable) in vs.variables() {
            let name = torchvision_name(&ours).unwrap();
            let bytes: Vec<u8> =
                formula(&name, &variable.size()).iter().flat_map(|v| v.to_le_bytes()).collect();
            let shape: Vec<usize> = variable.size().iter().map(|&d| d as usize).collect();
            assert!(tensors.insert(name, (shape, bytes)).is_none(), "{ours}: two variables of one name");
        }
        change(&mut tensors);
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            (name.clone(), safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views.collect::<HashMap<_, _>>(), None, path).unwrap();
    }

    #[test]
    fn the_network_is_torchvisions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resnet18.safetensors");
        write_weights(&path, |tensors| {
            tensors.insert("fc.bias".to_owned(), (vec![2], vec![0; 8]));
            tensors.insert("bn1.num_batches_tracked".to_owned(), (vec![], vec![0; 4]));
        });
        let Descriptor::Resnet18(frozen) = Descriptor::open(Some(&path), Device::Cpu).unwrap() else {
            panic!("weights were given");
        };
        let values: Vec<f32> = (0..3 * 64 * 64).map(|i| (0.01 * f64::from(i)).cos() as f32).collect();
        let picture = Tensor::from_slice(&values).view([1, 3, 64, 64]);
        let features = no_grad(|| frozen.encoder.forward(&picture, Phase::Eval, Precision::F32));
        // torchvision 0.26.0, resnet18 with the same weights and picture, the input of its classifier.
        for (at, expected) in TORCHVISION {
            let ours = features.double_value(&[0, at]);
            assert!((ours - expected).abs() < 1e-3 * expected.abs().max(1.0), "{at}: {ours} {expected}");
        }
    }

    const TORCHVISION: [(i64, f64); 5] =
        [(484, 3.050360), (54, 2.583961), (470, 2.196308), (42, 1.934361), (132, 1.035308)];

    #[test]
    fn files_that_lack_something_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let fail = || Descriptor::open(Some(&path), Device::Cpu).unwrap_err().to_string();
        assert!(fail().contains("w.safetensors"));
        write_weights(&path, |tensors| {
            tensors.remove("layer2.0.downsample.1.running_mean");
        });
        assert!(fail().contains("'layer2.0.downsample.1.running_mean' is missing"), "{}", fail());
        write_weights(&path, |tensors| {
            tensors.get_mut("layer1.1.conv2.weight").unwrap().0 = vec![64, 64, 9];
        });
        assert!(fail().contains("'layer1.1.conv2.weight' has shape [64, 64, 9], not [64, 64, 3, 3]"));
        write_weights(&path, |tensors| {
            let (_, bytes) = tensors.get_mut("bn1.bias").unwrap();
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        assert!(fail().contains("'bn1.bias' has values that are not finite"), "{}", fail());
        // ResNet-34 begins with every tensor of ResNet-18's first stage.
        write_weights(&path, |tensors| {
            tensors.insert("layer1.2.bn1.bias".to_owned(), (vec![64], vec![0; 256]));
        });
        assert!(fail().contains("'layer1.2.bn1.bias' is of another network"), "{}", fail());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(fail().contains("not a readable safetensors file"));
    }

    fn at_corners(
        left: f32,
        top: f32,
        right: f32,
        bottom: f32,
        region: std::ops::Range<usize>,
        points: &mut [f32; 136],
    ) {
        for (i, point) in points[2 * region.start..2 * region.end].chunks_exact_mut(2).enumerate() {
            point[0] = if i % 2 == 0 { left } else { right };
            point[1] = if i % 4 < 2 { top } else { bottom };
        }
    }

    #[test]
    fn crops_show_their_region() {
        let picture = Tensor::zeros([2, 3, 80, 80], (Kind::Float, Device::Cpu));
        // Eyes in a grey patch that is as wide as the widened square, the mouth in a white one.
        let _ = picture.narrow(2, 10, 30).narrow(3, 10, 60).fill_(0.5);
        let _ = picture.narrow(2, 48, 32).narrow(3, 20, 40).fill_(1.0);
        let mut points = [0.5; 136];
        at_corners(0.3, 0.28, 0.55, 0.32, EYES, &mut points);
        at_corners(0.4, 0.7, 0.6, 0.8, MOUTH, &mut points);
        for (region, value) in [(EYES, 0.5), (MOUTH, 1.0)] {
            let crop = region_crops(&picture, &[Some(points), None], region);
            assert_eq!(crop.size(), [2, 3, SIDE, SIDE]);
            let (low, high) = (crop.get(0).min().double_value(&[]), crop.get(0).max().double_value(&[]));
            assert!((low - value).abs() < 1e-6 && (high - value).abs() < 1e-6, "{low} {high} {value}");
        }
    }

    #[test]
    fn alike_regions_are_similar_and_unknown_ones_are_nothing() {
        let pictures = Tensor::rand([2, 3, 80, 80], (Kind::Float, Device::Cpu));
        let shifted = pictures.get(0).roll([4, 6], [1, 2]);
        let pictures = Tensor::stack(&[pictures.get(0), pictures.get(1), shifted, pictures.get(0)], 0);
        let mut points = [0.5; 136];
        at_corners(0.3, 0.3, 0.5, 0.4, EYES, &mut points);
        at_corners(0.4, 0.6, 0.6, 0.7, MOUTH, &mut points);
        let mut moved = points;
        moved.chunks_exact_mut(2).for_each(|p| {
            p[0] += 6.0 / 80.0;
            p[1] += 4.0 / 80.0;
        });
        let mut broken = points;
        broken[80] = f32::NAN;
        let rows =
            Descriptor::Hog.describe(&pictures, &[Some(points), Some(points), Some(moved), Some(broken)]);
        let cosine = |a: i64, b: i64| rows.get(a).dot(&rows.get(b)).double_value(&[]);
        assert!((cosine(0, 0) - 1.0).abs() < 1e-5);
        assert!(cosine(0, 2) > 0.999, "the same face elsewhere: {}", cosine(0, 2));
        assert!(cosine(0, 1) < 0.95, "another: {}", cosine(0, 1));
        assert_eq!(rows.get(3).abs().sum(None).double_value(&[]), 0.0);
    }
}
