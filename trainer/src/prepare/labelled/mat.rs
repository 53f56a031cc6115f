//! MATLAB's MAT-files of version 5, read as far as numeric arrays go ("MAT-File Format", MathWorks).
//!
//! A header of 128 bytes, then elements: a tag of type and length, the data, padding to 8 bytes. An array is an element of
//! elements (flags, sizes, name, values) and may itself be compressed by zlib. Only little-endian files are read, which is
//! what every current machine writes; of complex arrays the real part; cells, structures, text and sparse arrays are
//! passed over.

use std::io::Read;

use anyhow::{Context, bail, ensure};
use flate2::read::ZlibDecoder;

const HEADER: usize = 128;
/// A compressed array is not read beyond this, whatever it claims to hold.
const MOST_BYTES: u64 = 64 << 20;
/// An array of more values, which no set of poses and landmarks has, is passed over.
const MOST_VALUES: f64 = 65_536.0;

/// Types of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const SINGLE: u32 = 7;
const DOUBLE: u32 = 9;
const INT64: u32 = 12;
const UINT64: u32 = 13;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// Classes of numeric arrays: double, single, and integers of 8 to 64 bits.
const NUMERIC: std::ops::RangeInclusive<u8> = 6..=15;

/// A numeric array.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    pub(super) name: String,
    /// Rows, columns, and so on.
    pub(super) sizes: Vec<usize>,
    /// As many as the sizes' product; the first index runs fastest.
    pub(super) values: Vec<f64>,
}

/// The numeric arrays of a file.
///
/// # Errors
/// Where it is no MAT-file of version 5, or is damaged.
pub(super) fn arrays(bytes: &[u8]) -> anyhow::Result<Vec<Array>> {
    ensure!(bytes.len() >= HEADER, "not a MAT-file: it has {} bytes", bytes.len());
    ensure!(&bytes[126..128] == b"IM", "not a little-endian MAT-file of version 5");
    ensure!(bytes[125] == 1, "a MAT-file of version {}, not 5: save it with -v6 or -v7", bytes[125]);
    let mut arrays = Vec::new();
    let mut rest = &bytes[HEADER..];
    while !rest.is_empty() {
        let element = Element::next(&mut rest)?;
        match element.kind {
            MATRIX => arrays.extend(matrix(element.data)?),
            COMPRESSED => {
                let mut plain = Vec::new();
                let read = ZlibDecoder::new(element.data).take(MOST_BYTES).read_to_end(&mut plain);
                read.context("a compressed array is damaged")?;
                let inner = Element::next(&mut plain.as_slice())?;
                if inner.kind == MATRIX {
                    arrays.extend(matrix(inner.data)?);
                }
            }
            _ => {}
        }
    }
    Ok(arrays)
}

/// A piece of a file.
struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

impl<'a> Element<'a> {
    /// Takes the next element off `rest`.
    fn next(rest: &mut &'a [u8]) -> anyhow::Result<Self> {
        let (kind, len, start): (u32, usize, usize) = match (word(rest, 0)?, word(rest, 4)?) {
            // Four bytes at most lie in the tag itself.
            (tag, _) if tag >> 16 != 0 => (tag & 0xFFFF, (tag >> 16) as usize, 4),
            (kind, len) => (kind, len as usize, 8),
        };
        ensure!(start == 8 || len <= 4, "an element of {len} bytes in a tag that has room for 4");
        let end = start.checked_add(len).filter(|end| *end <= rest.len());
        let end = end.with_context(|| format!("it ends within an element of {len} bytes"))?;
        let data = &rest[start..end];
        // Compressed elements are not padded; a last one may lack its padding.
        let next = if kind == COMPRESSED { end } else { end.next_multiple_of(8) };
        *rest = &rest[next.min(rest.len())..];
        Ok(Self { kind, data })
    }

    /// The data as numbers, whatever type they are kept in.
    fn numbers(&self) -> anyhow::Result<Vec<f64>> {
        fn of<const N: usize>(data: &[u8], number: fn([u8; N]) -> f64) -> Vec<f64> {
            data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
        }
        let data = self.data;
        Ok(match self.kind {
            INT8 => of(data, |b| f64::from(i8::from_le_bytes(b))),
            UINT8 => of(data, |b| f64::from(u8::from_le_bytes(b))),
            INT16 => of(data, |b| f64::from(i16::from_le_bytes(b))),
            UINT16 => of(data, |b| f64::from(u16::from_le_bytes(b))),
            INT32 => of(data, |b| f64::from(i32::from_le_bytes(b))),
            UINT32 => of(data, |b| f64::from(u32::from_le_bytes(b))),
            SINGLE => of(data, |b| f64::from(f32::from_le_bytes(b))),
            DOUBLE => of(data, f64::from_le_bytes),
            INT64 => of(data, |b| i64::from_le_bytes(b) as f64),
            UINT64 => of(data, |b| u64::from_le_bytes(b) as f64),
            kind => bail!("numbers of the unknown type {kind}"),
        })
    }
}

