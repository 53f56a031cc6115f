//! What a model card says of an encoder with its heads: scores, and where they are better and worse.

use std::fmt;

use anyhow::Context;
use semblance_calib::{HeadKind, LinearHead};
use semblance_face::labels::{ACTION_UNITS, Expression, action_unit_name};
use semblance_face::{Landmarker, head_pose};
use tch::{Kind, Tensor};

use super::au::ActionUnits;
use super::expression::head_classes;
use super::features::{brightness, embed_seen};
use super::goal::{Goal, Side, Stores, frames_of};
use super::{
    AU_THRESHOLD, AuReport, Embeddings, Features, Loaded, Protocol, Report, checkpoint_heads, circumplex,
    labelled, own_head, spearman,
};
use crate::augment::resized;
use crate::checkpoint::Checkpoint;
use crate::joint::calibration_error;
use crate::prepare::face_in_crop;
use crate::store::{Split, Store};

/// Sides in pixels that faces are shrunk to, to see how small they may be.
const SIZES: [i64; 3] = [32, 24, 16];
/// Equal parts that pictures are sorted into by their brightness.
const PARTS: usize = 4;
/// Upper ends in degrees of the bands of yaw that pictures are sorted into.
const YAWS: [f32; 3] = [15.0, 30.0, 90.0];

/// The figures of a model card.
#[derive(Clone, Debug)]
pub struct CardFigures {
    /// The head of expressions.
    pub report: Report,
    /// The expected calibration error of its probabilities.
    pub ece: f64,
    /// Where the head of valence and arousal has the pictures of each expression, where there is one.
    pub places: Vec<Place>,
    /// The head of action units, where there is one and the store has some.
    pub units: Option<AuReport>,
    /// Accuracy on parts of the pictures, and on other pictures.
    pub slices: Vec<Slice>,
}

/// What else a run is judged on.
#[derive(Debug, Default)]
pub struct Beside<'a> {
    /// Tells how far the faces are turned.
    pub landmarker: Option<Landmarker>,
    /// Other stores, by name: all of their pictures that have one of the expressions.
    pub stores: &'a [(String, Store)],
}

/// The mean of what is said of the pictures of an expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// The expression.
    pub expression: Expression,
    /// Mean valence and arousal.
    pub mean: [f64; 2],
    /// Pictures.
    pub n: usize,
}

/// The accuracy on some of the pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Which ones.
    pub what: String,
    /// Share that is classified right.
    pub accuracy: f64,
    /// How many they are.
    pub n: usize,
}

impl Slice {
    /// Of pictures by whether each is classified right; `None` where there is no picture.
    fn of(what: String, right: impl Iterator<Item = bool>) -> Option<Self> {
        let (hits, n) = right.fold((0, 0), |(hits, n), right| (hits + usize::from(right), n + 1));
        (n > 0).then(|| Self { what, accuracy: hits as f64 / n as f64, n })
    }
}

