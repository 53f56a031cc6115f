//! Real people: those of LFW with ten labelled pictures or more.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use semblance_calib::candidate::Candidate;
use semblance_calib::fit::FitOptions;
use semblance_calib::{Dataset, Heads, Label, Moment};
use semblance_face::landmarks::Landmarker;
use semblance_face::{Bundle, Frame};

use crate::people::Camera;
use crate::score::{header, row};

/// Fewer labelled pictures do not make a person of the study.
const LEAST_PICTURES: usize = 10;
/// People with more pictures than this are judged in as many folds; all others picture by picture.
const MOST_FOLDS: usize = 60;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with `lfw/` and `lfw_expression_half.csv`
    #[arg(env = "SEMBLANCE_DATA")]
    data: PathBuf,
}

/// The bundle's name of a label of the list.
fn row_of(label: &str, expressions: &[String]) -> Option<usize> {
    let name = match label {
        "happiness" => "happy",
        "sadness" => "sad",
        "anger" => "angry",
        other => other,
    };
    expressions.iter().position(|expression| expression == name)
}

pub(crate) fn study(bundle: &Bundle, args: &Args) -> anyhow::Result<()> {
    let heads = Heads::from_safetensors(bundle.heads_safetensors())?;
    let expressions = heads.expression().context("the bundle has no expression head")?.labels().to_vec();
    let list = args.data.join("lfw_expression_half.csv");
    let list = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let mut people: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for line in list.lines().skip(1) {
        let (picture, label) = line.split_once(',').with_context(|| format!("no label in '{line}'"))?;
        let (person, _) = picture.rsplit_once('_').with_context(|| format!("no person in '{picture}'"))?;
        // Contempt is no expression of the bundle's.
        if let Some(expression) = row_of(label.trim(), &expressions) {
            people.entry(person).or_default().push((picture, expression));
        }
    }
    people.retain(|_, pictures| pictures.len() >= LEAST_PICTURES);

    let mut camera = Camera::new(bundle)?;
    let onnx = bundle.landmarks_onnx().context("the bundle finds no landmarks")?;
    let entry = bundle.manifest().landmarks.as_ref().context("the bundle finds no landmarks")?;
    let mut landmarker = Landmarker::new(onnx, entry.input_side_px)?;
    let mut shares = [Vec::new(), Vec::new(), Vec::new()];
    let (mut pictures, mut right) = (0, [0.0; 3]);
    for (number, (person, shown)) in people.iter().enumerate() {
        eprint!("\r{} of {}: {} pictures       ", number + 1, people.len(), shown.len());
        let mut data = Dataset::new(heads.dim());
        for (picture, expression) in shown {
            let file = args.data.join("lfw").join(picture);
            let frame = Frame::decode(&std::fs::read(&file).with_context(|| file.display().to_string())?)?;
            // Pictures in which no face is seen are passed over, as the device would.
            let Some(found) = landmarker.locate_in_crop(&frame)? else { continue };
            let embedding = camera.embed(&frame, &found.points)?;
            let block = u32::try_from(data.len())?;
            let label = Label { expression: Some(u8::try_from(*expression)?), ..Label::default() };
            data.push(Moment { t_secs: f64::from(block), block, label }, embedding)?;
        }
        let hits = leave_out(&heads, &data).with_context(|| (*person).to_owned())?;
        for (of, hits) in shares.iter_mut().zip(hits) {
            of.push(hits / data.len() as f64);
        }
        pictures += data.len();
        right.iter_mut().zip(hits).for_each(|(right, hits)| *right += hits);
    }
    eprintln!();
    println!("{} people with {pictures} pictures", people.len());
    let [shipped, rested, fitted] = right.map(|right| right / pictures as f64);
    println!(
        "Of all pictures are read rightly: {shipped:.3} as shipped, {rested:.3} relative to the face at rest, {fitted:.3} fitted"
    );
    header("LFW, picture left out: accuracy");
    row("relative to the face at rest", &shares[0], &shares[1]);
    row("heads fitted, too", &shares[0], &shares[2]);
    Ok(())
}

/// How many pictures are read rightly with the heads as shipped, relative to the face at rest as the other pictures show it, and
/// with heads fitted to the other pictures, too; both where the guard takes them.
fn leave_out(heads: &Heads, data: &Dataset) -> anyhow::Result<[f64; 3]> {
    let mut hits = [0.0; 3];
    let folds = data.len().min(MOST_FOLDS);
    for fold in 0..folds {
        let mut others = Dataset::new(data.dim());
        for (i, (moment, embedding)) in data.iter().enumerate() {
            if i % folds != fold {
                others.push(*moment, embedding)?;
            }
        }
        let candidate = Candidate::fit(heads, "", None, &others, None, &FitOptions::default())?;
        let relative =
            |heads: &Heads| candidate.place().map_or_else(|| Ok(heads.clone()), |place| place.fold(heads));
        let all = [heads.clone(), relative(heads)?, relative(candidate.heads())?];
        for i in (fold..data.len()).step_by(folds) {
            let Some(truth) = data.moments()[i].label.expression else { continue };
            for (hits, heads) in hits.iter_mut().zip(&all) {
                let Some(head) = heads.expression() else { continue };
                *hits += f64::from(u8::from(head.classify(data.embedding(i)) == usize::from(truth)));
            }
        }
    }
    Ok(hits)
}
