//! Reading a store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use image::{ImageFormat, ImageReader};
use memmap2::Mmap;
use semblance_face::Frame;
use semblance_face::labels::Expression;

use super::columns::{self, Columns, Place, View, Views};
use super::writer::checksum;
use super::{FORMAT, Header, INDEX, MAGIC, PREAMBLE, Sample, Split, StoreError, Video, shard_name};

/// A store, memory-mapped. Reading is O(1) a frame, from any number of threads.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    header: Header,
    index: Mmap,
    views: Views,
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
        let bad = |reason: String| StoreError::Index { path: path.clone(), reason };
        let index = match map(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(bad("there is no clip store here; `trainer prepare` writes one".to_owned()));
            }
            index => index?,
        };
        if index.len() < PREAMBLE || &index[..8] != MAGIC {
            return Err(bad("this is not the index of a clip store".to_owned()));
        }
        let u32_at = |at: usize| u32::from_le_bytes([index[at], index[at + 1], index[at + 2], index[at + 3]]);
        let version = u32_at(8);
        if version > FORMAT {
            return Err(StoreError::Newer { path, found: version });
        }
        if version == 0 {
            return Err(bad("the index is damaged (there is no format 0)".to_owned()));
        }
        let body = &index[PREAMBLE..];
        let header_len = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        if checksum(header_len, body) != u32_at(12) {
            return Err(bad("the index is damaged (its checksum does not match)".to_owned()));
        }
        let json = usize::try_from(header_len).ok().and_then(|n| body.get(..n));
        let json = json.ok_or_else(|| bad("the header is longer than the file".to_owned()))?;
        let header: Header = serde_json::from_slice(json).map_err(|e| bad(format!("header: {e}")))?;
        let mut ranges = BTreeMap::new();
        let mut at = PREAMBLE + json.len();
        for name in &header.columns {
            let width = Views::width(name).ok_or_else(|| bad(format!("column '{name}' is not known")))?;
            at = at.next_multiple_of(8);
            let end = (usize::try_from(header.frames).ok())
                .and_then(|frames| frames.checked_mul(width)?.checked_add(at))
                .filter(|end| *end <= index.len())
                .ok_or_else(|| bad(format!("column '{name}' reaches beyond the file")))?;
            ranges.insert(name.as_str(), at..end);
            at = end;
        }
        let views = Views::locate(&ranges).map_err(|name| bad(format!("column '{name}' is missing")))?;
        let mut shards = Vec::new();
        for (number, &expected) in header.shard_bytes.iter().enumerate() {
            let path = dir.join(shard_name(number));
            let shard = map(&path)?;
            if (shard.len() as u64) < expected {
                return Err(StoreError::Cut { path, expected, actual: shard.len() as u64 });
            }
            shards.push(shard);
        }
        let store = Self { dir: dir.to_owned(), header, index, views, shards };
        store.check_references().map_err(bad)?;
        Ok(store)
    }

    /// Every number that is later used as an index, and every order that callers rely on, checked once.
    fn check_references(&self) -> Result<(), String> {
        let mut next = 0;
        for video in &self.header.videos {
            let end = video.first.checked_add(video.frames).filter(|end| *end <= self.header.frames);
            if video.identity as usize >= self.header.identities.len() || video.first != next || end.is_none()
            {
                return Err(format!("video '{}' names frames or an identity that are not there", video.name));
            }
            next += video.frames;
        }
        if next != self.header.frames {
            return Err(format!("frame {next} belongs to no video"));
        }
        for (v, video) in self.header.videos.iter().enumerate() {
            let mut previous = f64::NEG_INFINITY;
            for i in video.range() {
                self.check_frame(i, v)?;
                let t_secs = self.record(i).t_secs();
                if !t_secs.is_finite() || t_secs < previous {
                    return Err(format!("frame {i} is out of the order of time"));
                }
                previous = t_secs;
            }
        }
        Ok(())
    }

    fn check_frame(&self, i: usize, video: usize) -> Result<(), String> {
        let place = self.value(&self.views.place, i);
        let shard = self.header.shard_bytes.get(place.shard as usize);
        let end = place.offset.checked_add(u64::from(place.length));
        let inside = shard.zip(end).is_some_and(|(bytes, end)| end <= *bytes);
        let split = Split::ALL.get(usize::from(self.value(&self.views.split, i)));
        if !inside || self.value(&self.views.video, i) as usize != video || split.is_none() {
            return Err(format!("frame {i} names a shard, video or split that is not there"));
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

    /// The checksum of its index, which differs once anything of it does.
    pub fn checksum(&self) -> u32 {
        u32::from_le_bytes([self.index[12], self.index[13], self.index[14], self.index[15]])
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

    /// Whether some frame has an expression.
    pub fn has_expression(&self) -> bool {
        self.views.expression.is_some()
    }

    /// Whether some frame has votes.
    pub fn has_votes(&self) -> bool {
        self.views.votes.is_some()
    }

    /// Whether some frame has valence and arousal.
    pub fn has_valence_arousal(&self) -> bool {
        self.views.valence_arousal.is_some()
    }

    /// Whether some frame has action units.
    pub fn has_action_units(&self) -> bool {
        self.views.action_units.is_some()
    }

    /// Whether some frame has a head pose.
    pub fn has_pose(&self) -> bool {
        self.views.pose.is_some()
    }

    /// Whether some frame has landmarks.
    pub fn has_landmarks(&self) -> bool {
        self.views.landmarks.is_some()
    }

    /// Numbers of the frames of a split, rising.
    pub fn split(&self, split: Split) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.record(i).split() == split).collect()
    }

    fn value<T: Pod>(&self, view: &View<T>, index: usize) -> T {
        view.get(&self.index, index)
    }

    fn floats<const N: usize>(&self, view: &Option<View<[f32; N]>>, index: usize) -> Option<[f32; N]> {
        let values = self.value(view.as_ref()?, index);
        (!values.iter().all(|v| v.is_nan())).then_some(values)
    }

    pub(super) fn into_columns(self) -> (Header, Columns) {
        let columns = Columns::read(&self.index, &self.views, self.header.frames as usize);
        (self.header, columns)
    }
}

