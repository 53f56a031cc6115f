//! Writing a store.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};

use super::columns::{Columns, Place};
use super::{
    FORMAT, Header, INDEX, MAGIC, PREAMBLE, Provenance, Sample, Store, StoreError, Video, shard_name,
};

/// A shard is closed once it is this large.
const SHARD_BYTES: u64 = 256 << 20;
const LOCK: &str = ".lock";
/// The next index, until it is renamed.
const NEXT_INDEX: &str = "index.next";

/// Writes to a store; nothing is part of it before [`StoreWriter::commit`].
///
/// After an error the store is as the last commit left it, and the writer may go on once the cause is gone (a full
/// disk, say).
#[derive(Debug)]
pub struct StoreWriter {
    dir: PathBuf,
    shard_bytes: u64,
    header: Header,
    columns: Columns,
    identities: HashMap<String, u32>,
    /// Names of each identity's videos.
    videos: Vec<HashSet<String>>,
    /// The last shard, at its known end.
    shard: Option<File>,
    /// Held locked for as long as the writer lives.
    _lock: Lock,
}

impl StoreWriter {
    /// Starts a store in `dir`, which is made where needed.
    ///
    /// # Errors
    /// [`StoreError::Exists`] where there is a store already, [`StoreError::Locked`] where another process starts one.
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
        let lock = lock(dir)?;
        if dir.join(INDEX).exists() {
            return Err(StoreError::Exists { path: dir.to_owned() });
        }
        Ok(Self::new(dir, lock, Header::default(), Columns::default()))
    }

    /// Continues the store in `dir` after its last commit.
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`StoreError::Locked`] where another process writes to it.
    pub fn append(dir: &Path) -> Result<Self, StoreError> {
        Store::open(dir)?;
        let lock = lock(dir)?;
        let (header, columns) = Store::open(dir)?.into_columns();
        Ok(Self::new(dir, lock, header, columns))
    }

    fn new(dir: &Path, lock: Lock, header: Header, columns: Columns) -> Self {
        let identities = header.identities.iter().cloned().zip(0..).collect();
        let mut videos = vec![HashSet::new(); header.identities.len()];
        for video in &header.videos {
            videos[video.identity as usize].insert(video.name.clone());
        }
        Self {
            dir: dir.to_owned(),
            shard_bytes: SHARD_BYTES,
            header,
            columns,
            identities,
            videos,
            shard: None,
            _lock: lock,
        }
    }

    /// Closes a shard once it has so many bytes (256 MiB unless told).
    #[must_use]
    pub fn with_shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = bytes;
        self
    }

    /// Frames so far.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there are no frames yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the store has this video of this identity, committed or not.
    pub fn has_video(&self, identity: &str, video: &str) -> bool {
        (self.identities.get(identity)).is_some_and(|&known| self.videos[known as usize].contains(video))
    }

    /// The frames that follow belong to this video of this identity.
    pub fn begin_video(&mut self, identity: &str, video: &str) {
        self.drop_empty_video();
        let identity = match self.identities.get(identity) {
            Some(&known) => known,
            None => {
                let fresh = self.header.identities.len() as u32;
                self.header.identities.push(identity.to_owned());
                self.videos.push(HashSet::new());
                self.identities.insert(identity.to_owned(), fresh);
                fresh
            }
        };
        self.videos[identity as usize].insert(video.to_owned());
        self.header.videos.push(Video {
            name: video.to_owned(),
            identity,
            first: self.columns.len() as u64,
            frames: 0,
        });
    }

    /// Forgets the current video if it got no frame.
    fn drop_empty_video(&mut self) {
        if let Some(empty) = self.header.videos.pop_if(|video| video.frames == 0) {
            self.videos[empty.identity as usize].remove(&empty.name);
        }
    }

    /// Adds a frame to the current video.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the disk does not take it, [`StoreError::Frame`] for bytes that are no JPEG, a label out
    /// of its range, a time before the previous frame's, or a frame before the first video.
    pub fn push(&mut self, jpeg: &[u8], sample: &Sample) -> Result<(), StoreError> {
        let length = self.check(jpeg, sample).map_err(|reason| StoreError::Frame {
            path: self.dir.clone(),
            video: self.header.videos.last().map(|v| v.name.clone()).unwrap_or_default(),
            reason,
        })?;
        let full = self.header.shard_bytes.last().is_none_or(|&bytes| bytes >= self.shard_bytes);
        if full {
            self.sync_shard()?;
            self.shard = None;
            self.header.shard_bytes.push(0);
        }
        let shard = self.header.shard_bytes.len() - 1;
        let offset = self.header.shard_bytes[shard];
        let path = self.dir.join(shard_name(shard));
        let mut file = match self.shard.take() {
            Some(file) => file,
            None => open_shard(&path, offset)?,
        };
        // A file that was written to in part is dropped here; opening it again cuts it at its known end.
        file.write_all(jpeg).map_err(StoreError::io(&path))?;
        self.shard = Some(file);
        self.header.shard_bytes[shard] += u64::from(length);
        let place = Place { offset, length, shard: shard as u32 };
        let video = self.header.videos.len() as u32 - 1;
        self.columns.push(place, video, sample);
        if let Some(current) = self.header.videos.last_mut() {
            current.frames += 1;
        }
        Ok(())
    }

    /// The JPEG's length, or what keeps the frame from being stored.
    fn check(&self, jpeg: &[u8], sample: &Sample) -> Result<u32, String> {
        let Some(video) = self.header.videos.last() else {
            return Err("it was given before its video".to_owned());
        };
        let length = u32::try_from(jpeg.len()).ok().filter(|_| jpeg.starts_with(&[0xFF, 0xD8]));
        let length = length.ok_or_else(|| format!("its {} bytes are no JPEG", jpeg.len()))?;
        let previous = self.columns.t_secs.last().filter(|_| video.frames > 0);
        if !sample.t_secs.is_finite() || previous.is_some_and(|previous| sample.t_secs < *previous) {
            return Err(format!("its time of {} s does not follow the frame before it", sample.t_secs));
        }
        let share = |v: f32| (0.0..=1.0).contains(&v);
        check_label("votes", sample.votes, share)?;
        check_label("valence_arousal", sample.valence_arousal, |v| (-1.0..=1.0).contains(&v))?;
        check_label("action_units", sample.action_units, |v| v.is_nan() || share(v))?;
        check_label("pose", sample.pose, f32::is_finite)?;
        check_label("landmarks", sample.landmarks, f32::is_finite)?;
        check_label("five_points", sample.five_points, f32::is_finite)?;
        match sample.votes.map(|votes| votes.iter().sum::<f32>()) {
            Some(sum) if (sum - 1.0).abs() > 1e-3 => Err(format!("its votes sum to {sum}")),
            _ => Ok(length),
        }
    }

    /// Makes everything so far part of the store, for good, and notes where it came from.
    ///
    /// # Errors
    /// Those of [`StoreWriter::checkpoint`].
    pub fn commit(&mut self, provenance: Provenance) -> Result<(), StoreError> {
        self.header.provenance.push(provenance);
        self.checkpoint().inspect_err(|_| {
            self.header.provenance.pop();
        })
    }

    /// Makes everything so far part of the store, for good; more of the same source is to come.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the disk does not take it; the store is then as the commit before left it.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.drop_empty_video();
        self.sync_shard()?;
        let next = self.dir.join(NEXT_INDEX);
        self.write_index(&next).map_err(StoreError::io(&next)).inspect_err(|_| {
            // The next commit overwrites what cannot be removed.
            let _ = fs::remove_file(&next);
        })?;
        let path = self.dir.join(INDEX);
        fs::rename(&next, &path).map_err(StoreError::io(&path))?;
        self.sync_dir()
    }

    fn write_index(&mut self, path: &Path) -> io::Result<()> {
        self.header.frames = self.columns.len() as u64;
        let columns = self.columns.encode();
        self.header.columns = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let header = serde_json::to_vec(&self.header)?;
        // Each column begins at a multiple of 8.
        let mut parts: Vec<&[u8]> = vec![&header];
        let mut at = PREAMBLE + header.len();
        for (_, column) in &columns {
            let padding = at.next_multiple_of(8) - at;
            parts.push(&[0; 8][..padding]);
            parts.push(column);
            at += padding + column.len();
        }
        let mut crc = checksum_of_header_len(header.len() as u64);
        parts.iter().for_each(|part| crc.update(part));

        let mut file = File::create(path)?;
        file.write_all(MAGIC)?;
        file.write_all(&FORMAT.to_le_bytes())?;
        file.write_all(&crc.finalize().to_le_bytes())?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()
    }

    /// Makes the last shard's bytes and its name durable.
    fn sync_shard(&self) -> Result<(), StoreError> {
        let Some(file) = &self.shard else {
            return Ok(());
        };
        file.sync_all().map_err(StoreError::io(&self.dir))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), StoreError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io(&self.dir))
    }
}

