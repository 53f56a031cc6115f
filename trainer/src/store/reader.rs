//! Reading a store.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::Mmap;
use semblance_face::Frame;
use semblance_face::labels::Expression;

use super::columns::{self, Place};
use super::writer::checksum;
use super::{FORMAT, Header, INDEX, MAGIC, PREAMBLE, Sample, Split, StoreError, Video, shard_name};

/// A store, memory-mapped. Reading is O(1) a frame, from any number of threads.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    header: Header,
    index: Mmap,
    columns: HashMap<String, Range<usize>>,
    shards: Vec<Mmap>,
}

/// One frame of a store.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    store: &'a Store,
    index: usize,
}

impl Store {
    /// Opens the store in `dir` and checks its index and the sizes of its shards.
    ///
    /// # Errors
    /// [`StoreError`], which names the file.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(INDEX);
        let bad = |reason: String| StoreError::Index {
            path: path.clone(),
            reason,
        };
        let index = map(&path)?;
        if index.len() < PREAMBLE || &index[..8] != MAGIC {
            return Err(bad("this is not the index of a clip store".to_owned()));
        }
        let u32_at = |at: usize| u32::from_le_bytes([index[at], index[at + 1], index[at + 2], index[at + 3]]);
        let version = u32_at(8);
        if version > FORMAT {
            return Err(StoreError::Newer { path, found: version });
        }
        let body = &index[PREAMBLE..];
        let header_len = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        if checksum(header_len, body) != u32_at(12) {
            return Err(bad(
                "the index is damaged (its checksum does not match)".to_owned()
            ));
        }
        let json = usize::try_from(header_len).ok().and_then(|n| body.get(..n));
        let json = json.ok_or_else(|| bad("the header is longer than the file".to_owned()))?;
        let header: Header = serde_json::from_slice(json).map_err(|e| bad(format!("header: {e}")))?;
        let frames = header.frames as usize;
        let mut columns = HashMap::new();
        let mut at = PREAMBLE + json.len();
        for name in &header.columns {
            let width = columns::width(name).ok_or_else(|| bad(format!("column '{name}' is not known")))?;
            at = at.next_multiple_of(8);
            let end = at + width * frames;
            if end > index.len() {
                return Err(bad(format!("column '{name}' reaches beyond the file")));
            }
            columns.insert(name.clone(), at..end);
            at = end;
        }
        for name in [columns::PLACE, columns::VIDEO, columns::TIME, columns::SPLIT] {
            if !columns.contains_key(name) {
                return Err(bad(format!("column '{name}' is missing")));
            }
        }
        let mut shards = Vec::new();
        for (number, &expected) in header.shard_bytes.iter().enumerate() {
            let path = dir.join(shard_name(number));
            let shard = map(&path)?;
            if (shard.len() as u64) < expected {
                return Err(StoreError::Cut {
                    path,
                    expected,
                    actual: shard.len() as u64,
                });
            }
            shards.push(shard);
        }
        let store = Self {
            dir: dir.to_owned(),
            header,
            index,
            columns,
            shards,
        };
        store.check_references().map_err(bad)?;
        Ok(store)
    }

    /// Every number that is later used as an index, checked once.
    fn check_references(&self) -> Result<(), String> {
        let (videos, identities) = (self.header.videos.len(), self.header.identities.len());
        for video in &self.header.videos {
            let within = video
                .first
                .checked_add(video.frames)
                .is_some_and(|end| end <= self.header.frames);
            if video.identity as usize >= identities || !within {
                return Err(format!(
                    "video '{}' names frames or an identity that are not there",
                    video.name
                ));
            }
        }
        for i in 0..self.len() {
            let place: Place = self.value(columns::PLACE, i);
            let shard = self.header.shard_bytes.get(place.shard as usize);
            let end = place.offset.checked_add(u64::from(place.length));
            let inside = shard.zip(end).is_some_and(|(bytes, end)| end <= *bytes);
            let video: u32 = self.value(columns::VIDEO, i);
            let split = columns::split_from_byte(self.value(columns::SPLIT, i));
            if !inside || video as usize >= videos || split.is_none() {
                return Err(format!(
                    "frame {i} names a shard, video or split that is not there"
                ));
            }
        }
        Ok(())
    }

    /// Where it was opened.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Frames.
    pub fn len(&self) -> usize {
        self.header.frames as usize
    }

    /// Whether it has no frames.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame of this number, below [`Store::len`].
    pub fn record(&self, index: usize) -> Record<'_> {
        assert!(index < self.len(), "frame {index} of {}", self.len());
        Record { store: self, index }
    }

    /// Numbers of the frames of a split, rising.
    pub fn split(&self, split: Split) -> Vec<usize> {
        (0..self.len())
            .filter(|&i| self.record(i).split() == split)
            .collect()
    }

    fn value<T: Pod>(&self, column: &str, index: usize) -> T {
        let start = self.columns[column].start + index * size_of::<T>();
        bytemuck::pod_read_unaligned(&self.index[start..start + size_of::<T>()])
    }

    fn floats<const N: usize>(&self, column: &str, index: usize) -> Option<[f32; N]>
    where
        [f32; N]: Pod,
    {
        let range = self.columns.get(column)?;
        let start = range.start + index * size_of::<[f32; N]>();
        let values: [f32; N] =
            bytemuck::pod_read_unaligned(&self.index[start..start + size_of::<[f32; N]>()]);
        (!values[0].is_nan()).then_some(values)
    }
}