fn map(path: &Path) -> Result<Mmap, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path))?;
    // Sound as long as nobody shortens the file while it is mapped. Writers hold the store's lock, replace the index by
    // renaming, and write shards only beyond what an index names.
    unsafe { Mmap::map(&file) }.map_err(StoreError::io(path))
}

impl<'a> Record<'a> {
    /// The picture as it is stored.
    pub fn jpeg(&self) -> &'a [u8] {
        let place: Place = self.store.value(&self.store.views.place, self.index);
        let start = place.offset as usize;
        &self.store.shards[place.shard as usize][start..start + place.length as usize]
    }

    /// Width and height of the picture in pixels, by its JPEG's header; `None` where that is damaged.
    pub fn size(&self) -> Option<(u32, u32)> {
        ImageReader::with_format(Cursor::new(self.jpeg()), ImageFormat::Jpeg).into_dimensions().ok()
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
        self.store.value(&self.store.views.video, self.index) as usize
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
        self.store.value(&self.store.views.t_secs, self.index)
    }

    /// Its part.
    pub fn split(&self) -> Split {
        Split::ALL[usize::from(self.store.value(&self.store.views.split, self.index))]
    }

    /// Its expression, where known.
    pub fn expression(&self) -> Option<Expression> {
        let view = self.store.views.expression.as_ref()?;
        columns::expression_from_byte(self.store.value(view, self.index))
    }

    /// Its votes, where known; see [`Sample::votes`].
    pub fn votes(&self) -> Option<[f32; 8]> {
        self.store.floats(&self.store.views.votes, self.index)
    }

    /// Its valence and arousal, where known; see [`Sample::valence_arousal`].
    pub fn valence_arousal(&self) -> Option<[f32; 2]> {
        self.store.floats(&self.store.views.valence_arousal, self.index)
    }

    /// Its action units, where known; see [`Sample::action_units`].
    pub fn action_units(&self) -> Option<[f32; 18]> {
        self.store.floats(&self.store.views.action_units, self.index)
    }

    /// Its head pose, where known; see [`Sample::pose`].
    pub fn pose(&self) -> Option<[f32; 3]> {
        self.store.floats(&self.store.views.pose, self.index)
    }

    /// Its landmarks, where known; see [`Sample::landmarks`].
    pub fn landmarks(&self) -> Option<[f32; 136]> {
        self.store.floats(&self.store.views.landmarks, self.index)
    }

    /// Its five points, where known; see [`Sample::five_points`].
    pub fn five_points(&self) -> Option<[f32; 10]> {
        self.store.floats(&self.store.views.five_points, self.index)
    }

    /// Everything known of it.
    pub fn sample(&self) -> Sample {
        Sample {
            t_secs: self.t_secs(),
            split: self.split(),
            expression: self.expression(),
            votes: self.votes(),
            valence_arousal: self.valence_arousal(),
            action_units: self.action_units(),
            pose: self.pose(),
            landmarks: self.landmarks(),
            five_points: self.five_points(),
        }
    }
}
