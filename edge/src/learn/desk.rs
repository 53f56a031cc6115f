//! What the learning thread has before it: the person's recent moments, the session, the labels, the candidate.

use std::sync::Arc;

use semblance_calib::candidate::Candidate;
use semblance_calib::dataset::is_rating;
use semblance_calib::fit::FitOptions;
use semblance_calib::labelled::{CAPACITY, Labelled};
use semblance_calib::profile::{UserName, now_unix_secs};
use semblance_calib::session::{Protocol, Session, Sight};
use semblance_calib::{Dataset, Label, Moment};
use serde_json::{Map, Value, json};

use super::recent::Recent;
use super::{Answer, LearnError, Order};
use crate::prediction::{FrameReport, Prediction};
use crate::users::Users;

/// Without a span, a label is for so many seconds before it was given: an expression is over when one has found the button.
const LABEL_SECS: f64 = 1.0;

pub(super) struct Desk {
    users: Arc<Users>,
    user: Option<UserName>,
    recent: Recent,
    session: Option<Session>,
    /// What was said since the last fit that was kept.
    labels: Labelled,
    candidate: Option<Candidate>,
}

impl Desk {
    pub(super) fn new(users: Arc<Users>) -> Self {
        let dim = users.shipped().dim();
        // What is in force was chosen under a name that was sound.
        let user = users.in_force().now().user.as_deref().and_then(|name| name.parse().ok());
        let (recent, labels) = (Recent::default(), Labelled::new(dim, CAPACITY));
        Self { users, user, recent, session: None, labels, candidate: None }
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
            }
            Order::Rollback(to) => {
                let user = self.person()?.clone();
                self.users.profiles().rollback(&user, to, now_unix_secs())?;
                self.users.choose(Some(&user))?;
                self.candidate = None;
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
        let (mut taken, block) = (0, self.labels.data().next_block());
        for (t_secs, embedding) in span.into_iter().flat_map(|span| self.recent.between(span)) {
            let moment = Moment { t_secs, block, label };
            taken += usize::from(self.labels.push(moment, embedding).is_ok());
        }
        if taken == 0 {
            return Err(LearnError::Conflict(match held {
                Some([from, to]) => {
                    format!("no face was seen then: what is remembered is from {from:.1} s to {to:.1} s")
                }
                None => "no face has been seen yet".to_owned(),
            }));
        }
        Ok(())
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
        let candidate = Candidate::fit(shipped, bundle, profile.as_ref(), self.labels.data(), &options)?;
        let report = candidate.report().clone();
        self.candidate = Some(candidate);
        Ok(report)
    }

    fn accept(&mut self) -> Result<(), LearnError> {
        let user = self.person()?.clone();
        let candidate = self.candidate.as_ref().ok_or_else(no_candidate)?;
        if !candidate.is_better() {
            let sentence = "no head is better than the shipped one by more than noise: more labels may help";
            return Err(LearnError::Conflict(sentence.to_owned()));
        }
        let serial = candidate.save(self.users.profiles(), &user, "calibration", now_unix_secs())?;
        log::info!("the profile of {user} is at state {serial}");
        self.forget();
        self.users.choose(Some(&user))?;
        Ok(())
    }

    fn state(&self, now_secs: f64) -> Value {
        json!({
            "user": self.user.as_ref().map(UserName::as_str),
            "adapted": self.users.in_force().now().adapted,
            "session": self.session.as_ref().map(|session| session.snapshot(now_secs)),
            "labels": self.counts(self.labels.data()),
            "candidate": self.candidate.as_ref().map(Candidate::report),
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
