//! A guided calibration: what the person is asked, when, and which frames of it become labels. It has neither clock nor camera:
//! whoever drives it tells it the time and what is seen.

mod protocol;
mod quality;

use serde::Serialize;
use thiserror::Error;

pub use protocol::{FORMAT, Prompt, Protocol, ProtocolError};
pub use quality::{Flaw, QualityGate, Sight};

use crate::dataset::{Dataset, Label, Moment, is_rating};

/// A face needs so long to get where it should be.
const ONSET_SECS: f64 = 0.5;
/// Frames nearer than this hardly differ.
const SPACING_SECS: f64 = 0.2;
/// Frames that are kept of a hold, at most.
const MOST_FRAMES: usize = 12;
/// Fewer are no hold: it is done again.
const LEAST_FRAMES: usize = 5;
/// A step is left out after so many holds.
const TRIES: u32 = 3;

/// Why something cannot be done now. Nothing has changed then.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    /// There is no question.
    #[error("nothing is asked now that could be rated")]
    NothingToRate,
    /// A rating is out of its range.
    #[error("valence and arousal lie in [-1, 1]")]
    Rating,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The person reads what to do.
    Ready,
    /// And does it.
    Hold,
    /// And says how it felt.
    Rate,
    /// And rests.
    Rest,
    /// It is over.
    Done,
}

/// What a client shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The protocol's name.
    pub protocol: String,
    /// Its name for people.
    pub title: String,
    /// What goes on.
    pub phase: Phase,
    /// What the person reads.
    pub say: String,
    /// The expression that is asked for.
    pub expression: Option<String>,
    /// The step, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Of the phase; none where it does not end by itself.
    pub left_secs: Option<f64>,
    /// What is wrong with the latest frame.
    pub flaw: Option<Flaw>,
    /// What to do about it.
    pub advice: Option<&'static str>,
    /// Frames of this hold that were kept.
    pub good_frames: usize,
    /// Labelled moments so far.
    pub labels: usize,
    /// Why the last hold is done again, or was left out.
    pub trouble: Option<String>,
    /// Steps that were left out.
    pub skipped: usize,
}

/// A guided calibration of one person. It holds at most twelve embeddings a step.
#[derive(Clone, Debug)]
pub struct Session {
    protocol: Protocol,
    expressions: Vec<String>,
    phase: Phase,
    /// When the phase began.
    since_secs: f64,
    /// From 0.
    step: usize,
    tries: u32,
    gate: QualityGate,
    flaw: Option<Flaw>,
    /// How often each flaw was seen in this hold, in the order of [`Flaw::ALL`].
    flaws: [u32; Flaw::ALL.len()],
    /// Frames of this hold: their times and embeddings.
    held: Dataset,
    last_kept_secs: f64,
    data: Dataset,
    trouble: Option<String>,
    /// Whether each step was left out.
    skipped: Vec<bool>,
}

impl Session {
    /// Begins. `expressions` are the rows of the head that labels are for, `dim` values an embedding.
    ///
    /// # Errors
    /// [`ProtocolError::Unknown`].
    pub fn start(
        protocol: Protocol,
        expressions: &[String],
        dim: usize,
        now_secs: f64,
    ) -> Result<Self, ProtocolError> {
        protocol.check_against(expressions)?;
        let steps = protocol.steps();
        Ok(Self {
            expressions: expressions.to_vec(),
            phase: Phase::Ready,
            since_secs: now_secs,
            step: 0,
            tries: 0,
            gate: QualityGate::default(),
            flaw: Some(Flaw::NoFace),
            flaws: [0; Flaw::ALL.len()],
            held: Dataset::with_capacity(dim, MOST_FRAMES),
            last_kept_secs: f64::NEG_INFINITY,
            data: Dataset::with_capacity(dim, MOST_FRAMES * steps),
            trouble: None,
            skipped: vec![false; steps],
            protocol,
        })
    }

    /// Takes a frame: when it is, when it was on the source's own clock, what it shows, and the largest face's embedding. One
    /// that is not sound is passed over.
    pub fn observe(&mut self, now_secs: f64, t_secs: f64, sight: &Sight, embedding: Option<&[f32]>) {
        self.tick(now_secs);
        self.flaw = self.gate.judge(now_secs, sight);
        let in_hold = self.phase == Phase::Hold && now_secs - self.since_secs >= ONSET_SECS;
        if !in_hold {
            return;
        }
        if let Some(flaw) = self.flaw {
            self.flaws[flaw as usize] += 1;
            return;
        }
        let early = now_secs - self.last_kept_secs < SPACING_SECS;
        let Some(embedding) = embedding.filter(|_| !early && self.held.len() < MOST_FRAMES) else { return };
        let moment = Moment { t_secs, block: self.step as u32, label: Label::default() };
        if self.held.push(moment, embedding).is_ok() {
            self.last_kept_secs = now_secs;
        }
    }

