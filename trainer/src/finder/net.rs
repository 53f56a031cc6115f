//! The finder's network: dense convolutions on three grids of cells, made for tract.

use semblance_face::finder::{CELL_VALUES, STRIDES};
use tch::{Kind, TchError, Tensor, nn};

use crate::export::{Dim, GraphWriter, Value};
use crate::nets::{Layer, Phase, Precision, RepVgg, Stem};

/// Channels of the stem and of each grid's stage, and the blocks of each stage after the one that halves.
const STEM: i64 = 32;
const STAGES: [(i64, usize); 3] = [(64, 3), (96, 1), (96, 0)];

/// The probability of a face that an untrained network gives each cell (Lin et al. 2017, section 4.1).
const PRIOR: f64 = 0.01;

/// Pictures `[N,3,H,W]` in `[-1,1]`, sides multiples of 8, to [`CELL_VALUES`] a cell for each of [`STRIDES`].
#[derive(Debug)]
pub struct FinderNet {
    stem: Stem,
    stages: Vec<Vec<RepVgg>>,
    heads: Vec<nn::Conv2D>,
}

impl FinderNet {
    /// A network with fresh weights under `path`.
    pub fn new(path: &nn::Path<'_>) -> Self {
        let mut channels = STEM;
        let (mut stages, mut heads) = (Vec::new(), Vec::new());
        for (i, (out, blocks)) in STAGES.into_iter().enumerate() {
            let path = path / format!("stage{i}");
            let mut stage = vec![RepVgg::new(&(&path / "down"), channels, out, 2)];
            stage.extend((0..blocks).map(|b| RepVgg::new(&(&path / format!("block{b}")), out, out, 1)));
            stages.push(stage);
            let mut head = nn::conv2d(&path / "head", out, CELL_VALUES as i64, 1, Default::default());
            tch::no_grad(|| {
                let _ = head.ws.normal_(0.0, 0.01);
                if let Some(bias) = &mut head.bs {
                    let _ = bias.zero_();
                    let _ = bias.get(0).fill_((PRIOR / (1.0 - PRIOR)).ln());
                }
            });
            heads.push(head);
            channels = out;
        }
        Self { stem: Stem::new(&(path / "stem"), STEM), stages, heads }
    }

    /// The cells' values, `[N, cells, CELL_VALUES]` in f32, the grids one after another, each row by row.
    pub fn forward(&self, pictures: &Tensor, phase: Phase<'_>, precision: Precision) -> Tensor {
        let mut x = precision.convolvable(pictures);
        x = self.stem.forward(&x, phase);
        let mut grids = Vec::with_capacity(STRIDES.len());
        for (stage, head) in self.stages.iter().zip(&self.heads) {
            x = stage.iter().fold(x, |x, block| block.forward(&x, phase));
            let cells = x.to_kind(Kind::Float).apply(head);
            grids.push(cells.permute([0, 2, 3, 1]).flatten(1, 2));
        }
        Tensor::cat(&grids, 1)
    }

    /// Writes the network as ONNX: input `picture` `[1,3,H,W]`, outputs `cells_8`, `cells_16`, `cells_32`.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn write(&self) -> Result<Vec<u8>, TchError> {
        let one = Dim::Fixed(1);
        let (mut graph, mut x) =
            GraphWriter::new("finder", "picture", &[one, Dim::Fixed(3), Dim::Symbol("H"), Dim::Symbol("W")]);
        x = self.stem.write(&mut graph, x)?;
        let mut grids: Vec<Value> = Vec::with_capacity(STRIDES.len());
        for (stage, head) in self.stages.iter().zip(&self.heads) {
            x = stage.iter().try_fold(x, |x, block| block.write(&mut graph, x))?;
            let bias = head
                .bs
                .as_ref()
                .map_or_else(|| Tensor::zeros([0], (Kind::Float, head.ws.device())), |b| b.shallow_clone());
            grids.push(graph.conv(x.clone(), &head.ws, &bias, 1, 0)?);
        }
        let names = STRIDES.map(|stride| format!("cells_{stride}"));
        let dims: Vec<[Dim; 4]> = [("H8", "W8"), ("H16", "W16"), ("H32", "W32")]
            .map(|(h, w)| [one, Dim::Fixed(CELL_VALUES as i64), Dim::Symbol(h), Dim::Symbol(w)])
            .to_vec();
        let outputs: Vec<_> = names
            .iter()
            .zip(grids)
            .zip(&dims)
            .map(|((name, grid), dims)| (name.as_str(), grid, &dims[..]))
            .collect();
        Ok(graph.finish(&outputs))
    }
}
