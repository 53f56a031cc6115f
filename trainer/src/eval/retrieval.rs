//! What other people's pictures that lie near a picture have in common with it: FAb-Net shows such neighbours (figure 3 of
//! its supplement); here they are counted.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::ensure;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::labels::Label;
use super::subject::Subject;
use super::{EvalArgs, Protocol};
use crate::checkpoint::floats;
use crate::ntxent::unit_rows;
use crate::store::{Record, Split, Store};

/// Neighbours that are looked at, at most.
const NEAREST: usize = 10;
/// Of these, the ones whose valence, arousal and pose are compared.
const COMPARED: usize = 5;
/// The seed of the neighbours that chance gives.
const SEED: u64 = 11;
/// Similarities that are held at a time.
const HELD: usize = 1 << 25;

/// What neighbours have in common with a picture, and beside it what random pictures of other people have. Each is absent
/// where no picture of the split has the label.
#[derive(Clone, Debug, Serialize)]
pub struct RetrievalReport {
    /// `retrieval`.
    pub task: &'static str,
    /// `knn`.
    pub protocol: &'static str,
    /// The split that is looked through.
    pub split: &'static str,
    /// Pictures that were looked up.
    pub n: u64,
    /// People in the split.
    pub identities: u64,
    /// By cosine.
    #[serde(flatten)]
    pub nearest: Shared,
    /// At random.
    pub chance: Shared,
}

/// What pictures have in common with those beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shared {
    /// Share of pictures whose first neighbour has the same expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision_at_1: Option<f64>,
    /// Share of the first 5 neighbours that have the same expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision_at_5: Option<f64>,
    /// Share of the first 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision_at_10: Option<f64>,
    /// Mean absolute difference of valence to the first 5, of `[0, 2]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae_valence: Option<f64>,
    /// The same of arousal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae_arousal: Option<f64>,
    /// Mean absolute difference of yaw to the first 5, in degrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae_yaw: Option<f64>,
    /// The same of pitch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae_pitch: Option<f64>,
    /// The same of roll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae_roll: Option<f64>,
}

/// A running mean.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What pictures and their neighbours have in common, so far.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Of the first 1, 5 and 10.
    precision: [Mean; 3],
    valence_arousal: [Mean; 2],
    pose: [Mean; 3],
}

impl Tally {
    /// Compares a picture with its neighbours, the nearest first.
    fn add<'a>(&mut self, query: &Record<'_>, neighbours: impl Iterator<Item = Record<'a>>) {
        for (rank, neighbour) in neighbours.enumerate() {
            if let (Some(ours), Some(theirs)) = (query.expression(), neighbour.expression()) {
                let depths = [1, COMPARED, NEAREST];
                for (mean, _) in self.precision.iter_mut().zip(depths).filter(|(_, depth)| rank < *depth) {
                    mean.add(f64::from(u8::from(ours == theirs)));
                }
            }
            if rank < COMPARED {
                compare(&mut self.valence_arousal, query.valence_arousal(), neighbour.valence_arousal());
                compare(&mut self.pose, query.pose(), neighbour.pose());
            }
        }
    }

    fn shared(&self) -> Shared {
        let [precision_at_1, precision_at_5, precision_at_10] = self.precision.map(Mean::value);
        let [mae_valence, mae_arousal] = self.valence_arousal.map(Mean::value);
        let [mae_yaw, mae_pitch, mae_roll] = self.pose.map(Mean::value);
        Shared {
            precision_at_1,
            precision_at_5,
            precision_at_10,
            mae_valence,
            mae_arousal,
            mae_yaw,
            mae_pitch,
            mae_roll,
        }
    }
}

fn compare<const K: usize>(means: &mut [Mean; K], ours: Option<[f32; K]>, theirs: Option<[f32; K]>) {
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        for (mean, (a, b)) in means.iter_mut().zip(ours.iter().zip(theirs)) {
            mean.add(f64::from((a - b).abs()));
        }
    }
}

/// Runs the task.
///
/// # Errors
/// Where the split has one person, or the protocol is none of this task.
pub(super) fn judge(args: &EvalArgs, subject: &Subject, store: &Store) -> anyhow::Result<RetrievalReport> {
    ensure!(
        args.protocol == Protocol::Knn,
        "--protocol {}: --task retrieval looks at neighbours, by --protocol knn alone",
        args.protocol.name()
    );
    let mut frames = store.split(args.split);
    frames.retain(|&i| Label::Any.is_on(&store.record(i)));
    let embeddings = subject.embed(store, &frames)?.into_tensor();
    retrieve(store, args.split, &frames, &embeddings)
}

