//! The first layers of VGG-19 (Simonyan & Zisserman 2015), which FaceCycle generates and compares pictures by.

use std::path::Path;

use tch::{Tensor, nn};

use crate::descriptor::{DescriptorError, load_weights};
use crate::nets::Conv;

/// Convolutions by their numbers among torchvision's `features`, with channels in and out; pooling comes before those that are
/// marked.
const CONVS: [(usize, i64, i64, bool); 9] = [
    (0, 3, 64, false),
    (2, 64, 64, false),
    (5, 64, 128, true),
    (7, 128, 128, false),
    (10, 128, 256, true),
    (12, 256, 256, false),
    (14, 256, 256, false),
    (16, 256, 256, false),
    (19, 256, 512, true),
];

/// How far the network goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The first convolution of the third stage.
    Conv3_1,
    /// The first of the fourth.
    Conv4_1,
}

/// Convolutions with ReLUs.
#[derive(Debug)]
pub(super) struct Vgg(Vec<(usize, Conv, bool)>);

/// Features after ReLUs, finest first: of the first convolutions of the second stage (half the side), of the third (a quarter)
/// and, where the network goes so far, of the fourth.
pub(super) struct Features(pub(super) Vec<Tensor>);

impl Vgg {
    /// Fresh weights under `features.*`, as torchvision names them; `share` divides the channels.
    pub(super) fn new(path: &nn::Path<'_>, until: Until, share: i64) -> Self {
        let last = match until {
            Until::Conv3_1 => 10,
            Until::Conv4_1 => 19,
        };
        let convs = CONVS.into_iter().take_while(|(number, ..)| *number <= last);
        let conv = |(number, c_in, c_out, pooled): (usize, i64, i64, bool)| {
            let c_in = if c_in == 3 { 3 } else { c_in / share };
            let path = path / "features" / number;
            (number, Conv::new(&path, c_in, c_out / share, 3, 1), pooled)
        };
        Self(convs.map(conv).collect())
    }

    /// Features of pictures `[N,3,S,S]` with ImageNet's normalisation.
    pub(super) fn features(&self, pictures: &Tensor) -> Features {
        let mut kept = Vec::new();
        let mut x = pictures.shallow_clone();
        for (number, conv, pooled) in &self.0 {
            if *pooled {
                x = x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
            }
            x = conv.forward(&x).relu();
            if matches!(number, 5 | 10 | 19) {
                kept.push(x.shallow_clone());
            }
        }
        Features(kept)
    }

    /// Puts torchvision's weights for ImageNet in, which then stay as they are. `vs` holds nothing else.
    ///
    /// # Errors
    /// [`DescriptorError`], which names file and tensor.
    pub(super) fn load(vs: &nn::VarStore, path: &Path) -> Result<(), DescriptorError> {
        let last = vs.variables().keys().filter_map(|name| number_of(name)).max().unwrap_or(0);
        // The classifier and deeper layers.
        let unused =
            |name: &str| name.starts_with("classifier.") || number_of(name).is_some_and(|n| n > last);
        load_weights(vs, path, "vgg19", |ours| Some(ours.to_owned()), unused)?;
        for (_, variable) in vs.variables() {
            let _ = variable.set_requires_grad(false);
        }
        Ok(())
    }
}

/// The number of a layer of `features`, by a tensor's name.
fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix("features.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn it_has_the_published_weights_and_its_files_are_checked() {
        let vs = nn::VarStore::new(Device::Cpu);
        let vgg = Vgg::new(&vs.root(), Until::Conv4_1, 1);
        // Configuration E of the paper up to conv4_1.
        let conv = |c_in: i64, c_out: i64| c_out * (9 * c_in + 1);
        let expected = conv(3, 64)
            + conv(64, 64)
            + conv(64, 128)
            + conv(128, 128)
            + conv(128, 256)
            + 3 * conv(256, 256)
            + conv(256, 512);
        assert_eq!(vs.variables().values().map(|v| v.numel() as i64).sum::<i64>(), expected);
        let features = vgg.features(&Tensor::zeros([1, 3, 32, 32], (Kind::Float, Device::Cpu)));
        let sizes: Vec<_> = features.0.iter().map(Tensor::size).collect();
        assert_eq!(sizes, [[1, 128, 16, 16], [1, 256, 8, 8], [1, 512, 4, 4]]);

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vgg19.safetensors");
        let save = |vs: &nn::VarStore| {
            let all = vs.variables().into_iter().map(|(name, t)| (name, t.detach().contiguous()));
            Tensor::write_safetensors(&all.collect::<Vec<_>>(), &file).unwrap();
        };
        save(&vs);
        let short = nn::VarStore::new(Device::Cpu);
        let _vgg = Vgg::new(&short.root(), Until::Conv3_1, 1);
        Vgg::load(&short, &file).unwrap();
        let (a, b) = (&short.variables()["features.10.weight"], &vs.variables()["features.10.weight"]);
        assert!(a.equal(b) && !a.requires_grad());
        save(&short);
        let deep = nn::VarStore::new(Device::Cpu);
        let _vgg = Vgg::new(&deep.root(), Until::Conv4_1, 1);
        let error = Vgg::load(&deep, &file).unwrap_err().to_string();
        assert!(error.contains("is missing") && error.contains("torchvision's vgg19"), "{error}");
    }
}
