//! The columns of the index: their names, widths and what stands for "unknown".

use bytemuck::{Pod, Zeroable};
use semblance_face::labels::Expression;

use super::{Sample, Split};

/// Where a frame's JPEG lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) shard: u32,
}

/// Columns that every store has.
pub(super) const PLACE: &str = "place";
pub(super) const VIDEO: &str = "video";
pub(super) const TIME: &str = "t_secs";
pub(super) const SPLIT: &str = "split";
/// Columns that are there where a frame has the label.
pub(super) const EXPRESSION: &str = "expression";
pub(super) const VOTES: &str = "votes";
pub(super) const VALENCE_AROUSAL: &str = "valence_arousal";
pub(super) const ACTION_UNITS: &str = "action_units";
pub(super) const POSE: &str = "pose";
pub(super) const LANDMARKS: &str = "landmarks";

/// Bytes a frame of the column of this name; `None` for a name that this version does not know.
pub(super) fn width(name: &str) -> Option<usize> {
    Some(match name {
        PLACE => size_of::<Place>(),
        VIDEO => 4,
        TIME => 8,
        SPLIT | EXPRESSION => 1,
        VOTES => 4 * 8,
        VALENCE_AROUSAL => 4 * 2,
        ACTION_UNITS => 4 * 18,
        POSE => 4 * 3,
        LANDMARKS => 4 * 136,
        _ => return None,
    })
}

const NO_EXPRESSION: u8 = u8::MAX;

pub(super) fn expression_byte(expression: Option<Expression>) -> u8 {
    expression.map_or(NO_EXPRESSION, |e| e.index() as u8)
}

pub(super) fn expression_from_byte(byte: u8) -> Option<Expression> {
    Expression::ALL.get(usize::from(byte)).copied()
}

pub(super) fn split_from_byte(byte: u8) -> Option<Split> {
    Split::ALL.get(usize::from(byte)).copied()
}

/// The frames of a store as columns in memory, while it is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) place: Vec<Place>,
    pub(super) video: Vec<u32>,
    pub(super) samples: Vec<Sample>,
}

impl Columns {
    pub(super) fn len(&self) -> usize {
        self.place.len()
    }

    /// Names and bytes of the columns that have something in them.
    pub(super) fn encode(&self) -> Vec<(&'static str, Vec<u8>)> {
        let samples = &self.samples;
        let times: Vec<f64> = samples.iter().map(|s| s.t_secs).collect();
        let mut columns = vec![
            (PLACE, bytemuck::cast_slice(&self.place).to_vec()),
            (VIDEO, bytemuck::cast_slice(&self.video).to_vec()),
            (TIME, bytemuck::cast_slice(&times).to_vec()),
            (SPLIT, samples.iter().map(|s| s.split as u8).collect()),
        ];
        if samples.iter().any(|s| s.expression.is_some()) {
            columns.push((
                EXPRESSION,
                samples.iter().map(|s| expression_byte(s.expression)).collect(),
            ));
        }
        let mut floats = |name, column: Option<Vec<u8>>| columns.extend(column.map(|bytes| (name, bytes)));
        floats(VOTES, float_column(samples, |s| s.votes));
        floats(VALENCE_AROUSAL, float_column(samples, |s| s.valence_arousal));
        floats(ACTION_UNITS, float_column(samples, |s| s.action_units));
        floats(POSE, float_column(samples, |s| s.pose));
        floats(LANDMARKS, float_column(samples, |s| s.landmarks));
        columns
    }
}

/// Values of all frames, NaN for unknown; `None` where no frame has any.
fn float_column<const N: usize>(
    samples: &[Sample],
    get: impl Fn(&Sample) -> Option<[f32; N]>,
) -> Option<Vec<u8>> {
    samples.iter().any(|s| get(s).is_some()).then(|| {
        samples
            .iter()
            .flat_map(|s| get(s).unwrap_or([f32::NAN; N]))
            .flat_map(f32::to_le_bytes)
            .collect()
    })
}
