//! One picture of a video, with the time it was taken.

use std::path::Path;

use thiserror::Error;

/// Extensions of the files that [`Frame::decode`] reads, in lower case.
pub const PICTURE_EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];

/// Whether a file is a picture, by its extension in any case.
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    PICTURE_EXTENSIONS.contains(&extension.as_str())
}

/// Why bytes could not become a [`Frame`].
#[derive(Debug, Error)]
pub enum FrameError {
    /// The buffer does not hold `width * height` RGB pixels.
    #[error("a {width}x{height} RGB frame has {expected} bytes, not {actual}")]
    Size {
        /// Width asked for, in pixels.
        width: u32,
        /// Height asked for, in pixels.
        height: u32,
        /// `width * height * 3`.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// One side is zero or beyond [`Frame::MAX_SIDE`].
    #[error("a frame of {width}x{height} pixels is not supported (1 to {max} a side)", max = Frame::MAX_SIDE)]
    Side {
        /// Width asked for, in pixels.
        width: u32,
        /// Height asked for, in pixels.
        height: u32,
    },
    /// The bytes are not a picture that can be decoded.
    #[error("not a readable picture: {0}")]
    Decode(String),
}

/// How closely a JPEG has to keep to the standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leniency {
    /// To the letter: one that is torn or ends early is an error.
    #[default]
    Strict,
    /// As far as anything can be made of it; what is missing is grey.
    Lenient,
}

/// An RGB picture (8 bits a channel, rows from the top, no padding) with its place in a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    /// Seconds on the source's own clock.
    pub t_secs: f64,
    /// Number of the frame in its source, from 0; gaps are frames that were dropped.
    pub index: u64,
}

impl Frame {
    /// The longest side of a frame, in pixels.
    pub const MAX_SIDE: u32 = 8192;

    /// A frame over `rgb`, which holds `width * height * 3` bytes.
    ///
    /// # Errors
    /// [`FrameError::Side`] or [`FrameError::Size`] where the numbers do not fit together.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, FrameError> {
        let expected = Self::byte_len(width, height)?;
        if rgb.len() != expected {
            return Err(FrameError::Size { width, height, expected, actual: rgb.len() });
        }
        Ok(Self { width, height, rgb, t_secs: 0.0, index: 0 })
    }

    /// The bytes that a frame of this size has.
    ///
    /// # Errors
    /// [`FrameError::Side`] where a side is zero or beyond [`Frame::MAX_SIDE`].
    pub fn byte_len(width: u32, height: u32) -> Result<usize, FrameError> {
        if width == 0 || height == 0 || width > Self::MAX_SIDE || height > Self::MAX_SIDE {
            return Err(FrameError::Side { width, height });
        }
        Ok(width as usize * height as usize * 3)
    }

    /// A black frame.
    ///
    /// # Errors
    /// [`FrameError::Side`] where a side is zero or beyond [`Frame::MAX_SIDE`].
    pub fn black(width: u32, height: u32) -> Result<Self, FrameError> {
        Self::new(width, height, vec![0; Self::byte_len(width, height)?])
    }

    /// Decodes a JPEG, PNG, BMP or WebP picture; grey ones are repeated over the three channels.
    ///
    /// # Errors
    /// [`FrameError::Decode`] for damaged or unknown data (a JPEG that ends early is damaged), and
    /// [`FrameError::Side`] for one that is too large; the size is checked before any pixel is decoded.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        crate::frame::decode::decode(bytes)
    }

    /// [`Frame::decode`] of a JPEG into this frame, which keeps its allocation where the size stays, its time and its
    /// number.
    ///
    /// # Errors
    /// As [`Frame::decode`]; the pixels are then of no use.
    pub fn decode_jpeg(&mut self, bytes: &[u8], leniency: Leniency) -> Result<(), FrameError> {
        crate::frame::decode::jpeg_into(bytes, leniency, self)
    }

    /// Gives the frame another size, keeping its allocation where it is large enough. What the pixels hold then has no
    /// meaning.
    ///
    /// # Errors
    /// [`FrameError::Side`] where a side is zero or beyond [`Frame::MAX_SIDE`].
    pub fn resize(&mut self, width: u32, height: u32) -> Result<(), FrameError> {
        self.rgb.resize(Self::byte_len(width, height)?, 0);
        (self.width, self.height) = (width, height);
        Ok(())
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels: `height` rows of `width` RGB triples.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixels, to be written to.
    pub fn rgb_mut(&mut self) -> &mut [u8] {
        &mut self.rgb
    }

    /// Writes the frame's luma (BT.601, rounded) into `out`, `width * height` values, keeping its allocation.
    pub fn luma_into(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend(self.rgb.chunks_exact(3).map(|p| {
            let [r, g, b] = [u32::from(p[0]), u32::from(p[1]), u32::from(p[2])];
            ((77 * r + 150 * g + 29 * b + 128) >> 8) as u8
        }));
    }
}

mod decode {
    //! Pictures from files: zune-jpeg for JPEG (strict, so that truncation shows), `image` for the rest.

    use super::{Frame, FrameError, Leniency};
    use zune_jpeg::JpegDecoder;
    use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

    pub(super) fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
        if !bytes.starts_with(&[0xFF, 0xD8]) {
            return other(bytes);
        }
        let mut frame = Frame::black(1, 1)?;
        jpeg_into(bytes, Leniency::Strict, &mut frame)?;
        Ok(frame)
    }

    pub(super) fn jpeg_into(bytes: &[u8], leniency: Leniency, frame: &mut Frame) -> Result<(), FrameError> {
        let side = Frame::MAX_SIDE as usize;
        let options = DecoderOptions::new_fast()
            .set_strict_mode(leniency == Leniency::Strict)
            .set_max_width(side)
            .set_max_height(side)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        let fail =
            |e: zune_jpeg::errors::DecodeErrors| FrameError::Decode(e.to_string().trim_end().to_owned());
        decoder.decode_headers().map_err(fail)?;
        let (width, height) =
            decoder.dimensions().ok_or_else(|| FrameError::Decode("JPEG without a size".to_owned()))?;
        frame.resize(width as u32, height as u32)?;
        decoder.decode_into(frame.rgb_mut()).map_err(fail)
    }

    fn other(bytes: &[u8]) -> Result<Frame, FrameError> {
        let fail = |e: image::ImageError| FrameError::Decode(e.to_string());
        let open = || {
            let reader = image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format();
            reader.map_err(|e| FrameError::Decode(e.to_string()))
        };
        // The size first: a picture that is too large is told so, and no pixel of it is decoded.
        let (width, height) = open()?.into_dimensions().map_err(fail)?;
        Frame::byte_len(width, height)?;
        let mut reader = open()?;
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(Frame::MAX_SIDE);
        limits.max_image_height = Some(Frame::MAX_SIDE);
        reader.limits(limits);
        let picture = reader.decode().map_err(fail)?.into_rgb8();
        let (width, height) = picture.dimensions();
        Frame::new(width, height, picture.into_raw())
    }
}