    /// Time goes on, with or without frames. After a long silence one phase ends and the next begins now: nobody is asked for
    /// what could not be read.
    pub fn tick(&mut self, now_secs: f64) {
        let over = self.length_secs().is_some_and(|length| now_secs - self.since_secs >= length);
        if !over {
            return;
        }
        match self.phase {
            Phase::Ready => self.enter(Phase::Hold, now_secs),
            Phase::Hold => self.end_hold(now_secs),
            Phase::Rest => self.next_step(now_secs),
            Phase::Rate | Phase::Done => {}
        }
    }

    fn length_secs(&self) -> Option<f64> {
        match self.phase {
            Phase::Ready => Some(self.protocol.ready_secs),
            Phase::Hold => Some(self.protocol.hold_secs),
            Phase::Rest => Some(self.protocol.rest_secs),
            Phase::Rate | Phase::Done => None,
        }
    }

    fn enter(&mut self, phase: Phase, now_secs: f64) {
        (self.phase, self.since_secs) = (phase, now_secs);
        if phase == Phase::Ready {
            self.held = Dataset::with_capacity(self.data.dim(), MOST_FRAMES);
            self.flaws = [0; Flaw::ALL.len()];
            self.last_kept_secs = f64::NEG_INFINITY;
        }
    }

    fn end_hold(&mut self, now_secs: f64) {
        if self.held.len() >= LEAST_FRAMES {
            self.trouble = None;
            let prompt = self.protocol.prompt(self.step);
            if prompt.rate {
                return self.enter(Phase::Rate, now_secs);
            }
            let row = self.expressions.iter().position(|e| Some(e) == prompt.expression.as_ref());
            let expression = row.and_then(|row| u8::try_from(row).ok());
            self.take(Label { expression, ..Label::default() });
            return self.enter(Phase::Rest, now_secs);
        }
        self.tries += 1;
        let commonest = Flaw::ALL.into_iter().max_by_key(|flaw| self.flaws[*flaw as usize]);
        let seen = commonest.filter(|flaw| self.flaws[*flaw as usize] > 0);
        let advice = seen.unwrap_or(Flaw::NoFace).advice();
        if self.tries < TRIES {
            self.trouble = Some(format!("Too little could be seen, so once more. {advice}"));
            self.enter(Phase::Ready, now_secs);
        } else {
            self.trouble = Some(format!("Too little could be seen: this one is left out. {advice}"));
            self.skipped[self.step] = true;
            self.enter(Phase::Rest, now_secs);
        }
    }

    /// The held frames become labels.
    fn take(&mut self, label: Label) {
        for (moment, embedding) in self.held.iter() {
            // They were sound when they were held.
            let _ = self.data.push(Moment { label, ..*moment }, embedding);
        }
    }

    fn next_step(&mut self, now_secs: f64) {
        if self.step + 1 < self.protocol.steps() {
            self.step += 1;
            self.tries = 0;
            self.enter(Phase::Ready, now_secs);
        } else {
            self.enter(Phase::Done, now_secs);
        }
    }

