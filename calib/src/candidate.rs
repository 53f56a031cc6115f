//! From new labels to a new state of a profile: fitted and judged together with what was known, kept once somebody says so.

use serde_json::{Value, json};
use thiserror::Error;

use crate::adapt::Correction;
use crate::dataset::{Dataset, DatasetError, Moment};
use crate::fit::{FitError, FitOptions, Fitted, Rest, Verdict, fit_against, relative};
use crate::heads::Heads;
use crate::labelled::{CAPACITY, Labelled};
use crate::profile::{Disk, MAX_REPORT, Opened, ProfileError, Profiles, State, UserName};

/// Why there is no candidate.
#[derive(Debug, Error)]
pub enum CandidateError {
    /// The profile is of another bundle.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// New and known labels are of embeddings of different sizes.
    #[error(transparent)]
    Labels(#[from] DatasetError),
    /// The fit failed.
    #[error(transparent)]
    Fit(#[from] FitError),
}

/// Heads fitted to one person, and how they were judged. Nothing of it is in force before [`Candidate::save`].
#[derive(Clone, Debug)]
pub struct Candidate {
    shipped: Heads,
    /// Where the face rests, if that helps or was known before.
    place: Option<Correction>,
    is_better: bool,
    fitted: Fitted,
    /// Relative to the face at rest.
    data: Dataset,
    report: Value,
    bundle: String,
    /// State that it was made from; 0 for none.
    after: u64,
}

impl Candidate {
    /// Fits the `shipped` heads of the bundle whose encoder has the SHA-256 `bundle` to `new` labels and those that the
    /// profile knows.
    ///
    /// First it is learned from the moments labelled neutral where the face rests ([`Rest`]); heads are fitted to all moments
    /// relative to that, and have to be better than the shipped ones on the moments as they are. Where there is none, or neither
    /// it nor a head on it is better, the new moments are read relative to `place`, the one that is in force.
    ///
    /// # Errors
    /// [`CandidateError`]; too little data is a verdict in the report.
    pub fn fit(
        shipped: &Heads,
        bundle: &str,
        profile: Option<&Opened>,
        new: &Dataset,
        place: Option<&Correction>,
        options: &FitOptions,
    ) -> Result<Self, CandidateError> {
        let known = profile.map(|opened| opened.for_bundle(bundle)).transpose()?;
        let known = known.and_then(|state| state.labelled.as_ref());
        let rest = Rest::of(shipped, new, options)?;
        let helps = rest.as_ref().is_some_and(|rest| rest.verdict == Verdict::Accepted);
        let found = rest.as_ref().and_then(|rest| Correction::shift_by(rest.shift().to_vec()).ok());
        let old = place.and_then(|place| Correction::shift_by(place.shift().to_vec()).ok());
        let at = |place: Option<&Correction>| -> Result<(Dataset, Fitted), CandidateError> {
            let data = match place {
                Some(place) => joined(known, &relative(new, place)?)?,
                None => joined(known, new)?,
            };
            let fitted = fit_against(shipped, &joined(known, new)?, &data, options)?;
            Ok((data, fitted))
        };
        let mut place = found.or_else(|| old.clone());
        let (mut data, mut fitted) = at(place.as_ref())?;
        let is_accepted = |fitted: &Fitted| fitted.fits.iter().any(|fit| fit.verdict == Verdict::Accepted);
        if place != old && !helps && !is_accepted(&fitted) {
            place = old;
            (data, fitted) = at(place.as_ref())?;
        }
        let is_better = helps || is_accepted(&fitted);
        let report = report(rest.as_ref(), &fitted, data.len(), is_better);
        let after = profile.map_or(0, |opened| opened.serial);
        let (shipped, bundle) = (shipped.clone(), bundle.to_owned());
        Ok(Self { shipped, place, is_better, fitted, data, report, bundle, after })
    }

    /// Whether a part of it is better than what was shipped by more than noise, on labels that had no say in it: reading relative
    /// to the face at rest, or a head.
    pub fn is_better(&self) -> bool {
        self.is_better
    }

    /// The heads with everything that was found better.
    pub fn heads(&self) -> &Heads {
        self.fitted.heads()
    }

    /// Where the face rests: what these heads expect to be taken off every embedding.
    pub fn place(&self) -> Option<&Correction> {
        self.place.as_ref()
    }

    /// The labels that it was fitted to, known and new, relative to the face at rest.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// What came of it, as JSON: `heads` as [`Fitted`] writes them, before them one named `rest` that tells what reading relative
    /// to the face at rest is worth, `labels` (how many) and `better`.
    pub fn report(&self) -> &Value {
        &self.report
    }

    /// Makes it the user's state, unless another was saved since; gives its number. A user's first state is always the shipped
    /// heads, so that the first fit can be undone, too.
    ///
    /// # Errors
    /// [`ProfileError`], above all [`ProfileError::Changed`].
    pub fn save<D: Disk>(
        &self,
        profiles: &Profiles<D>,
        user: &UserName,
        reason: &str,
        now_unix_secs: u64,
    ) -> Result<u64, ProfileError> {
        let state = |heads: &Heads, correction, labelled, reason, report| State {
            bundle: self.bundle.clone(),
            heads: heads.clone(),
            correction,
            labelled,
            saved_unix_secs: now_unix_secs,
            reason,
            report,
        };
        let mut after = self.after;
        if after == 0 {
            let first = state(&self.shipped, None, None, "the shipped heads".to_owned(), String::new());
            after = profiles.save(user, &first, Some(0))?;
        }
        let mut kept = Labelled::new(self.data.dim(), CAPACITY);
        for (moment, embedding) in self.data.iter() {
            // What was fitted to is sound.
            let _ = kept.push(*moment, embedding);
        }
        let reason = format!("{reason}, {} labels", self.data.len());
        let (labelled, report) = (Some(kept.data().clone()), shortened(&self.report));
        let next = state(self.fitted.heads(), self.place.clone(), labelled, reason, report);
        profiles.save(user, &next, Some(after))
    }
}

fn report(rest: Option<&Rest>, fitted: &Fitted, labels: usize, is_better: bool) -> Value {
    let mut report = serde_json::to_value(fitted).unwrap_or_default();
    if let (Some(rest), Some(heads)) = (rest, report["heads"].as_array_mut()) {
        let mut told = serde_json::to_value(&rest.verdict).unwrap_or_default();
        for (key, value) in [
            ("head", json!("rest")),
            ("labels", json!(rest.labels)),
            ("blocks", json!(rest.blocks)),
            ("unlabelled", json!([])),
            ("strength", json!(null)),
            ("metrics", json!(rest.metrics)),
        ] {
            told[key] = value;
        }
        heads.insert(0, told);
    }
    report["labels"] = json!(labels);
    report["better"] = json!(is_better);
    report
}

/// What was known and what is new; the new blocks follow the known ones.
fn joined(known: Option<&Dataset>, new: &Dataset) -> Result<Dataset, DatasetError> {
    let mut data = Dataset::new(new.dim());
    for part in known.into_iter().chain([new]) {
        let first = data.next_block();
        for (moment, embedding) in part.iter() {
            data.push(Moment { block: first.saturating_add(moment.block), ..*moment }, embedding)?;
        }
    }
    Ok(data)
}

/// The report as JSON, without the scores of single classes where it would be too long to keep.
fn shortened(report: &Value) -> String {
    let mut value = report.clone();
    if value.to_string().len() > MAX_REPORT {
        for head in value["heads"].as_array_mut().into_iter().flatten() {
            if let Some(metrics) = head["metrics"].as_array_mut() {
                let of_class = |metric: &Value| {
                    let name = metric["name"].as_str().unwrap_or_default();
                    name.starts_with("recall_") || name.starts_with("f1_AU")
                };
                metrics.retain(|metric| !of_class(metric));
            }
        }
    }
    value.to_string()
}
