//! LFW (Huang et al. 2007) and Cross-Pose LFW (Zheng & Deng 2018): faces whose identity is verified in pairs.
//!
//! Every picture is a video of its own, named by its number, of the identity that its name begins with, and in the test
//! split. The pairs go to [`PAIRS`](crate::store::PAIRS) beside the store, in place of those that were there.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use semblance_face::frame::is_picture;
use serde::Deserialize;

use super::super::Session;
use super::super::tree::children;
use super::{Entry, at, first_there, lines, needed, stem, store};
use crate::store::{NamedPair, Split};

/// Folds of both protocols.
const FOLDS: usize = 10;

/// LFW as it is published: `lfw/Name/Name_0001.jpg` (or the folder of people itself) and the official `pairs.txt`. A flat
/// folder of `Name_0001.jpg` is read as well, and so is a list of pairs as CSV with columns `fold,same,a,b`.
pub(super) fn read_lfw(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let list = match &args.pairs {
        Some(list) => list.clone(),
        None => needed(&args.src, &["pairs.txt", "pairs.csv"])
            .context("or give the list of pairs (--pairs FILE)")?,
    };
    let is_csv = list.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
    session.have_pairs(if is_csv { csv_pairs(&list)? } else { lfw_pairs(&list)? })?;
    let folder = first_there(&args.src, &["lfw"]).unwrap_or_else(|| args.src.clone());
    let (people, files) = children(&folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = files.into_iter().map(|(_, path)| path).collect();
    for (_, person) in people {
        let (_, files) = children(&person).with_context(|| person.display().to_string())?;
        paths.extend(files.into_iter().map(|(_, path)| path));
    }
    store(session, faces(paths), "lfw/Name/Name_0001.jpg")
}

/// CPLFW as it is published: `aligned images/` or `images/` with `Name_1.jpg`, and `pairs_CPLFW.txt` with two lines a
/// pair, each a file's name and 1 for the same person or 0; 6,000 pairs, of which each tenth is a fold.
pub(super) fn read_cplfw(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let list = match &args.pairs {
        Some(list) => list.clone(),
        None => {
            needed(&args.src, &["pairs_CPLFW.txt"]).context("or give the list of pairs (--pairs FILE)")?
        }
    };
    session.have_pairs(cplfw_pairs(&list)?)?;
    let folder = needed(&args.src, &["aligned images", "images"])?;
    let (_, files) = children(&folder).with_context(|| folder.display().to_string())?;
    store(session, faces(files.into_iter().map(|(_, path)| path)), "'aligned images/Name_1.jpg'")
}

/// The pictures among files, by their names; a name without a number is no face of the set.
fn faces(paths: impl IntoIterator<Item = PathBuf>) -> Vec<Entry<()>> {
    let face = |path: PathBuf| {
        let name = stem(&path);
        let (identity, number) = parts(&name)?;
        Some(Entry::still(identity, number, Split::Test, path, ()))
    };
    paths.into_iter().filter(|path| is_picture(path)).filter_map(face).collect()
}

/// The identity and the number of a name such as `Name_0001`.
fn parts(name: &str) -> Option<(&str, &str)> {
    let (identity, number) = name.rsplit_once('_')?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (digits && !identity.is_empty()).then_some((identity, number))
}

/// A pair of two names such as `Name_0001`, with or without an extension.
fn pair(fold: usize, same: bool, a: &str, b: &str) -> anyhow::Result<NamedPair> {
    let named = |file: &str| {
        let stem = stem(Path::new(file));
        let (identity, number) =
            parts(&stem).with_context(|| format!("'{file}' is not as 'Name_0001.jpg'"))?;
        anyhow::Ok((identity.to_owned(), number.to_owned()))
    };
    let ((a_identity, a_video), (b_identity, b_video)) = (named(a)?, named(b)?);
    let fold = u32::try_from(fold).context("too many folds")?;
    Ok(NamedPair { fold, same: u8::from(same), a_identity, a_video, b_identity, b_video })
}

/// The official list: a header with the number of folds and of pairs, then for each fold so many pairs `Name n m` of one
/// person and as many `Name n Other m` of two. A header of one number is that of a single fold.
fn lfw_pairs(path: &Path) -> anyhow::Result<Vec<NamedPair>> {
    let lines = lines(path)?;
    let (head, rest) = lines.split_first().with_context(|| format!("{}: it is empty", path.display()))?;
    let header: Vec<usize> = head.1.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let (folds, each) = match header[..] {
        [folds, each] => (folds, each),
        [each] => (1, each),
        _ => (0, 0),
    };
    ensure!(each > 0, "{}: '{}' is not a header as '10 300'", at(path, head.0), head.1);
    ensure!(
        Some(rest.len()) == each.checked_mul(2).and_then(|pairs| pairs.checked_mul(folds)),
        "{}: {} pairs, but its header announces {folds} x 2 x {each}",
        path.display(),
        rest.len()
    );
    let numbered = |name: &str, number: &str| {
        let number: u32 = number.parse().with_context(|| format!("'{number}' is no number of a picture"))?;
        anyhow::Ok(format!("{name}_{number:04}"))
    };
    let parse = |i: usize, line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [name, n, m] => pair(i / (2 * each), true, &numbered(name, n)?, &numbered(name, m)?),
            [a, n, b, m] => pair(i / (2 * each), false, &numbered(a, n)?, &numbered(b, m)?),
            _ => anyhow::bail!("'{line}' is neither 'Name 1 2' nor 'Name 1 Other 2'"),
        }
    };
    rest.iter()
        .enumerate()
        .map(|(i, (number, line))| parse(i, line).with_context(|| at(path, *number)))
        .collect()
}

/// A row of a list as CSV; `a` and `b` are names of files.
#[derive(Deserialize)]
struct Row {
    fold: usize,
    same: u8,
    a: String,
    b: String,
}

/// # Errors
/// Where there is no pair.
fn some(path: &Path, pairs: Vec<NamedPair>) -> anyhow::Result<Vec<NamedPair>> {
    ensure!(!pairs.is_empty(), "{}: no pair is in it", path.display());
    Ok(pairs)
}

fn csv_pairs(path: &Path) -> anyhow::Result<Vec<NamedPair>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    let parse = |row: Result<Row, csv::Error>| {
        let row = row?;
        ensure!(row.same <= 1, "same = {} is neither 0 nor 1", row.same);
        pair(row.fold, row.same == 1, &row.a, &row.b)
    };
    let rows = reader.deserialize().zip(2..);
    let pairs = rows.map(|(row, line)| parse(row).with_context(|| at(path, line)));
    some(path, pairs.collect::<anyhow::Result<_>>()?)
}

fn cplfw_pairs(path: &Path) -> anyhow::Result<Vec<NamedPair>> {
    let lines = lines(path)?;
    let count = lines.len() / 2;
    let parse = |line: &str| {
        let (name, same) = line.rsplit_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), same.parse::<u8>().ok().filter(|same| *same <= 1)?))
    };
    let mut pairs = Vec::with_capacity(count);
    for (i, two) in lines.chunks(2).enumerate() {
        let place = at(path, two[0].0);
        let [Some((a, same)), Some((b, also))] = [0, 1].map(|k| two.get(k).and_then(|l| parse(&l.1))) else {
            anyhow::bail!("{place}: not two lines as 'Name_1.jpg 1'");
        };
        ensure!(same == also, "{place}: the two lines of a pair have {same} and {also}");
        pairs.push(pair(i * FOLDS / count, same == 1, &a, &b).context(place)?);
    }
    some(path, pairs)
}