impl CardFigures {
    /// Of a run with a head of expressions, on a split of a store.
    ///
    /// # Errors
    /// Where there is no such head, or no picture with an expression.
    pub fn measure(
        checkpoint: &Checkpoint,
        store: &Store,
        split: Split,
        beside: Beside<'_>,
    ) -> anyhow::Result<Self> {
        let loaded = Loaded::from_checkpoint(checkpoint)?;
        let heads = checkpoint_heads(checkpoint)?;
        let of_kind = |kind| heads.iter().find(|(of, _)| *of == kind).map(|(_, head)| head);
        let head = of_kind(HeadKind::Expression).context("the run has no head of expressions")?;
        let classes = head_classes(head)?;
        let (frames, labels) = labelled(store, split, &classes);
        let seen = |side_px: Option<i64>| -> anyhow::Result<Features> {
            let shrunk = |pictures: &Tensor| match side_px {
                Some(px) => resized(&pictures.adaptive_avg_pool2d([px; 2]), i64::from(loaded.side_px)),
                None => pictures.shallow_clone(),
            };
            let values =
                embed_seen(&loaded.encoder, loaded.vs.device(), loaded.input(), store, &frames, &shrunk)?;
            let Embeddings { dim, values } = Embeddings::new(values, frames.len());
            Ok(Features { classes: classes.clone(), labels: labels.clone(), dim, values })
        };
        let features = seen(None)?;
        let mut report = own_head(&features, head, split)?;
        report.leave_out_known(Stores::one(store), split);
        let outputs = |head: &LinearHead| -> Vec<f32> {
            let mut row = vec![0.0; head.labels().len()];
            let read = |embedding: &[f32]| {
                head.logits_into(embedding, &mut row);
                row.clone()
            };
            features.rows().flat_map(read).collect()
        };
        let logits = Tensor::from_slice(&outputs(head)).view([-1, classes.len() as i64]);
        let ece = calibration_error(&logits, &labels)?;
        let places = of_kind(HeadKind::ValenceArousal)
            .map_or_else(Vec::new, |head| places(&outputs(head), &labels, &classes));
        let right: Vec<bool> = {
            let said = Vec::<i64>::try_from(logits.argmax(-1, false).to_kind(Kind::Int64))?;
            said.iter().zip(&labels).map(|(&said, &label)| said as usize == label).collect()
        };
        let mut slices = by_brightness(&brightness(store, &frames)?, &right);
        for px in SIZES.into_iter().filter(|&px| px < i64::from(loaded.side_px)) {
            let report = own_head(&seen(Some(px))?, head, split)?;
            let what = format!("faces shrunk to {px} px");
            slices.push(Slice { what, accuracy: report.accuracy, n: frames.len() });
        }
        if let Some(mut landmarker) = beside.landmarker {
            slices.extend(by_yaw(&yaws(store, &frames, &mut landmarker)?, &right));
        }
        for (name, other) in beside.stores {
            let known = Split::ALL.map(|split| labelled(other, split, &classes));
            let (frames, labels) =
                (known.clone().map(|(frames, _)| frames).concat(), known.map(|(_, l)| l).concat());
            if !frames.is_empty() {
                let Embeddings { dim, values } = loaded.embed(other, &frames)?;
                let features = Features { classes: classes.clone(), labels, dim, values };
                let accuracy = own_head(&features, head, split)?.accuracy;
                slices.push(Slice { what: name.clone(), accuracy, n: frames.len() });
            }
        }
        let units = match of_kind(HeadKind::ActionUnits) {
            Some(head) if store.has_action_units() => units(&loaded, head, store, split)?,
            _ => None,
        };
        Ok(Self { report, ece, places, units, slices })
    }

    /// Rank correlations of the classes' mean valence and mean arousal with where people have placed the words for them
    /// ([`super::CIRCUMPLEX`]); none without a head of them.
    pub fn order(&self) -> Option<[f64; 2]> {
        if self.places.is_empty() {
            return None;
        }
        let told = |axis: usize| {
            let known =
                |place: &Place| Some((place.mean[axis], f64::from(circumplex(place.expression)?[axis])));
            let (ours, theirs): (Vec<f64>, Vec<f64>) = self.places.iter().filter_map(known).unzip();
            spearman(&ours, &theirs)
        };
        Some([told(0), told(1)])
    }
}

