//! What the learning thread has before it: the person's recent moments, the session, the labels, the candidate.

use std::sync::Arc;
use std::time::Duration;

use semblance_calib::adapt::Share;
use semblance_calib::candidate::{Candidate, CandidateError};
use semblance_calib::dataset::is_rating;
use semblance_calib::fit::{FitError, FitOptions, Rest, Updater, relative};
use semblance_calib::heads::NEUTRAL;
use semblance_calib::labelled::{CAPACITY, Labelled};
use semblance_calib::profile::{UserName, now_unix_secs};
use semblance_calib::session::{Protocol, Session, Sight};
use semblance_calib::{Dataset, HeadsError, Label, Moment};
use serde_json::{Map, Value, json};

use super::adapting::Adapting;
use super::recent::Recent;
use super::{Answer, LearnError, Order};
use crate::prediction::{FrameReport, Prediction};
use crate::users::{Reading, Users};

/// Strength of the prior where what was said is to be seen at once: some ten moments outweigh the heads of before.
const AT_ONCE: f64 = 10.0;
/// Without a span, a label is for so many seconds before it was given: an expression is over when one has found the button.
const LABEL_SECS: f64 = 1.0;

/// Heads on trial, and what was in force before them.
struct Trial {
    updater: Updater,
    before: Arc<Reading>,
}

