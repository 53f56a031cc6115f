//! What the learning thread has before it: the person's recent moments, the session, the labels, the candidate.

use std::sync::Arc;
use std::time::Duration;

use semblance_calib::adapt::{Correction, Share};
use semblance_calib::candidate::{Candidate, CandidateError};
use semblance_calib::dataset::is_rating;
use semblance_calib::fit::{FitError, FitOptions, Rest, Updater, relative};
use semblance_calib::heads::NEUTRAL;
use semblance_calib::labelled::{CAPACITY, Labelled};
use semblance_calib::profile::{UserName, now_unix_secs};
use semblance_calib::session::{Protocol, Session, Sight};
use semblance_calib::{Dataset, Heads, HeadsError, Label, Moment};
use serde_json::{Map, Value, json};

use super::adapting::Adapting;
use super::recent::Recent;
use super::{Answer, LearnError, Order};
use crate::prediction::{FrameReport, Prediction};
use crate::users::Users;

/// Strength of the prior where what was said is to be seen at once: some ten moments outweigh the heads of before.
const AT_ONCE: f64 = 10.0;
/// Without a span, a label is for so many seconds before it was given: an expression is over when one has found the button.
const LABEL_SECS: f64 = 1.0;

pub(super) struct Desk {
    users: Arc<Users>,
    user: Option<UserName>,
    recent: Recent,
    session: Option<Session>,
    /// What was said since the last fit that was kept.
    labels: Labelled,
    /// What was said since then, learned at once and unjudged, on the heads of before.
    trial: Option<(Heads, Updater)>,
    candidate: Option<Candidate>,
    /// How much of a core learning without labels may take; `None` for no such learning.
    share: Option<Share>,
    adapting: Option<Adapting>,
}

impl Desk {
    pub(super) fn new(users: Arc<Users>, share: Option<Share>) -> Self {
        let dim = users.shipped().dim();
        // What is in force was chosen under a name that was sound.
        let user = users.in_force().now().user.as_deref().and_then(|name| name.parse().ok());
        let (recent, labels) = (Recent::default(), Labelled::new(dim, CAPACITY));
        let (session, trial, candidate) = (None, None, None);
        let mut desk = Self { users, user, recent, session, labels, trial, candidate, share, adapting: None };
        desk.start_adapting();
        desk
    }

    /// Learns without labels on what is in force now.
    fn start_adapting(&mut self) {
        let reading = self.users.in_force().now();
        self.adapting = self.share.and_then(|share| match Adapting::start(share, &reading) {
            Ok(adapting) => Some(adapting),
            Err(error) => {
                log::warn!("no adaptation: {error}");
                None
            }
        });
    }

    /// Goes on learning without labels, on heads that are new for the same person.
    fn go_on_adapting(&mut self) {
        let reading = self.users.in_force().now();
        if let Some(Err(error)) = self.adapting.as_mut().map(|adapting| adapting.rebase(&reading)) {
            log::warn!("no adaptation: {error}");
            self.adapting = None;
        }
    }

    /// Learns without labels for a few milliseconds, where there is time for it.
    pub(super) fn adapt(&mut self, clock: impl FnMut() -> Duration) {
        if let Some(adapting) = &mut self.adapting {
            adapting.work(&self.users, clock);
        }
    }

    /// Takes a frame. The largest face is the person's.
    pub(super) fn observe(&mut self, now_secs: f64, report: &FrameReport) {
        let area = |face: &Prediction| face.bbox[2] * face.bbox[3];
        let largest = report.faces.iter().enumerate().max_by(|(_, a), (_, b)| area(a).total_cmp(&area(b)));
        let dim = self.labels.data().dim();
        let embedding = largest.and_then(|(i, _)| report.embeddings.get(i * dim..(i + 1) * dim));
        if let Some(embedding) = embedding {
            self.recent.push(report.t, embedding);
        }
        if let Some(adapting) = &mut self.adapting {
            adapting.observe(report, largest.map(|(face, _)| face));
        }
        let Some(session) = &mut self.session else { return };
        let [x, y, width, height] = largest.map_or([0.0; 4], |(_, face)| face.bbox);
        let pose = largest.and_then(|(_, face)| face.pose);
        let sight = Sight {
            faces: report.faces.len(),
            yaw_deg: pose.map(|pose| pose.yaw),
            pitch_deg: pose.map(|pose| pose.pitch),
            light: largest.and_then(|(i, _)| report.light.get(i).copied()).unwrap_or(0.0),
            centre: [x + width / 2.0, y + height / 2.0],
            width,
        };
        session.observe(now_secs, report.t, &sight, embedding);
    }

