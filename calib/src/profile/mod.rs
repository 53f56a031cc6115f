//! Profiles: what a device knows of its users, kept so that a power cut at any byte loses nothing.
//!
//! A user is a folder of states, one file each, which are never changed in place. The newest sound one is in force, the
//! older ones are there to roll back to. A new state is written beside them, synced, renamed, and its name synced; only
//! then are old ones thinned out. Labelled moments stay in the newest state and the one before it; older states keep
//! their heads and reports. So a user takes less than 2 MB at 512 values, and another 0.7 MB while a state is written.

mod disk;
mod name;
mod state;

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

pub use disk::{Disk, Entry, RealDisk};
pub use name::{NameError, UserName};
pub use state::{FORMAT, State};

use crate::labelled::CAPACITY;
use state::{DecodeError, decode, encode};

/// States that are kept of a user, the one in force among them.
pub const KEPT: usize = 8;
/// Most bytes of a state's report.
pub const MAX_REPORT: usize = 8 << 10;
/// Most bytes of a state's reason, and of its bundle's identity.
pub const MAX_REASON: usize = 256;
/// Largest file that is read as a state.
const MAX_FILE: u64 = 16 << 20;

const LOCK: &str = ".lock";
/// The next state, until it is renamed.
const NEXT: &str = "next.tmp";
const PREFIX: &str = "state-";
const SUFFIX: &str = ".profile";

/// Name of the profiles' folder in the [`state_dir`].
pub const FOLDER: &str = "profiles";

/// The folder in which programs keep what outlives them, unless they are told of another: where systemd or the user's
/// session keeps such things.
pub fn state_dir() -> PathBuf {
    let folder = |variable: &str| {
        let paths = env::var_os(variable)?;
        // systemd may name several.
        env::split_paths(&paths).next().filter(|path| !path.as_os_str().is_empty())
    };
    folder("STATE_DIRECTORY")
        .or_else(|| Some(folder("XDG_STATE_HOME")?.join("semblance")))
        .or_else(|| Some(folder("HOME")?.join(".local/state/semblance")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/semblance"))
}

/// Now, in seconds since 1970 (UTC).
pub fn now_unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a profile could not be read or written.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file system refused something.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Another process is writing.
    #[error("another process is writing to the profiles in {}", path.display())]
    Locked {
        /// The profiles' folder.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("{what} has the format {found}, newer than this build reads (up to {FORMAT}): update Semblance")]
    Newer {
        /// Which file.
        what: String,
        /// The version that it states.
        found: u32,
    },
    /// The file is cut off, changed, or no profile at all.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which file.
        what: String,
        /// How it was noticed.
        reason: String,
    },
    /// There is no such profile, or no such state of it.
    #[error("there is no {0}")]
    Missing(String),
    /// The profile was made with another bundle. It is kept.
    #[error(
        "the profile was made with the bundle {profile}, and this one is {bundle}: calibrate anew to use it"
    )]
    OtherBundle {
        /// The bundle that it was made with.
        profile: String,
        /// The bundle that it was to be used with.
        bundle: String,
    },
    /// The parts of a state do not read embeddings of one size.
    #[error("{what} for embeddings of {found} values where {expected} are expected")]
    Dim {
        /// Which part.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The size of the others.
        expected: usize,
    },
    /// A part of a state is larger than a profile may be.
    #[error("{what} of {found}, and at most {most} are kept")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The largest.
        most: usize,
    },
    /// Somebody else has saved a state since the one that this was made from.
    #[error("the profile has changed: it is at state {found}, not {expected}")]
    Changed {
        /// The newest state; 0 where there is none.
        found: u64,
        /// The one expected.
        expected: u64,
    },
}

/// A file that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// How it was noticed.
    pub reason: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged ({}): the state before it is used", self.path.display(), self.reason)
    }
}

/// A user's newest sound state.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// Its number: it rises from state to state.
    pub serial: u64,
    /// The state.
    pub state: State,
    /// Newer files that were passed over. Somebody should be told.
    pub damaged: Vec<Damaged>,
}

impl Opened {
    /// The state, if it was made with this bundle.
    ///
    /// # Errors
    /// [`ProfileError::OtherBundle`], which names both.
    pub fn for_bundle(&self, bundle: &str) -> Result<&State, ProfileError> {
        if self.state.bundle == bundle {
            return Ok(&self.state);
        }
        Err(ProfileError::OtherBundle { profile: self.state.bundle.clone(), bundle: bundle.to_owned() })
    }
}

