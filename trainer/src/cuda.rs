//! Using a GPU where libtorch's CUDA libraries are installed, with a program that was built without them.

use std::env;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

/// Folder of libtorch's CUDA libraries, where they are neither beside the libtorch that the program was linked with nor
/// on the loader's path.
const FOLDER: &str = "SEMBLANCE_LIBTORCH_CUDA";
const LIBRARY: &str = "libtorch_cuda.so";

/// Opens libtorch's CUDA library, which registers its devices; must be called before the first tensor is made. Where
/// there is no such library or no GPU, training runs on the CPU.
pub fn open() {
    let named = env::var_os(FOLDER).map(PathBuf::from);
    let candidates = named.iter().map(|folder| folder.join(LIBRARY)).chain([PathBuf::from(LIBRARY)]);
    for candidate in candidates {
        match load(&candidate) {
            Ok(()) => {
                log::info!("{}: opened; CUDA available: {}", candidate.display(), tch::Cuda::is_available());
                return;
            }
            Err(reason) if named.is_some() => eprintln!("{FOLDER}: {reason}"),
            Err(reason) => log::debug!("training on the CPU: {reason}"),
        }
    }
}

#[cfg(unix)]
fn load(library: &Path) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    let name = CString::new(library.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: `name` ends in a zero byte. The library's initialisers register devices with libtorch, which is what it
    // is opened for, and it is never closed.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: after a failed dlopen, dlerror gives a string that lives until this thread's next call of it, or null.
    let reason = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text)) };
    Err(reason.map_or_else(|| library.display().to_string(), |text| text.to_string_lossy().into_owned()))
}

#[cfg(not(unix))]
fn load(library: &Path) -> Result<(), String> {
    Err(format!("{}: only opened on Unix", library.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_and_one_that_is_there_opens() {
        let missing = load(Path::new("/nowhere/libtorch_cuda.so"));
        assert!(missing.is_err_and(|reason| reason.contains("/nowhere/libtorch_cuda.so")));
        assert_eq!(load(Path::new("libtorch_cpu.so")), Ok(()));
    }
}
