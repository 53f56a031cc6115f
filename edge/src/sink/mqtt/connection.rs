//! Keeps the connection to the broker, for ever.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use rumqttc::{
    AsyncClient, ClientError, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions,
    Packet, QoS, StateError,
};
use tokio::time::timeout;

use super::discovery::Announcement;
use super::spec::PASSWORD_VARIABLE;
use super::{MqttSpec, Outbox, ToSend};
use crate::hub::QueueStats;

/// From one attempt to the next, at first; doubled after each...
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// ...up to this. A connection that lasts longer was a good one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A broker that says nothing for one and a half times this takes us for gone, and publishes our last will.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Messages between us and the connection: those that can be lost when it breaks.
const IN_FLIGHT: usize = 8;
/// A prediction with landmarks and everything takes 3 kB.
const MOST_PACKET_BYTES: usize = 64 * 1024;

const ONLINE: &str = "online";
const OFFLINE: &str = "offline";

/// Starts the thread. What comes back is disconnected when the outbox is closed and all of it was sent, or cannot be.
pub(super) fn start(
    spec: &MqttSpec,
    announcement: Announcement,
    outbox: Arc<Outbox>,
    stats: Arc<QueueStats>,
) -> io::Result<Receiver<Infallible>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = bounded(0);
    let keeper = Keeper { spec: spec.clone(), announcement, outbox, stats };
    std::thread::Builder::new().name("mqtt".to_owned()).spawn(move || {
        runtime.block_on(keeper.keep());
        drop(end);
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
    })?;
    Ok(ended)
}

struct Keeper {
    spec: MqttSpec,
    announcement: Announcement,
    outbox: Arc<Outbox>,
    stats: Arc<QueueStats>,
}

impl Keeper {
    async fn keep(self) {
        let mut pause = FIRST_PAUSE;
        let mut lost_at: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let error = match self.connection(&mut lost_at).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if begun.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let since = *lost_at.get_or_insert_with(|| {
                log::warn!("{}", problem(&self.spec, &error, Duration::ZERO));
                Instant::now()
            });
            if self.pause(pause, since, &error).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits before the next attempt; tells whether it is time to leave instead.
    async fn pause(&self, pause: Duration, since: Instant, error: &ConnectionError) -> bool {
        let until = Instant::now() + pause;
        loop {
            self.stats.set_problem(Some(problem(&self.spec, error, since.elapsed())));
            if self.outbox.lock().closed {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let _ = timeout(left.min(Duration::from_secs(1)), self.outbox.leave.notified()).await;
        }
    }

    /// One connection, from its beginning until it breaks or, without an error, all was said.
    ///
    /// Each is made anew: what the library keeps of a broken one is old, and would grow with every attempt.
    async fn connection(&self, lost_at: &mut Option<Instant>) -> Result<(), ConnectionError> {
        let (client, mut events) = AsyncClient::new(self.options(), IN_FLIGHT);
        // The first event is that the broker accepts us.
        events.poll().await?;
        if lost_at.take().is_some() {
            log::info!("broker {} reached again", broker(&self.spec));
        }
        self.stats.set_problem(None);
        self.outbox.renew();
        let hearing = self.hear(&mut events);
        tokio::pin!(hearing);
        tokio::select! {
            error = &mut hearing => return error.map(|never| match never {}),
            // It fails only where `events` is gone, which it is not.
            _ = self.say(&client) => {}
        }
        // The broker closes the connection once it has read everything.
        let _ = hearing.await;
        Ok(())
    }

    fn options(&self) -> MqttOptions {
        // The same id every time: a broker that has not noticed yet that the last connection broke lets go of it, and
        // its last will does not come after our being online.
        let id = format!("semblance-{}", self.spec.node());
        let mut options = MqttOptions::new(id, self.spec.host(), self.spec.port());
        options.set_keep_alive(KEEP_ALIVE);
        options.set_max_packet_size(MOST_PACKET_BYTES, MOST_PACKET_BYTES);
        options.set_last_will(LastWill::new(self.spec.topic("available"), OFFLINE, QoS::AtLeastOnce, true));
        if let Some((user, password)) = self.spec.credentials() {
            options.set_credentials(user, password);
        }
        options
    }

    /// Keeps the connection going and listens for Home Assistant, until the connection ends.
    async fn hear(&self, events: &mut EventLoop) -> Result<Infallible, ConnectionError> {
        loop {
            if let Event::Incoming(Packet::Publish(message)) = events.poll().await? {
                // A retained one is from before.
                let is_news = !message.retain && message.payload == ONLINE.as_bytes();
                if is_news && Some(&message.topic) == self.announcement.status_topic.as_ref() {
                    self.outbox.renew();
                }
            }
        }
    }

    /// Sends what is to be sent, to the farewell.
    async fn say(&self, client: &AsyncClient) -> Result<(), ClientError> {
        if let Some(topic) = &self.announcement.status_topic {
            client.subscribe(topic, QoS::AtMostOnce).await?;
        }
        let retained =
            |topic: String, payload: Vec<u8>| client.publish(topic, QoS::AtLeastOnce, true, payload);
        let passing = |name, payload| client.publish(self.spec.topic(name), QoS::AtMostOnce, false, payload);
        loop {
            match self.outbox.take() {
                None => self.outbox.wake.notified().await,
                Some(ToSend::Announcement) => {
                    for (topic, payload) in &self.announcement.messages {
                        retained(topic.clone(), payload.clone()).await?;
                    }
                    retained(self.spec.topic("available"), ONLINE.into()).await?;
                }
                Some(ToSend::State(json)) => passing("state", json).await?,
                Some(ToSend::Prediction(json)) => passing("predictions", json).await?,
                Some(ToSend::Farewell) => {
                    retained(self.spec.topic("available"), OFFLINE.into()).await?;
                    return client.disconnect().await;
                }
            }
        }
    }
}

fn broker(spec: &MqttSpec) -> String {
    format!("{}:{}", spec.host(), spec.port())
}

/// What is wrong, for people, and for how long already.
fn problem(spec: &MqttSpec, error: &ConnectionError, since: Duration) -> String {
    use ConnectReturnCode::{BadUserNamePassword, NotAuthorized};
    let (broker, since) = (broker(spec), since.as_secs());
    let reason = match error {
        ConnectionError::ConnectionRefused(BadUserNamePassword | NotAuthorized) => {
            return format!(
                "broker {broker} refuses user or password since {since} s: give them as mqtt://USER:PASSWORD@HOST, \
                 or the password in {PASSWORD_VARIABLE}"
            );
        }
        ConnectionError::Io(e) | ConnectionError::MqttState(StateError::Io(e)) => match e.raw_os_error() {
            Some(_) => e.kind().to_string(),
            None => e.to_string(),
        },
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "it closed the connection; does another client use this topic prefix?".to_owned()
        }
        ConnectionError::NetworkTimeout
        | ConnectionError::FlushTimeout
        | ConnectionError::MqttState(StateError::AwaitPingResp) => "no answer".to_owned(),
        other => other.to_string(),
    };
    format!("broker {broker} unreachable since {since} s: {reason}")
}
