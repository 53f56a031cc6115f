//! Where a person's face rests.
//!
//! Faces differ most in how they look while they show nothing: brows that hang, corners of a mouth that point down. Heads
//! that were trained on many people read such a face at rest as sad or angry, and so does the light of a place. How far the
//! person's embeddings at rest lie from the population's ([`Heads::neutral`]) is taken off every embedding.

use super::report::{Metric, Verdict};
use super::task::Task;
use super::{FitError, FitOptions, check_dim};
use crate::adapt::Correction;
use crate::dataset::Dataset;
use crate::heads::{HeadKind, Heads, NEUTRAL};
use crate::validate;

/// How far a person's face at rest lies from the population's, and whether it helps to take that off.
#[derive(Clone, Debug)]
pub struct Rest {
    /// Whether expressions are read better relative to it, judged on moments that had no say in it.
    pub verdict: Verdict,
    /// Moments with an expression.
    pub labels: usize,
    /// Stretches of time that they come from.
    pub blocks: usize,
    /// Before is the head in force on embeddings as they are, after is the same head relative to the face at rest.
    pub metrics: Vec<Metric>,
    place: Correction,
    /// What was found without a block that has moments at rest; `None` where nothing is known then.
    without: Vec<(u32, Option<Vec<f32>>)>,
}

impl Rest {
    /// Learns where the face rests from the moments labelled neutral. `None` where there is none, or nothing to compare with:
    /// the heads know no expression, no neutral one, or not where faces rest.
    ///
    /// # Errors
    /// [`FitError`] for what does not fit together.
    pub fn of(heads: &Heads, data: &Dataset, options: &FitOptions) -> Result<Option<Self>, FitError> {
        options.check()?;
        check_dim(heads, data)?;
        let (Some(head), Some(population)) = (heads.expression(), heads.neutral()) else { return Ok(None) };
        let Some(neutral) = head.row(NEUTRAL) else { return Ok(None) };
        let task = Task::new(HeadKind::Expression, head.shared_labels(), Some(head), data)?;
        let blocks = validate::blocks_of(&task, data);
        let at_rest = |row: &&usize| task.target(**row)[neutral] > 0.0;
        let resting: Vec<Vec<usize>> =
            blocks.iter().map(|rows| rows.iter().filter(at_rest).copied().collect()).collect();
        let shift_without = |left_out: Option<usize>| {
            let others = resting.iter().enumerate().filter(|(block, _)| Some(*block) != left_out);
            shift(population, data, others.map(|(_, rows)| rows.as_slice()))
        };
        let Some(place) = shift_without(None).and_then(|shift| Correction::shift_by(shift).ok()) else {
            return Ok(None);
        };
        let labels = task.rows.len();
        let without = (0..blocks.len()).filter(|block| !resting[*block].is_empty());
        let without =
            without.map(|block| (data.moments()[blocks[block][0]].block, shift_without(Some(block))));
        let without = without.collect();
        let (verdict, metrics) = (Verdict::OneClass, Vec::new());
        let mut rest = Self { verdict, labels, blocks: blocks.len(), metrics, place, without };
        if let Some(verdict) = options.too_few(labels, blocks.len()) {
            return Ok(Some(Self { verdict, ..rest }));
        }
        if task.labelled().iter().filter(|labelled| **labelled).count() < 2 {
            return Ok(Some(rest));
        }
        let before = validate::in_force(&task, data, &blocks);
        let held_out = rest.held_out(data)?;
        let after = validate::in_force(&task, &held_out, &blocks);
        rest.metrics = validate::compare(&task, &blocks, &before, &after, &options.bootstrap);
        if let Some(deciding) = rest.metrics.first() {
            rest.verdict = Verdict::by(deciding.gain);
        }
        Ok(Some(rest))
    }

    /// What is done to every embedding, whatever the verdict: the distance is taken off.
    pub fn place(&self) -> &Correction {
        &self.place
    }

    /// The moments that it was found in, each less what was found without its stretch of time: a stretch has no say in how it is
    /// read. Without the only one at rest nothing is known, and it stays as it is.
    ///
    /// # Errors
    /// [`FitError::Moment`] where a value overflows.
    pub fn held_out(&self, data: &Dataset) -> Result<Dataset, FitError> {
        moved(data, |block| match self.without.iter().find(|(resting, _)| *resting == block) {
            Some((_, shift)) => shift.as_deref().unwrap_or_default(),
            None => self.place.shift(),
        })
    }
}

