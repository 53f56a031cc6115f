//! Pixel formats of cameras, and the way from their bytes to RGB.
//!
//! Colours are BT.601 in limited range (luma 16 to 235), as UVC has them where a camera says nothing else.

use std::fmt;
use std::str::FromStr;

use semblance_face::{Frame, FrameError};

/// What a camera can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Motion JPEG: every frame a JPEG of its own.
    Mjpg,
    /// Pixels that are not compressed.
    Raw(RawFormat),
}

/// Formats of pixels that are not compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawFormat {
    /// Two pixels in four bytes: Y0 U Y1 V.
    Yuyv,
    /// A plane of luma, then one of chroma at half its width and height: U V U V.
    Nv12,
    /// One byte a pixel, from black, 0, to white, 255.
    Grey,
}

impl PixelFormat {
    /// All of them. What is cheaper to turn into RGB comes first; grey, which lacks the colours, last.
    pub const ALL: [Self; 4] =
        [Self::Raw(RawFormat::Nv12), Self::Raw(RawFormat::Yuyv), Self::Mjpg, Self::Raw(RawFormat::Grey)];

    /// Its name, as in `--format`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mjpg => "mjpg",
            Self::Raw(RawFormat::Yuyv) => "yuyv",
            Self::Raw(RawFormat::Nv12) => "nv12",
            Self::Raw(RawFormat::Grey) => "grey",
        }
    }

    /// Its four letters in V4L2.
    pub const fn fourcc(self) -> [u8; 4] {
        match self {
            Self::Mjpg => *b"MJPG",
            Self::Raw(RawFormat::Yuyv) => *b"YUYV",
            Self::Raw(RawFormat::Nv12) => *b"NV12",
            Self::Raw(RawFormat::Grey) => *b"GREY",
        }
    }

    /// The format of these four letters; `JPEG` is what some drivers call motion JPEG.
    pub fn from_fourcc(fourcc: [u8; 4]) -> Option<Self> {
        if fourcc == *b"JPEG" {
            return Some(Self::Mjpg);
        }
        Self::ALL.into_iter().find(|format| format.fourcc() == fourcc)
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PixelFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = match text.to_ascii_lowercase().as_str() {
            "mjpeg" => "mjpg".to_owned(),
            "yuy2" => "yuyv".to_owned(),
            "gray" => "grey".to_owned(),
            other => other.to_owned(),
        };
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| format!("no such format (there are {})", Self::ALL.map(Self::name).join(", ")))
    }
}

/// How the bytes of an uncompressed picture lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLayout {
    /// Their format.
    pub format: RawFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from the start of one row to the start of the next; of both planes.
    pub stride: u32,
}

impl RawLayout {
    /// Rows that follow each other without padding.
    pub fn packed(format: RawFormat, width: u32, height: u32) -> Self {
        let mut layout = Self { format, width, height, stride: 0 };
        layout.stride = layout.row_bytes() as u32;
        layout
    }

    /// Bytes of a row that hold pixels: the least that a stride can be.
    pub fn row_bytes(&self) -> usize {
        let width = self.width as usize;
        match self.format {
            RawFormat::Yuyv => width.div_ceil(2) * 4,
            RawFormat::Nv12 => width.next_multiple_of(2),
            RawFormat::Grey => width,
        }
    }

    /// Bytes of a whole picture; the last row may lack its padding.
    pub fn byte_len(&self) -> usize {
        let chroma_rows = if self.format == RawFormat::Nv12 { (self.height as usize).div_ceil(2) } else { 0 };
        let rows = self.height as usize + chroma_rows;
        rows.saturating_sub(1) * self.stride as usize + self.row_bytes()
    }
}