/// Refuses a label of which some value is not `valid`.
fn check_label<const N: usize>(
    name: &str,
    label: Option<[f32; N]>,
    valid: impl Fn(f32) -> bool,
) -> Result<(), String> {
    match label.iter().flatten().find(|v| !valid(**v)) {
        Some(value) => Err(format!("{value} is outside the range of {name}")),
        None => Ok(()),
    }
}

/// CRC-32 over the header's length and everything after it.
pub(super) fn checksum(header_len: u64, body: &[u8]) -> u32 {
    let mut crc = checksum_of_header_len(header_len);
    crc.update(body);
    crc.finalize()
}

fn checksum_of_header_len(header_len: u64) -> crc32fast::Hasher {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header_len.to_le_bytes());
    crc
}

/// The shard, ready to be written from `offset` on; what an append that was cut off left behind it is dropped.
fn open_shard(path: &Path, offset: u64) -> Result<File, StoreError> {
    let open = || {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        if file.metadata()?.len() != offset {
            file.set_len(offset)?;
        }
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    };
    open().map_err(StoreError::io(path))
}

/// The file that says that a store is being written to, locked.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Closing the file alone would leave it locked for as long as a program that another thread is just starting holds a copy.
    fn drop(&mut self) {
        let _ = FileExt::unlock(&self.0);
    }
}

fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io(&path))?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_store_is_free_once_its_writer_is_gone_though_a_copy_of_the_lock_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let writer = StoreWriter::create(dir.path()).unwrap();
        let copy = writer._lock.0.try_clone().unwrap();
        assert!(matches!(StoreWriter::create(dir.path()), Err(StoreError::Locked { .. })));
        drop(writer);
        StoreWriter::create(dir.path()).unwrap();
        drop(copy);
    }
}
