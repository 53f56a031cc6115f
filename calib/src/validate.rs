//! Whether a fitted head is better, judged on labels that it was not fitted on.
//!
//! Blocks are stretches of time; neighbouring frames are nearly copies, so a block is left out whole. Every held-out
//! prediction comes from a head that was solved to tolerance without that block. The shift and scale of features come
//! from all embeddings, without any label, and are shared by all folds.
//!
//! The prior's strength is chosen by the held-out loss, and the choice would flatter the winner if it were judged by the
//! same numbers. So the strength at which block `b` is predicted is the best one of the *other* blocks: no block's score
//! has a say in how that block is predicted. (The heads behind the other blocks' scores did see block `b`, which
//! full nesting would exclude at a cost of blocks² fits; what this leaves is one number chosen from a short list.)

use std::collections::BTreeMap;

use crate::dataset::Dataset;
use crate::fit::dual::{Problem, Solution, Until};
use crate::fit::judge::Tally;
use crate::fit::report::{Estimate, Metric};
use crate::fit::task::Task;
use crate::heads::{HeadKind, MAX_LABELS};
use crate::metrics::Bootstrap;

/// Moments of each block, in the order of the blocks' numbers.
pub(crate) fn blocks_of(task: &Task, data: &Dataset) -> Vec<Vec<usize>> {
    let mut blocks: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &row in &task.rows {
        blocks.entry(data.moments()[row].block).or_default().push(row);
    }
    blocks.into_values().collect()
}

/// Held-out predictions and the fit to everything.
#[derive(Debug)]
pub(crate) struct Validated {
    /// The strength that is best over all blocks.
    pub(crate) strength: f64,
    /// Fitted to all labels at that strength.
    pub(crate) solution: Solution,
    /// Logits of each block's moments, `[moments of the block, outputs]`, by heads that did not see the block.
    pub(crate) held_out: Vec<Vec<f64>>,
}

/// Leaves each block out at each of the `strengths`, of which there is at least one, and reads it as it is in `held_out`. `None`
/// without blocks.
pub(crate) fn leave_one_block_out(
    task: &Task,
    data: &Dataset,
    held_out: &Dataset,
    blocks: &[Vec<usize>],
    strengths: &[f64],
    until: Until,
) -> Option<Validated> {
    // From strong to weak: a strong prior is solved in a few sweeps, and of equals the stronger one is taken.
    let mut strengths = strengths.to_vec();
    strengths.sort_unstable_by(|a, b| b.total_cmp(a));
    let rests: Vec<Vec<usize>> = (0..blocks.len())
        .map(|b| task.rows.iter().copied().filter(|row| blocks[b].binary_search(row).is_err()).collect())
        .collect();
    let weights = moment_weights(task);
    let mut solution = Solution::start(task, data);
    let mut before = *strengths.first()?;
    let (mut solutions, mut losses, mut logits) = (Vec::new(), Vec::new(), Vec::new());
    for &strength in &strengths {
        solution.rescale(task, before, strength);
        before = strength;
        solution.solve(&Problem::new(task, data, &task.rows, strength), until);
        let mut of_strength = Vec::new();
        let mut loss_of_blocks = Vec::new();
        for (block, rest) in blocks.iter().zip(&rests) {
            let mut fold = solution.clone();
            fold.forget(task, data, block, strength);
            fold.solve(&Problem::new(task, data, rest, strength), until);
            let predicted = predict(&mut fold, task, held_out, block);
            let each = block.iter().zip(predicted.chunks_exact(task.outputs()));
            let no_offset = [0.0; MAX_LABELS];
            let loss = each.map(|(&row, u)| weights[row] * task.loss(row, u, &no_offset[..u.len()]));
            loss_of_blocks.push(loss.sum::<f64>());
            of_strength.push(predicted);
        }
        losses.push(loss_of_blocks);
        logits.push(of_strength);
        solutions.push(solution.clone());
    }
    let held_out =
        (0..blocks.len()).map(|b| std::mem::take(&mut logits[best(&losses, Some(b))][b])).collect();
    let chosen = best(&losses, None);
    Some(Validated { strength: strengths[chosen], solution: solutions.swap_remove(chosen), held_out })
}

/// The strength with the least loss over all blocks but one; the first of equals.
fn best(losses: &[Vec<f64>], without: Option<usize>) -> usize {
    let total = |of_blocks: &Vec<f64>| -> f64 {
        of_blocks.iter().enumerate().filter(|(b, _)| Some(*b) != without).map(|(_, loss)| loss).sum()
    };
    let totals: Vec<f64> = losses.iter().map(total).collect();
    (0..totals.len()).fold(0, |best, i| if totals[i] < totals[best] { i } else { best })
}