/// Writes the picture that `bytes` hold into `frame`, which keeps its allocation where it is large enough.
///
/// # Errors
/// [`FrameError`] where the size is not supported, the stride is too small, or bytes are missing.
pub fn to_rgb(layout: &RawLayout, bytes: &[u8], frame: &mut Frame) -> Result<(), FrameError> {
    frame.resize(layout.width, layout.height)?;
    let (stride, row_bytes) = (layout.stride as usize, layout.row_bytes());
    let name = PixelFormat::Raw(layout.format);
    if stride < row_bytes {
        return Err(FrameError::Decode(format!(
            "a row of {} {name} pixels has {row_bytes} bytes, but rows are {stride} apart",
            layout.width
        )));
    }
    if bytes.len() < layout.byte_len() {
        return Err(FrameError::Decode(format!(
            "a {name} picture of {}x{} has {} bytes, but {} came",
            layout.width,
            layout.height,
            layout.byte_len(),
            bytes.len()
        )));
    }
    let rows = frame.rgb_mut().chunks_exact_mut(layout.width as usize * 3);
    match layout.format {
        RawFormat::Yuyv => {
            for (row, out) in bytes.chunks(stride).zip(rows) {
                yuyv_row(&row[..row_bytes], out);
            }
        }
        RawFormat::Nv12 => {
            let (luma, chroma) = bytes.split_at(stride * layout.height as usize);
            let chroma = chroma.chunks(stride).flat_map(|row| [row, row]);
            for ((luma, chroma), out) in luma.chunks_exact(stride).zip(chroma).zip(rows) {
                nv12_row(&luma[..row_bytes], &chroma[..row_bytes], out);
            }
        }
        RawFormat::Grey => {
            for (row, out) in bytes.chunks(stride).zip(rows) {
                for (rgb, &grey) in out.chunks_exact_mut(3).zip(row) {
                    rgb.fill(grey);
                }
            }
        }
    }
    Ok(())
}

/// One row of Y0 U Y1 V; where the width is odd, the last Y1 is left out.
fn yuyv_row(row: &[u8], out: &mut [u8]) {
    let mut pairs = out.chunks_exact_mut(6);
    let mut quads = row.chunks_exact(4);
    for (rgb, quad) in (&mut pairs).zip(&mut quads) {
        let chroma = Chroma::of(quad[1], quad[3]);
        rgb[..3].copy_from_slice(&chroma.with(quad[0]));
        rgb[3..].copy_from_slice(&chroma.with(quad[2]));
    }
    let odd = pairs.into_remainder();
    if let ([_, _, _], Some(quad)) = (&*odd, quads.next()) {
        odd.copy_from_slice(&Chroma::of(quad[1], quad[3]).with(quad[0]));
    }
}

/// One row of luma with its row of chroma.
fn nv12_row(luma: &[u8], chroma: &[u8], out: &mut [u8]) {
    for ((rgb, y), uv) in out.chunks_mut(6).zip(luma.chunks_exact(2)).zip(chroma.chunks_exact(2)) {
        let chroma = Chroma::of(uv[0], uv[1]);
        for (rgb, &y) in rgb.chunks_exact_mut(3).zip(y) {
            rgb.copy_from_slice(&chroma.with(y));
        }
    }
}

/// What a pair of chroma values adds to red, green and blue, in 1/65536.
#[derive(Clone, Copy)]
struct Chroma([i32; 3]);

impl Chroma {
    #[inline(always)]
    fn of(u: u8, v: u8) -> Self {
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        // 255/224 times 1.402, 0.344136, 0.714136 and 1.772, and a half for rounding.
        Self([104_597 * v + 32_768, -25_675 * u - 53_279 * v + 32_768, 132_201 * u + 32_768])
    }

