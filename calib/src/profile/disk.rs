//! The operations on files that profiles need, so that tests can make each of them fail.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use fs4::{FileExt, TryLockError};

/// Attempts to take a lock that somebody holds, and the time between them.
const LOCK_ATTEMPTS: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a folder itself, and not a link to one.
    pub is_dir: bool,
}

/// A file system. Errors are those of [`std::fs`]; nothing is durable before it is synced.
pub trait Disk {
    /// A file that is being written.
    type File;
    /// Holds a lock for as long as it lives.
    type Lock;

    /// Makes a folder and those above it, for its owner alone, with durable names; one that is there stays.
    ///
    /// # Errors
    /// Any of the file system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// What is in a folder, in any order.
    ///
    /// # Errors
    /// Any of the file system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// A whole file, of at most `most` bytes; the rest of a larger one is left out.
    ///
    /// # Errors
    /// Any of the file system's.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;
    /// Begins a file for its owner alone, in the place of one that is there.
    ///
    /// # Errors
    /// Any of the file system's.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Adds bytes to it.
    ///
    /// # Errors
    /// Any of the file system's; some of the bytes may have been written.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Makes its bytes durable.
    ///
    /// # Errors
    /// Any of the file system's.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Gives a file another name in the same folder, in the place of one that is there.
    ///
    /// # Errors
    /// Any of the file system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes a folder's names durable.
    ///
    /// # Errors
    /// Any of the file system's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a file or a link.
    ///
    /// # Errors
    /// Any of the file system's.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    ///
    /// # Errors
    /// Any of the file system's.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock at `path` against other processes, after waiting for it a little.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where somebody still holds it, and any of the file system's.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;
}

/// The file system of this computer.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    type File = File;
    type Lock = File;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), |parent| self.create_dir(parent))?;
        #[cfg_attr(not(unix), allow(unused_mut))]
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(dir) {
            // Another process was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            created => created?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let entry = |entry: fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok(Entry { name, is_dir: entry.file_type()?.is_dir() })
        };
        fs::read_dir(dir)?.map(|found| found.and_then(entry)).collect()
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Only Unix can open a folder as a file; elsewhere its names become durable when the system sees fit.
    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<File> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        for attempt in 1.. {
            match FileExt::try_lock(&file) {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
        Ok(file)
    }
}