/// What a moment counts in the choice of the strength: every expression weighs the same, however long it was shown.
fn moment_weights(task: &Task) -> Vec<f64> {
    let count = task.rows.last().map_or(0, |last| last + 1);
    let mut weights = vec![1.0; count];
    if task.kind == HeadKind::Expression {
        let class = |row: usize| task.target(row).iter().position(|t| *t == 1.0).unwrap_or(0);
        let mut counts = vec![0.0_f64; task.outputs()];
        task.rows.iter().for_each(|&row| counts[class(row)] += 1.0);
        task.rows.iter().for_each(|&row| weights[row] = 1.0 / counts[class(row)]);
    }
    weights
}

/// The factor in `[1, 4]` on held-out scores at which they tell most of what was shown (temperature scaling; Guo et al., "On
/// Calibration of Modern Neural Networks", ICML 2017). What is most probable stays so; every expression weighs the same.
pub(crate) fn scale(task: &Task, blocks: &[Vec<usize>], held_out: &[Vec<f64>]) -> f64 {
    let weights = moment_weights(task);
    let no_offset = [0.0; MAX_LABELS];
    let loss = |scale: f64| -> f64 {
        let of_block = |(rows, logits): (&Vec<usize>, &Vec<f64>)| -> f64 {
            let each = rows.iter().zip(logits.chunks_exact(task.outputs()));
            each.map(|(&row, u)| {
                let mut scaled = [0.0; MAX_LABELS];
                scaled.iter_mut().zip(u).for_each(|(scaled, u)| *scaled = scale * u);
                weights[row] * task.loss(row, &scaled[..u.len()], &no_offset[..u.len()])
            })
            .sum()
        };
        blocks.iter().zip(held_out).map(of_block).sum()
    };
    // Convex in the scale: a third is taken off where the loss is higher.
    let (mut low, mut high) = (1.0, 4.0);
    while high - low > 1e-3 {
        let third = (high - low) / 3.0;
        if loss(low + third) <= loss(high - third) { high -= third } else { low += third }
    }
    (low + high) / 2.0
}

fn predict(solution: &mut Solution, task: &Task, data: &Dataset, rows: &[usize]) -> Vec<f64> {
    let outputs = task.outputs();
    let mut logits = vec![0.0; rows.len() * outputs];
    for (row, out) in rows.iter().zip(logits.chunks_exact_mut(outputs)) {
        solution.predict(task, data, *row, out);
    }
    logits
}

/// What the head in force tells of each block: the shipped head or, where there is none, the mean of what was said,
/// which is the best that can be told without looking. (The mean of the *other* blocks would be beaten by chance: where
/// a block is left out, its label is the rarer one among the rest.)
pub(crate) fn in_force(task: &Task, data: &Dataset, blocks: &[Vec<usize>]) -> Vec<Vec<f64>> {
    if task.shipped.is_none() {
        let mean = mean_target(task);
        return blocks.iter().map(|block| mean.repeat(block.len())).collect();
    }
    let mut shipped = Solution::start(task, data);
    let mut told: Vec<Vec<f64>> =
        blocks.iter().map(|block| predict(&mut shipped, task, data, block)).collect();
    told.iter_mut().for_each(|block| block.chunks_exact_mut(task.outputs()).for_each(|u| task.tell(u)));
    told
}

/// Mean of what was said of each output; where nothing was, what an empty head would tell.
fn mean_target(task: &Task) -> Vec<f64> {
    let mut sums = vec![(0.0, 0.0); task.outputs()];
    for &row in &task.rows {
        for ((sum, count), t) in sums.iter_mut().zip(task.target(row)).filter(|(_, t)| !t.is_nan()) {
            *sum += f64::from(*t);
            *count += 1.0;
        }
    }
    let mut empty = vec![0.0; task.outputs()];
    task.tell(&mut empty);
    let mean = |((sum, count), empty): (&(f64, f64), f64)| if *count > 0.0 { sum / count } else { empty };
    sums.iter().zip(empty).map(mean).collect()
}