    /// The person says how it felt: valence and arousal, each in `[-1, 1]`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn rate(&mut self, now_secs: f64, valence: f32, arousal: f32) -> Result<(), SessionError> {
        if self.phase != Phase::Rate {
            return Err(SessionError::NothingToRate);
        }
        let both = [valence, arousal];
        if !is_rating(both) {
            return Err(SessionError::Rating);
        }
        self.take(Label { valence_arousal: Some(both), ..Label::default() });
        self.enter(Phase::Rest, now_secs);
        self.tick(now_secs);
        Ok(())
    }

    /// The step of now is done again, or the one just finished: its labels are forgotten.
    pub fn redo(&mut self, now_secs: f64) {
        let block = self.step as u32;
        while self.data.moments().last().is_some_and(|moment| moment.block == block) {
            self.data.remove(self.data.len() - 1);
        }
        self.skipped[self.step] = false;
        (self.tries, self.trouble) = (0, None);
        self.enter(Phase::Ready, now_secs);
    }

    /// What a client shows.
    pub fn snapshot(&self, now_secs: f64) -> Snapshot {
        let prompt = self.protocol.prompt(self.step);
        let say = match self.phase {
            Phase::Ready | Phase::Hold => prompt.say.as_str(),
            Phase::Rate => "How did that feel?",
            Phase::Rest => "Relax your face.",
            Phase::Done => "That was all, thank you.",
        };
        let left =
            self.length_secs().map(|length| (length - (now_secs - self.since_secs)).clamp(0.0, length));
        let showing = matches!(self.phase, Phase::Ready | Phase::Hold);
        Snapshot {
            protocol: self.protocol.name.clone(),
            title: self.protocol.title.clone(),
            phase: self.phase,
            say: say.to_owned(),
            expression: prompt.expression.clone().filter(|_| showing),
            step: self.step + 1,
            steps: self.protocol.steps(),
            left_secs: left,
            flaw: self.flaw,
            advice: self.flaw.map(Flaw::advice),
            good_frames: self.held.len(),
            labels: self.data.len(),
            trouble: self.trouble.clone(),
            skipped: self.skipped.iter().filter(|left_out| **left_out).count(),
        }
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The labelled moments so far; a block is a step.
    pub fn data(&self) -> &Dataset {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const GOOD: Sight =
        Sight { faces: 1, yaw_deg: Some(0.0), pitch_deg: None, light: 0.5, centre: [9.0, 9.0], width: 50.0 };

    fn seven() -> Vec<String> {
        "angry disgust fear happy sad surprise neutral".split(' ').map(str::to_owned).collect()
    }

    /// Frames at 30 a second while `person` says what each shows, until the session is done or `secs` are over; the time then.
    fn play(session: &mut Session, from: f64, secs: f64, person: impl Fn(&Snapshot) -> Sight) -> f64 {
        let mut now = from;
        while !session.is_done() && now < from + secs {
            let sight = person(&session.snapshot(now));
            session.observe(now, 100.0 + now, &sight, Some(&[now as f32, 1.0]));
            if session.snapshot(now).phase == Phase::Rate {
                session.rate(now, 0.5, -0.25).unwrap();
            }
            now += 1.0 / 30.0;
        }
        now
    }

    #[test]
    fn a_patient_person_leaves_with_every_label() {
        let protocol = Protocol::named("basic7").unwrap();
        let mut session = Session::start(protocol.clone(), &seven(), 2, 5.0).unwrap();
        let end = play(&mut session, 5.0, 1e3, |_| GOOD);
        // A phase is seen to be over at the next frame.
        assert!((0.0..=21.0 * 0.1).contains(&(end - 5.0 - protocol.duration_secs())), "{end}");
        let data = session.data();
        // Two and a half seconds a hold, a frame each 0.2 s.
        assert_eq!(session.snapshot(end).skipped, 0);
        for step in 0..21 {
            let of_step: Vec<_> = data.moments().iter().filter(|m| m.block == step).collect();
            let row =
                seven().iter().position(|e| Some(e) == protocol.prompt(step as usize).expression.as_ref());
            assert!(
                (11..=12).contains(&of_step.len())
                    && of_step.iter().all(|m| m.label.expression.map(usize::from) == row)
            );
            let times: Vec<f64> = of_step.iter().map(|m| m.t_secs).collect();
            assert!(times.windows(2).all(|w| w[1] - w[0] >= SPACING_SECS - 1e-9));
        }
        for (i, moment) in data.moments().iter().enumerate() {
            assert!(
                (data.embedding(i)[0] - (moment.t_secs - 100.0) as f32).abs() < 1e-4,
                "each with its own"
            );
        }
    }

    #[test]
    fn who_looks_away_is_asked_again_and_then_left_in_peace() {
        let protocol = Protocol::named("quick").unwrap();
        let mut session = Session::start(protocol.clone(), &seven(), 2, 0.0).unwrap();
        let away = |s: &Snapshot| if s.step == 2 { Sight { yaw_deg: Some(40.0), ..GOOD } } else { GOOD };
        let end = play(&mut session, 0.0, 1e3, away);
        let longer = end - protocol.duration_secs();
        let twice_more = 2.0 * (protocol.ready_secs + protocol.hold_secs);
        assert!((twice_more..twice_more + 2.0).contains(&longer), "{longer}");
        assert!(session.is_done() && session.snapshot(end).skipped == 1);
        assert!(session.data().moments().iter().all(|m| m.block != 1));

        let mut session = Session::start(protocol, &seven(), 2, 0.0).unwrap();
        play(&mut session, 0.0, 4.0, |_| Sight { light: 0.0, ..GOOD });
        let snapshot = session.snapshot(4.0);
        assert_eq!((snapshot.step, snapshot.phase, snapshot.flaw), (1, Phase::Ready, Some(Flaw::TooDark)));
        assert!(snapshot.trouble.unwrap().contains(Flaw::TooDark.advice()));
    }

    #[test]
    fn a_step_can_be_done_again() {
        let protocol = Protocol::named("quick").unwrap();
        let mut session = Session::start(protocol.clone(), &seven(), 2, 0.0).unwrap();
        let mut now = 0.0;
        while session.snapshot(now).step < 2 || session.snapshot(now).phase != Phase::Rest {
            now = play(&mut session, now, 0.01, |_| GOOD);
        }
        let before = session.data().len();
        session.redo(now);
        let first = session.data().len();
        let snapshot = session.snapshot(now);
        assert!(first < before && (snapshot.step, snapshot.phase) == (2, Phase::Ready));
        let end = play(&mut session, now, 1e3, |_| GOOD);
        assert!(session.is_done());
        let blocks: Vec<u32> = session.data().moments().iter().map(|m| m.block).collect();
        assert!(blocks.is_sorted() && blocks.contains(&1));
        session.redo(end);
        assert!(!session.is_done() && session.snapshot(end).step == protocol.steps());
    }

    #[test]
    fn a_rating_is_for_its_own_moment() {
        let text = "format = 1\nname = \"x\"\ntitle = \"X\"\nabout = \"y\"\nblocks = 2\nready_secs = 1.0\nhold_secs = 2.0\n\
             rest_secs = 0.0\n[[prompts]]\nsay = \"a\"\nrate = true\n";
        let mut session = Session::start(Protocol::parse(text).unwrap(), &[], 2, 0.0).unwrap();
        assert_eq!(session.rate(0.0, 0.0, 0.0), Err(SessionError::NothingToRate));
        let mut now = 0.0;
        while session.snapshot(now).phase != Phase::Rate {
            session.observe(now, now, &GOOD, Some(&[now as f32, 1.0]));
            now += 0.03;
        }
        // It may take its time; frames of meanwhile are not of the moment.
        for _ in 0..100 {
            session.observe(now, now, &GOOD, Some(&[now as f32, 1.0]));
            now += 0.03;
        }
        assert_eq!(session.data().len(), 0);
        assert_eq!(session.rate(now, f32::NAN, 0.0), Err(SessionError::Rating));
        session.rate(now, -0.5, 1.0).unwrap();
        let moments = session.data().moments();
        assert!(moments.len() >= LEAST_FRAMES && moments.iter().all(|m| m.t_secs < 3.1));
        assert!(
            moments
                .iter()
                .all(|m| m.label.valence_arousal == Some([-0.5, 1.0]) && m.label.expression.is_none())
        );
        assert_eq!(session.snapshot(now).step, 2, "there is no rest");
    }

    #[test]
    fn whatever_comes_it_keeps_its_bounds() {
        for seed in 0..30 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let name = ["quick", "basic7", "va"][seed as usize % 3];
            let mut session = Session::start(Protocol::named(name).unwrap(), &seven(), 2, 0.0).unwrap();
            let mut now: f64 = 0.0;
            for _ in 0..2000 {
                now += [0.03, 0.3, 0.0, -0.5, 40.0][rng.random_range(0..5)];
                match rng.random_range(0..12) {
                    0 => session.redo(now),
                    1 => session.tick(now),
                    2 => _ = session.rate(now, rng.random_range(-1.5..1.5), 0.0),
                    3 => session.observe(now, now, &GOOD, Some(&[f32::NAN, 1.0])),
                    4 => session.observe(now, now, &GOOD, Some(&[1.0])),
                    5 => session.observe(f64::NAN, now, &GOOD, None),
                    6 => session.observe(now, now, &Sight { faces: 0, ..GOOD }, None),
                    _ => session.observe(now, now, &GOOD, Some(&[1.0, 2.0])),
                }
                let s = session.snapshot(now);
                assert!((1..=s.steps).contains(&s.step) && s.labels == session.data().len());
                assert!(
                    s.labels <= s.steps * MOST_FRAMES && s.good_frames <= MOST_FRAMES && s.skipped <= s.steps
                );
                assert!(s.left_secs.is_none_or(|left| left >= 0.0) && !s.say.is_empty());
            }
        }
    }
}
