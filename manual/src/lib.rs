//! Man pages and shell completions, made of what `--help` says: a hidden subcommand of every program that is packaged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

/// Flags of the hidden subcommand `manual`.
#[derive(Clone, Debug, Args)]
pub struct ManualArgs {
    /// Folder for man1/*.1 and completions/*, laid out as below /usr/share
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl ManualArgs {
    /// Writes the pages and completions of `command`, its subcommands included, below the folder asked for.
    ///
    /// # Errors
    /// Where a folder or a file cannot be written.
    pub fn write(&self, command: &Command) -> io::Result<()> {
        write(command, &self.out)
    }
}

/// Where each shell looks for completions below `/usr/share`.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/vendor-completions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

fn write(command: &Command, share: &Path) -> io::Result<()> {
    let pages = share.join("man/man1");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(command.clone(), &pages)?;
    for (shell, folder) in SHELLS {
        let folder = share.join(folder);
        fs::create_dir_all(&folder)?;
        let file = clap_complete::generate_to(shell, &mut command.clone(), command.get_name(), &folder)?;
        // bash-completion loads a program's file by the program's name.
        if shell == Shell::Bash {
            fs::rename(&file, folder.join(command.get_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Arg;

    #[test]
    fn every_subcommand_that_is_shown_has_a_page_and_every_shell_knows_its_flags() {
        let command = Command::new("prog")
            .version("1.2.3")
            .subcommand(
                Command::new("go").about("Goes there").arg(Arg::new("far").long("far").help("How far")),
            )
            .subcommand(Command::new("secret").hide(true));
        let share = tempfile::tempdir().unwrap();
        write(&command, share.path()).unwrap();
        let read = |path: &str| {
            fs::read_to_string(share.path().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
        };
        let page = read("man/man1/prog-go.1");
        assert!(page.contains("Goes there") && page.contains("far"), "{page}");
        assert!(read("man/man1/prog.1").contains("1.2.3"));
        assert!(!share.path().join("man/man1/prog-secret.1").exists());
        for file in [
            "bash-completion/completions/prog",
            "zsh/vendor-completions/_prog",
            "fish/vendor_completions.d/prog.fish",
        ] {
            assert!(read(file).contains("far"), "{file}");
        }
    }
}
