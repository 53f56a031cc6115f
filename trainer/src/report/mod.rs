//! `trainer report`: what a set of runs came to, as one HTML page and as Markdown.

mod found;
mod page;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;

use self::found::Found;
use self::page::{Page, html};
use crate::files;

/// Options of `trainer report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Folders with what is told of: runs, tables of `trainer table`, pictures of `trainer saliency`, and what `trainer eval --json`
    /// printed into files that end in .json; they are looked for four folders deep
    #[arg(required = true, value_name = "FOLDER")]
    pub folders: Vec<PathBuf>,

    /// Folder for report.html, which has everything in it, and report.md with its pictures beside it
    #[arg(long, default_value = "report")]
    pub out: PathBuf,

    /// The page's title
    #[arg(long, default_value = "Face encoders")]
    pub title: String,
}

/// Runs `trainer report`.
///
/// # Errors
/// Where a folder is not there, holds nothing that can be told of, or the report cannot be written. A file that is damaged is named in
/// the report, which does without.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let found = Found::look(&args.folders)?;
    for problem in &found.left_out {
        eprintln!("left out: {problem}");
    }
    let folders: Vec<String> = args.folders.iter().map(|folder| folder.display().to_string()).collect();
    ensure!(
        !found.is_empty(),
        "{}: no run, table, picture or evaluation is there: give what `trainer pretrain`, `table`, `saliency` wrote, or files \
         with what `eval --json` printed",
        folders.join(", ")
    );
    let page = Page::of(&found, &args.title);
    let pictures = args.out.join("pictures");
    fs::create_dir_all(&pictures).with_context(|| pictures.display().to_string())?;
    let write = |name: &str, bytes: &[u8]| files::put(&args.out.join(name), bytes);
    for picture in page.pictures() {
        write(&format!("pictures/{}", picture.name), &picture.bytes)?;
    }
    write("report.md", page.markdown(|picture| format!("pictures/{}", picture.name)).as_bytes())?;
    write("report.html", html(&args.title, &page.markdown(page::Picture::inline)).as_bytes())?;
    println!("{}", args.out.join("report.html").display());
    Ok(())
}