/// Looks up each of `frames`, whose embeddings are `[frames, dim]`, among those of other people.
fn retrieve(
    store: &Store,
    split: Split,
    frames: &[usize],
    embeddings: &Tensor,
) -> anyhow::Result<RetrievalReport> {
    let person = person_numbers(store, split, frames)?;
    let identities = person.iter().max().map_or(0, |last| last + 1) as u64;
    let unit = unit_rows(embeddings);
    let (mut nearest, mut chance) = (Tally::default(), Tally::default());
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let block = (HELD / frames.len()).clamp(1, 1024);
    for start in (0..frames.len()).step_by(block) {
        let end = frames.len().min(start + block);
        let queries = Tensor::arange_start(start as i64, end as i64, (Kind::Int64, unit.device()));
        for (query, found) in (start..).zip(nearest_of_others(&unit, &person, &queries, NEAREST)?) {
            let record = store.record(frames[query]);
            chance.add(&record, found.iter().map(|_| store.record(frames[other(&mut rng, &person, query)])));
            nearest.add(&record, found.iter().map(|&(row, _)| store.record(frames[row])));
        }
    }
    Ok(RetrievalReport {
        task: "retrieval",
        protocol: "knn",
        split: split.name(),
        n: frames.len() as u64,
        identities,
        nearest: nearest.shared(),
        chance: chance.shared(),
    })
}

/// The number of the person in each of `frames`, from 0.
///
/// # Errors
/// Where there is one alone.
pub fn person_numbers(store: &Store, split: Split, frames: &[usize]) -> anyhow::Result<Vec<i64>> {
    let mut people: BTreeMap<&str, i64> = BTreeMap::new();
    let number = |&frame: &usize| {
        let fresh = people.len() as i64;
        *people.entry(store.record(frame).identity()).or_insert(fresh)
    };
    let numbers = frames.iter().map(number).collect();
    ensure!(
        people.len() > 1,
        "{}: the {} split has one person, and neighbours are looked for among other people: choose another --split",
        store.dir().display(),
        split.name()
    );
    Ok(numbers)
}

/// For each of `queries`, rows of `unit` `[N,D]`, whose lengths are 1: the rows of other people that are nearest, at most `count`,
/// with their cosine, the nearest first. `person` has a number for each row.
///
/// # Errors
/// Those of libtorch.
pub fn nearest_of_others(
    unit: &Tensor,
    person: &[i64],
    queries: &Tensor,
    count: usize,
) -> Result<Vec<Vec<(usize, f32)>>, tch::TchError> {
    let whose = Tensor::from_slice(person).to_device(unit.device());
    let queries = queries.to_device(unit.device());
    let same = whose.index_select(0, &queries).unsqueeze(1).eq_tensor(&whose.unsqueeze(0));
    let similarity = unit.index_select(0, &queries).matmul(&unit.tr()).to_kind(Kind::Float);
    let count = count.min(person.len());
    let (similarity, rows) =
        similarity.masked_fill(&same, f64::NEG_INFINITY).topk(count as i64, 1, true, true);
    let (similarity, rows) = (floats(&similarity)?, Vec::<i64>::try_from(rows.flatten(0, -1))?);
    // What is masked comes last: other people may have fewer pictures than are looked for.
    let found = |(similarity, rows): (&[f32], &[i64])| {
        let found = rows.iter().zip(similarity).map(|(row, similarity)| (*row as usize, *similarity));
        found.take_while(|(_, similarity)| *similarity > f32::NEG_INFINITY).collect()
    };
    Ok(similarity.chunks_exact(count).zip(rows.chunks_exact(count)).map(found).collect())
}

/// A random place of somebody else's, of whom there is one.
fn other(rng: &mut ChaCha8Rng, person: &[i64], query: usize) -> usize {
    loop {
        let place = rng.random_range(0..person.len());
        if person[place] != person[query] {
            return place;
        }
    }
}

