//! Histograms of oriented gradients (Dalal & Triggs 2005), as scikit-image's `hog` computes them: central differences,
//! unsigned orientations, each pixel's magnitude voting for one bin of its own cell, and L2-Hys over blocks that
//! overlap by all but one cell.

use thiserror::Error;

/// Cells, blocks and bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hog {
    /// Side of a cell in pixels.
    pub cell_px: usize,
    /// Side of a block in cells.
    pub block_cells: usize,
    /// Orientations between 0 and 180 degrees.
    pub bins: usize,
}

impl Default for Hog {
    fn default() -> Self {
        Self { cell_px: 8, block_cells: 2, bins: 9 }
    }
}

/// Why a picture has no descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HogError {
    /// The buffers do not have the sizes that were stated.
    #[error("{got} values, but {expected} are needed")]
    Length {
        /// Values that were given.
        got: usize,
        /// Values that are needed.
        expected: usize,
    },
    /// There is nothing to count in, or nothing to count.
    #[error("cells of {} px, blocks of {} cells and {} bins: none of them may be 0", .0.cell_px, .0.block_cells, .0.bins)]
    Empty(Hog),
    /// Not even one block fits.
    #[error("a picture of {width}x{height} is smaller than a block of {block_px} px")]
    Small {
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
        /// The side of a block.
        block_px: usize,
    },
}

/// L2-Hys: values of a normalised block are cut off here, and normalised again.
const CLIP: f32 = 0.2;
const EPS: f32 = 1e-5;

impl Hog {
    /// Values that describe a picture of this size: `blocks_y * blocks_x * block_cells^2 * bins`.
    ///
    /// # Errors
    /// [`HogError::Small`], [`HogError::Empty`].
    pub fn descriptor_len(&self, width: usize, height: usize) -> Result<usize, HogError> {
        let (blocks_x, blocks_y) = self.blocks(width, height)?;
        Ok(blocks_x * blocks_y * self.block_cells * self.block_cells * self.bins)
    }

    fn blocks(&self, width: usize, height: usize) -> Result<(usize, usize), HogError> {
        if [self.cell_px, self.block_cells, self.bins].contains(&0) {
            return Err(HogError::Empty(*self));
        }
        let block_px = self.cell_px * self.block_cells;
        if width < block_px || height < block_px {
            return Err(HogError::Small { width, height, block_px });
        }
        let along = |side: usize| side / self.cell_px - self.block_cells + 1;
        Ok((along(width), along(height)))
    }

    /// Describes a grey picture, row by row, into `out`: block by block, in each cell by cell, in each bin by bin.
    ///
    /// # Errors
    /// [`HogError`] where the sizes do not fit.
    pub fn describe(
        &self,
        grey: &[f32],
        width: usize,
        height: usize,
        out: &mut [f32],
    ) -> Result<(), HogError> {
        let expected = self.descriptor_len(width, height)?;
        for (got, expected) in [(grey.len(), width * height), (out.len(), expected)] {
            if got != expected {
                return Err(HogError::Length { got, expected });
            }
        }
        let cells = self.cells(grey, width, height);
        let (blocks_x, blocks_y) = self.blocks(width, height)?;
        let cells_x = width / self.cell_px;
        let size = self.block_cells * self.block_cells * self.bins;
        for (number, block) in out.chunks_exact_mut(size).enumerate() {
            let (x, y) = (number % blocks_x, number / blocks_x);
            debug_assert!(y < blocks_y);
            for (row, values) in block.chunks_exact_mut(self.block_cells * self.bins).enumerate() {
                let start = ((y + row) * cells_x + x) * self.bins;
                values.copy_from_slice(&cells[start..start + values.len()]);
            }
            normalise(block);
            block.iter_mut().for_each(|v| *v = v.min(CLIP));
            normalise(block);
        }
        Ok(())
    }

