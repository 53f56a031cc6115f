//! A disk in memory that knows what a power cut leaves, and fails when it is told to.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::disk::{Disk, Entry};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The operation gives this error of the system; a write gets half of its bytes in. Later ones succeed.
    Error(i32),
    /// The power goes before the operation, or after so many bytes of a write.
    Cut(usize),
}

/// A change of a folder's names that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl Change {
    fn parent(&self) -> &Path {
        let (Self::Link(path, _) | Self::Unlink(path) | Self::Rename(path, _, _)) = self;
        path.parent().unwrap_or(Path::new("/"))
    }
}

#[derive(Clone, Debug, Default)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

impl Names {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Link(path, inode) => _ = self.files.insert(path.clone(), *inode),
            Change::Unlink(path) => {
                self.files.remove(path);
                self.dirs.remove(path);
            }
            Change::Rename(from, to, inode) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *inode);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// As programs see them, and as they are on the platter.
    now: Names,
    durable: Names,
    /// Bytes of each file as programs see them, and as of its last sync.
    bytes: Vec<(Vec<u8>, Vec<u8>)>,
    pending: Vec<Change>,
}

impl Inner {
    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.pending.push(change);
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct MemoryDisk {
    inner: Rc<RefCell<Inner>>,
    /// Counts the operations that change something.
    operations: Rc<Cell<usize>>,
    fault: Rc<Cell<Option<(usize, Fault)>>>,
    off: Rc<Cell<bool>>,
    /// Bytes of the write that the fault met.
    met_bytes: Rc<Cell<Option<usize>>>,
}

impl MemoryDisk {
    /// Another disk with the same on it, all of it durable, where nothing goes wrong.
    pub(super) fn copy(&self) -> Self {
        let mut inner = self.inner.borrow().clone();
        inner.durable = inner.now.clone();
        inner.pending.clear();
        inner.bytes.iter_mut().for_each(|(now, durable)| durable.clone_from(now));
        Self { inner: Rc::new(RefCell::new(inner)), ..Self::default() }
    }

    /// The operation of this number, from 0, will fail.
    pub(super) fn fail(&self, operation: usize, fault: Fault) {
        self.fault.set(Some((operation, fault)));
    }

    /// Operations so far.
    pub(super) fn operations(&self) -> usize {
        self.operations.get()
    }

    /// Bytes of the write that failed, if it was a write that did.
    pub(super) fn met_bytes(&self) -> Option<usize> {
        self.met_bytes.get()
    }

    /// Every disk that may be found after a power cut: each of the changes that were not synced is there or not, and bytes
    /// that were not synced are all there or none.
    pub(super) fn after_cut(&self) -> Vec<Self> {
        let inner = self.inner.borrow();
        let count = inner.pending.len() as u32;
        assert!(count < 16, "{count} changes wait for a sync");
        let mut disks = Vec::new();
        for (chosen, synced_only) in (0..1_u32 << count).flat_map(|c| [(c, false), (c, true)]) {
            let mut names = inner.durable.clone();
            let applied = inner.pending.iter().enumerate().filter(|(i, _)| chosen & (1 << i) != 0);
            applied.for_each(|(_, change)| names.apply(change));
            // What stands in a folder that is not there is not there.
            let dirs = names.dirs.clone();
            names.files.retain(|path, _| path.parent().is_some_and(|dir| dirs.contains(dir)));
            let kept = |(now, durable): &(Vec<u8>, Vec<u8>)| {
                let bytes = if synced_only { durable } else { now };
                (bytes.clone(), bytes.clone())
            };
            let bytes = inner.bytes.iter().map(kept).collect();
            let inner = Inner { now: names.clone(), durable: names, bytes, pending: Vec::new() };
            disks.push(Self { inner: Rc::new(RefCell::new(inner)), ..Self::default() });
        }
        disks
    }

    pub(super) fn bytes_used(&self) -> usize {
        let inner = self.inner.borrow();
        inner.now.files.values().map(|inode| inner.bytes[*inode].0.len()).sum()
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.inner.borrow().now.files.keys().cloned().collect()
    }

    /// Changes a file behind everybody's back.
    pub(super) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner.borrow_mut();
        let inode = inner.now.files[path];
        change(&mut inner.bytes[inode].0);
    }