impl fmt::Display for RetrievalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, people) = (self.n, self.identities);
        write!(f, "retrieval, knn, {} split, n = {n} of {people} people", self.split)?;
        write!(f, "\n{:<34} {:>9} {:>9}", "", "nearest", "random")?;
        let (ours, theirs) = (&self.nearest, &self.chance);
        let rows = [
            ("same expression, first", ours.precision_at_1, theirs.precision_at_1),
            ("same expression, first 5", ours.precision_at_5, theirs.precision_at_5),
            ("same expression, first 10", ours.precision_at_10, theirs.precision_at_10),
            ("difference of valence", ours.mae_valence, theirs.mae_valence),
            ("difference of arousal", ours.mae_arousal, theirs.mae_arousal),
            ("difference of yaw in degrees", ours.mae_yaw, theirs.mae_yaw),
            ("difference of pitch in degrees", ours.mae_pitch, theirs.mae_pitch),
            ("difference of roll in degrees", ours.mae_roll, theirs.mae_roll),
        ];
        for (name, ours, theirs) in rows {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                write!(f, "\n{name:<34} {ours:>9.3} {theirs:>9.3}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, StoreWriter};
    use semblance_face::labels::Expression;

    /// Three people of 20 frames each: expression, valence and yaw follow from the frame's number.
    fn store(dir: &std::path::Path) -> Store {
        let mut writer = StoreWriter::create(dir).unwrap();
        let jpeg = encode_jpeg(&[7; 256], 16, 16, 1, 90).unwrap();
        for person in ["a", "b", "c"] {
            writer.begin_video(person, "v");
            for i in 0..20u8 {
                let t = f32::from(i);
                let sample = Sample {
                    expression: Some(Expression::ALL[usize::from(i % 4)]),
                    valence_arousal: Some([t / 20.0, 0.5]),
                    pose: Some([t, 0.0, -2.0 * t]),
                    ..Sample::unlabelled(f64::from(i), Split::Test)
                };
                writer.push(&jpeg, &sample).unwrap();
            }
        }
        writer.commit(Provenance::default()).unwrap();
        Store::open(dir).unwrap()
    }

    #[test]
    fn neighbours_match_loops_over_other_people() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let rows: Vec<[f32; 4]> =
            (0..60).map(|_| std::array::from_fn(|_| rng.random_range(-1.0..1.0))).collect();
        let embeddings = Tensor::from_slice(rows.as_flattened()).view([-1, 4]);
        let frames: Vec<usize> = (0..60).collect();
        let report = retrieve(&store, Split::Test, &frames, &embeddings).unwrap();
        let cosine = |a: &[f32; 4], b: &[f32; 4]| {
            let dot =
                |a: &[f32; 4], b: &[f32; 4]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let (mut first, mut ten, mut yaw) = (0.0, 0.0, 0.0);
        for query in 0..60 {
            let mut others: Vec<usize> = (0..60).filter(|other| other / 20 != query / 20).collect();
            others
                .sort_by(|a, b| cosine(&rows[query], &rows[*b]).total_cmp(&cosine(&rows[query], &rows[*a])));
            let same = |other: &&usize| (**other % 20) % 4 == (query % 20) % 4;
            first += others.iter().take(1).filter(same).count() as f64 / 60.0;
            ten += others.iter().take(10).filter(same).count() as f64 / 600.0;
            let off = |other: &usize| (other % 20).abs_diff(query % 20) as f64;
            yaw += others.iter().take(5).map(off).sum::<f64>() / 300.0;
        }
        let close = |got: Option<f64>, expected: f64| (got.unwrap() - expected).abs() < 1e-6;
        let shared = &report.nearest;
        assert!(close(shared.precision_at_1, first) && close(shared.precision_at_10, ten), "{report}");
        assert!(close(shared.mae_yaw, yaw) && close(shared.mae_roll, 2.0 * yaw), "{report}");
        assert!(close(shared.mae_valence, yaw / 20.0) && close(shared.mae_arousal, 0.0), "{report}");
        // Random frames: one of four expressions, and |i - j| of two of 20 numbers is (20² - 1) / 60 on average.
        let chance = &report.chance;
        assert!((chance.precision_at_10.unwrap() - 0.25).abs() < 0.06, "{report}");
        assert!((chance.mae_yaw.unwrap() - 399.0 / 60.0).abs() < 0.8, "{report}");
        assert_eq!(retrieve(&store, Split::Test, &frames, &embeddings).unwrap().chance, report.chance);
    }

    #[test]
    fn one_person_has_no_others_and_few_others_are_all_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let embeddings = Tensor::ones([4, 2], tch::kind::FLOAT_CPU);
        let error = retrieve(&store, Split::Test, &[0, 1, 2, 3], &embeddings).unwrap_err().to_string();
        assert!(error.contains("one person"), "{error}");
        // The last is somebody else's, with the expression of the first, and nearest to it: of each other's neighbours, one
        // for three and three for one, these two fit.
        let rows = [[1.0, 0.0], [0.5, 1.0], [0.0, 1.0], [1.0, 0.1f32]];
        let embeddings = Tensor::from_slice(rows.as_flattened()).view([4, 2]);
        let report = retrieve(&store, Split::Test, &[0, 1, 2, 20], &embeddings).unwrap();
        assert_eq!(report.nearest.precision_at_1, Some(0.5));
        assert_eq!(report.nearest.precision_at_10, Some(2.0 / 6.0));
    }
}
