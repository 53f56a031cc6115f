//! Learning the user while a run goes on: guided calibration, labels, fits. One thread has all of it; who wants something asks
//! it, and nothing of it ever waits on the way of a frame.

mod adapting;
mod desk;
mod recent;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use semblance_calib::adapt::Share;
use semblance_calib::candidate::CandidateError;
use semblance_calib::profile::{ProfileError, UserName};
use semblance_calib::session::{Protocol, SessionError};
use serde_json::Value;
use thiserror::Error;

use crate::hub::{Hub, Subscription};
use crate::users::{Users, UsersError};
use desk::Desk;

/// Why something that was asked for was not done. Nothing has changed then.
#[derive(Debug, Error)]
pub enum LearnError {
    /// It cannot be done as things stand.
    #[error("{0}")]
    Conflict(String),
    /// It can never be done.
    #[error("{0}")]
    Unusable(String),
    /// The profile cannot be read or written, or belongs elsewhere.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The fit failed.
    #[error(transparent)]
    Candidate(#[from] CandidateError),
    /// The thread that learns is gone, or busy for too long.
    #[error("the program is busy or ends: try again")]
    Gone,
}

impl From<ProfileError> for LearnError {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::Missing(_) | ProfileError::Changed { .. } => Self::Conflict(error.to_string()),
            error => Self::Users(UsersError::Profile(error)),
        }
    }
}

impl From<SessionError> for LearnError {
    fn from(error: SessionError) -> Self {
        Self::Conflict(error.to_string())
    }
}

/// What can be asked for. Every answer but that of [`Order::Fit`] is the state after it, as `/v1/calibration` tells it.
#[derive(Debug)]
pub enum Order {
    /// Nothing but the state.
    Tell,
    /// From now on every face is this user's, or nobody's in particular. Labels and sessions of the one before are forgotten.
    /// The answer is a list of notes.
    Choose(Option<UserName>),
    /// A guided calibration of the chosen user.
    Start(Box<Protocol>),
    /// Its end, without its labels.
    Stop,
    /// The step of now, or the one just finished, once more.
    Redo,
    /// What the person felt in the moment that is asked about: valence and arousal, each in `[-1, 1]`.
    Rate([f32; 2]),
    /// What the person showed from one time to another (seconds on the source's clock), or in the last second.
    Label {
        /// The stretch of time.
        span: Option<[f64; 2]>,
        /// Name of an expression of the head.
        expression: Option<String>,
        /// Each in `[-1, 1]`.
        valence_arousal: Option<[f32; 2]>,
    },
    /// A fit to all labels. The answer is its report.
    Fit,
    /// The fitted heads replace those of now, and are kept.
    Accept,
    /// They, and the labels since the last fit that was kept, are forgotten.
    Reject,
    /// An older state of the profile, the one before unless a number is given.
    Rollback(Option<u64>),
}

type Answer = Result<Value, LearnError>;

/// Reports that learning may be behind by.
const QUEUE: usize = 32;
/// How long time may stand still for a session where no frame comes.
const TICK: Duration = Duration::from_millis(50);
/// Priority of learning, as `nice` counts it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
/// A fit takes a tenth of a second; a device may be ten times as slow, and busy.
const PATIENCE: Duration = Duration::from_secs(8);

/// Learns. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Learner {
    users: Arc<Users>,
    orders: Option<Sender<(Order, Sender<Answer>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Learner {
    /// Watches the hub, whose reports have to carry embeddings. With a `share` of a core, it learns from time itself, too.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(users: Arc<Users>, hub: &Hub, share: Option<Share>) -> std::io::Result<Self> {
        let subscription = hub.watch("learning", QUEUE);
        let (orders, queue) = bounded(QUEUE);
        let desk = Desk::new(Arc::clone(&users), share);
        let thread = std::thread::Builder::new()
            .name("learn".to_owned())
            .spawn(move || work(desk, &subscription, &queue))?;
        Ok(Self { users, orders: Some(orders), thread: Some(thread) })
    }

    /// The users of the device.
    pub fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// Has something done, and waits for it.
    ///
    /// # Errors
    /// [`LearnError`].
    pub fn ask(&self, order: Order) -> Result<Value, LearnError> {
        let (reply, answer) = bounded(1);
        let orders = self.orders.as_ref().ok_or(LearnError::Gone)?;
        orders.try_send((order, reply)).map_err(|_| LearnError::Gone)?;
        answer.recv_timeout(PATIENCE).unwrap_or(Err(LearnError::Gone))
    }
}

impl Drop for Learner {
    fn drop(&mut self) {
        drop(self.orders.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("learning: its thread panicked");
        }
    }
}

fn work(mut desk: Desk, subscription: &Subscription, orders: &Receiver<(Order, Sender<Answer>)>) {
    yield_to_frames();
    let begun = Instant::now();
    let mut reports = subscription.receiver().clone();
    loop {
        crossbeam::channel::select! {
            recv(reports) -> report => match report {
                Ok(report) => {
                    let now = report.taken.saturating_duration_since(begun).as_secs_f64();
                    desk.observe(now, &report);
                }
                // The run is over; what was learned can still be asked about.
                Err(_) => reports = crossbeam::channel::never(),
            },
            recv(orders) -> order => match order {
                Ok((order, reply)) => {
                    let _ = reply.send(desk.obey(begun.elapsed().as_secs_f64(), order));
                }
                Err(_) => return,
            },
            default(TICK) => desk.tick(begun.elapsed().as_secs_f64()),
        }
        desk.adapt(|| begun.elapsed());
    }
}

/// Where cores are few, frames go first.
fn yield_to_frames() {
    #[cfg(target_os = "linux")]
    // SAFETY: it reads nothing but its numbers; on Linux 0 is the calling thread, and a refusal changes nothing.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
    }
}
