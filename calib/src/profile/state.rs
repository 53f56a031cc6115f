//! One state of a profile, and the file that it is kept in.
//!
//! All numbers are little-endian. The head of the file stays as it is in every version:
//!
//! | bytes | |
//! |---|---|
//! | 8 | `SMBLPROF` |
//! | 4 | version |
//! | 4 | CRC-32C of the 12 bytes before |
//! | 8 | length of the body |
//! | 32 | SHA-256 of the body |
//!
//! The body holds: serial number (u64), time (u64), bundle, reason, report and heads (each a u32 length and its bytes);
//! a correction (u8: is there one; u32 dim, u32 rank, f32 shift, up, down); labelled moments (u8: are there any; u32 dim,
//! u32 count; each moment f64 time, u32 block, u8 flags, then as the flags 1, 2, 4 say u8 expression, 2 f32 valence and
//! arousal, 32 f32 action units; then dim f32).

use sha2::{Digest, Sha256};

use crate::adapt::Correction;
use crate::dataset::{Dataset, Label, Moment};
use crate::heads::{Heads, MAX_LABELS};

/// The version of the file that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"SMBLPROF";
const HEAD: usize = 8 + 4 + 4 + 8 + 32;

/// What is known of a user at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Identity of the bundle whose embeddings the heads read: the SHA-256 of its encoder, say, in hexadecimal.
    pub bundle: String,
    /// The user's heads.
    pub heads: Heads,
    /// What is done to embeddings before the heads read them: where the face rests is taken off, where that helps.
    pub correction: Option<Correction>,
    /// The labelled moments, as they are where the correction is the one to make. `None` in older states of a history: labels are kept once.
    pub labelled: Option<Dataset>,
    /// When it was saved, in seconds since 1970 (UTC).
    pub saved_unix_secs: u64,
    /// Why, in a few words.
    pub reason: String,
    /// How it was judged: text or JSON.
    pub report: String,
}

/// Why a file is not a state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// It was written by a newer version.
    Newer(u32),
    /// It is cut off, changed, or no such file at all.
    Damaged(String),
}

fn damaged<T>(why: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError::Damaged(why.into()))
}

/// The file of a state.
pub(super) fn encode(serial: u64, state: &State) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    body.extend(serial.to_le_bytes());
    body.extend(state.saved_unix_secs.to_le_bytes());
    let heads = state.heads.to_safetensors().map_err(|e| e.to_string())?;
    for part in [state.bundle.as_bytes(), state.reason.as_bytes(), state.report.as_bytes(), &heads] {
        put_len(&mut body, part.len())?;
        body.extend(part);
    }
    body.push(state.correction.is_some().into());
    if let Some(correction) = &state.correction {
        put_len(&mut body, correction.dim())?;
        put_len(&mut body, correction.rank())?;
        for part in [correction.shift(), correction.up(), correction.down()] {
            put_floats(&mut body, part);
        }
    }
    body.push(state.labelled.is_some().into());
    if let Some(labelled) = &state.labelled {
        put_len(&mut body, labelled.dim())?;
        put_len(&mut body, labelled.len())?;
        for (moment, embedding) in labelled.iter() {
            put_moment(&mut body, moment);
            put_floats(&mut body, embedding);
        }
    }
    Ok(with_head(FORMAT, &body))
}

pub(super) fn with_head(version: u32, body: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEAD + body.len());
    file.extend(MAGIC);
    file.extend(version.to_le_bytes());
    file.extend(crc32c::crc32c(&file).to_le_bytes());
    file.extend((body.len() as u64).to_le_bytes());
    file.extend(Sha256::digest(body));
    file.extend(body);
    file
}

fn put_len(out: &mut Vec<u8>, len: usize) -> Result<(), String> {
    let len = u32::try_from(len).map_err(|_| format!("a part of {len} values is too long"))?;
    out.extend(len.to_le_bytes());
    Ok(())
}

fn put_floats(out: &mut Vec<u8>, values: &[f32]) {
    values.iter().for_each(|v| out.extend(v.to_le_bytes()));
}

const EXPRESSION: u8 = 1;
const VALENCE_AROUSAL: u8 = 2;
const ACTION_UNITS: u8 = 4;

fn put_moment(out: &mut Vec<u8>, moment: &Moment) {
    let Label { expression, valence_arousal, action_units } = &moment.label;
    out.extend(moment.t_secs.to_le_bytes());
    out.extend(moment.block.to_le_bytes());
    out.push(
        EXPRESSION * u8::from(expression.is_some())
            + VALENCE_AROUSAL * u8::from(valence_arousal.is_some())
            + ACTION_UNITS * u8::from(action_units.is_some()),
    );
    out.extend(expression);
    put_floats(out, valence_arousal.as_ref().map_or(&[], |va| va));
    put_floats(out, action_units.as_ref().map_or(&[], |au| au));
}

