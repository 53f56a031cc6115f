//! The command line of this process, for what it writes to be made again.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use crate::files;

/// The file in a run's folder with the command lines that wrote it, the first one first.
pub(crate) const FILE_NAME: &str = "commands.txt";

/// The command line of this process as a shell takes it.
pub(crate) fn line() -> String {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .enumerate()
        // A program by its name alone: where it lies is the machine's business.
        .map(|(place, arg)| if place == 0 { files::name_of(Path::new(&arg)) } else { arg })
        .collect();
    // What a shell cannot take, an argument with a zero byte, no process is given.
    shlex::try_join(args.iter().map(String::as_str)).unwrap_or_default()
}

/// Notes the command line in the folder: after those that wrote to it before where their work goes on, else in their place.
///
/// # Errors
/// What the system says.
pub(crate) fn note(folder: &Path, goes_on: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.create(true).write(true).append(goes_on).truncate(!goes_on);
    writeln!(options.open(folder.join(FILE_NAME))?, "{}", line())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_of_one_run_are_noted_one_after_the_other_without_the_programs_place() {
        let dir = tempfile::tempdir().unwrap();
        for goes_on in [true, false, true] {
            note(dir.path(), goes_on).unwrap();
        }
        let text = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, [line(), line()]);
        let program = shlex::split(lines[0]).unwrap().remove(0);
        assert!(std::env::args().next().unwrap().ends_with(&program) && !program.contains('/'), "{program}");
    }
}