/// The mean of these moments less the population's place, shrunk by how well it is known (James and Stein): stretches of
/// time tell of it independently, neighbours within one do not. `None` without a moment.
fn shift<'a>(
    population: &[f32],
    data: &Dataset,
    blocks: impl Iterator<Item = &'a [usize]>,
) -> Option<Vec<f32>> {
    let blocks: Vec<&[usize]> = blocks.filter(|rows| !rows.is_empty()).collect();
    let rows: Vec<usize> = blocks.concat();
    if rows.is_empty() {
        return None;
    }
    let count = rows.len() as f64;
    let mut mean = vec![0.0_f64; data.dim()];
    for &row in &rows {
        mean.iter_mut().zip(data.embedding(row)).for_each(|(mean, v)| *mean += f64::from(*v) / count);
    }
    let squared = |of: &mut dyn Iterator<Item = f64>| of.map(|v| v * v).sum::<f64>();
    let spread = rows.iter().map(|&row| {
        squared(&mut data.embedding(row).iter().zip(&mean).map(|(v, mean)| f64::from(*v) - mean))
    });
    let error = spread.sum::<f64>() / count / blocks.len() as f64;
    let away = squared(&mut mean.iter().zip(population).map(|(mean, p)| mean - f64::from(*p)));
    let known = if away > error { 1.0 - error / away } else { 0.0 };
    Some(mean.iter().zip(population).map(|(mean, p)| (known * (mean - f64::from(*p))) as f32).collect())
}

/// The same moments, each less the shift of its block.
fn moved<'a>(data: &Dataset, shift: impl Fn(u32) -> &'a [f32]) -> Result<Dataset, FitError> {
    let mut all = Dataset::with_capacity(data.dim(), data.len());
    for (moment, embedding) in data.iter() {
        let mut embedding = embedding.to_vec();
        embedding.iter_mut().zip(shift(moment.block)).for_each(|(v, shift)| *v -= shift);
        all.push(*moment, &embedding)?;
    }
    Ok(all)
}

/// The same moments, relative to a face at rest: their embeddings as `correction` leaves them.
///
/// # Errors
/// [`FitError::Dim`] where it is for embeddings of another size, [`FitError::Moment`] where a value overflows.
pub fn relative(data: &Dataset, correction: &Correction) -> Result<Dataset, FitError> {
    check_same(data, correction)?;
    moved(data, |_| correction.shift())
}

/// The moments as they are, of those that [`relative`] gives.
///
/// # Errors
/// As [`relative`].
pub fn without(data: &Dataset, correction: &Correction) -> Result<Dataset, FitError> {
    check_same(data, correction)?;
    let back: Vec<f32> = correction.shift().iter().map(|v| -v).collect();
    moved(data, |_| &back)
}

