//! What heads are worth on labelled moments, and what that is over many people.

use semblance_calib::metrics::{Agreement, Calibration, Confusion, MetricError, brier};
use semblance_calib::{Dataset, HeadKind, Heads, LinearHead, MAX_LABELS, argmax, softmax_in_place};

/// Of one person; shares are in `[0, 1]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scores {
    pub(crate) accuracy: f64,
    pub(crate) mean_recall: f64,
    pub(crate) brier: f64,
    pub(crate) ece: f64,
    /// Of valence and arousal together; 0 without a head.
    pub(crate) ccc: f64,
}

impl Scores {
    pub(crate) fn of(heads: &Heads, data: &Dataset) -> Result<Self, MetricError> {
        let mut scores = Self::default();
        if let Some(head) = heads.expression() {
            scores.read_expressions(head, data)?;
        }
        if let Some(head) = heads.get(HeadKind::ValenceArousal) {
            let mut agreements = [Agreement::default(), Agreement::default()];
            for (moment, embedding) in data.iter() {
                let mut told = [0.0; 2];
                head.logits_into(embedding, &mut told);
                let truth = moment.label.valence_arousal.unwrap_or_default();
                for ((agreement, truth), told) in agreements.iter_mut().zip(truth).zip(told) {
                    agreement.add(f64::from(truth), f64::from(told.clamp(-1.0, 1.0)));
                }
            }
            scores.ccc = agreements.iter().map(Agreement::ccc).sum::<f64>() / 2.0;
        }
        Ok(scores)
    }

    fn read_expressions(&mut self, head: &LinearHead, data: &Dataset) -> Result<(), MetricError> {
        let classes = head.labels().len();
        let mut confusion = Confusion::new(classes);
        let mut calibration = Calibration::default();
        let mut all = [0.0; MAX_LABELS];
        for (moment, embedding) in data.iter() {
            let Some(truth) = moment.label.expression.map(usize::from) else { continue };
            let p = &mut all[..classes];
            head.logits_into(embedding, p);
            softmax_in_place(p);
            let told = argmax(p);
            confusion.add(truth, told)?;
            calibration.add(f64::from(p[told]), told == truth);
            let (p, right): (Vec<f64>, Vec<f64>) =
                p.iter().enumerate().map(|(k, p)| (f64::from(*p), f64::from(u8::from(k == truth)))).unzip();
            self.brier += brier(&p, &right) / data.len() as f64;
        }
        (self.accuracy, self.mean_recall) = (confusion.accuracy(), confusion.mean_recall());
        self.ece = calibration.ece();
        Ok(())
    }
}

/// The mean of several scores.
pub(crate) fn mean(all: &[Scores]) -> Scores {
    let of = |measure: fn(&Scores) -> f64| all.iter().map(measure).sum::<f64>() / all.len().max(1) as f64;
    Scores {
        accuracy: of(|s| s.accuracy),
        mean_recall: of(|s| s.mean_recall),
        brier: of(|s| s.brier),
        ece: of(|s| s.ece),
        ccc: of(|s| s.ccc),
    }
}

/// A row of a table: what many people have before and after.
pub(crate) fn row(what: &str, before: &[f64], after: &[f64]) {
    let gains: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    let worse = gains.iter().filter(|gain| **gain < -0.01).count();
    println!(
        "| {what} | {:.3} | {:.3} | {:.3} | {:.3} | {:+.3} | {:+.3} | {worse} of {} |",
        quantile(before, 0.5),
        quantile(before, 0.1),
        quantile(after, 0.5),
        quantile(after, 0.1),
        quantile(&gains, 0.5),
        quantile(&gains, 0.0),
        gains.len(),
    );
}

pub(crate) fn header(people: &str) {
    println!(
        "\n| {people} | before: median | worst decile | after: median | worst decile | gain: median | least | worse by > 0.01 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
}

/// The value below which a share `q` of all lies.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = (q * (sorted.len().max(1) - 1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