/// A user's states with their numbers, newest first, or why one cannot be read.
pub type History = Vec<(u64, Result<State, ProfileError>)>;

/// What a deletion has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Files that were removed.
    pub removed: usize,
    /// What could not be removed, and why. Empty where nothing is left of the user.
    pub left: Vec<(PathBuf, String)>,
}

/// The profiles of all users of a device, in one folder.
#[derive(Clone, Debug)]
pub struct Profiles<D = RealDisk> {
    disk: D,
    root: PathBuf,
}

impl Profiles {
    /// The profiles in `root`, which is made when one is saved.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::on(RealDisk, root)
    }
}

impl<D: Disk> Profiles<D> {
    /// The profiles in `root` on this disk.
    pub fn on(disk: D, root: impl Into<PathBuf>) -> Self {
        Self { disk, root: root.into() }
    }

    /// The users that have a profile, in order.
    ///
    /// # Errors
    /// [`ProfileError::Io`].
    pub fn users(&self) -> Result<Vec<UserName>, ProfileError> {
        let mut users = Vec::new();
        for entry in self.list(&self.root)? {
            if entry.is_dir
                && let Ok(user) = entry.name.parse()
                && !self.serials(&user)?.is_empty()
            {
                users.push(user);
            }
        }
        users.sort();
        Ok(users)
    }

    /// A user's newest sound state; `None` where there is no profile. Damaged files are passed over, and named.
    ///
    /// # Errors
    /// [`ProfileError::Newer`] where a newer version wrote the newest one, [`ProfileError::Damaged`] where none is
    /// sound, and [`ProfileError::Io`].
    pub fn open(&self, user: &UserName) -> Result<Option<Opened>, ProfileError> {
        let mut damaged = Vec::new();
        for serial in self.serials(user)? {
            let path = self.path(user, serial);
            match self.read(user, serial) {
                Ok(state) => return Ok(Some(Opened { serial, state, damaged })),
                Err(ProfileError::Damaged { reason, .. }) => damaged.push(Damaged { path, reason }),
                Err(ProfileError::Io { source, .. }) => {
                    damaged.push(Damaged { path, reason: source.to_string() });
                }
                Err(other) => return Err(other),
            }
        }
        match damaged.pop() {
            None => Ok(None),
            Some(oldest) => Err(ProfileError::Damaged {
                what: format!("every state of the profile '{user}'"),
                reason: oldest.reason,
            }),
        }
    }

    /// A user's states with their numbers, newest first, or why one cannot be read.
    ///
    /// # Errors
    /// [`ProfileError::Io`] where the folder cannot be read.
    pub fn history(&self, user: &UserName) -> Result<History, ProfileError> {
        let serials = self.serials(user)?;
        Ok(serials.into_iter().map(|serial| (serial, self.read(user, serial))).collect())
    }

