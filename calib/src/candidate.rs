//! From new labels to a new state of a profile: fitted and judged together with what was known, kept once somebody says so.

use serde_json::{Value, json};
use thiserror::Error;

use crate::adapt::Correction;
use crate::dataset::{Dataset, DatasetError};
use crate::fit::{FitError, FitOptions, Fitted, Rest, Verdict, Views, fit_views, relative, without};
use crate::heads::{HeadKind, Heads};
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
    heads: Heads,
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
    /// relative to that, and have to be better than the shipped ones on the moments as they are. Where there is none, or it makes
    /// expressions no better, alone or with the head on it, the new moments are read relative to `place`, the one that is in
    /// force. A head that is not better now, but was when the profile's state was saved, stays.
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
        let state = profile.map(|opened| opened.for_bundle(bundle)).transpose()?;
        let known = state.and_then(|state| Some((state.labelled.as_ref()?, state.correction.as_ref())));
        let rest = Rest::of(shipped, new, options)?;
        let old = place.map(Correction::shift_alone);
        let before = joined(known.map(|(known, _)| known), new)?;
        let at = |place: Option<&Correction>, held_out: Option<&Dataset>| -> Result<_, CandidateError> {
            let read = |data: &Dataset, place: Option<&Correction>| match place {
                Some(place) => relative(data, place),
                None => Ok(data.clone()),
            };
            // Without a place of its own, what is known was seen where the new moments are.
            let known = known.map(|(known, own)| read(known, own.or(place))).transpose()?;
            let new = read(new, place)?;
            let data = joined(known.as_ref(), &new)?;
            let held_out = joined(known.as_ref(), held_out.unwrap_or(&new))?;
            let views = Views { before: &before, fitted: &data, held_out: &held_out };
            let fitted = fit_views(shipped, views, options)?;
            Ok((data, fitted))
        };
        let helps = rest.as_ref().is_some_and(|rest| rest.verdict == Verdict::Accepted);
        let is_judged = rest.as_ref().is_some_and(|rest| !rest.metrics.is_empty());
        let is_accepted = |fitted: &Fitted, kind: HeadKind| fitted.get(kind).verdict == Verdict::Accepted;
        let any = |fitted: &Fitted| HeadKind::ALL.into_iter().any(|kind| is_accepted(fitted, kind));
        let (mut place, (mut data, mut fitted)) = match &rest {
            Some(rest) => (Some(rest.place().clone()), at(Some(rest.place()), Some(&rest.held_out(new)?))?),
            None => (old.clone(), at(old.as_ref(), None)?),
        };
        let with_place =
            helps || if is_judged { is_accepted(&fitted, HeadKind::Expression) } else { any(&fitted) };
        if rest.is_some() && !with_place {
            (data, fitted) = at(old.as_ref(), None)?;
            place = old;
        }
        // Heads that were learned relative to a face at rest are no heads for moments as they are, and the other way round.
        let alike = |state: &&State| state.correction.is_some() == place.is_some();
        let current = state.filter(alike).map_or(shipped, |state| &state.heads);
        let kept = HeadKind::ALL.into_iter().filter_map(|kind| {
            let heads = if is_accepted(&fitted, kind) { fitted.heads() } else { current };
            Some((kind, heads.get(kind)?.clone()))
        });
        let heads =
            Heads::new(shipped.dim(), kept).and_then(|heads| heads.with_neutral(shipped.neutral().cloned()));
        let heads = heads.map_err(FitError::from)?;
        let is_better = helps || any(&fitted);
        let report = report(rest.as_ref(), &fitted, data.len(), is_better);
        let after = profile.map_or(0, |opened| opened.serial);
        let (shipped, bundle) = (shipped.clone(), bundle.to_owned());
        Ok(Self { shipped, heads, place, is_better, data, report, bundle, after })
    }

    /// Whether a part of it is better than what was shipped by more than noise, on stretches of time that had no say in it: reading
    /// relative to the face at rest, or a head.
    pub fn is_better(&self) -> bool {
        self.is_better
    }

    /// The heads with everything that was found better, now or before.
    pub fn heads(&self) -> &Heads {
        &self.heads
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
        // As they are where the face rests now, so that they can be read with and without that.
        let labels = self.place.as_ref().and_then(|place| without(&self.data, place).ok());
        let labels = labels.as_ref().unwrap_or(&self.data);
        let mut kept = Labelled::new(labels.dim(), CAPACITY);
        for (moment, embedding) in labels.iter() {
            // What was fitted to is sound.
            let _ = kept.push(*moment, embedding);
        }
        let reason = format!("{reason}, {} labels", self.data.len());
        let (labelled, report) = (Some(kept.data().clone()), shortened(&self.report));
        let next = state(&self.heads, self.place.clone(), labelled, reason, report);
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
    known.into_iter().chain([new]).try_for_each(|part| data.append(part))?;
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
