//! Writing a store.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};

use super::columns::{Columns, Place};
use super::{
    FORMAT, Header, INDEX, MAGIC, PREAMBLE, Provenance, Sample, Store, StoreError, Video, shard_name,
};

/// A shard is closed once it is this large.
const SHARD_BYTES: u64 = 256 << 20;
const LOCK: &str = ".lock";

/// Writes to a store; nothing is part of it before [`StoreWriter::commit`].
#[derive(Debug)]
pub struct StoreWriter {
    dir: PathBuf,
    header: Header,
    columns: Columns,
    identities: HashMap<String, u32>,
    shard: Option<File>,
    /// Held locked for as long as the writer lives.
    _lock: File,
}

impl StoreWriter {
    /// Starts a store in `dir`, which is made where needed.
    ///
    /// # Errors
    /// [`StoreError::Exists`] where there is a store already.
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
        if dir.join(INDEX).exists() {
            return Err(StoreError::Exists { path: dir.to_owned() });
        }
        let lock = lock(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            header: Header::default(),
            columns: Columns::default(),
            identities: HashMap::new(),
            shard: None,
            _lock: lock,
        })
    }

    /// Continues the store in `dir` after its last commit.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn append(dir: &Path) -> Result<Self, StoreError> {
        let lock = lock(dir)?;
        let store = Store::open(dir)?;
        let mut columns = Columns::default();
        for record in (0..store.len()).map(|i| store.record(i)) {
            columns.place.push(record.place());
            columns.video.push(record.video_index() as u32);
            columns.samples.push(record.sample());
        }
        let header = store.header().clone();
        let identities = header.identities.iter().cloned().zip(0..).collect();
        Ok(Self {
            dir: dir.to_owned(),
            header,
            columns,
            identities,
            shard: None,
            _lock: lock,
        })
    }

    /// Frames so far.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there are no frames yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frames that follow belong to this video of this identity.
    pub fn begin_video(&mut self, identity: &str, video: &str) {
        let identity = match self.identities.get(identity) {
            Some(&known) => known,
            None => {
                let fresh = self.header.identities.len() as u32;
                self.header.identities.push(identity.to_owned());
                self.identities.insert(identity.to_owned(), fresh);
                fresh
            }
        };
        let first = self.columns.len() as u64;
        self.header.videos.push(Video {
            name: video.to_owned(),
            identity,
            first,
            frames: 0,
        });
    }

    /// Adds a frame to the current video.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the disk does not take it, [`StoreError::Index`] without a video.
    pub fn push(&mut self, jpeg: &[u8], sample: &Sample) -> Result<(), StoreError> {
        let index = self.dir.join(INDEX);
        let video = self.header.videos.len();
        let Some(current) = self.header.videos.last_mut() else {
            return Err(StoreError::Index {
                path: index,
                reason: "a frame was given before its video".to_owned(),
            });
        };
        let full = self
            .header
            .shard_bytes
            .last()
            .is_none_or(|&bytes| bytes >= SHARD_BYTES);
        if full {
            if let Some(shard) = self.shard.take() {
                shard.sync_all().map_err(StoreError::io(&self.dir))?;
            }
            self.header.shard_bytes.push(0);
        }
        let shard = self.header.shard_bytes.len() - 1;
        let path = self.dir.join(shard_name(shard));
        let offset = self.header.shard_bytes[shard];
        let file = match &mut self.shard {
            Some(file) => file,
            none => none.insert(open_shard(&path, offset)?),
        };
        file.write_all(jpeg).map_err(StoreError::io(&path))?;
        self.header.shard_bytes[shard] += jpeg.len() as u64;
        current.frames += 1;
        self.columns.place.push(Place {
            offset,
            length: jpeg.len() as u32,
            shard: shard as u32,
        });
        self.columns.video.push(video as u32 - 1);
        self.columns.samples.push(*sample);
        Ok(())
    }

    /// Makes everything so far part of the store, for good.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the disk does not take it; the store is then as the commit before left it.
    pub fn commit(&mut self, provenance: Provenance) -> Result<(), StoreError> {
        self.header.provenance.push(provenance);
        if let Some(shard) = &self.shard {
            shard.sync_all().map_err(StoreError::io(&self.dir))?;
        }
        let columns = self.columns.encode();
        self.header.frames = self.columns.len() as u64;
        self.header.columns = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let path = self.dir.join(INDEX);
        let json = serde_json::to_vec(&self.header).map_err(|e| StoreError::Index {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        let mut body = json;
        let header_len = body.len() as u64;
        for (_, column) in &columns {
            body.resize((PREAMBLE + body.len()).next_multiple_of(8) - PREAMBLE, 0);
            body.extend_from_slice(column);
        }
        let mut bytes = Vec::with_capacity(PREAMBLE + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&checksum(header_len, &body).to_le_bytes());
        bytes.extend_from_slice(&header_len.to_le_bytes());
        bytes.append(&mut body);
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(StoreError::io(&path))?;
        file.write_all(&bytes)
            .and_then(|()| file.as_file().sync_all())
            .map_err(StoreError::io(&path))?;
        file.persist(&path).map_err(|e| StoreError::io(&path)(e.error))?;
        File::open(&self.dir)
            .and_then(|f| f.sync_all())
            .map_err(StoreError::io(&self.dir))
    }
}

/// CRC-32 over the header's length and everything after it.
pub(super) fn checksum(header_len: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header_len.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// The shard, ready to be written from `offset` on; what an append that was cut off left behind it is dropped.
fn open_shard(path: &Path, offset: u64) -> Result<File, StoreError> {
    let open = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.set_len(offset)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    };
    open().map_err(StoreError::io(path))
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io(&path))?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
    }
}
