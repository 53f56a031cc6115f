//! Data that no fit should trip over: each gives a verdict or a typed error, finite numbers, and no panic.
#![allow(clippy::unwrap_used)]

use super::testing::{CLASSES, Person, label};
use super::*;
use crate::dataset::Moment;

const DIM: usize = 6;

fn person() -> Person {
    Person::new(11, DIM, 0.3)
}

/// `blocks` of `frames` moments, of which `embedding` and `class` are told by block and frame.
fn data(
    blocks: usize,
    frames: usize,
    class: impl Fn(usize) -> usize,
    embedding: impl Fn(usize, usize) -> [f32; DIM],
) -> Dataset {
    let mut data = Dataset::new(DIM);
    for block in 0..blocks {
        for frame in 0..frames {
            let moment = Moment { t_secs: frame as f64, block: block as u32, label: label(class(block)) };
            data.push(moment, &embedding(block, frame)).unwrap();
        }
    }
    data
}

/// Fits, asserts that all that is told is finite, and takes every label through the updater too.
fn outcome(data: &Dataset) -> [Verdict; 3] {
    let (person, options) = (person(), FitOptions { max_sweeps: 50, ..FitOptions::default() });
    let fitted = fit(&person.heads, data, &options).unwrap();
    for metric in fitted.fits.iter().flat_map(|fit| &fit.metrics) {
        for estimate in [metric.before, metric.after, metric.gain] {
            let all = [estimate.value, estimate.low, estimate.high];
            assert!(all.iter().all(|v| v.is_finite()), "{metric:?}");
        }
    }
    let mut updater = Updater::new(&person.heads, Dataset::new(DIM), None, &options).unwrap();
    for (i, moment) in data.moments().iter().enumerate() {
        updater.push(*moment, data.embedding(i)).unwrap();
    }
    updater.heads().unwrap();
    assert!(!fitted.to_string().contains("NaN"));
    [0, 1, 2].map(|i| fitted.fits[i].verdict.clone())
}

fn spread(block: usize, frame: usize) -> [f32; DIM] {
    std::array::from_fn(|j| ((block * 7 + frame * 3 + j * j) % 11) as f32 - 5.0)
}

#[test]
fn too_little_is_a_verdict() {
    let needed = FitOptions::default().min_labels;
    assert_eq!(outcome(&Dataset::new(DIM)), [0; 3].map(|labels| Verdict::TooFewLabels { labels, needed }));
    let one = data(1, 1, |_| 0, spread);
    assert_eq!(outcome(&one), [1; 3].map(|labels| Verdict::TooFewLabels { labels, needed }));
    let one_block = data(1, 30, |_| 0, spread);
    let verdict = Verdict::TooFewBlocks { blocks: 1, needed: 4 };
    assert_eq!(outcome(&one_block), [0; 3].map(|_| verdict.clone()));
}

#[test]
fn one_expression_alone_is_never_accepted() {
    let verdicts = outcome(&data(6, 5, |_| 2, spread));
    assert_eq!(verdicts[0], Verdict::OneClass);
}

#[test]
fn features_that_say_nothing_are_not_accepted() {
    for value in [0.0, 0.1, 1e6, -3e38] {
        for verdict in outcome(&data(8, 4, |block| block % CLASSES, |_, _| [value; DIM])) {
            assert!(matches!(verdict, Verdict::NotBetter { .. } | Verdict::Accepted), "{value}: {verdict:?}");
        }
    }
    let expression = &outcome(&data(8, 4, |block| block % CLASSES, |_, _| [0.1; DIM]))[0];
    assert!(matches!(expression, Verdict::NotBetter { .. }), "{expression:?}");
}

#[test]
fn copies_and_collinear_features_are_fitted() {
    outcome(&data(8, 4, |block| block % CLASSES, |block, _| spread(block, 0)));
    outcome(&data(8, 4, |block| block % CLASSES, |block, _| [(block % CLASSES) as f32; DIM]));
}

#[test]
fn huge_embeddings_and_outliers_are_fitted() {
    for scale in [1e6, 1e18, 1e-18] {
        outcome(&data(8, 4, |block| block % CLASSES, |block, frame| spread(block, frame).map(|v| v * scale)));
    }
    let shifted = |block, frame| spread(block, frame).map(|v| v + 1e6);
    outcome(&data(8, 4, |block| block % CLASSES, shifted));
    let outlier = |block, frame| {
        if (block, frame) == (3, 1) { [3e38; DIM] } else { spread(block, frame) }
    };
    outcome(&data(8, 4, |block| block % CLASSES, outlier));
}

#[test]
fn what_does_not_fit_together_is_a_typed_error() {
    let (heads, options) = (person().heads, FitOptions::default());
    let wrong = fit(&heads, &Dataset::new(DIM + 1), &options).unwrap_err();
    assert!(matches!(wrong, FitError::Dim { heads: 6, data: 7 }), "{wrong}");
    assert!(fit(&Heads::new(0, []).unwrap(), &Dataset::new(0), &options).is_err());
    let beyond = fit(&heads, &data(1, 1, |_| CLASSES, spread), &options).unwrap_err();
    assert!(matches!(beyond, FitError::Label { head: "expression", row: 4, labels: 4 }), "{beyond}");
    let none = Dataset::new(DIM);
    for options in [
        FitOptions { strengths: vec![], ..options.clone() },
        FitOptions { strengths: vec![f64::NAN], ..options.clone() },
        FitOptions { min_blocks: 1, ..options.clone() },
        FitOptions { tolerance: 0.0, ..options.clone() },
        FitOptions { bootstrap: Bootstrap { level: 1.0, ..Bootstrap::default() }, ..options.clone() },
        FitOptions { expression_labels: vec![String::new(); 33], ..options },
    ] {
        assert!(matches!(fit(&heads, &none, &options), Err(FitError::Option(_))), "{options:?}");
    }
}