fn map(path: &Path) -> Result<Mmap, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path))?;
    // Sound as long as nobody shortens the file while it is mapped. Writers hold the store's lock, replace the index by
    // renaming, and write shards only beyond what an index names.
    unsafe { Mmap::map(&file) }.map_err(StoreError::io(path))
}

impl<'a> Record<'a> {
    pub(super) fn place(&self) -> Place {
        self.store.value(columns::PLACE, self.index)
    }

    /// The picture as it is stored.
    pub fn jpeg(&self) -> &'a [u8] {
        let place = self.place();
        let start = place.offset as usize;
        &self.store.shards[place.shard as usize][start..start + place.length as usize]
    }

    /// The picture.
    ///
    /// # Errors
    /// [`StoreError::Picture`], which names the frame.
    pub fn decode(&self) -> Result<Frame, StoreError> {
        let mut frame = Frame::decode(self.jpeg()).map_err(|source| StoreError::Picture {
            path: self.store.dir.clone(),
            frame: self.index,
            identity: self.identity().to_owned(),
            video: self.video().name.clone(),
            source,
        })?;
        frame.t_secs = self.t_secs();
        frame.index = self.index as u64;
        Ok(frame)
    }

    /// Index of its video in [`Header::videos`].
    pub fn video_index(&self) -> usize {
        self.store.value::<u32>(columns::VIDEO, self.index) as usize
    }

    /// Its video.
    pub fn video(&self) -> &'a Video {
        &self.store.header.videos[self.video_index()]
    }

    /// The name of its identity.
    pub fn identity(&self) -> &'a str {
        &self.store.header.identities[self.video().identity as usize]
    }

    /// Seconds on the video's own clock.
    pub fn t_secs(&self) -> f64 {
        self.store.value(columns::TIME, self.index)
    }

    /// Its part.
    pub fn split(&self) -> Split {
        columns::split_from_byte(self.store.value(columns::SPLIT, self.index)).unwrap_or(Split::Train)
    }

    /// Its expression, where known.
    pub fn expression(&self) -> Option<Expression> {
        let known = self.store.columns.contains_key(columns::EXPRESSION);
        known
            .then(|| self.store.value(columns::EXPRESSION, self.index))
            .and_then(columns::expression_from_byte)
    }

    /// Its landmarks, where known; see [`Sample::landmarks`].
    pub fn landmarks(&self) -> Option<[f32; 136]> {
        self.store.floats(columns::LANDMARKS, self.index)
    }

    /// Everything known of it.
    pub fn sample(&self) -> Sample {
        let store = self.store;
        Sample {
            t_secs: self.t_secs(),
            split: self.split(),
            expression: self.expression(),
            votes: store.floats(columns::VOTES, self.index),
            valence_arousal: store.floats(columns::VALENCE_AROUSAL, self.index),
            action_units: store.floats(columns::ACTION_UNITS, self.index),
            pose: store.floats(columns::POSE, self.index),
            landmarks: self.landmarks(),
        }
    }
}