fn check_same(data: &Dataset, correction: &Correction) -> Result<(), FitError> {
    if correction.dim() != data.dim() {
        return Err(FitError::Dim { heads: correction.dim(), data: data.dim() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dataset::{Label, Moment};
    use crate::fit::{Views, fit, fit_views};
    use crate::heads::LinearHead;

    const DIM: usize = 3;

    /// The first value tells neutral (0) from happy (above 1); people rest at the origin.
    fn heads() -> Heads {
        let labels = ["neutral", "happy"].map(str::to_owned).to_vec();
        let weight = vec![-2.0, 0.0, 0.0, 2.0, 0.0, 0.0];
        let head = LinearHead::new("expression", labels, DIM, weight, vec![1.0, -1.0]).unwrap();
        let heads = Heads::new(DIM, [(HeadKind::Expression, head)]).unwrap();
        heads.with_neutral(Some(vec![0.0; DIM].into())).unwrap()
    }

    /// Six stretches of four moments of a person whose face rests at `place`, in turn neutral and happy.
    fn session(place: [f32; DIM], jitter: f32) -> Dataset {
        let mut data = Dataset::new(DIM);
        for i in 0..24_u32 {
            let (block, class) = (i / 4, (i / 4) % 2);
            let label = Label { expression: Some(class as u8), ..Label::default() };
            let wobble = |k: u32| jitter * (((i * 7 + k * 5) % 11) as f32 / 5.0 - 1.0);
            let embedding =
                [place[0] + class as f32 * 1.5 + wobble(0), place[1] + wobble(1), place[2] + wobble(2)];
            data.push(Moment { t_secs: f64::from(i), block, label }, &embedding).unwrap();
        }
        data
    }

    #[test]
    fn a_face_that_rests_elsewhere_is_read_relative_to_it() {
        let options = FitOptions::default();
        // At rest this face reads as happy.
        let data = session([2.0, 1.0, 0.0], 0.1);
        let rest = Rest::of(&heads(), &data, &options).unwrap().unwrap();
        assert_eq!(rest.verdict, Verdict::Accepted, "{:?}", rest.metrics[0]);
        let recall = &rest.metrics[0];
        assert_eq!(
            (recall.name.as_str(), recall.before.value, recall.after.value),
            ("mean_recall", 0.5, 1.0)
        );
        for (found, truth) in rest.place().shift().iter().zip([2.0, 1.0, 0.0]) {
            assert!((found - truth).abs() < 0.05, "{:?}", rest.place().shift());
        }
        let moved = relative(&data, rest.place()).unwrap();
        assert_eq!(moved.moments(), data.moments());
        assert!((moved.embedding(0)[0] - (data.embedding(0)[0] - rest.place().shift()[0])).abs() < 1e-6);
        // This one rests where others do, and is not touched.
        let rest = Rest::of(&heads(), &session([0.0; DIM], 0.1), &options).unwrap().unwrap();
        assert!(matches!(rest.verdict, Verdict::NotBetter { .. }), "{:?}", rest.verdict);
    }

    #[test]
    fn heads_on_relative_moments_are_compared_with_the_shipped_ones_on_moments_as_they_are() {
        let (data, options) = (session([2.0, 1.0, 0.0], 0.1), FitOptions::default());
        let rest = Rest::of(&heads(), &data, &options).unwrap().unwrap();
        let moved = relative(&data, rest.place()).unwrap();
        // Relative to rest the shipped head makes no mistake; on the moments as they are it takes all for happy.
        let alone = fit(&heads(), &moved, &options).unwrap();
        assert!(matches!(alone.get(HeadKind::Expression).verdict, Verdict::NotBetter { .. }));
        let views = Views { before: &data, fitted: &moved, held_out: &rest.held_out(&data).unwrap() };
        let both = fit_views(&heads(), views, &options).unwrap();
        let told = both.get(HeadKind::Expression);
        assert_eq!(told.verdict, Verdict::Accepted);
        assert_eq!((told.metrics[0].before.value, told.metrics[0].after.value), (0.5, 1.0));
        let mut fewer = data.clone();
        fewer.remove(0);
        let error = fit_views(&heads(), Views { before: &fewer, ..views }, &options);
        assert!(matches!(error, Err(FitError::Views)));
        let back = without(&moved, rest.place()).unwrap();
        assert!(back.embeddings().iter().zip(data.embeddings()).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn the_shift_is_the_mean_shrunk_by_how_well_it_is_known() {
        let mut data = Dataset::new(2);
        for (i, embedding) in [[2.0, 0.0], [4.0, 0.0], [2.0, 2.0], [4.0, 2.0]].into_iter().enumerate() {
            let moment = Moment { t_secs: i as f64, block: 0, label: Label::default() };
            data.push(moment, &embedding).unwrap();
        }
        // Mean (3, 1), squared distance from it 2, from the population's (1, 1) it is 4: in two stretches 2 / 2 / 4.
        let two = shift(&[1.0, 1.0], &data, [[0, 1].as_slice(), &[2, 3]].into_iter()).unwrap();
        assert!((two[0] - 0.75 * 2.0).abs() < 1e-6 && two[1].abs() < 1e-6, "{two:?}");
        let one = shift(&[1.0, 1.0], &data, [[0, 1, 2, 3].as_slice()].into_iter()).unwrap();
        assert!((one[0] - 0.5 * 2.0).abs() < 1e-6, "{one:?}");
        // Noise alone is no place.
        assert_eq!(shift(&[3.0, 1.5], &data, [[0, 1, 2, 3].as_slice()].into_iter()).unwrap(), [0.0, 0.0]);
        assert!(shift(&[1.0, 1.0], &data, std::iter::empty()).is_none());
    }

    #[test]
    fn a_stretch_that_is_judged_has_no_say_in_its_shift() {
        // One stretch at rest: without it nothing is known, and its moments are read as they are.
        let mut data = session([2.0, 0.0, 0.0], 0.0);
        for row in (0..data.len()).rev() {
            let moment = data.moments()[row];
            if moment.label.expression == Some(0) && moment.block > 0 {
                data.remove(row);
            }
        }
        let options = FitOptions { min_blocks: 2, ..FitOptions::default() };
        let rest = Rest::of(&heads(), &data, &options).unwrap().unwrap();
        assert_eq!(rest.metrics[0].after.value, 0.5, "{:?}", rest.metrics[0]);
        assert!(matches!(rest.verdict, Verdict::NotBetter { .. }));
        // Nor do heads get by with it.
        let fitted = relative(&data, rest.place()).unwrap();
        let views = Views { before: &data, fitted: &fitted, held_out: &rest.held_out(&data).unwrap() };
        let told = fit_views(&heads(), views, &options).unwrap();
        assert!(matches!(told.get(HeadKind::Expression).verdict, Verdict::NotBetter { .. }));
    }

    #[test]
    fn without_neutral_labels_or_a_population_there_is_no_place() {
        let (data, options) = (session([2.0, 0.0, 0.0], 0.1), FitOptions::default());
        let nowhere = heads().with_neutral(None).unwrap();
        assert!(Rest::of(&nowhere, &data, &options).unwrap().is_none());
        let mut happy = Dataset::new(DIM);
        for (moment, embedding) in data.iter().filter(|(moment, _)| moment.label.expression == Some(1)) {
            happy.push(*moment, embedding).unwrap();
        }
        assert!(Rest::of(&heads(), &happy, &options).unwrap().is_none());
        let few = FitOptions { min_labels: 100, ..FitOptions::default() };
        let rest = Rest::of(&heads(), &data, &few).unwrap().unwrap();
        assert_eq!(rest.verdict, Verdict::TooFewLabels { labels: 24, needed: 100 });
        assert!(Rest::of(&heads(), &Dataset::new(2), &options).is_err());
        assert!(relative(&data, &Correction::identity(2)).is_err());
        assert!(heads().with_neutral(Some(vec![0.0; 2].into())).is_err());
        assert!(heads().with_neutral(Some(vec![f32::NAN; DIM].into())).is_err());
    }
}