/// Every metric before and after with intervals from a paired bootstrap over the blocks; the first is the one that
/// decides. `before` and `after` are what was told of each block's moments.
pub(crate) fn compare(
    task: &Task,
    blocks: &[Vec<usize>],
    before: &[Vec<f64>],
    after: &[Vec<f64>],
    bootstrap: &Bootstrap,
) -> Vec<Metric> {
    let tally = |told: &[Vec<f64>]| -> Vec<Tally> {
        let of_block = |(rows, told): (&Vec<usize>, &Vec<f64>)| {
            let mut tally = Tally::new(task);
            let each = rows.iter().zip(told.chunks_exact(task.outputs()));
            each.for_each(|(&row, told)| tally.add(task.target(row), told));
            tally
        };
        blocks.iter().zip(told).map(of_block).collect()
    };
    let (before, after) = (tally(before), tally(after));
    let metrics = Tally::metrics(task);
    let values = |drawn: &[usize]| -> Vec<f64> {
        let total = |of_blocks: &[Tally]| {
            let mut sum = Tally::new(task);
            drawn.iter().for_each(|&b| sum.merge(&of_blocks[b]));
            sum.values()
        };
        let (before, after) = (total(&before), total(&after));
        let gain = |((b, a), m): ((&f64, &f64), &(String, bool))| if m.1 { b - a } else { a - b };
        let gains: Vec<f64> = before.iter().zip(&after).zip(&metrics).map(gain).collect();
        [before, after, gains].concat()
    };
    let whole: Vec<usize> = (0..blocks.len()).collect();
    let estimates: Vec<Estimate> = values(&whole)
        .into_iter()
        .zip(bootstrap.intervals(blocks.len(), values))
        .map(|(value, interval)| Estimate { value, low: interval.low, high: interval.high })
        .collect();
    let count = metrics.len();
    let metric = |(i, (name, lower_is_better)): (usize, (String, bool))| Metric {
        name,
        lower_is_better,
        before: estimates[i],
        after: estimates[count + i],
        gain: estimates[2 * count + i],
    };
    // A class or action unit that nothing was said of has no score: its value and its interval are NaN.
    metrics.into_iter().enumerate().map(metric).filter(|m| m.gain.low.is_finite()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fit::testing::Person;

    use crate::dataset::{Label, Moment};

    const EXACT: Until = Until { tolerance: 1e-9, sweeps: 3000 };

    #[test]
    fn the_scale_is_the_one_of_the_worked_example() {
        // Of moments with scores (0, 1) three of four are of the second class, with (0, -1) of the first: the odds are 3, so that
        // the scale is ln 3.
        let mut data = Dataset::new(1);
        let (mut rows, mut logits) = (Vec::new(), Vec::new());
        for (i, (score, class)) in
            [(1.0, 1), (1.0, 1), (1.0, 1), (1.0, 0), (-1.0, 0), (-1.0, 0), (-1.0, 0), (-1.0, 1)]
                .into_iter()
                .enumerate()
        {
            let label = Label { expression: Some(class), ..Label::default() };
            data.push(Moment { t_secs: i as f64, block: 0, label }, &[score as f32]).unwrap();
            rows.push(i);
            logits.extend([0.0, score]);
        }
        let labels: std::sync::Arc<[String]> = ["a".to_owned(), "b".to_owned()].into();
        let task = Task::new(HeadKind::Expression, labels, None, &data).unwrap();
        let found = scale(&task, &[rows.clone()], &[logits.clone()]);
        assert!((found - 3f64.ln()).abs() < 2e-3, "{found}");
        // It makes nobody less sure, and nobody sure beyond measure.
        let sure: Vec<f64> = logits.iter().map(|u| 5.0 * u).collect();
        assert!((scale(&task, &[rows.clone()], &[sure]) - 1.0).abs() < 2e-3);
        let unsure: Vec<f64> = logits.iter().map(|u| 0.01 * u).collect();
        assert!((scale(&task, &[rows], &[unsure]) - 4.0).abs() < 2e-3);
    }

    #[test]
    fn held_out_predictions_are_those_of_heads_fitted_from_scratch_without_the_block() {
        let person = Person::new(9, 10, 0.5);
        let data = person.session(2, 4);
        for kind in HeadKind::ALL {
            let head = person.heads.get(kind).unwrap();
            let task = Task::new(kind, head.shared_labels(), Some(head), &data).unwrap();
            let blocks = blocks_of(&task, &data);
            let validated = leave_one_block_out(&task, &data, &data, &blocks, &[3.0], EXACT).unwrap();
            for (block, held_out) in blocks.iter().zip(&validated.held_out) {
                let mut rest = task.rows.clone();
                rest.retain(|row| !block.contains(row));
                let mut fresh = Solution::start(&task, &data);
                fresh.solve(&Problem::new(&task, &data, &rest, 3.0), EXACT).unwrap();
                for (a, b) in predict(&mut fresh, &task, &data, block).iter().zip(held_out) {
                    assert!((a - b).abs() < 1e-7, "{kind:?}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn a_block_has_no_say_in_the_strength_at_which_it_is_predicted() {
        // Strength 0 wins overall thanks to block 0 alone; without it strength 1 does.
        let losses = [vec![0.0, 2.0, 2.0], vec![9.0, 1.0, 1.0]];
        assert_eq!((best(&losses, None), best(&losses, Some(0)), best(&losses, Some(1))), (0, 1, 0));
        assert_eq!(best(&[vec![1.0], vec![1.0]], None), 0, "of equals the first");
    }

    #[test]
    fn without_a_head_the_mean_is_told() {
        let person = Person::new(10, 4, 0.5);
        let data = person.session(1, 2);
        let labels = person.heads.get(HeadKind::ValenceArousal).unwrap().shared_labels();
        let task = Task::new(HeadKind::ValenceArousal, labels, None, &data).unwrap();
        let told = in_force(&task, &data, &blocks_of(&task, &data));
        // Valences 0.8, 0.3, -0.2, -0.7.
        assert!(told.iter().all(|of_block| (of_block[0] - 0.05).abs() < 1e-6), "{told:?}");
    }
}
