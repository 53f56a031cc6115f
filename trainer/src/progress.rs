//! Progress of long work, on standard error; hidden where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `length` steps that shows its rate's end in time, after `what`.
pub fn bar(length: u64, what: &str) -> ProgressBar {
    let template = "{prefix} [{bar:30}] {pos}/{len} {elapsed}<{eta} {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(what.to_owned())
}
