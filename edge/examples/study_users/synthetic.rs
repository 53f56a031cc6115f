//! Fifty drawn people, none of whom the heads were fitted to.

use std::fs;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use semblance_calib::adapt::Correction;
use semblance_calib::candidate::Candidate;
use semblance_calib::fit::{FitOptions, Rest, Verdict, fit};
use semblance_calib::recording::{self, Names};
use semblance_calib::{Dataset, HeadKind, Heads, Moment};
use semblance_face::Bundle;
use serde_json::json;

use crate::people::{Camera, Sitter};
use crate::score::{Scores, header, mean, row};
use crate::stream;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// People to calibrate
    #[arg(long, default_value_t = 50)]
    users: u64,
    /// Other people, whom the heads of before are fitted to
    #[arg(long, default_value_t = 150)]
    population: u64,
    /// Where the embeddings are kept, as recordings; what is there is not drawn again
    #[arg(long, default_value = "target/study_users")]
    keep: PathBuf,
}

/// The places a person sits in.
const CALIBRATED: u64 = 1;
const LIVED: [u64; 3] = [2, 3, 4];
const CURVE: u64 = 5;

struct Person {
    basic7: Dataset,
    va: Dataset,
    quick: Dataset,
    /// Ten stretches of three seconds an expression.
    curve: Dataset,
    /// The place of the calibrations, at three other times.
    later: Dataset,
    /// Three other places, and a look at the resting face in each: three moments.
    elsewhere: Vec<(Dataset, Dataset)>,
    /// Expressions that come and go.
    clip: Dataset,
}

pub(crate) fn study(bundle: &Bundle, args: &Args) -> anyhow::Result<()> {
    let shipped = Heads::from_safetensors(bundle.heads_safetensors())?;
    let expressions = shipped.expression().context("the bundle has no expression head")?.labels().to_vec();
    let names = Names { expressions: expressions.clone(), ..Names::default() };
    let mut camera = Camera::new(bundle)?;
    fs::create_dir_all(&args.keep)?;
    let mut part = |name: String, person: u64, draw: &dyn Fn(&mut Camera) -> anyhow::Result<Dataset>| {
        kept(&args.keep.join(format!("{person:03}-{name}.jsonl")), &mut camera, &names, draw)
    };

    let mut population = Dataset::new(shipped.dim());
    for person in 1000..1000 + args.population {
        eprint!("\rpopulation: {} of {}   ", person - 999, args.population);
        let shown = part("live".to_owned(), person, &|camera| {
            Sitter::new(camera, person, CALIBRATED, 0)?.live(&expressions, 4, 2)
        })?;
        for (moment, embedding) in shown.iter() {
            let block = u32::try_from(person)?;
            population.push(Moment { block, ..*moment }, embedding)?;
        }
    }
    let mut people = Vec::new();
    for person in 1..=args.users {
        eprint!("\rusers: {person} of {}          ", args.users);
        let session = |protocol: &'static str| {
            let expressions = &expressions;
            move |camera: &mut Camera| {
                Sitter::new(camera, person, CALIBRATED, 0)?.calibrate(protocol, expressions)
            }
        };
        let mut elsewhere = Vec::new();
        for place in LIVED {
            let lived = part(format!("place{place}"), person, &|camera| {
                Sitter::new(camera, person, place, 0)?.live(&expressions, 10, 1)
            })?;
            elsewhere.push(after_a_look(&lived, &expressions)?);
        }
        let mut later = Dataset::new(shipped.dim());
        for visit in 1..=3 {
            let lived = part(format!("later{visit}"), person, &|camera| {
                Sitter::new(camera, person, CALIBRATED, visit)?.live(&expressions, 10, 1)
            })?;
            lived.iter().try_for_each(|(moment, embedding)| later.push(*moment, embedding))?;
        }
        people.push(Person {
            basic7: part("basic7".to_owned(), person, &session("basic7"))?,
            va: part("va".to_owned(), person, &session("va"))?,
            quick: part("quick".to_owned(), person, &session("quick"))?,
            curve: part("curve".to_owned(), person, &|camera| {
                Sitter::new(camera, person, CURVE, 0)?.live(&expressions, 10, 9)
            })?,
            clip: part("clip".to_owned(), person, &|camera| stream::clip(camera, person, &expressions))?,
            later,
            elsewhere,
        });
    }
    eprintln!();
    let at_rest = at_rest(&expressions, &population);
    let heads = of_population(&expressions, &population)?.with_neutral(Some(at_rest.into()))?;
    println!("{} people, heads fitted to {} others", people.len(), args.population);
    protocols(&people, &heads)?;
    curve(&people, &heads)?;
    let clips: Vec<Dataset> = people.into_iter().map(|person| person.clip).collect();
    stream::study(&clips, &heads)
}

