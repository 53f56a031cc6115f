//! Pictures in a grid, each over two lines of text.

mod font;

use std::io::Cursor;
use std::path::Path;

use anyhow::Context;
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use tch::{Kind, Tensor};

use crate::augment::Landmarks;
use crate::files;
use crate::store::Record;

/// Side of a tile's picture, in pixels.
pub(crate) const TILE_PX: u32 = 96;
/// Height of the two lines below a picture, in pixels.
const CAPTION_PX: u32 = 2 * LINE_PX + 4;
const LINE_PX: u32 = font::HEIGHT_PX + 2;
/// Characters in a line.
const LINE_CHARS: usize = ((TILE_PX - MARGIN_PX) / font::ADVANCE_PX) as usize;
/// Left of a line, in pixels.
const MARGIN_PX: u32 = 2;

const BACKGROUND: Rgb<u8> = Rgb([24, 24, 28]);
const LABEL_COLOUR: Rgb<u8> = Rgb([255, 214, 102]);
const NAME_COLOUR: Rgb<u8> = Rgb([160, 160, 170]);
const LANDMARK_COLOUR: Rgb<u8> = Rgb([80, 255, 120]);

/// A picture of a grid, and what stands below it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tile {
    /// `None` leaves the place empty.
    pub(crate) picture: Option<RgbImage>,
    /// Drawn on the picture, in shares of its sides.
    pub(crate) landmarks: Landmarks,
    /// What is too long for a line keeps its end.
    pub(crate) lines: [String; 2],
}

impl Tile {
    /// A picture over these lines.
    pub(crate) fn of(picture: RgbImage, title: impl Into<String>, note: impl Into<String>) -> Self {
        Self { picture: Some(picture), landmarks: None, lines: [title.into(), note.into()] }
    }

    fn draw(&self, sheet: &mut RgbImage, left: u32, top: u32) {
        if let Some(picture) = &self.picture {
            let (width, height) = fit(picture.width(), picture.height());
            let (x, y) = (left + (TILE_PX - width) / 2, top + (TILE_PX - height) / 2);
            let scaled = imageops::resize(picture, width, height, FilterType::Triangle);
            imageops::replace(sheet, &scaled, x.into(), y.into());
            for point in self.landmarks.iter().flat_map(|points| points.chunks_exact(2)) {
                let (px, py) = (point[0] * width as f32, point[1] * height as f32);
                if (0.0..width as f32).contains(&px) && (0.0..height as f32).contains(&py) {
                    sheet.put_pixel(x + px as u32, y + py as u32, LANDMARK_COLOUR);
                }
            }
        }
        let text_top = top + TILE_PX + 2;
        let [title, note] = &self.lines;
        font::draw(sheet, left + MARGIN_PX, text_top, tail(title, LINE_CHARS), LABEL_COLOUR);
        font::draw(sheet, left + MARGIN_PX, text_top + LINE_PX, tail(note, LINE_CHARS), NAME_COLOUR);
    }
}

/// Rows of tiles, as wide as the longest.
pub(crate) fn grid(rows: &[Vec<Tile>]) -> RgbImage {
    let cols = rows.iter().map(Vec::len).max().unwrap_or_default() as u32;
    let row_px = TILE_PX + CAPTION_PX;
    let mut sheet = RgbImage::from_pixel(cols * TILE_PX, rows.len() as u32 * row_px, BACKGROUND);
    for (row, tiles) in (0..).zip(rows) {
        for (col, tile) in (0..).zip(tiles) {
            tile.draw(&mut sheet, col * TILE_PX, row * row_px);
        }
    }
    sheet
}

/// Writes a picture as a PNG file.
///
/// # Errors
/// Names the file that cannot be written.
pub(crate) fn write_png(picture: &RgbImage, path: &Path) -> anyhow::Result<()> {
    let mut png = Vec::new();
    picture.write_to(&mut Cursor::new(&mut png), ImageFormat::Png)?;
    files::put(path, &png)
}

/// A `[3,H,W]` or `[1,H,W]` picture in `[0,1]`; values beyond are clipped.
///
/// # Errors
/// Those of libtorch.
pub(crate) fn image_of(picture: &Tensor) -> anyhow::Result<RgbImage> {
    let size = picture.size();
    let rgb = picture.to_kind(Kind::Float).expand([3, size[1], size[2]], false);
    let bytes = (rgb * 255.0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([1, 2, 0]).contiguous();
    RgbImage::from_raw(size[2] as u32, size[1] as u32, Vec::try_from(bytes.flatten(0, -1))?)
        .context("a picture has three bytes a pixel")
}

/// A store's picture.
///
/// # Errors
/// Where it is damaged.
pub(crate) fn image_in(record: &Record<'_>) -> anyhow::Result<RgbImage> {
    let frame = record.decode()?;
    RgbImage::from_raw(frame.width(), frame.height(), frame.rgb().to_vec())
        .context("a frame has three bytes a pixel")
}

/// The largest size within a tile that keeps the sides' ratio.
fn fit(width: u32, height: u32) -> (u32, u32) {
    let scale = TILE_PX as f32 / width.max(height) as f32;
    let side = |side: u32| ((side as f32 * scale).round() as u32).clamp(1, TILE_PX);
    (side(width), side(height))
}

/// The last `chars` characters.
fn tail(text: &str, chars: usize) -> &str {
    let skip = text.chars().count().saturating_sub(chars);
    text.char_indices().nth(skip).map_or("", |(start, _)| &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_keep_their_end() {
        assert_eq!(tail("person/clip", 4), "clip");
        assert_eq!(tail("ab", 4), "ab");
        assert_eq!(tail("né/ü", 2), "/ü");
        assert_eq!(tail("", 4), "");
    }

    #[test]
    fn tiles_stand_in_rows_and_keep_their_ratio() {
        let red = RgbImage::from_pixel(20, 10, Rgb([255, 0, 0]));
        let sheet = grid(&[vec![Tile::default(), Tile::of(red, "", "")], vec![Tile::default()]]);
        assert_eq!((sheet.width(), sheet.height()), (2 * TILE_PX, 2 * (TILE_PX + CAPTION_PX)));
        // Twice as wide as high: a quarter of the tile above and below stays empty.
        assert_eq!(sheet[(TILE_PX + 1, TILE_PX / 2)], Rgb([255, 0, 0]));
        assert_eq!(sheet[(TILE_PX + 1, TILE_PX / 4 - 1)], BACKGROUND);
        assert_eq!(sheet[(0, TILE_PX / 2)], BACKGROUND);
    }
}
