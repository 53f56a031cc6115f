//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

/// Puts `bytes` in the place of the file at `path`: written beside it, synced, renamed. One that was there stays where that
/// fails.
///
/// # Errors
/// What the system says.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As any file: temporary ones are for their owner alone. The process's mask is applied to it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

/// The same, with the file's name in the error.
///
/// # Errors
/// Names the file that cannot be written.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    replace(path, bytes).with_context(|| path.display().to_string())
}

/// The last part of a path; nothing where it has none.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"longer than the next").unwrap();
        replace(&path, b"next").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"next");
        let other = dir.path().join("b");
        std::fs::write(&other, b"").unwrap();
        let permissions = |path| std::fs::metadata(path).unwrap().permissions();
        assert_eq!(permissions(&path), permissions(&other), "as any file");
        std::fs::remove_file(other).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("none/a"), b"").is_err());
    }
}