    /// Counts an operation; the fault that it meets.
    fn step(&self) -> Result<Option<Fault>, io::Error> {
        if self.off.get() {
            return Err(io::Error::other("the power is off"));
        }
        let operation = self.operations.replace(self.operations.get() + 1);
        let fault = self.fault.get().filter(|(at, _)| *at == operation).map(|(_, fault)| fault);
        self.off.set(matches!(fault, Some(Fault::Cut(_))));
        Ok(fault)
    }

    fn operate(&self, work: impl FnOnce(&mut Inner) -> io::Result<()>) -> io::Result<()> {
        match self.step()? {
            None => work(&mut self.inner.borrow_mut()),
            Some(Fault::Error(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Fault::Cut(_)) => Err(io::Error::other("the power went")),
        }
    }
}

fn not_found<T>() -> io::Result<T> {
    Err(io::ErrorKind::NotFound.into())
}

impl Disk for MemoryDisk {
    type File = usize;
    type Lock = ();

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate(|inner| {
            let ancestors: Vec<_> = dir.ancestors().map(Path::to_owned).collect();
            for dir in ancestors.into_iter().rev().filter(|dir| dir.parent().is_some()) {
                inner.now.dirs.insert(dir.clone());
                inner.durable.dirs.insert(dir);
            }
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let inner = self.inner.borrow();
        if !inner.now.dirs.contains(dir) {
            return not_found();
        }
        let named = |path: &Path, is_dir| {
            let name = path.file_name().filter(|_| path.parent() == Some(dir))?;
            Some(Entry { name: name.to_string_lossy().into_owned(), is_dir })
        };
        let files = inner.now.files.keys().filter_map(|path| named(path, false));
        Ok(files.chain(inner.now.dirs.iter().filter_map(|path| named(path, true))).collect())
    }

    fn read(&self, path: &Path, _most: u64) -> io::Result<Vec<u8>> {
        let inner = self.inner.borrow();
        inner.now.files.get(path).map_or_else(not_found, |inode| Ok(inner.bytes[*inode].0.clone()))
    }

    fn create(&self, path: &Path) -> io::Result<usize> {
        let mut made = 0;
        self.operate(|inner| {
            inner.bytes.push(Default::default());
            made = inner.bytes.len() - 1;
            inner.change(Change::Link(path.to_owned(), made));
            Ok(())
        })?;
        Ok(made)
    }

    fn write(&self, file: &mut usize, bytes: &[u8]) -> io::Result<()> {
        let fault = self.step()?;
        let written = match fault {
            None => bytes.len(),
            Some(Fault::Error(_)) => bytes.len() / 2,
            Some(Fault::Cut(at)) => at.min(bytes.len()),
        };
        self.inner.borrow_mut().bytes[*file].0.extend(&bytes[..written]);
        match fault {
            None => return Ok(()),
            Some(_) => self.met_bytes.set(Some(bytes.len())),
        }
        match fault {
            Some(Fault::Error(code)) => Err(io::Error::from_raw_os_error(code)),
            _ => Err(io::Error::other("the power went")),
        }
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        self.operate(|inner| {
            let (now, durable) = &mut inner.bytes[*file];
            durable.clone_from(now);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(|inner| match inner.now.files.get(from).copied() {
            Some(inode) => {
                inner.change(Change::Rename(from.to_owned(), to.to_owned(), inode));
                Ok(())
            }
            None => not_found(),
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate(|inner| {
            let (done, left) = inner.pending.drain(..).partition(|change: &Change| change.parent() == dir);
            inner.pending = left;
            let done: Vec<Change> = done;
            done.iter().for_each(|change| inner.durable.apply(change));
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.operate(|inner| {
            if !inner.now.files.contains_key(path) {
                return not_found();
            }
            inner.change(Change::Unlink(path.to_owned()));
            Ok(())
        })
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate(|inner| {
            if inner.now.files.keys().any(|path| path.parent() == Some(dir)) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            inner.change(Change::Unlink(dir.to_owned()));
            Ok(())
        })
    }

    fn lock(&self, _path: &Path) -> io::Result<()> {
        self.operate(|_| Ok(()))
    }
}