    /// Makes `state` the one in force; gives its number. With `after`, only if that is still the newest state's number (0:
    /// there is none), so that two programs do not undo each other's work.
    ///
    /// Once this has returned, no power cut loses the state. After an error either the one before or this one is in force.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn save(&self, user: &UserName, state: &State, after: Option<u64>) -> Result<u64, ProfileError> {
        check(state)?;
        let _lock = self.lock()?;
        self.save_locked(user, state, after)
    }

    /// The lock is held.
    fn save_locked(&self, user: &UserName, state: &State, after: Option<u64>) -> Result<u64, ProfileError> {
        let dir = self.dir(user);
        self.disk.create_dir(&dir).map_err(at(&dir))?;
        self.disk.sync_dir(&self.root).map_err(at(&self.root))?;
        let newest = self.serials(user)?.first().copied().unwrap_or(0);
        if let Some(expected) = after.filter(|expected| *expected != newest) {
            return Err(ProfileError::Changed { found: newest, expected });
        }
        let before = self.open(user)?.map(|opened| opened.serial);
        self.write(user, newest + 1, state)?;
        self.disk.sync_dir(&dir).map_err(at(&dir))?;
        // The new state is safe. What cannot be thinned out now will be next time.
        let _ = self.thin_out(user, newest + 1, before);
        Ok(newest + 1)
    }

    /// Writes a state under its name, whole or not at all.
    fn write(&self, user: &UserName, serial: u64, state: &State) -> Result<(), ProfileError> {
        let (next, path) = (self.dir(user).join(NEXT), self.path(user, serial));
        let bytes = encode(serial, state)
            .map_err(|reason| ProfileError::Damaged { what: path.display().to_string(), reason })?;
        self.put(&next, &path, &bytes)
    }

    fn put(&self, next: &Path, path: &Path, bytes: &[u8]) -> Result<(), ProfileError> {
        let written = self.disk.create(next).and_then(|mut file| {
            self.disk.write(&mut file, bytes)?;
            self.disk.sync(&file)?;
            self.disk.rename(next, path)
        });
        written.map_err(at(path)).inspect_err(|_| {
            // The next attempt overwrites what cannot be removed.
            let _ = self.disk.remove_file(next);
        })
    }

    /// Leaves the labels to the newest state and the sound one before it, and drops states beyond [`KEPT`].
    fn thin_out(&self, user: &UserName, newest: u64, before: Option<u64>) -> Result<(), ProfileError> {
        for (place, serial) in self.serials(user)?.into_iter().enumerate() {
            if serial == newest || Some(serial) == before {
                continue;
            }
            if place >= KEPT {
                let path = self.path(user, serial);
                self.disk.remove_file(&path).map_err(at(&path))?;
            } else if let Ok(mut state) = self.read(user, serial)
                && state.labelled.take().is_some()
            {
                self.write(user, serial, &state)?;
            }
        }
        let dir = self.dir(user);
        self.disk.sync_dir(&dir).map_err(at(&dir))
    }

    /// Puts an older state in force again, the one before the newest unless a number is given: as a new state with the old
    /// one's heads and correction, bit by bit. The labels stay those of now, unless they are of another bundle.
    ///
    /// # Errors
    /// [`ProfileError::Missing`] where there is no such state, and others of [`ProfileError`].
    pub fn rollback(
        &self,
        user: &UserName,
        to: Option<u64>,
        now_unix_secs: u64,
    ) -> Result<Opened, ProfileError> {
        let missing = |what: String| ProfileError::Missing(format!("{what} of the profile '{user}'"));
        let _lock = self.lock()?;
        let current = self.open(user)?.ok_or_else(|| missing("state".into()))?;
        let serials = self.serials(user)?;
        let to = match to {
            Some(to) => serials.iter().copied().find(|serial| *serial == to),
            None => serials.iter().copied().find(|serial| *serial < current.serial),
        }
        .ok_or_else(|| missing(to.map_or("older state".into(), |to| format!("state {to}"))))?;
        let old = self.read(user, to)?;
        let same_bundle = old.bundle == current.state.bundle;
        let labelled = if same_bundle { current.state.labelled } else { old.labelled };
        let reason = format!("rolled back to state {to}: {}", old.reason);
        let reason = reason.chars().take(MAX_REASON / 4).collect();
        let state = State { labelled, saved_unix_secs: now_unix_secs, reason, ..old };
        let serial = self.save_locked(user, &state, None)?;
        Ok(Opened { serial, state, damaged: Vec::new() })
    }

    /// The newest sound state as one file, for [`Profiles::import`].
    ///
    /// # Errors
    /// [`ProfileError::Missing`] where there is no profile, and those of [`Profiles::open`].
    pub fn export(&self, user: &UserName) -> Result<Vec<u8>, ProfileError> {
        let missing = || ProfileError::Missing(format!("profile '{user}'"));
        let Opened { serial, state, .. } = self.open(user)?.ok_or_else(missing)?;
        encode(serial, &state)
            .map_err(|reason| ProfileError::Damaged { what: format!("the profile '{user}'"), reason })
    }

    /// The same, written to `path`, whole or not at all.
    ///
    /// # Errors
    /// As [`Profiles::export`], and [`ProfileError::Io`].
    pub fn export_to(&self, user: &UserName, path: &Path) -> Result<(), ProfileError> {
        let bytes = self.export(user)?;
        let mut next = path.as_os_str().to_owned();
        next.push(".tmp");
        self.put(Path::new(&next), path, &bytes)
    }

    /// Puts an exported state in force for `user`, for embeddings of `dim` values; gives its number. What the user had
    /// before is part of the history.
    ///
    /// # Errors
    /// [`ProfileError::Damaged`], [`ProfileError::Newer`] and [`ProfileError::Dim`] for a file that is of no use here, and
    /// those of [`Profiles::save`].
    pub fn import(&self, user: &UserName, file: &[u8], dim: usize) -> Result<u64, ProfileError> {
        let (_, state) = decode(file).map_err(|e| describe(e, "the file to import".into()))?;
        if state.heads.dim() != dim {
            return Err(ProfileError::Dim { what: "a profile", found: state.heads.dim(), expected: dim });
        }
        self.save(user, &state, None)
    }

    /// Removes everything that is known of a user, the oldest first, so that one cut short leaves a sound profile.
    ///
    /// # Errors
    /// [`ProfileError::Missing`] where the user has no folder, [`ProfileError::Locked`] and [`ProfileError::Io`]; what
    /// could not be removed is told in the [`Deletion`].
    pub fn delete(&self, user: &UserName) -> Result<Deletion, ProfileError> {
        let known = self.list(&self.root)?.iter().any(|e| e.is_dir && e.name == user.as_str());
        if !known {
            return Err(ProfileError::Missing(format!("profile '{user}'")));
        }
        let _lock = self.lock()?;
        let dir = self.dir(user);
        let mut names: Vec<String> = self.list(&dir)?.into_iter().map(|e| e.name).collect();
        // Names hold their number with leading zeros; what is no state comes first.
        names.sort_by_key(|name| (serial_of(name).is_some(), name.clone()));
        let mut deletion = Deletion::default();
        for name in names {
            let path = dir.join(name);
            match self.disk.remove_file(&path) {
                Ok(()) => deletion.removed += 1,
                Err(e) => deletion.left.push((path, e.to_string())),
            }
        }
        if let Err(e) = self.disk.remove_dir(&dir) {
            deletion.left.push((dir, e.to_string()));
        }
        self.disk.sync_dir(&self.root).map_err(at(&self.root))?;
        Ok(deletion)
    }

    fn dir(&self, user: &UserName) -> PathBuf {
        self.root.join(user.as_str())
    }

    fn path(&self, user: &UserName, serial: u64) -> PathBuf {
        self.dir(user).join(format!("{PREFIX}{serial:020}{SUFFIX}"))
    }

    fn read(&self, user: &UserName, serial: u64) -> Result<State, ProfileError> {
        let path = self.path(user, serial);
        let what = path.display().to_string();
        let bytes = self.disk.read(&path, MAX_FILE).map_err(at(&path))?;
        let (written, state) = decode(&bytes).map_err(|e| describe(e, what.clone()))?;
        if written != serial {
            return Err(ProfileError::Damaged { what, reason: format!("it is state {written}") });
        }
        Ok(state)
    }

    /// Numbers of a user's states, newest first.
    fn serials(&self, user: &UserName) -> Result<Vec<u64>, ProfileError> {
        let mut serials: Vec<u64> =
            self.list(&self.dir(user))?.iter().filter_map(|entry| serial_of(&entry.name)).collect();
        serials.sort_unstable_by(|a, b| b.cmp(a));
        Ok(serials)
    }

    /// What is in a folder; nothing where it does not exist.
    fn list(&self, dir: &Path) -> Result<Vec<Entry>, ProfileError> {
        match self.disk.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(at(dir)),
        }
    }

    fn lock(&self) -> Result<D::Lock, ProfileError> {
        self.disk.create_dir(&self.root).map_err(at(&self.root))?;
        let path = self.root.join(LOCK);
        self.disk.lock(&path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => ProfileError::Locked { path: self.root.clone() },
            _ => at(&path)(e),
        })
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> ProfileError {
    move |source| ProfileError::Io { path: path.to_owned(), source }
}

fn describe(error: DecodeError, what: String) -> ProfileError {
    match error {
        DecodeError::Newer(found) => ProfileError::Newer { what, found },
        DecodeError::Damaged(reason) => ProfileError::Damaged { what, reason },
    }
}

fn serial_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Whether a state may be saved.
fn check(state: &State) -> Result<(), ProfileError> {
    let expected = state.heads.dim();
    let dims = [
        ("a correction", state.correction.as_ref().map(|c| c.dim())),
        ("labelled moments", state.labelled.as_ref().map(|l| l.dim())),
    ];
    for (what, dim) in dims {
        if let Some(found) = dim.filter(|dim| *dim != expected) {
            return Err(ProfileError::Dim { what, found, expected });
        }
    }
    let sizes = [
        ("labelled moments", state.labelled.as_ref().map_or(0, |l| l.len()), CAPACITY),
        ("a report", state.report.len(), MAX_REPORT),
        ("a reason", state.reason.len(), MAX_REASON),
        ("a bundle's identity", state.bundle.len(), MAX_REASON),
    ];
    match sizes.into_iter().find(|(_, found, most)| found > most) {
        Some((what, found, most)) => Err(ProfileError::TooLarge { what, found, most }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
