//! The columns of the index: their names, types and what stands for "unknown".

use std::collections::BTreeMap;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use semblance_face::labels::Expression;

use super::Sample;

/// Where a frame's JPEG lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) shard: u32,
}

const NO_EXPRESSION: u8 = u8::MAX;

pub(super) fn expression_byte(expression: Expression) -> u8 {
    expression.index() as u8
}

pub(super) fn expression_from_byte(byte: u8) -> Option<Expression> {
    Expression::ALL.get(usize::from(byte)).copied()
}

/// A column of an index that was opened: where it begins, checked to lie within the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<T> {
    start: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Pod> View<T> {
    /// The value of a frame, which must be below the number of frames that the view was made for.
    pub(super) fn get(&self, index: &[u8], frame: usize) -> T {
        let start = self.start + frame * size_of::<T>();
        bytemuck::pod_read_unaligned(&index[start..start + size_of::<T>()])
    }
}

/// Declares every column once, for reading ([`Views`]) and for writing ([`Columns`]).
macro_rules! columns {
    (always { $($a:ident: $at:ty,)* } where_known { $($k:ident: $kt:ty = $unknown:expr,)* }) => {
        /// Where each column of an index lies.
        #[derive(Clone, Debug)]
        pub(super) struct Views {
            $(pub(super) $a: View<$at>,)*
            $(pub(super) $k: Option<View<$kt>>,)*
        }

        impl Views {
            /// Bytes a frame of the column of this name; `None` for a name that this version does not know.
            pub(super) fn width(name: &str) -> Option<usize> {
                $(if name == stringify!($a) {
                    return Some(size_of::<$at>());
                })*
                $(if name == stringify!($k) {
                    return Some(size_of::<$kt>());
                })*
                None
            }

            /// The columns that lie at `ranges`; the name of one that is missing is the error.
            pub(super) fn locate(ranges: &BTreeMap<&str, Range<usize>>) -> Result<Self, &'static str> {
                let start = |name: &str| ranges.get(name).map(|range| range.start);
                Ok(Self {
                    $($a: View {
                        start: start(stringify!($a)).ok_or(stringify!($a))?,
                        of: std::marker::PhantomData,
                    },)*
                    $($k: start(stringify!($k)).map(|start| View {
                        start,
                        of: std::marker::PhantomData,
                    }),)*
                })
            }
        }

        /// The columns in memory, while a store is written. One of labels is empty until a frame has the label, and may
        /// end before the last frame: the rest is unknown.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Columns {
            $(pub(super) $a: Vec<$at>,)*
            $($k: Vec<$kt>,)*
        }

        impl Columns {
            /// The columns of an index that was opened.
            pub(super) fn read(index: &[u8], views: &Views, frames: usize) -> Self {
                Self {
                    $($a: (0..frames).map(|i| views.$a.get(index, i)).collect(),)*
                    $($k: (views.$k.iter())
                        .flat_map(|view| (0..frames).map(|i| view.get(index, i)))
                        .collect(),)*
                }
            }

            /// Names and bytes of the columns that have something in them.
            pub(super) fn encode(&mut self) -> Vec<(&'static str, &[u8])> {
                let frames = self.len();
                let mut columns = vec![$((stringify!($a), bytemuck::cast_slice::<$at, u8>(&self.$a)),)*];
                $(if !self.$k.is_empty() {
                    self.$k.resize(frames, $unknown);
                    columns.push((stringify!($k), bytemuck::cast_slice::<$kt, u8>(&self.$k)));
                })*
                columns
            }
        }

        /// What stands for "unknown" in each column of labels.
        #[allow(non_upper_case_globals)]
        mod unknown {
            use super::NO_EXPRESSION;
            $(pub(super) const $k: $kt = $unknown;)*
        }
    };
}

columns! {
    always {
        place: Place,
        video: u32,
        t_secs: f64,
        split: u8,
    }
    where_known {
        expression: u8 = NO_EXPRESSION,
        votes: [f32; 8] = [f32::NAN; 8],
        valence_arousal: [f32; 2] = [f32::NAN; 2],
        action_units: [f32; 18] = [f32::NAN; 18],
        pose: [f32; 3] = [f32::NAN; 3],
        landmarks: [f32; 136] = [f32::NAN; 136],
        five_points: [f32; 10] = [f32::NAN; 10],
    }
}

impl Columns {
    pub(super) fn len(&self) -> usize {
        self.place.len()
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, place: Place, video: u32, sample: &Sample) {
        let frame = self.len();
        let expression = sample.expression.map(expression_byte);
        put(&mut self.expression, frame, expression, unknown::expression);
        put(&mut self.votes, frame, sample.votes, unknown::votes);
        put(&mut self.valence_arousal, frame, sample.valence_arousal, unknown::valence_arousal);
        put(&mut self.action_units, frame, sample.action_units, unknown::action_units);
        put(&mut self.pose, frame, sample.pose, unknown::pose);
        put(&mut self.landmarks, frame, sample.landmarks, unknown::landmarks);
        put(&mut self.five_points, frame, sample.five_points, unknown::five_points);
        self.place.push(place);
        self.video.push(video);
        self.t_secs.push(sample.t_secs);
        self.split.push(sample.split as u8);
    }
}

/// Sets a frame's label, where it has one.
fn put<T: Copy>(column: &mut Vec<T>, frame: usize, label: Option<T>, unknown: T) {
    if let Some(label) = label {
        column.resize(frame, unknown);
        column.push(label);
    }
}