/// Where the embeddings of a population at rest lie: the mean of the neutral ones.
fn at_rest(expressions: &[String], population: &Dataset) -> Vec<f32> {
    let row = expressions.iter().position(|expression| expression == "neutral");
    let mut mean = vec![0.0; population.dim()];
    let mut count = 0.0;
    for (moment, embedding) in population.iter() {
        if moment.label.expression.map(usize::from) == row {
            count += 1.0;
            mean.iter_mut().zip(embedding).for_each(|(mean, e)| *mean += (e - *mean) / count);
        }
    }
    mean
}

/// Heads for people in general.
fn of_population(expressions: &[String], data: &Dataset) -> anyhow::Result<Heads> {
    let none = Heads::new(data.dim(), [])?;
    let options = FitOptions {
        strengths: vec![1.0, 10.0, 100.0],
        expression_labels: expressions.to_vec(),
        ..FitOptions::default()
    };
    let fitted = fit(&none, data, &options)?;
    for kind in [HeadKind::Expression, HeadKind::ValenceArousal] {
        anyhow::ensure!(fitted.get(kind).verdict == Verdict::Accepted, "no head for {kind:?}: {fitted}");
    }
    Ok(fitted.heads().clone())
}

/// Labels of two sessions, one after the other.
fn together(first: &Dataset, second: &Dataset) -> anyhow::Result<Dataset> {
    let mut all = first.clone();
    all.append(second)?;
    Ok(all)
}

/// The first three neutral moments of a place, and all others.
fn after_a_look(lived: &Dataset, expressions: &[String]) -> anyhow::Result<(Dataset, Dataset)> {
    let neutral = expressions.iter().position(|expression| expression == "neutral");
    let (mut look, mut rest) = (Dataset::new(lived.dim()), Dataset::new(lived.dim()));
    for (moment, embedding) in lived.iter() {
        let is_look = look.len() < 3 && moment.label.expression.map(usize::from) == neutral;
        if is_look { &mut look } else { &mut rest }.push(*moment, embedding)?;
    }
    Ok((look, rest))
}

/// Where a face rests, from a look at it.
fn place(heads: &Heads, look: &Dataset) -> anyhow::Result<Correction> {
    let rest =
        Rest::of(heads, look, &FitOptions::default())?.context("a look at a face that is not at rest")?;
    Ok(rest.place().clone())
}

/// What heads are worth in other places: each after a look at the resting face, where `looks`; otherwise with `known`.
fn elsewhere(
    person: &Person,
    heads: &Heads,
    looks: bool,
    known: Option<&Correction>,
) -> anyhow::Result<Scores> {
    let each = person.elsewhere.iter().map(|(look, lived)| {
        let place = if looks { Some(place(heads, look)?) } else { known.cloned() };
        read(heads, place.as_ref(), lived)
    });
    Ok(mean(&each.collect::<anyhow::Result<Vec<_>>>()?))
}

/// What heads are worth on these moments, relative to a face at rest.
fn read(heads: &Heads, place: Option<&Correction>, data: &Dataset) -> anyhow::Result<Scores> {
    let folded = place.map(|place| place.fold(heads)).transpose()?;
    Ok(Scores::of(folded.as_ref().unwrap_or(heads), data)?)
}

