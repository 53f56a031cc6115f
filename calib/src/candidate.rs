//! From new labels to a new state of a profile: fitted and judged together with what was known, kept once somebody says so.

use serde_json::{Value, json};
use thiserror::Error;

use crate::dataset::{Dataset, DatasetError, Moment};
use crate::fit::{FitError, FitOptions, Fitted, Verdict, fit};
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
    fitted: Fitted,
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
    /// # Errors
    /// [`CandidateError`]; too little data is a verdict in the report.
    pub fn fit(
        shipped: &Heads,
        bundle: &str,
        profile: Option<&Opened>,
        new: &Dataset,
        options: &FitOptions,
    ) -> Result<Self, CandidateError> {
        let known = profile.map(|opened| opened.for_bundle(bundle)).transpose()?;
        let data = joined(known.and_then(|state| state.labelled.as_ref()), new)?;
        let fitted = fit(shipped, &data, options)?;
        let mut report = serde_json::to_value(&fitted).unwrap_or_default();
        report["labels"] = json!(data.len());
        report["better"] = json!(is_better(&fitted));
        let after = profile.map_or(0, |opened| opened.serial);
        Ok(Self { shipped: shipped.clone(), fitted, data, report, bundle: bundle.to_owned(), after })
    }

    /// Whether a head of it is better than the shipped one by more than noise, on labels that it was not fitted on.
    pub fn is_better(&self) -> bool {
        is_better(&self.fitted)
    }

    /// The labels that it was fitted to, known and new.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// What came of it, as JSON: `heads` as [`Fitted`] writes them, `labels` (how many) and `better`.
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
        let state = |heads: &Heads, labelled, reason, report| State {
            bundle: self.bundle.clone(),
            heads: heads.clone(),
            // It was learned on other heads.
            correction: None,
            labelled,
            saved_unix_secs: now_unix_secs,
            reason,
            report,
        };
        let mut after = self.after;
        if after == 0 {
            let first = state(&self.shipped, None, "the shipped heads".to_owned(), String::new());
            after = profiles.save(user, &first, Some(0))?;
        }
        let mut kept = Labelled::new(self.data.dim(), CAPACITY);
        for (moment, embedding) in self.data.iter() {
            // What was fitted to is sound.
            let _ = kept.push(*moment, embedding);
        }
        let reason = format!("{reason}, {} labels", self.data.len());
        let next = state(self.fitted.heads(), Some(kept.data().clone()), reason, shortened(&self.report));
        profiles.save(user, &next, Some(after))
    }
}

fn is_better(fitted: &Fitted) -> bool {
    fitted.fits.iter().any(|fit| fit.verdict == Verdict::Accepted)
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