    #[inline(always)]
    fn with(self, y: u8) -> [u8; 3] {
        // 255/219.
        let y = (i32::from(y) - 16) * 76_309;
        self.0.map(|c| ((y + c) >> 16).clamp(0, 255) as u8)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// BT.601 as its text has it: from Kr and Kb, in full precision.
    fn bt601(y: u8, u: u8, v: u8) -> [f64; 3] {
        let (kr, kb) = (0.299, 0.114);
        let kg = 1.0 - kr - kb;
        let y = (f64::from(y) - 16.0) / 219.0;
        let (pb, pr) = ((f64::from(u) - 128.0) / 224.0, (f64::from(v) - 128.0) / 224.0);
        let r = y + 2.0 * (1.0 - kr) * pr;
        let b = y + 2.0 * (1.0 - kb) * pb;
        let g = (y - kr * r - kb * b) / kg;
        [r, g, b].map(|c| (c * 255.0).clamp(0.0, 255.0))
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// Y, U and V of a pixel, by the formats' definitions.
    fn yuv(layout: &RawLayout, bytes: &[u8], x: usize, y: usize) -> [u8; 3] {
        let stride = layout.stride as usize;
        match layout.format {
            RawFormat::Yuyv => {
                let pair = y * stride + x / 2 * 4;
                [bytes[y * stride + x * 2], bytes[pair + 1], bytes[pair + 3]]
            }
            RawFormat::Nv12 => {
                let pair = stride * layout.height as usize + y / 2 * stride + x / 2 * 2;
                [bytes[y * stride + x], bytes[pair], bytes[pair + 1]]
            }
            RawFormat::Grey => unreachable!(),
        }
    }

    #[test]
    fn colours_are_those_of_the_standard() {
        let mut frame = Frame::black(1, 1).unwrap();
        for format in [RawFormat::Yuyv, RawFormat::Nv12] {
            for (width, height, padding) in [(64, 48, 0), (63, 47, 0), (62, 3, 7), (1, 1, 3), (33, 2, 1)] {
                let mut layout = RawLayout::packed(format, width, height);
                layout.stride += padding;
                let bytes = noise(layout.byte_len());
                to_rgb(&layout, &bytes, &mut frame).unwrap();
                assert_eq!((frame.width(), frame.height()), (width, height));
                for (i, rgb) in frame.rgb().chunks_exact(3).enumerate() {
                    let (x, y) = (i % width as usize, i / width as usize);
                    let [luma, u, v] = yuv(&layout, &bytes, x, y);
                    for (got, wanted) in rgb.iter().zip(bt601(luma, u, v)) {
                        let off = (f64::from(*got) - wanted).abs();
                        assert!(off <= 0.51, "{format:?} {width}x{height} at {x},{y}: {got} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn black_white_and_grey_are_exact() {
        for (y, level) in [(16, 0), (235, 255), (0, 0), (255, 255), (126, 128)] {
            assert_eq!(Chroma::of(128, 128).with(y), [level; 3]);
        }
        let mut frame = Frame::black(9, 9).unwrap();
        let layout = RawLayout { format: RawFormat::Grey, width: 2, height: 2, stride: 3 };
        to_rgb(&layout, &[0, 9, 77, 200, 255], &mut frame).unwrap();
        assert_eq!(frame.rgb(), [0, 0, 0, 9, 9, 9, 200, 200, 200, 255, 255, 255]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut frame = Frame::black(1, 1).unwrap();
        for format in [RawFormat::Yuyv, RawFormat::Nv12, RawFormat::Grey] {
            let layout = RawLayout::packed(format, 7, 5);
            let bytes = vec![0; layout.byte_len()];
            to_rgb(&layout, &bytes, &mut frame).unwrap();
            let error = to_rgb(&layout, &bytes[1..], &mut frame).unwrap_err().to_string();
            assert!(error.contains("7x5") && error.contains(&bytes.len().to_string()), "{error}");
            let narrow = RawLayout { stride: layout.stride - 1, ..layout };
            let error = to_rgb(&narrow, &bytes, &mut frame).unwrap_err().to_string();
            assert!(error.contains("apart"), "{error}");
            for (width, height) in [(0, 5), (7, 0), (9000, 5)] {
                let layout = RawLayout::packed(format, width, height);
                assert!(matches!(to_rgb(&layout, &bytes, &mut frame), Err(FrameError::Side { .. })));
            }
        }
    }

    #[test]
    fn names_and_fourccs_lead_back() {
        for format in PixelFormat::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert_eq!(PixelFormat::from_fourcc(format.fourcc()), Some(format));
        }
        assert_eq!("MJPEG".parse(), Ok(PixelFormat::Mjpg));
        assert_eq!(PixelFormat::from_fourcc(*b"JPEG"), Some(PixelFormat::Mjpg));
        assert!("h264".parse::<PixelFormat>().unwrap_err().contains("nv12"));
    }
}