/// Something that is measured: its name, higher is better.
type Measure = (&'static str, fn(&Scores) -> f64);

const MEASURES: [Measure; 4] = [
    ("accuracy", |s| s.accuracy),
    ("CCC", |s| s.ccc),
    ("1 - Brier score", |s| 1.0 - s.brier),
    ("1 - ECE", |s| 1.0 - s.ece),
];

fn rows(what: &str, before: &[Scores], after: &[Scores], measures: &[Measure]) {
    for (name, measure) in measures {
        let of = |scores: &[Scores]| scores.iter().map(measure).collect::<Vec<_>>();
        row(&format!("{what}: {name}"), &of(before), &of(after));
    }
}

fn protocols(people: &[Person], heads: &Heads) -> anyhow::Result<()> {
    type Labels = fn(&Person) -> anyhow::Result<Dataset>;
    let protocols: [(&str, Labels); 4] = [
        ("quick", |person| Ok(person.quick.clone())),
        ("basic7", |person| Ok(person.basic7.clone())),
        ("va", |person| Ok(person.va.clone())),
        ("basic7 + va", |person| together(&person.basic7, &person.va)),
    ];
    let each = |of: &dyn Fn(&Person) -> anyhow::Result<Scores>| {
        people.iter().map(of).collect::<anyhow::Result<Vec<_>>>()
    };
    let later = each(&|person| read(heads, None, &person.later))?;
    let away = each(&|person| elsewhere(person, heads, false, None))?;
    header("in other places, no calibration");
    rows(
        "a look at the resting face",
        &away,
        &each(&|person| elsewhere(person, heads, true, None))?,
        &MEASURES,
    );
    for (name, labels) in protocols {
        let candidate = |person: &Person| {
            Ok::<_, anyhow::Error>(Candidate::fit(
                heads,
                "",
                None,
                &labels(person)?,
                None,
                &FitOptions::default(),
            )?)
        };
        let candidates = people.iter().map(candidate).collect::<anyhow::Result<Vec<_>>>()?;
        let after = |of: &dyn Fn(&Person, &Candidate) -> anyhow::Result<Scores>| {
            people
                .iter()
                .zip(&candidates)
                .map(|(person, c)| of(person, c))
                .collect::<anyhow::Result<Vec<_>>>()
        };
        header(name);
        let there = after(&|person, c| read(c.heads(), c.place(), &person.later))?;
        rows("same place, later", &later, &there, &MEASURES);
        let looked = after(&|person, c| elsewhere(person, c.heads(), true, None))?;
        rows("other places, after a look", &away, &looked, &MEASURES);
        rows(
            "other places, as they come",
            &away,
            &after(&|person, c| elsewhere(person, c.heads(), false, c.place()))?,
            &MEASURES[..2],
        );
        let taken = |head: &str| {
            let is_taken = |c: &&Candidate| {
                let heads = c.report()["heads"].as_array().into_iter().flatten();
                heads.into_iter().any(|told| told["head"] == head && told["verdict"] == "accepted")
            };
            candidates.iter().filter(is_taken).count()
        };
        println!(
            "\nTaken: resting face {}, expression {}, valence and arousal {}",
            taken("rest"),
            taken("expression"),
            taken("va")
        );
    }
    Ok(())
}

/// Learning curves: so many seconds an expression, in so many stretches.
fn curve(people: &[Person], heads: &Heads) -> anyhow::Result<()> {
    let classes = heads.expression().map_or(1, |head| head.labels().len());
    header("labelled seconds an expression, read in other places after a look");
    let before = people.iter().map(|person| elsewhere(person, heads, false, None));
    let before = before.collect::<anyhow::Result<Vec<_>>>()?;
    for (secs, stretches) in [(1, 1), (3, 3), (10, 5), (30, 10)] {
        let frames = 3 * secs / stretches;
        let after = people.iter().map(|person| {
            let mut data = Dataset::new(heads.dim());
            let mut of_block = std::collections::BTreeMap::new();
            for (moment, embedding) in person.curve.iter() {
                let seen = of_block.entry(moment.block).or_insert(0);
                *seen += 1;
                if moment.block as usize / classes < stretches && *seen <= frames {
                    data.push(*moment, embedding)?;
                }
            }
            let candidate = Candidate::fit(heads, "", None, &data, None, &FitOptions::default())?;
            elsewhere(person, candidate.heads(), true, None)
        });
        rows(&format!("{secs} s"), &before, &after.collect::<anyhow::Result<Vec<_>>>()?, &MEASURES[..2]);
    }
    Ok(())
}

/// What the file has, drawn first where it is not there.
fn kept(
    file: &Path,
    camera: &mut Camera,
    names: &Names,
    draw: &dyn Fn(&mut Camera) -> anyhow::Result<Dataset>,
) -> anyhow::Result<Dataset> {
    if !file.exists() {
        let data = draw(camera)?;
        let unfinished = file.with_extension("part");
        let mut out = std::io::BufWriter::new(fs::File::create(&unfinished)?);
        for (moment, embedding) in data.iter() {
            let mut label = json!({});
            if let Some(row) = moment.label.expression {
                label["expression"] = json!(names.expressions[usize::from(row)]);
            }
            if let Some([valence, arousal]) = moment.label.valence_arousal {
                (label["valence"], label["arousal"]) = (json!(valence), json!(arousal));
            }
            let line =
                json!({ "t": moment.t_secs, "track": moment.block, "embedding": embedding, "label": label });
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        fs::rename(unfinished, file)?;
    }
    let input = BufReader::new(fs::File::open(file)?);
    let read = recording::read(input, camera.dim(), names);
    Ok(read.with_context(|| file.display().to_string())?.0)
}