/// The serial number and the state of a file.
pub(super) fn decode(file: &[u8]) -> Result<(u64, State), DecodeError> {
    let mut head = Reader(file);
    let magic = head.array()?;
    let version = u32::from_le_bytes(head.array()?);
    let crc = u32::from_le_bytes(head.array()?);
    if &magic != MAGIC || crc != crc32c::crc32c(&file[..12]) {
        return damaged("it does not begin as a profile does");
    }
    if version > FORMAT {
        return Err(DecodeError::Newer(version));
    }
    let len = u64::from_le_bytes(head.array()?);
    let checksum: [u8; 32] = head.array()?;
    let body = head.0;
    if body.len() as u64 != len {
        return damaged(format!("it has {} bytes after its head where {len} were written", body.len()));
    }
    if *Sha256::digest(body) != checksum {
        return damaged("its checksum does not match");
    }
    decode_body(Reader(body))
}

fn decode_body(mut body: Reader<'_>) -> Result<(u64, State), DecodeError> {
    let serial = u64::from_le_bytes(body.array()?);
    let saved_unix_secs = u64::from_le_bytes(body.array()?);
    let (bundle, reason, report) = (body.text()?, body.text()?, body.text()?);
    let len = body.len()?;
    let heads = Heads::from_safetensors(body.take(len)?).map_err(|e| DecodeError::Damaged(e.to_string()))?;
    let correction = if body.flag()? { Some(body.correction()?) } else { None };
    let labelled = if body.flag()? { Some(body.labelled()?) } else { None };
    if !body.0.is_empty() {
        return damaged(format!("{} bytes are left over", body.0.len()));
    }
    Ok((serial, State { bundle, heads, correction, labelled, saved_unix_secs, reason, report }))
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.0.split_at_checked(len) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => damaged("it ends too early"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn len(&mut self) -> Result<usize, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => damaged(format!("a flag is {other}")),
        }
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let len = self.len()?;
        let text = str::from_utf8(self.take(len)?);
        text.map(str::to_owned).map_err(|e| DecodeError::Damaged(e.to_string()))
    }

    fn floats(&mut self, count: usize) -> Result<impl Iterator<Item = f32> + use<'a>, DecodeError> {
        let bytes = self.take(count.saturating_mul(4))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)))
    }

    fn correction(&mut self) -> Result<Correction, DecodeError> {
        let (dim, rank) = (self.len()?, self.len()?);
        let shift = self.floats(dim)?.collect();
        let factor = dim.saturating_mul(rank);
        let (up, down) = (self.floats(factor)?.collect(), self.floats(factor)?.collect());
        Correction::new(rank, shift, up, down).map_err(|e| DecodeError::Damaged(e.to_string()))
    }

    fn labelled(&mut self) -> Result<Dataset, DecodeError> {
        let (dim, count) = (self.len()?, self.len()?);
        let mut labelled = Dataset::new(dim);
        let mut embedding = Vec::new();
        for _ in 0..count {
            let moment = self.moment()?;
            embedding.clear();
            embedding.extend(self.floats(dim)?);
            labelled.push(moment, &embedding).map_err(|e| DecodeError::Damaged(e.to_string()))?;
        }
        Ok(labelled)
    }

    fn moment(&mut self) -> Result<Moment, DecodeError> {
        let t_secs = f64::from_le_bytes(self.array()?);
        let block = u32::from_le_bytes(self.array()?);
        let [flags] = self.array()?;
        if flags > EXPRESSION + VALENCE_AROUSAL + ACTION_UNITS {
            return damaged(format!("a label has the flags {flags}"));
        }
        let mut label = Label::default();
        if flags & EXPRESSION != 0 {
            label.expression = Some(self.array::<1>()?[0]);
        }
        if flags & VALENCE_AROUSAL != 0 {
            label.valence_arousal = Some(self.float_array()?);
        }
        if flags & ACTION_UNITS != 0 {
            label.action_units = Some(self.float_array::<MAX_LABELS>()?);
        }
        Ok(Moment { t_secs, block, label })
    }

    fn float_array<const N: usize>(&mut self) -> Result<[f32; N], DecodeError> {
        let mut array = [0.0; N];
        array.iter_mut().zip(self.floats(N)?).for_each(|(place, value)| *place = value);
        Ok(array)
    }
}