    pub(super) fn tick(&mut self, now_secs: f64) {
        if let Some(session) = &mut self.session {
            session.tick(now_secs);
        }
    }

    /// Takes over the labels of a session that is done; until then its last step can be done again.
    fn finish(&mut self) {
        if let Some(session) = self.session.take_if(|session| session.is_done()) {
            let data = session.data();
            let first = self.labels.data().next_block();
            for (moment, embedding) in data.iter() {
                // It was sound when the session took it.
                let _ = self.labels.push(Moment { block: first + moment.block, ..*moment }, embedding);
            }
            log::info!("calibration done: {} labels", data.len());
        }
    }

    pub(super) fn obey(&mut self, now_secs: f64, order: Order) -> Answer {
        self.tick(now_secs);
        match order {
            Order::Tell => {}
            Order::Choose(user) => return self.choose(user),
            Order::Start(protocol) => self.start(now_secs, *protocol)?,
            Order::Stop => drop(self.session.take().ok_or_else(no_session)?),
            Order::Redo => self.session.as_mut().ok_or_else(no_session)?.redo(now_secs),
            Order::Rate(both) => {
                check_rating(both)?;
                let [valence, arousal] = both;
                self.session.as_mut().ok_or_else(no_session)?.rate(now_secs, valence, arousal)?;
            }
            Order::Label { span, expression, valence_arousal } => {
                self.label(span, expression.as_deref(), valence_arousal)?;
            }
            Order::Fit => return self.fit(),
            Order::Accept => self.accept()?,
            Order::Reject => {
                self.candidate.take().ok_or_else(no_candidate)?;
                self.forget();
                if self.trial.take().is_some() {
                    self.users.choose(self.user.as_ref())?;
                    self.start_adapting();
                }
            }
            Order::Rollback(to) => {
                let user = self.person()?.clone();
                self.users.profiles().rollback(&user, to, now_unix_secs())?;
                self.users.choose(Some(&user))?;
                (self.candidate, self.trial) = (None, None);
                self.start_adapting();
            }
        }
        Ok(self.state(now_secs))
    }

    fn choose(&mut self, user: Option<UserName>) -> Answer {
        let notes = self.users.choose(user.as_ref())?;
        if self.user != user {
            self.session = None;
            self.recent.clear();
            self.forget();
        }
        self.user = user;
        self.trial = None;
        self.start_adapting();
        Ok(json!(notes))
    }

    fn forget(&mut self) {
        self.candidate = None;
        self.labels = Labelled::new(self.labels.data().dim(), CAPACITY);
    }

    fn person(&self) -> Result<&UserName, LearnError> {
        let nobody =
            || LearnError::Conflict("nobody is chosen: choose a user first (PUT /v1/user)".to_owned());
        self.user.as_ref().ok_or_else(nobody)
    }

    fn start(&mut self, now_secs: f64, protocol: Protocol) -> Result<(), LearnError> {
        self.person()?;
        self.finish();
        if self.session.is_some() {
            return Err(LearnError::Conflict("a calibration goes on: stop it first".to_owned()));
        }
        let session = Session::start(protocol, self.expressions(), self.labels.data().dim(), now_secs);
        self.session = Some(session.map_err(|error| LearnError::Unusable(error.to_string()))?);
        Ok(())
    }

    /// Names of the shipped head's rows, which labels are for.
    fn expressions(&self) -> &[String] {
        self.users.shipped().expression().map_or(&[], |head| head.labels())
    }

