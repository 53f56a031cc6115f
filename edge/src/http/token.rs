//! The token that is asked for on addresses other machines can reach: made once, kept where only its owner reads it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Its file's name in the state folder.
pub(super) const FILE: &str = "http-token";

/// Shortest and longest token; one that is generated has 64 characters.
const LENGTH: std::ops::RangeInclusive<usize> = 32..=256;

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("{}: {source}: name a folder that can be written with --state-dir", path.display())]
    Io {
        /// The file or its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or write the file.
    #[error("{}: the token can be read by others (mode {mode:o}): chmod 600 it, or delete it for a new one", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{}: no token (32 to 256 letters, digits or any of -._~): delete it for a new one", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The token in `file`; where there is none, a new one, which is written there.
///
/// # Errors
/// [`TokenError`].
pub(super) fn load_or_create(file: &Path) -> Result<String, TokenError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| TokenError::Io { path, source }
    };
    match File::open(file) {
        Ok(open) => load(file, open),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = file.parent().unwrap_or(Path::new("."));
            create_private_dir(dir).map_err(at(dir))?;
            create(file).map_err(at(file))
        }
        Err(error) => Err(at(file)(error)),
    }
}

fn load(path: &Path, file: File) -> Result<String, TokenError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = file.metadata().map_err(|source| TokenError::Io { path: path.to_owned(), source })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed { path: path.to_owned(), mode });
        }
    }
    let mut text = String::new();
    let malformed = || TokenError::Malformed { path: path.to_owned() };
    file.take(*LENGTH.end() as u64 + 2).read_to_string(&mut text).map_err(|_| malformed())?;
    let token = text.trim_end();
    let usable = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if !LENGTH.contains(&token.len()) || !token.chars().all(usable) {
        return Err(malformed());
    }
    Ok(token.to_owned())
}

/// Writes a new token beside its place and moves it there: a power cut leaves no half of one.
fn create(path: &Path) -> io::Result<String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = create_private_file(&beside).and_then(|mut file| {
        writeln!(file, "{token}")?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.map(|()| token)
}

fn create_private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn made_once_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state").join(FILE);
        let token = load_or_create(&file).unwrap();
        assert!(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        assert_eq!(load_or_create(&file).unwrap(), token);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        let other = load_or_create(&dir.path().join("other").join(FILE)).unwrap();
        assert_ne!(other, token);
    }

    #[test]
    fn exposed_empty_and_unusable_ones_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let refusal = |text: &str, mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            load_or_create(&file).unwrap_err().to_string()
        };
        let good = "a".repeat(32);
        assert!(refusal(&good, 0o644).contains("chmod 600"));
        for text in [String::new(), "short".to_owned(), "a b".repeat(20), "a".repeat(257), "ä".repeat(32)] {
            let message = refusal(&text, 0o600);
            assert!(message.contains(FILE) && message.contains("delete it"), "{message}");
        }
        fs::write(&file, format!("{good}\n")).unwrap();
        assert_eq!(load_or_create(&file).unwrap(), good);
        assert!(matches!(load_or_create(&file.join("below")), Err(TokenError::Io { .. })));
    }
}
