//! TensorBoard's event files: scalars of a run, without Python.
//!
//! A file is a row of TFRecords (length, masked CRC-32C of it, data, masked CRC-32C of that), each an `Event` message.
//! The messages below are the parts of TensorFlow's `event.proto` and `summary.proto` that scalars need.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use thiserror::Error;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;
const CRC_MASK: u32 = 0xA282_EAD8;

/// Why events could not be written.
#[derive(Debug, Error)]
#[error("{}: TensorBoard events cannot be written: {source}", path.display())]
pub struct EventError {
    path: PathBuf,
    source: io::Error,
}

/// An event file that is being written.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// A new event file in `dir` for a run that begins, or goes on, with `first_step`. TensorBoard joins it to those of
    /// earlier parts of the run, and drops the points that they have from `first_step` on, which the run makes anew. Its
    /// name says when it was begun, and nothing of the machine.
    ///
    /// # Errors
    /// [`EventError`] where the folder does not take it.
    pub fn create(dir: &Path, first_step: i64) -> Result<Self, EventError> {
        let seconds = now_secs() as u64;
        let mut number = 0;
        loop {
            let path = dir.join(format!("events.out.tfevents.{seconds:010}.{number:03}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut writer = Self { path, file: BufWriter::new(file) };
                    writer.event(0, What::FileVersion(FILE_VERSION.to_owned()))?;
                    // TensorBoard takes a run's first START for its beginning and only the others for a restart, so that
                    // a run which has never stopped needs one too.
                    writer.event(first_step, What::SessionLog(SessionLog { status: START }))?;
                    return Ok(writer);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(EventError { path, source }),
            }
        }
    }

    /// Adds a point to the curve `tag`.
    ///
    /// # Errors
    /// [`EventError`] where the disk does not take it.
    pub fn scalar(&mut self, tag: &str, step: i64, value: f64) -> Result<(), EventError> {
        let value = Value { tag: tag.to_owned(), simple_value: Some(value as f32) };
        self.event(step, What::Summary(Summary { value: vec![value] }))
    }

    /// Brings everything to the disk, so that a TensorBoard that is watching sees it.
    ///
    /// # Errors
    /// [`EventError`] where the disk does not take it.
    pub fn flush(&mut self) -> Result<(), EventError> {
        self.file.flush().map_err(|source| EventError { path: self.path.clone(), source })
    }

    fn event(&mut self, step: i64, what: What) -> Result<(), EventError> {
        let event = Event { wall_time: now_secs(), step, what: Some(what) };
        let record = record(&event.encode_to_vec());
        self.file.write_all(&record).map_err(|source| EventError { path: self.path.clone(), source })
    }
}

fn now_secs() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(CRC_MASK).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Written by the Python package `tensorboard`, with the same three events.
    const REFERENCE: &str = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c200000000000000029eda9500900\
        0000000000044010072a130a110a0a747261696e2f6c6f7373150000403f27aa1a360f000000000000006d532b09090000000000000c\
        4010093a0208018cd5c993";

    #[test]
    fn records_are_those_that_tensorboard_itself_writes() {
        let value = Value { tag: "train/loss".to_owned(), simple_value: Some(0.75) };
        let events = [
            (1.5, 0, What::FileVersion(FILE_VERSION.to_owned())),
            (2.5, 7, What::Summary(Summary { value: vec![value] })),
            (3.5, 9, What::SessionLog(SessionLog { status: START })),
        ];
        let bytes: Vec<u8> = events
            .into_iter()
            .flat_map(|(wall_time, step, what)| {
                record(&Event { wall_time, step, what: Some(what) }.encode_to_vec())
            })
            .collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, REFERENCE);
    }

    /// The events of a file.
    fn events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while let Some((length, _)) = rest.split_first_chunk() {
            let length = u64::from_le_bytes(*length) as usize;
            events.push(Event::decode(&rest[12..12 + length]).unwrap());
            assert_eq!(rest[..16 + length], record(&rest[12..12 + length]));
            rest = &rest[16 + length..];
        }
        assert!(rest.is_empty());
        events
    }

    #[test]
    fn every_file_states_the_step_that_it_begins_with() {
        let dir = tempfile::tempdir().unwrap();
        for first_step in [0, 50] {
            let mut writer = EventWriter::create(dir.path(), first_step).unwrap();
            writer.scalar("train/loss", first_step + 5, 0.75).unwrap();
            writer.flush().unwrap();
        }
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        for (path, first_step) in files.iter().zip([0, 50]) {
            let value = Value { tag: "train/loss".to_owned(), simple_value: Some(0.75) };
            let expected = [
                (0, What::FileVersion(FILE_VERSION.to_owned())),
                (first_step, What::SessionLog(SessionLog { status: START })),
                (first_step + 5, What::Summary(Summary { value: vec![value] })),
            ];
            let found = events(path);
            assert!(found.iter().all(|event| event.wall_time > 1.6e9), "{found:?}");
            let found: Vec<_> = found.into_iter().map(|event| (event.step, event.what.unwrap())).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn files_of_one_second_do_not_collide_and_a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            let mut writer = EventWriter::create(dir.path(), 0).unwrap();
            writer.scalar("a", 1, 2.0).unwrap();
            writer.flush().unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        let error = EventWriter::create(&dir.path().join("none"), 0).unwrap_err().to_string();
        assert!(error.contains("none") && error.contains("TensorBoard"), "{error}");
    }
}