/// The mean of `[N, 2]` outputs over the pictures of each class.
fn places(outputs: &[f32], labels: &[usize], classes: &[Expression]) -> Vec<Place> {
    let mean = |class: usize| {
        let of_class = outputs.chunks_exact(2).zip(labels).filter(|(_, label)| **label == class);
        let (mut sum, mut n) = ([0.0; 2], 0);
        for (row, _) in of_class {
            n += 1;
            sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        Place { expression: classes[class], mean: sum.map(|sum| sum / f64::from(n.max(1))), n: n as usize }
    };
    (0..classes.len()).map(mean).filter(|place| place.n > 0).collect()
}

/// How a head of action units does on a split of a store that has some.
fn units(
    loaded: &Loaded,
    head: &LinearHead,
    store: &Store,
    split: Split,
) -> anyhow::Result<Option<AuReport>> {
    let mut goal = ActionUnits::new(AU_THRESHOLD, &[]);
    goal.weigh(&goal.targets(store, &frames_of(&goal, store, Split::Train)));
    if frames_of(&goal, store, split).is_empty() {
        return Ok(None);
    }
    let side = Side::of(&goal, store, split, "to judge a head on")?;
    let Embeddings { dim, values } = loaded.embed(store, &side.frames)?;
    // The head has rows for some of the units.
    let names = ACTION_UNITS.map(action_unit_name);
    let place =
        |name: &String| names.iter().position(|unit| unit == name).context("not the name of an action unit");
    let places = head.labels().iter().map(place).collect::<anyhow::Result<Vec<_>>>()?;
    let mut row = vec![0.0; places.len()];
    let mut outputs = Vec::new();
    for embedding in values.chunks_exact(dim) {
        head.logits_into(embedding, &mut row);
        let mut all = [0.0; ACTION_UNITS.len()];
        places.iter().zip(&row).for_each(|(&place, &logit)| all[place] = logit);
        outputs.extend(all);
    }
    let outputs = Tensor::from_slice(&outputs).view([-1, ACTION_UNITS.len() as i64]);
    // Where none is present there is nothing to tell.
    let present = Vec::<bool>::try_from(side.targets.gt(0.5).any().view(-1))?;
    present[0].then(|| goal.report(Protocol::OwnHead, &side, &outputs)).transpose()
}

/// How far each face is turned to a side, in degrees; `None` where landmarks do not tell.
fn yaws(store: &Store, frames: &[usize], landmarker: &mut Landmarker) -> anyhow::Result<Vec<Option<f32>>> {
    let yaw = |&frame: &usize| {
        let picture = store.record(frame).decode()?;
        let pose = face_in_crop(landmarker, &picture)?
            .and_then(|found| head_pose(&found.points, picture.width(), picture.height()));
        Ok(pose.map(|pose| pose.yaw_deg.abs()))
    };
    frames.iter().map(yaw).collect()
}

fn by_yaw(yaws: &[Option<f32>], right: &[bool]) -> Vec<Slice> {
    let slice = |what: String, within: &dyn Fn(Option<f32>) -> bool| {
        Slice::of(what, yaws.iter().zip(right).filter(|(yaw, _)| within(**yaw)).map(|(_, &right)| right))
    };
    let mut from = 0.0;
    let mut slices = Vec::new();
    for to in YAWS {
        let what = format!("turned {from} to {to} degrees to a side");
        slices.extend(slice(what, &|yaw| yaw.is_some_and(|yaw| (from..to).contains(&yaw))));
        from = to;
    }
    slices.extend(slice("landmarks do not tell how far it is turned".to_owned(), &|yaw| yaw.is_none()));
    slices
}

fn by_brightness(brightness: &[f32], right: &[bool]) -> Vec<Slice> {
    let mut order: Vec<usize> = (0..right.len()).collect();
    order.sort_by(|&i, &j| brightness[i].total_cmp(&brightness[j]));
    let part = |part: &[usize]| {
        let (darkest, lightest) = (brightness[part[0]], brightness[part[part.len() - 1]]);
        let what = format!("mean grey level {darkest:.0} to {lightest:.0} of 255");
        Slice::of(what, part.iter().map(|&i| right[i]))
    };
    order.chunks(right.len().div_ceil(PARTS).max(1)).filter_map(part).collect()
}

/// The tables of a model card, in Markdown.
impl fmt::Display for CardFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { accuracy, macro_f1, n, .. } = self.report;
        writeln!(f, "Accuracy {accuracy:.4}, macro F1 {macro_f1:.4}, on {n} pictures.")?;
        if let (Some(accuracy), Some(n)) =
            (self.report.accuracy_without_duplicates, self.report.n_without_duplicates)
        {
            writeln!(f, "Without pictures that stand in the training split as well: {accuracy:.4}, on {n}.")?;
        }
        writeln!(f, "Expected calibration error (15 bins): {:.4}.", self.ece)?;
        writeln!(f, "\n```text\n{}\n```", self.report)?;
        writeln!(f, "\n| pictures | n | accuracy |\n|---|---|---|")?;
        for Slice { what, accuracy, n } in &self.slices {
            writeln!(f, "| {what} | {n} | {accuracy:.4} |")?;
        }
        if let Some(units) = &self.units {
            writeln!(
                f,
                "\nAction units against what the test split is labelled with:\n\n```text\n{units}\n```"
            )?;
        }
        let Some([valence, arousal]) = self.order() else { return Ok(()) };
        writeln!(
            f,
            "\nMean valence and arousal of the pictures of each expression, and where people have placed the word for it \
             (Russell & Mehrabian 1977); rank correlation {valence:.2} and {arousal:.2}:\n"
        )?;
        writeln!(f, "| | valence | arousal | word's valence | word's arousal |\n|---|---|---|---|---|")?;
        for Place { expression, mean: [v, a], .. } in &self.places {
            let word = circumplex(*expression)
                .map_or_else(|| "| | |".to_owned(), |[v, a]| format!("| {v:.2} | {a:.2} |"));
            writeln!(f, "| {} | {v:.2} | {a:.2} {word}", expression.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quarters_go_from_dark_to_light_and_each_counts_its_own() {
        let brightness = [200.0, 10.0, 60.0, 20.0, 120.0, 130.0, 90.0, 210.0];
        let right = [true, false, true, true, false, false, true, true];
        let slices = by_brightness(&brightness, &right);
        let told: Vec<_> = slices.iter().map(|s| (s.what.as_str(), s.accuracy, s.n)).collect();
        assert_eq!(
            told,
            [
                ("mean grey level 10 to 20 of 255", 0.5, 2),
                ("mean grey level 60 to 90 of 255", 1.0, 2),
                ("mean grey level 120 to 130 of 255", 0.0, 2),
                ("mean grey level 200 to 210 of 255", 1.0, 2)
            ]
        );
        assert!(by_brightness(&[], &[]).is_empty());
    }

    #[test]
    fn faces_are_sorted_by_how_far_they_are_turned_to_either_side() {
        let yaws = [Some(0.0), Some(15.0), Some(14.9), None, Some(72.0)];
        let slices = by_yaw(&yaws, &[true, false, false, true, true]);
        let told: Vec<_> = slices.iter().map(|s| (s.what.as_str(), s.accuracy, s.n)).collect();
        assert_eq!(
            told,
            [
                ("turned 0 to 15 degrees to a side", 0.5, 2),
                ("turned 15 to 30 degrees to a side", 0.0, 1),
                ("turned 30 to 90 degrees to a side", 1.0, 1),
                ("landmarks do not tell how far it is turned", 1.0, 1),
            ]
        );
    }

    #[test]
    fn places_are_means_of_classes_and_their_order_is_told() {
        let classes = [Expression::Happy, Expression::Sad, Expression::Angry, Expression::Disgust];
        // Valence in the order of the words, arousal in the reverse.
        let outputs = [0.5, 0.1, 0.7, 0.3, -0.9, 0.9, -0.1, 0.0];
        let places = places(&outputs, &[0, 0, 1, 2], &classes);
        assert_eq!(places.len(), 3, "nobody is disgusted");
        assert_eq!((places[0].expression, places[0].n), (Expression::Happy, 2));
        assert!((places[0].mean[0] - 0.6).abs() < 1e-6 && (places[0].mean[1] - 0.2).abs() < 1e-6);
        let report = Report::expression("own-head", "test", &classes, &[0, 1], [0, 1].into_iter()).unwrap();
        let figures = CardFigures { report, ece: 0.0, places, units: None, slices: Vec::new() };
        let [valence, arousal] = figures.order().unwrap();
        assert!((valence - 1.0).abs() < 1e-9, "{valence}");
        // Words: 0.51, -0.27, 0.59 for happy, sad, angry; ours: 0.2, 0.9, 0.0.
        assert!((arousal + 1.0).abs() < 1e-9, "{arousal}");
        assert!(figures.to_string().contains("| happy | 0.60 | 0.20 | 0.81 | 0.51 |"), "{figures}");
        let without = CardFigures { places: Vec::new(), ..figures };
        assert_eq!(without.order(), None);
    }
}