    fn label(
        &mut self,
        span: Option<[f64; 2]>,
        expression: Option<&str>,
        valence_arousal: Option<[f32; 2]>,
    ) -> Result<(), LearnError> {
        self.person()?;
        let unusable = |sentence: String| Err(LearnError::Unusable(sentence));
        if expression.is_none() && valence_arousal.is_none() {
            return unusable("a label is an expression, valence and arousal, or both".to_owned());
        }
        valence_arousal.map_or(Ok(()), check_rating)?;
        let row = match expression.map(|name| self.expressions().iter().position(|label| label == name)) {
            None => None,
            Some(Some(row)) => u8::try_from(row).ok(),
            Some(None) => {
                let (name, known) = (expression.unwrap_or_default(), self.expressions().join(", "));
                return unusable(format!("'{name}' is no expression of this bundle: it knows {known}"));
            }
        };
        let held = self.recent.span_secs();
        let span = span.or_else(|| held.map(|[_, newest]| [newest - LABEL_SECS, newest]));
        let label = Label { expression: row, valence_arousal, action_units: None };
        let (mut taken, block) = (Dataset::new(self.labels.data().dim()), self.labels.data().next_block());
        for (t_secs, embedding) in span.into_iter().flat_map(|span| self.recent.between(span)) {
            let moment = Moment { t_secs, block, label };
            if self.labels.push(moment, embedding).is_ok() {
                // The store took it, so that it is sound.
                let _ = taken.push(moment, embedding);
            }
        }
        if taken.is_empty() {
            return Err(LearnError::Conflict(match held {
                Some([from, to]) => {
                    format!("no face was seen then: what is remembered is from {from:.1} s to {to:.1} s")
                }
                None => "no face has been seen yet".to_owned(),
            }));
        }
        if let Err(error) = self.learn_at_once(&taken) {
            log::warn!("a label is not learned before the next fit: {error}");
        }
        Ok(())
    }

    /// What was said is seen at once. It is not judged before a fit, and nothing of it is kept.
    fn learn_at_once(&mut self, said: &Dataset) -> Result<(), LearnError> {
        let moved = said.moments().iter().any(|moment| self.is_neutral(moment)) && self.find_rest()?;
        let (before, updater) = self.try_labels(said, moved).map_err(CandidateError::from)?;
        let heads = updater.heads().map_err(CandidateError::from)?;
        self.users.try_heads(heads).map_err(unlearned)?;
        self.trial = Some((before, updater));
        self.go_on_adapting();
        Ok(())
    }

    fn is_neutral(&self, moment: &Moment) -> bool {
        let row = moment.label.expression.and_then(|row| self.expressions().get(usize::from(row)));
        row.is_some_and(|label| label == NEUTRAL)
    }

    /// Reads relative to where the face rests, as far as the labels tell; whether they do.
    fn find_rest(&mut self) -> Result<bool, LearnError> {
        let found = Rest::of(self.users.shipped(), self.labels.data(), &FitOptions::default());
        let Some(rest) = found.map_err(CandidateError::from)? else { return Ok(false) };
        let Ok(place) = Correction::shift_by(rest.shift().to_vec()) else { return Ok(false) };
        self.users.correct(place).map_err(unlearned)?;
        self.rest_adapting();
        Ok(true)
    }

    /// Adaptation starts from the moments that are labelled neutral.
    fn rest_adapting(&mut self) {
        let Some(mut adapting) = self.adapting.take() else { return };
        let neutral = self.labels.data().iter().filter(|(moment, _)| self.is_neutral(moment));
        let mut moments = neutral.map(|(_, embedding)| embedding).peekable();
        if moments.peek().is_some() {
            adapting.rest(moments);
        }
        self.adapting = Some(adapting);
    }

