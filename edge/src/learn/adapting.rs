//! Learning from time itself: the adapter, at work within its budget.

use std::time::Duration;

use semblance_calib::adapt::{AdaptConfig, AdaptError, Adapter, Budget, Return, Share};
use serde_json::{Value, json};

use crate::prediction::FrameReport;
use crate::users::{Reading, Users};

pub(super) struct Adapting {
    share: Share,
    adapter: Adapter,
    budget: Budget,
    newest_secs: f64,
    /// Why the correction was brought back last, and how often that was.
    returned: Option<String>,
    returns: u64,
}

impl Adapting {
    /// Learns on the heads that are in force, and goes on from the correction that is.
    pub(super) fn start(share: Share, reading: &Reading) -> Result<Self, AdaptError> {
        // Without a name, whoever comes next may be somebody else.
        let config = AdaptConfig { one_person: reading.user.is_some(), ..AdaptConfig::default() };
        let mut adapter = Adapter::new(reading.fitted.clone(), config)?;
        if let Some(correction) = &reading.correction {
            adapter.resume(correction.clone())?;
        }
        let budget = Budget::new(share);
        Ok(Self { share, adapter, budget, newest_secs: f64::NEG_INFINITY, returned: None, returns: 0 })
    }

    /// Takes the faces of a frame; the one at `person` first, so that it is the user's.
    pub(super) fn observe(&mut self, report: &FrameReport, person: Option<usize>) {
        // The source's clock may begin anew.
        if report.t < self.newest_secs {
            self.adapter.restart();
        }
        self.newest_secs = report.t;
        let values = report.embeddings.len() / report.faces.len().max(1);
        let others = (0..report.faces.len()).filter(|face| Some(*face) != person);
        for face in person.into_iter().chain(others) {
            let embedding = &report.embeddings[face * values..(face + 1) * values];
            // A frame that is not sound teaches nothing.
            let _ = self.adapter.observe(report.faces[face].track, report.t, embedding);
        }
    }

    /// Learns for a few milliseconds, where the budget allows it, and puts what came of it in force.
    pub(super) fn work(&mut self, users: &Users, clock: impl FnMut() -> Duration) {
        let report = self.adapter.slice(&mut self.budget, clock);
        if let Some((alarm, returned)) = report.returned {
            self.returns += 1;
            let how = match returned {
                Return::Decayed { share } => format!("{:.0} % of the correction is left", 100.0 * share),
                Return::Reset => "the correction was given up".to_owned(),
            };
            log::info!("adaptation: {alarm}: {how}");
            self.returned = Some(alarm.to_string());
        }
        if report.changed
            && let Err(error) = users.correct(self.adapter.correction().clone())
        {
            log::warn!("adaptation: {error}: given up");
            self.adapter.reset();
        }
    }

    /// The face is at rest in these embeddings.
    pub(super) fn rest<'a>(&mut self, embeddings: impl Iterator<Item = &'a [f32]>) {
        self.adapter.rest(embeddings);
    }

    /// Goes on with the heads that are in force now, for the same person.
    pub(super) fn rebase(&mut self, reading: &Reading) -> Result<(), AdaptError> {
        self.adapter.rebase(reading.fitted.clone(), reading.correction.as_ref())
    }

    pub(super) fn tell(&self) -> Value {
        let correction = self.adapter.correction();
        let shift = correction.shift().iter().map(|v| v * v).sum::<f32>().sqrt();
        json!({
            "budget": self.share.get(),
            "shift": shift,
            "projection": correction.norm(),
            "returns": self.returns,
            "returned": self.returned,
        })
    }
}