    /// The histogram of each cell: mean magnitude of the gradients of each orientation.
    fn cells(&self, grey: &[f32], width: usize, height: usize) -> Vec<f32> {
        let (cells_x, cells_y) = (width / self.cell_px, height / self.cell_px);
        let mut cells = vec![0.0; cells_x * cells_y * self.bins];
        let area = (self.cell_px * self.cell_px) as f32;
        // In f64, so that upright and diagonal gradients, of which pictures of whole numbers have many, lie exactly on
        // their boundaries.
        let boundary = |bin: usize| {
            let (sin, cos) = (std::f64::consts::PI * (bin as f64 / self.bins as f64)).sin_cos();
            [cos as f32, sin as f32]
        };
        let boundaries: Vec<[f32; 2]> = (1..self.bins).map(boundary).collect();
        for y in 0..cells_y * self.cell_px {
            for x in 0..cells_x * self.cell_px {
                let at = y * width + x;
                // Pixels of the rim have no central difference, and no gradient across it.
                let across = if x == 0 || x + 1 == width { 0.0 } else { grey[at + 1] - grey[at - 1] };
                let down = if y == 0 || y + 1 == height { 0.0 } else { grey[at + width] - grey[at - width] };
                let magnitude = (across * across + down * down).sqrt();
                // Unsigned: of two opposite directions the one from 0 to below 180 degrees counts.
                let flipped = down < 0.0 || (down == 0.0 && across < 0.0);
                let (dx, dy) = if flipped { (-across, -down) } else { (across, down) };
                // The bin is the number of boundaries that the direction lies on or beyond.
                let bin = boundaries.iter().filter(|[x, y]| x * dy - y * dx >= 0.0).count();
                let cell = (y / self.cell_px) * cells_x + x / self.cell_px;
                cells[cell * self.bins + bin] += magnitude / area;
            }
        }
        cells
    }
}

fn normalise(block: &mut [f32]) {
    let norm = (block.iter().map(|v| v * v).sum::<f32>() + EPS * EPS).sqrt();
    block.iter_mut().for_each(|v| *v /= norm);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A picture that any language can make: fractions of a small congruence.
    fn picture(width: usize, height: usize) -> Vec<f32> {
        (0..width * height).map(|i| ((i * i * 7 + i * 13) % 101) as f32 / 101.0).collect()
    }

    #[test]
    fn values_are_those_of_scikit_image() {
        // skimage.feature.hog(picture, orientations=9, pixels_per_cell=(6, 6), cells_per_block=(2, 2),
        // block_norm="L2-Hys") of scikit-image 0.26.0: some values, and the sum weighted by place.
        let hog = Hog { cell_px: 6, ..Hog::default() };
        let (width, height) = (32, 26);
        let mut out = vec![0.0; hog.descriptor_len(width, height).unwrap()];
        assert_eq!(out.len(), LENGTH);
        hog.describe(&picture(width, height), width, height, &mut out).unwrap();
        for (at, expected) in REFERENCE {
            assert!((out[at] - expected).abs() < 1e-5, "{at}: {} {expected}", out[at]);
        }
        let weighted: f64 = out.iter().enumerate().map(|(i, v)| f64::from(*v) * ((i % 17) as f64)).sum();
        assert!((weighted - WEIGHTED_SUM).abs() < 1e-2, "{weighted}");
    }

    const LENGTH: usize = 432;
    const WEIGHTED_SUM: f64 = 485.298546;
    const REFERENCE: [(usize, f32); 6] = [
        (0, 0.1340588),
        (5, 0.0000000),
        (37, 0.0301377),
        (100, 0.1240035),
        (211, 0.2288286),
        (431, 0.0845791),
    ];

    #[test]
    fn gradients_on_a_boundary_are_counted_as_scikit_image_counts_them() {
        // Five levels and eight bins: many gradients are upright or diagonal, as those of the rim are. The same call
        // with orientations=8, pixels_per_cell=(8, 8).
        let hog = Hog { bins: 8, ..Hog::default() };
        let (width, height) = (33, 26);
        let levels: Vec<f32> = (0..width * height).map(|i| ((i * i * 7 + i * 13) % 5) as f32 / 4.0).collect();
        let mut out = vec![0.0; hog.descriptor_len(width, height).unwrap()];
        assert_eq!(out.len(), 192);
        hog.describe(&levels, width, height, &mut out).unwrap();
        let reference =
            [(0, 0.107732), (4, 0.0837915), (5, 0.3450415), (37, 0.3497743), (100, 0.1255897), (191, 0.0)];
        for (at, expected) in reference {
            assert!((out[at] - expected).abs() < 1e-5, "{at}: {} {expected}", out[at]);
        }
        let weighted: f64 = out.iter().enumerate().map(|(i, v)| f64::from(*v) * ((i % 17) as f64)).sum();
        assert!((weighted - 141.26357).abs() < 1e-2, "{weighted}");
    }

    #[test]
    fn wrong_sizes_are_named() {
        let hog = Hog::default();
        let none = Hog { bins: 0, ..hog };
        assert_eq!(none.descriptor_len(40, 40), Err(HogError::Empty(none)));
        assert_eq!(hog.descriptor_len(15, 40), Err(HogError::Small { width: 15, height: 40, block_px: 16 }));
        let wrong = hog.describe(&[0.0; 10], 16, 16, &mut [0.0; 36]);
        assert_eq!(wrong, Err(HogError::Length { got: 10, expected: 256 }));
        assert_eq!(hog.describe(&[f32::NAN; 256], 16, 16, &mut [0.0; 36]), Ok(()));
    }
}