fn word(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_le_bytes).context("it ends within a tag")
}

/// The array in an element's data; `None` for one that is not numeric.
fn matrix(mut data: &[u8]) -> anyhow::Result<Option<Array>> {
    let flags = Element::next(&mut data)?;
    let class = *flags.data.first().context("an array without a class")?;
    if !NUMERIC.contains(&class) {
        return Ok(None);
    }
    let sizes = Element::next(&mut data)?.numbers()?;
    let name = String::from_utf8_lossy(Element::next(&mut data)?.data).into_owned();
    if sizes.iter().product::<f64>() > MOST_VALUES {
        return Ok(None);
    }
    let values = Element::next(&mut data)?.numbers().with_context(|| name.clone())?;
    let sizes: Vec<usize> = sizes.iter().map(|&size| size as usize).collect();
    let expected = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    ensure!(expected == Some(values.len()), "{name}: {} values for sizes {sizes:?}", values.len());
    Ok(Some(Array { name, sizes, values }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    fn header() -> Vec<u8> {
        let mut bytes = b"MATLAB 5.0 MAT-file, Platform: PCWIN".to_vec();
        bytes.resize(124, b' ');
        bytes.extend([0, 1]);
        bytes.extend(b"IM");
        bytes
    }

    /// An element with a long tag, padded.
    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// An element of up to four bytes within its tag.
    fn small(kind: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((data.len() as u16).to_le_bytes());
        bytes.extend(data);
        bytes.resize(8, 0);
        bytes
    }

    fn array(class: u8, name: Vec<u8>, sizes: [i32; 2], values: Vec<u8>) -> Vec<u8> {
        let flags = element(UINT32, &[class, 0, 0, 0, 0, 0, 0, 0]);
        let sizes = element(INT32, &sizes.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>());
        element(MATRIX, &[flags, sizes, name, values].concat())
    }

    /// 2x3 doubles, 1x2 doubles kept as bytes within a tag, a text, and 1x1 singles.
    fn file(compress: bool) -> Vec<u8> {
        let doubles: Vec<u8> =
            [1.5_f64, -2.0, 3.0, 4.0, 5.0, 6.25].iter().flat_map(|v| v.to_le_bytes()).collect();
        let arrays = [
            array(6, element(INT8, b"Pose_Para"), [2, 3], element(DOUBLE, &doubles)),
            array(6, small(1, b"roi"), [1, 2], small(2, &[7, 200])),
            array(4, small(1, b"text"), [1, 2], element(UINT16, &[104, 0, 105, 0])),
            array(7, small(1, b"s"), [1, 1], small(7, &0.5_f32.to_le_bytes())),
        ];
        let mut bytes = header();
        for array in arrays {
            if !compress {
                bytes.extend(array);
                continue;
            }
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&array).unwrap();
            let packed = encoder.finish().unwrap();
            bytes.extend(COMPRESSED.to_le_bytes());
            bytes.extend((packed.len() as u32).to_le_bytes());
            bytes.extend(packed);
        }
        bytes
    }

    #[test]
    fn arrays_of_any_number_type_are_read_plain_and_compressed() {
        for compress in [false, true] {
            let found = arrays(&file(compress)).unwrap();
            let names: Vec<_> = found.iter().map(|a| a.name.as_str()).collect();
            assert_eq!(names, ["Pose_Para", "roi", "s"], "compressed: {compress}");
            assert_eq!((found[0].sizes.as_slice(), found[0].values.len()), ([2, 3].as_slice(), 6));
            assert_eq!(found[0].values, [1.5, -2.0, 3.0, 4.0, 5.0, 6.25]);
            assert_eq!(
                (found[1].values.as_slice(), found[2].values.as_slice()),
                ([7.0, 200.0].as_slice(), [0.5].as_slice())
            );
        }
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_never_panics() {
        for compress in [false, true] {
            let whole = file(compress);
            for len in 0..whole.len() {
                let _ = arrays(&whole[..len]);
                let mut changed = whole.clone();
                changed[len] ^= 0xFF;
                let _ = arrays(&changed);
            }
            assert!(arrays(&whole[..whole.len() - 12]).is_err());
        }
    }

    #[test]
    fn other_versions_are_told_apart() {
        let mut newer = file(false);
        newer[125] = 2;
        assert!(arrays(&newer).unwrap_err().to_string().contains("-v7"));
        let mut big = file(false);
        big[126..128].copy_from_slice(b"MI");
        assert!(arrays(&big).unwrap_err().to_string().contains("little-endian"));
        assert!(arrays(b"not one").is_err());
    }
}
