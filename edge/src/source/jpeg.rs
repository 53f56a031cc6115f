//! JPEGs as cameras send them: without Huffman tables, or one after the other in a stream.

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const DHT: u8 = 0xC4;

/// Whether a marker stands alone, without a length and a payload: TEM, RST0 to RST7.
const fn stands_alone(marker: u8) -> bool {
    matches!(marker, 0x01 | 0xD0..=0xD7)
}

/// Overwrites `out` with the JPEG in `bytes`, whole: where it has no Huffman tables, as UVC allows, it gets the default
/// ones of the standard's annex K.3. Anything else is left as it is; whether it can be decoded shows there.
pub(super) fn complete(bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    match scan_without_tables(bytes) {
        Some(at) => {
            out.extend_from_slice(&bytes[..at]);
            append_default_tables(out);
            out.extend_from_slice(&bytes[at..]);
        }
        None => out.extend_from_slice(bytes),
    }
}

/// Where the first scan's header begins, if no tables come before it.
fn scan_without_tables(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    if !bytes.starts_with(&[0xFF, SOI]) {
        return None;
    }
    loop {
        let &[0xFF, marker] = bytes.get(at..at + 2)? else { return None };
        match marker {
            0xFF => at += 1,
            SOS => return Some(at),
            DHT | EOI | 0 => return None,
            _ if stands_alone(marker) => at += 2,
            _ => {
                let length = bytes.get(at + 2..at + 4)?;
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

/// One Huffman table: its class and number, how many codes there are of each length from 1 to 16, and what they mean.
struct Table {
    class_and_number: u8,
    counts: [u8; 16],
    symbols: &'static [u8],
}

const DC_SYMBOLS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// Tables K.3 to K.6.
const TABLES: [Table; 4] = [
    Table {
        class_and_number: 0x00,
        counts: [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        symbols: &DC_SYMBOLS,
    },
    Table {
        class_and_number: 0x10,
        counts: [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D],
        symbols: &[
            0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
            0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0,
            0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28,
            0x29, 0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
            0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
            0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
            0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7,
            0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3, 0xC4, 0xC5,
            0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
            0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
            0xF9, 0xFA,
        ],
    },
    Table {
        class_and_number: 0x01,
        counts: [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        symbols: &DC_SYMBOLS,
    },
    Table {
        class_and_number: 0x11,
        counts: [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
        symbols: &[
            0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
            0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0,
            0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26,
            0x27, 0x28, 0x29, 0x2A, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
            0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
            0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
            0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5,
            0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
            0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
            0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
            0xF9, 0xFA,
        ],
    },
];

/// Appends a DHT segment with [`TABLES`].
fn append_default_tables(out: &mut Vec<u8>) {
    let length = 2 + TABLES.iter().map(|t| 1 + t.counts.len() + t.symbols.len()).sum::<usize>();
    out.extend_from_slice(&[0xFF, DHT]);
    out.extend_from_slice(&(length as u16).to_be_bytes());
    for table in &TABLES {
        out.push(table.class_and_number);
        out.extend_from_slice(&table.counts);
        out.extend_from_slice(table.symbols);
    }
}

/// What begins like a JPEG and is longer than this is none.
const MAX_BYTES: usize = 64 << 20;

/// Cuts a stream of JPEGs into its pictures.
///
/// Segments are passed over by their length, so that a thumbnail's markers are not taken for the picture's own; what lies
/// between pictures is left out.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    bytes: Vec<u8>,
    /// Where the picture in work begins, or else what was not looked at yet.
    start: usize,
    /// Bytes before this one are looked at.
    at: usize,
    within: Within,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Within {
    /// Between pictures.
    #[default]
    Garbage,
    /// Where a marker must be.
    Markers,
    /// In a scan.
    Scan,
}

/// What a stream holds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A picture; its tables may be missing.
    Picture(&'a [u8]),
    /// A picture began and does not go on as one.
    Broken,
}

impl Splitter {
    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.at -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// What comes next, if it is there as a whole.
    pub(super) fn next(&mut self) -> Option<Piece<'_>> {
        loop {
            if self.is_within_picture() && self.at - self.start > MAX_BYTES {
                return Some(self.broken());
            }
            match self.within {
                Within::Garbage => {
                    let rest = &self.bytes[self.at..];
                    let Some(found) = rest.windows(3).position(|w| w == [0xFF, SOI, 0xFF]) else {
                        // The last two may be the beginning of it.
                        self.at += rest.len().saturating_sub(2);
                        self.start = self.at;
                        return None;
                    };
                    self.start = self.at + found;
                    self.at = self.start + 2;
                    self.within = Within::Markers;
                }
                Within::Markers => {
                    let &[lead, marker] = self.bytes.get(self.at..self.at + 2)? else { return None };
                    match marker {
                        _ if lead != 0xFF => return Some(self.broken()),
                        0 | SOI => return Some(self.broken()),
                        EOI => {
                            let start = self.start;
                            self.at += 2;
                            self.start = self.at;
                            self.within = Within::Garbage;
                            return Some(Piece::Picture(&self.bytes[start..self.at]));
                        }
                        0xFF => self.at += 1,
                        _ if stands_alone(marker) => self.at += 2,
                        _ => {
                            let length = self.bytes.get(self.at + 2..self.at + 4)?;
                            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                            if length < 2 {
                                return Some(self.broken());
                            }
                            if self.bytes.len() < self.at + 2 + length {
                                return None;
                            }
                            self.at += 2 + length;
                            if marker == SOS {
                                self.within = Within::Scan;
                            }
                        }
                    }
                }
                Within::Scan => {
                    let rest = &self.bytes[self.at..];
                    // FF 00 stands for a byte FF of the scan; restarts belong to it.
                    let ends = |w: &[u8]| w[0] == 0xFF && w[1] != 0 && w[1] != 0xFF && !stands_alone(w[1]);
                    match rest.windows(2).position(ends) {
                        Some(found) => {
                            self.at += found;
                            self.within = Within::Markers;
                        }
                        None => {
                            self.at += rest.len().saturating_sub(1);
                            return None;
                        }
                    }
                }
            }
        }
    }

    /// Whether a picture has begun and not ended.
    pub(super) fn is_within_picture(&self) -> bool {
        self.within != Within::Garbage
    }

    /// Looks for a picture from where the one in work could not go on.
    fn broken(&mut self) -> Piece<'static> {
        self.within = Within::Garbage;
        self.start = self.at;
        Piece::Broken
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, ImageEncoder};
    use semblance_face::Frame;
    use semblance_face::frame::Leniency;

    use super::*;

    /// A JPEG of a gradient that depends on `seed`, from an encoder that uses the default tables.
    pub(crate) fn picture(seed: u32) -> Vec<u8> {
        let (width, height) = (96, 64);
        let rgb: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                let (x, y) = (i % width, i / width);
                [(x * 2 + seed) as u8, (y * 3 + x) as u8, (x * y / 16 + seed * 7) as u8]
            })
            .collect();
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 90)
            .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
            .unwrap();
        bytes
    }

    /// Without its DHT segments, and how many those were.
    fn stripped(jpeg: &[u8]) -> (Vec<u8>, usize) {
        let (mut out, mut at, mut count) = (jpeg[..2].to_vec(), 2, 0);
        loop {
            let marker = jpeg[at + 1];
            let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            if marker == SOS {
                out.extend_from_slice(&jpeg[at..]);
                return (out, count);
            }
            if marker == DHT {
                count += 1;
            } else {
                out.extend_from_slice(&jpeg[at..at + 2 + length]);
            }
            at += 2 + length;
        }
    }

    #[test]
    fn without_tables_a_jpeg_gets_the_default_ones() {
        let whole = picture(3);
        let (bare, tables) = stripped(&whole);
        assert!(tables > 0);
        let mut frame = Frame::black(1, 1).unwrap();
        assert!(frame.decode_jpeg(&bare, Leniency::Strict).is_err(), "it needs its tables");
        let mut completed = Vec::new();
        complete(&bare, &mut completed);
        frame.decode_jpeg(&completed, Leniency::Strict).unwrap();
        assert_eq!(frame.rgb(), Frame::decode(&whole).unwrap().rgb());
    }

    #[test]
    fn whole_or_damaged_jpegs_stay_as_they_are() {
        let whole = picture(1);
        let mut out = vec![9];
        for bytes in [&whole[..], &[], &[0xFF], &[0xFF, SOI], &[0xFF, SOI, 0xFF], b"no jpeg", &whole[..30]] {
            complete(bytes, &mut out);
            assert_eq!(out, bytes);
        }
    }

    /// The pictures of a stream that comes `chunk` bytes at a time, and how many were broken.
    fn split(stream: &[u8], chunk: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut splitter, mut pictures, mut broken) = (Splitter::default(), Vec::new(), 0);
        for bytes in stream.chunks(chunk) {
            splitter.push(bytes);
            while let Some(piece) = splitter.next() {
                match piece {
                    Piece::Picture(picture) => pictures.push(picture.to_vec()),
                    Piece::Broken => broken += 1,
                }
            }
        }
        (pictures, broken + usize::from(splitter.is_within_picture()))
    }

    /// With a segment that holds a whole picture, as cameras put a thumbnail there.
    fn with_thumbnail(jpeg: &[u8], thumbnail: &[u8]) -> Vec<u8> {
        let mut out = vec![0xFF, SOI, 0xFF, 0xE1];
        out.extend_from_slice(&(2 + thumbnail.len() as u16).to_be_bytes());
        out.extend_from_slice(thumbnail);
        out.extend_from_slice(&jpeg[2..]);
        out
    }

    #[test]
    fn a_stream_is_cut_into_its_pictures() {
        let pictures: Vec<Vec<u8>> = vec![picture(1), with_thumbnail(&picture(2), &picture(9)), picture(3)];
        let garbage: [&[u8]; 4] = [b"", b"--boundary\r\n\r\n", &[0xFF, 0xFF, 0xD9, 0xFF], &[0xD8, 0xFF]];
        for noise in garbage {
            let stream: Vec<u8> = pictures.iter().flat_map(|p| [noise, p].concat()).collect();
            for chunk in [1, 2, 3, 1000, 1 << 20] {
                let (found, broken) = split(&stream, chunk);
                assert!(found == pictures && broken == 0, "{noise:?} {chunk}: {} {broken}", found.len());
            }
        }
    }

    #[test]
    fn pictures_that_are_cut_short_are_told_and_the_next_is_found() {
        let (first, second) = (picture(1), picture(2));
        for cut in [4, 25, first.len() / 2, first.len() - 2] {
            let stream = [&first[..cut], &second, &first[..cut]].concat();
            for chunk in [1, 777, 1 << 20] {
                let (found, broken) = split(&stream, chunk);
                // Where the cut is within a segment, its length reaches into the next picture, which is then lost.
                assert!(found.len() <= 1 && broken >= 1, "{cut} {chunk}: {} {broken}", found.len());
                if cut >= first.len() / 2 {
                    assert!(found == std::slice::from_ref(&second) && broken == 2, "{cut} {chunk}: {broken}");
                }
            }
        }
        assert_eq!(split(&[0xFF, SOI, 0xFF, 0xE0, 0, 1, 0, 0], 1 << 20), (Vec::new(), 1));
    }
}