    /// The heads of before, and what the labels make of them. Where the face has `moved`, all labels are learned anew.
    fn try_labels(&mut self, said: &Dataset, moved: bool) -> Result<(Heads, Updater), FitError> {
        let reading = self.users.in_force().now();
        let as_read = |data: &Dataset| match &reading.correction {
            Some(correction) => relative(data, correction),
            None => Ok(data.clone()),
        };
        match self.trial.take() {
            Some((before, mut updater)) if !moved => {
                as_read(said)?.iter().try_for_each(|(moment, embedding)| updater.push(*moment, embedding))?;
                Ok((before, updater))
            }
            trial => {
                let before = trial.map_or_else(|| reading.fitted.clone(), |(before, _)| before);
                let all = as_read(self.labels.data())?;
                let options = FitOptions { strengths: vec![AT_ONCE], ..FitOptions::default() };
                let updater = Updater::new(&before, all, None, &options)?;
                Ok((before, updater))
            }
        }
    }

    fn fit(&mut self) -> Answer {
        let user = self.person()?.clone();
        self.finish();
        if self.session.is_some() {
            return Err(LearnError::Conflict("a calibration goes on: finish or stop it first".to_owned()));
        }
        if self.labels.data().is_empty() {
            return Err(LearnError::Conflict("there are no labels yet".to_owned()));
        }
        let profile = self.users.profiles().open(&user)?;
        let (shipped, bundle) = (self.users.shipped(), self.users.encoder());
        let options = FitOptions::default();
        let (new, place) = (self.labels.data(), &self.users.in_force().now().correction);
        let candidate = Candidate::fit(shipped, bundle, profile.as_ref(), new, place.as_ref(), &options)?;
        let report = candidate.report().clone();
        self.candidate = Some(candidate);
        Ok(report)
    }

    fn accept(&mut self) -> Result<(), LearnError> {
        let user = self.person()?.clone();
        let candidate = self.candidate.as_ref().ok_or_else(no_candidate)?;
        if !candidate.is_better() {
            let sentence = "nothing is better than as shipped by more than noise: more labels may help";
            return Err(LearnError::Conflict(sentence.to_owned()));
        }
        let serial = candidate.save(self.users.profiles(), &user, "calibration", now_unix_secs())?;
        log::info!("the profile of {user} is at state {serial}");
        self.rest_adapting();
        self.forget();
        self.trial = None;
        self.users.choose(Some(&user))?;
        self.go_on_adapting();
        Ok(())
    }

    fn state(&self, now_secs: f64) -> Value {
        json!({
            "user": self.user.as_ref().map(UserName::as_str),
            "adapted": self.users.in_force().now().adapted,
            "session": self.session.as_ref().map(|session| session.snapshot(now_secs)),
            "labels": self.counts(self.labels.data()),
            "trying": self.trial.as_ref().map_or(0, |(_, updater)| updater.data().len()),
            "candidate": self.candidate.as_ref().map(Candidate::report),
            "adaptation": self.adapting.as_ref().map(Adapting::tell),
        })
    }

    fn counts(&self, data: &Dataset) -> Value {
        let mut expressions = Map::new();
        for (row, name) in self.expressions().iter().enumerate() {
            let of_row = |moment: &&Moment| moment.label.expression.map(usize::from) == Some(row);
            expressions.insert(name.clone(), data.moments().iter().filter(of_row).count().into());
        }
        let rated = data.moments().iter().filter(|moment| moment.label.valence_arousal.is_some()).count();
        json!({ "total": data.len(), "expression": expressions, "valence_arousal": rated })
    }
}

fn unlearned(error: HeadsError) -> LearnError {
    LearnError::Candidate(FitError::from(error).into())
}

fn check_rating(both: [f32; 2]) -> Result<(), LearnError> {
    if is_rating(both) {
        return Ok(());
    }
    Err(LearnError::Unusable(format!("valence and arousal lie in [-1, 1], not {both:?}")))
}

fn no_session() -> LearnError {
    LearnError::Conflict("no calibration goes on: start one first".to_owned())
}

fn no_candidate() -> LearnError {
    LearnError::Conflict("nothing was fitted: fit first".to_owned())
}