pub(super) struct Desk {
    users: Arc<Users>,
    user: Option<UserName>,
    recent: Recent,
    session: Option<Session>,
    /// What was said since the last fit that was kept.
    labels: Labelled,
    /// What was said since then, learned at once and unjudged.
    trial: Option<Trial>,
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
                if self.candidate.is_none() && self.labels.data().is_empty() {
                    return Err(no_candidate());
                }
                if self.trial.is_some() {
                    self.users.choose(self.user.as_ref())?;
                    self.start_adapting();
                }
                self.forget();
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
        (self.candidate, self.trial) = (None, None);
        self.start_adapting();
        Ok(json!(notes))
    }

    fn forget(&mut self) {
        (self.candidate, self.trial) = (None, None);
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
        // What was said of neighbours, too, are no independent witnesses: they are one stretch of time.
        let is_near = |moment: &&Moment| {
            let of = |margin: f64| {
                span.is_some_and(|[from, to]| (from - margin..=to + margin).contains(&moment.t_secs))
            };
            of(0.0) || (moment.label == label && of(LABEL_SECS))
        };
        let near = self.labels.data().moments().iter().find(is_near);
        let block = near.map_or_else(|| self.labels.data().next_block(), |moment| moment.block);
        let mut taken = Dataset::new(self.labels.data().dim());
        for (t_secs, embedding) in span.into_iter().flat_map(|span| self.recent.between(span)) {
            // One that is not sound is passed over.
            let _ = taken.push(Moment { t_secs, block, label }, embedding);
        }
        if taken.is_empty() {
            return Err(LearnError::Conflict(match held {
                Some([from, to]) => {
                    format!("no face was seen then: what is remembered is from {from:.1} s to {to:.1} s")
                }
                None => "no face has been seen yet".to_owned(),
            }));
        }
        self.take(&taken);
        if let Err(error) = self.learn_at_once(&taken) {
            log::warn!("a label is not learned before the next fit: {error}");
        }
        Ok(())
    }

    /// Takes labels in; of two for a moment the later one holds.
    fn take(&mut self, said: &Dataset) {
        let is_new = |t_secs: f64| said.moments().iter().all(|moment| moment.t_secs != t_secs);
        let before = std::mem::replace(&mut self.labels, Labelled::new(said.dim(), CAPACITY));
        let kept = before.data().iter().filter(|(moment, _)| is_new(moment.t_secs));
        for (moment, embedding) in kept.chain(said.iter()) {
            // They were sound when they were taken.
            let _ = self.labels.push(*moment, embedding);
        }
        // It was fitted to fewer.
        self.candidate = None;
    }

    /// What was said is seen at once. It is not judged before a fit, and nothing of it is kept.
    fn learn_at_once(&mut self, said: &Dataset) -> Result<(), LearnError> {
        let before = self.before();
        let moved = said.moments().iter().any(|moment| self.is_neutral(moment)) && self.find_rest()?;
        let updater = self.try_labels(&before, said, moved).map_err(CandidateError::from)?;
        let heads = updater.heads().map_err(CandidateError::from)?;
        self.users.try_heads(heads).map_err(unlearned)?;
        self.trial = Some(Trial { updater, before });
        self.go_on_adapting();
        Ok(())
    }

    /// What is in force, but for what is on trial.
    fn before(&self) -> Arc<Reading> {
        let trial = self.trial.as_ref();
        trial.map_or_else(|| self.users.in_force().now(), |trial| Arc::clone(&trial.before))
    }

    fn is_neutral(&self, moment: &Moment) -> bool {
        let row = moment.label.expression.and_then(|row| self.expressions().get(usize::from(row)));
        row.is_some_and(|label| label == NEUTRAL)
    }

    /// Reads relative to where the face rests, as far as the labels tell; whether they do.
    fn find_rest(&mut self) -> Result<bool, LearnError> {
        let found = Rest::of(self.users.shipped(), self.labels.data(), &FitOptions::default());
        let Some(rest) = found.map_err(CandidateError::from)? else { return Ok(false) };
        self.users.correct(rest.place().clone()).map_err(unlearned)?;
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

    /// What the labels make of the heads of `before`. Where the face has `moved`, all labels are learned anew.
    fn try_labels(&self, before: &Reading, said: &Dataset, moved: bool) -> Result<Updater, FitError> {
        let reading = self.users.in_force().now();
        let as_read = |data: &Dataset| match &reading.correction {
            Some(correction) => relative(data, correction),
            None => Ok(data.clone()),
        };
        let trial = self.trial.as_ref().map(|trial| &trial.updater);
        let goes_on = trial.filter(|updater| !moved && updater.data().len() + said.len() <= CAPACITY);
        if let Some(updater) = goes_on {
            let mut updater = updater.clone();
            as_read(said)?.iter().try_for_each(|(moment, embedding)| updater.push(*moment, embedding))?;
            return Ok(updater);
        }
        let options = FitOptions { strengths: vec![AT_ONCE], ..FitOptions::default() };
        Updater::new(&before.fitted, as_read(self.labels.data())?, None, &options)
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
        // A place that is only tried has to be found again.
        let before = self.before();
        let (new, place) = (self.labels.data(), before.correction.as_ref());
        let candidate = Candidate::fit(shipped, bundle, profile.as_ref(), new, place, &options)?;
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
        self.users.choose(Some(&user))?;
        self.go_on_adapting();
        self.rest_adapting();
        self.forget();
        Ok(())
    }

    fn state(&self, now_secs: f64) -> Value {
        json!({
            "user": self.user.as_ref().map(UserName::as_str),
            "adapted": self.users.in_force().now().adapted,
            "session": self.session.as_ref().map(|session| session.snapshot(now_secs)),
            "labels": self.counts(self.labels.data()),
            "trying": self.trial.as_ref().map_or(0, |trial| trial.updater.data().len()),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use semblance_calib::adapt::Correction;
    use semblance_calib::profile::{Profiles, State};
    use semblance_calib::{HeadKind, Heads, LinearHead};

    const DIM: usize = 3;
    /// Where the person's face rests; the population's rests at the origin.
    const PLACE: [f32; DIM] = [2.0, 1.0, 0.0];

    /// The first value tells neutral (0) from happy (above 1).
    fn shipped() -> Heads {
        let labels = ["neutral", "happy"].map(str::to_owned).to_vec();
        let weight = vec![-2.0, 0.0, 0.0, 2.0, 0.0, 0.0];
        let head = LinearHead::new("expression", labels, DIM, weight, vec![1.0, -1.0]).unwrap();
        let heads = Heads::new(DIM, [(HeadKind::Expression, head)]).unwrap();
        heads.with_neutral(Some(vec![0.0; DIM].into())).unwrap()
    }

    struct Bench {
        desk: Desk,
        users: Arc<Users>,
        now: f64,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        /// A device on which the user 'ada' was calibrated: the shipped heads, read relative to the place.
        fn new(share: Option<Share>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let users = Arc::new(Users::new(shipped(), "sha", Profiles::new(dir.path())));
            let state = State {
                bundle: "sha".to_owned(),
                heads: shipped(),
                correction: Some(Correction::shift_by(PLACE.to_vec()).unwrap()),
                labelled: None,
                saved_unix_secs: 1,
                reason: String::new(),
                report: String::new(),
            };
            users.profiles().save(&"ada".parse().unwrap(), &state, None).unwrap();
            let mut desk = Desk::new(Arc::clone(&users), share);
            desk.obey(0.0, Order::Choose(Some("ada".parse().unwrap()))).unwrap();
            Self { desk, users, now: 0.0, _dir: dir }
        }

        /// Frames of a face, ten a second, that rests at `place` and smiles in one second of four.
        fn show(&mut self, place: [f32; DIM], secs: usize) {
            for frame in 0..secs * 10 {
                self.now += 0.1;
                let smiles = (frame / 10) % 4 == 3;
                let wobble = |k: usize| 0.02 * (((frame * 7 + k * 5) % 11) as f32 - 5.0);
                let mut report = FrameReport { t: self.now, ..FrameReport::default() };
                report.embeddings = (0..DIM).map(|k| place[k] + wobble(k)).collect();
                report.embeddings[0] += if smiles { 1.5 } else { 0.0 };
                report.light = vec![0.5];
                report.faces = vec![Prediction { track: 1, ..Prediction::default() }];
                self.desk.observe(self.now, &report);
                let now = Duration::from_secs_f64(self.now);
                self.desk.adapt(|| now);
            }
        }

        fn shift(&self) -> Vec<f32> {
            let reading = self.users.in_force().now();
            reading.correction.as_ref().map_or_else(Vec::new, |correction| correction.shift().to_vec())
        }

        fn is_near(&self, place: [f32; DIM]) -> bool {
            self.shift().len() == DIM && self.shift().iter().zip(place).all(|(a, b)| (a - b).abs() < 0.2)
        }

        fn say(&mut self, expression: &str) -> Value {
            let expression = Some(expression.to_owned());
            self.desk.obey(self.now, Order::Label { span: None, expression, valence_arousal: None }).unwrap()
        }
    }

    #[test]
    fn adaptation_keeps_the_place_of_a_profile_and_follows_it_elsewhere() {
        let mut bench = Bench::new(Some("100%".parse().unwrap()));
        bench.show(PLACE, 60);
        assert!(bench.is_near(PLACE), "{:?}", bench.shift());
        let told = bench.desk.obey(bench.now, Order::Tell).unwrap();
        assert_eq!(told["adaptation"]["returns"], 0, "{told}");
        let elsewhere = [2.4, 0.6, 0.3];
        bench.show(elsewhere, 300);
        assert!(bench.is_near(elsewhere), "{:?}", bench.shift());
        bench.desk.obey(bench.now, Order::Choose(None)).unwrap();
        assert_eq!(bench.shift(), [0.0; 0], "nobody in particular is read as they come");
    }

    #[test]
    fn what_is_said_is_tried_and_taken_back() {
        for share in [None, Some("100%".parse().unwrap())] {
            let mut bench = Bench::new(share);
            let profile = bench.users.in_force().now();
            bench.show(PLACE, 2);
            // The face rests elsewhere now, and somebody says so.
            let elsewhere = [1.0, 2.0, 1.0];
            bench.show(elsewhere, 2);
            let told = bench.say("neutral");
            assert!(told["trying"].as_u64() >= Some(8), "{told}");
            assert!(bench.is_near(elsewhere), "{:?}", bench.shift());
            bench.show(elsewhere, 2);
            assert!(bench.is_near(elsewhere), "a slice of adaptation leaves it: {:?}", bench.shift());
            // The same moments, said otherwise: the later word holds, and they are one stretch of time.
            let before = bench.desk.labels.data().len();
            bench.say("happy");
            bench.say("neutral");
            let data = bench.desk.labels.data();
            assert!(
                data.len() > before && data.moments().iter().all(|moment| moment.label.expression == Some(0))
            );
            let report = bench.desk.obey(bench.now, Order::Fit).unwrap();
            assert_eq!(report["better"], false, "{report}");
            // A label after the fit makes it out of date.
            bench.show(elsewhere, 2);
            bench.say("neutral");
            assert!(matches!(bench.desk.obey(bench.now, Order::Accept), Err(LearnError::Conflict(_))));
            let told = bench.desk.obey(bench.now, Order::Reject).unwrap();
            assert_eq!((&told["trying"], &told["labels"]["total"]), (&json!(0), &json!(0)));
            assert_eq!(bench.users.in_force().now(), profile, "all is as the profile has it");
            assert!(matches!(bench.desk.obey(bench.now, Order::Reject), Err(LearnError::Conflict(_))));
        }
    }

    #[test]
    fn a_trial_does_not_grow_beyond_what_is_kept() {
        let mut bench = Bench::new(None);
        for _ in 0..60 {
            bench.show(PLACE, 2);
            bench.say("happy");
        }
        let trial = bench.desk.trial.as_ref().unwrap().updater.data().len();
        assert!(trial <= CAPACITY && bench.desk.labels.data().len() <= CAPACITY, "{trial}");
    }
}
