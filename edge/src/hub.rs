//! Hands every frame's report to all who subscribed, each with a bounded queue of its own: a slow one delays nobody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use crate::prediction::FrameReport;

/// What happens to a report for which a queue has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The queue's oldest report makes room: live sources cannot wait.
    DropOldest,
    /// The pipeline waits: of a recording nothing may be lost.
    Wait,
}

/// Counts of one queue, for whoever watches.
#[derive(Debug)]
pub struct QueueStats {
    /// Whose queue it is.
    pub name: String,
    delivered: AtomicU64,
    dropped: AtomicU64,
    closed: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl QueueStats {
    /// Reports that were put into the queue.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Reports that were put in, and dropped for want of room before they were taken out.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether nobody takes anything out any more.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// What is wrong with the sink, in words.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what is wrong with the sink, or that nothing is.
    pub fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// The reading end of a queue. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    reports: Receiver<Arc<FrameReport>>,
    stats: Arc<QueueStats>,
}

impl Subscription {
    /// The next report, as soon as there is one; `None` when no more will come.
    pub fn recv(&self) -> Option<Arc<FrameReport>> {
        self.reports.recv().ok()
    }

    /// The next report where one is there already.
    pub fn try_recv(&self) -> Option<Arc<FrameReport>> {
        self.reports.try_recv().ok()
    }

    /// The reports themselves, for `select!`.
    pub fn receiver(&self) -> &Receiver<Arc<FrameReport>> {
        &self.reports
    }

    /// This queue's counts.
    pub fn stats(&self) -> &Arc<QueueStats> {
        &self.stats
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.stats.closed.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Queue {
    sender: Sender<Arc<FrameReport>>,
    /// To make room.
    oldest: Receiver<Arc<FrameReport>>,
    overflow: Overflow,
    /// Whether the run goes on for its reader's sake.
    counts: bool,
    stats: Arc<QueueStats>,
}

/// The writing end of all queues.
#[derive(Debug, Default)]
pub struct Hub {
    /// Replaced as a whole: who publishes holds no lock while a queue is waited for.
    queues: Mutex<Arc<Vec<Arc<Queue>>>>,
    closed: AtomicBool,
    /// Whether anybody ever subscribed, those who only watch aside.
    known: AtomicBool,
}

/// How long a queue that makes the pipeline wait is waited for before it is looked whether anybody reads it.
const PATIENCE: Duration = Duration::from_millis(100);

impl Hub {
    /// A queue of at most `capacity` reports for a sink of this name. On a hub that is closed, it is at its end at once.
    pub fn subscribe(&self, name: &str, capacity: usize, overflow: Overflow) -> Subscription {
        self.enrol(name, capacity, overflow, true)
    }

    /// A queue that drops its oldest, for somebody for whose sake alone no run goes on.
    pub fn watch(&self, name: &str, capacity: usize) -> Subscription {
        self.enrol(name, capacity, Overflow::DropOldest, false)
    }

    fn enrol(&self, name: &str, capacity: usize, overflow: Overflow, counts: bool) -> Subscription {
        let (sender, reports) = bounded(capacity.max(1));
        let stats = Arc::new(QueueStats {
            name: name.to_owned(),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            problem: Mutex::new(None),
        });
        let subscription = Subscription { reports: reports.clone(), stats: Arc::clone(&stats) };
        let mut queues = self.lock();
        if !self.closed.load(Ordering::Relaxed) {
            self.known.fetch_or(counts, Ordering::Relaxed);
            let queue = Arc::new(Queue { sender, oldest: reports, overflow, counts, stats });
            *queues = Arc::new(queues.iter().cloned().chain([queue]).collect());
        }
        subscription
    }

    /// Hands a report to every queue; waits only for those that ask for it, and while they do, no longer than `goes_on`
    /// says so.
    pub fn publish(&self, report: &Arc<FrameReport>, goes_on: &dyn Fn() -> bool) {
        let queues = self.queues();
        let left = queues.iter().filter(|queue| !queue.put(Arc::clone(report), goes_on)).count();
        if left > 0 {
            let mut queues = self.lock();
            *queues = Arc::new(queues.iter().filter(|queue| !queue.stats.closed()).cloned().collect());
        }
    }

    /// Whether all who subscribed have left, those who only watch aside.
    pub fn is_deserted(&self) -> bool {
        let left = |queue: &Arc<Queue>| !queue.counts || queue.stats.closed();
        self.known.load(Ordering::Relaxed) && self.queues().iter().all(left)
    }

    /// No report will follow: readers get what is queued, then the end.
    pub fn close(&self) {
        let mut queues = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        *queues = Arc::default();
    }

    /// Counts of the queues that somebody reads.
    pub fn stats(&self) -> Vec<Arc<QueueStats>> {
        let queues = self.queues();
        let read = queues.iter().filter(|queue| !queue.stats.closed());
        read.map(|queue| Arc::clone(&queue.stats)).collect()
    }

    fn queues(&self) -> Arc<Vec<Arc<Queue>>> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Vec<Arc<Queue>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Whether anybody still reads.
    fn put(&self, report: Arc<FrameReport>, goes_on: &dyn Fn() -> bool) -> bool {
        let mut report = report;
        while !self.stats.closed() {
            let sent = match self.overflow {
                Overflow::DropOldest => self.sender.try_send(report),
                Overflow::Wait => self.sender.send_timeout(report, PATIENCE).map_err(|e| {
                    // The hub holds a receiver itself, so this is never a disconnection.
                    TrySendError::Full(e.into_inner())
                }),
            };
            match sent {
                Ok(()) => {
                    self.stats.delivered.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Err(back) => report = back.into_inner(),
            }
            match self.overflow {
                Overflow::DropOldest => {
                    if self.oldest.try_recv().is_ok() {
                        self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Overflow::Wait if !goes_on() => {
                    self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Overflow::Wait => {}
            }
        }
        false
    }
}

/// Reports that are written to again once nobody holds them: how many there are is bounded by what queues hold.
#[derive(Debug, Default)]
pub struct ReportPool {
    reports: Vec<Arc<FrameReport>>,
    next: usize,
}

impl ReportPool {
    /// A report that nobody else holds, filled by `fill`, which finds in it what it held before.
    pub fn fill<E>(
        &mut self,
        fill: impl FnOnce(&mut FrameReport) -> Result<(), E>,
    ) -> Result<Arc<FrameReport>, E> {
        let count = self.reports.len();
        // Those that were given out first come free first.
        let free = (0..count)
            .map(|i| (self.next + i) % count)
            .find(|&i| Arc::get_mut(&mut self.reports[i]).is_some());
        let at = match free {
            Some(at) => at,
            None => {
                self.reports.push(Arc::default());
                count
            }
        };
        self.next = (at + 1) % self.reports.len();
        if let Some(report) = Arc::get_mut(&mut self.reports[at]) {
            fill(report)?;
        }
        Ok(Arc::clone(&self.reports[at]))
    }

    /// Reports that there are.
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether none was needed yet.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn publish(hub: &Hub, pool: &mut ReportPool, numbers: std::ops::Range<u64>) {
        for frame in numbers {
            let Ok(report) = pool.fill(|report| -> Result<(), Infallible> {
                report.frame = frame;
                Ok(())
            });
            hub.publish(&report, &|| true);
        }
    }

    fn numbers(subscription: &Subscription) -> Vec<u64> {
        std::iter::from_fn(|| subscription.try_recv()).map(|report| report.frame).collect()
    }

    #[test]
    fn who_does_not_read_keeps_the_newest_and_delays_nobody() {
        let (hub, mut pool) = (Hub::default(), ReportPool::default());
        let stuck = hub.subscribe("stuck", 3, Overflow::DropOldest);
        let quick = hub.subscribe("quick", 3, Overflow::DropOldest);
        let mut seen = Vec::new();
        for frame in 0..100 {
            publish(&hub, &mut pool, frame..frame + 1);
            seen.extend(numbers(&quick));
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert_eq!(numbers(&stuck), [97, 98, 99]);
        assert_eq!((stuck.stats().dropped(), quick.stats().dropped()), (97, 0));
        // Memory is what the queues hold, and what is being written.
        assert!(pool.len() <= 3 + 2, "{}", pool.len());
    }

    #[test]
    fn a_recordings_sink_is_waited_for() {
        let hub = Arc::new(Hub::default());
        let slow = hub.subscribe("slow", 2, Overflow::Wait);
        let writer = Arc::clone(&hub);
        let thread = std::thread::spawn(move || {
            publish(&writer, &mut ReportPool::default(), 0..20);
            writer.close();
        });
        let mut seen = Vec::new();
        while let Some(report) = slow.recv() {
            std::thread::sleep(Duration::from_millis(2));
            seen.push(report.frame);
        }
        assert!(thread.join().is_ok());
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn while_one_is_waited_for_others_may_ask_and_subscribe() {
        let hub = Arc::new(Hub::default());
        let stuck = hub.subscribe("stuck", 1, Overflow::Wait);
        let writer = Arc::clone(&hub);
        let thread = std::thread::spawn(move || publish(&writer, &mut ReportPool::default(), 0..3));
        while stuck.stats().delivered() == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(hub.stats().len(), 1);
        let late = hub.subscribe("late", 8, Overflow::DropOldest);
        assert_eq!(std::iter::from_fn(|| stuck.recv()).take(3).count(), 3);
        assert!(thread.join().is_ok());
        assert!(!numbers(&late).is_empty());
    }

    #[test]
    fn who_is_waited_for_may_leave_and_a_stop_is_heard() {
        let hub = Hub::default();
        let mut pool = ReportPool::default();
        drop(hub.subscribe("gone", 1, Overflow::Wait));
        publish(&hub, &mut pool, 0..10);
        assert!(hub.stats().is_empty());
        let stuck = hub.subscribe("stuck", 1, Overflow::Wait);
        let Ok(report) = pool.fill(|_| -> Result<(), Infallible> { Ok(()) });
        for _ in 0..3 {
            hub.publish(&report, &|| false);
        }
        assert_eq!((stuck.stats().delivered(), stuck.stats().dropped()), (1, 2));
    }

    #[test]
    fn after_the_end_there_is_nothing_to_wait_for() {
        let hub = Hub::default();
        hub.close();
        assert!(hub.subscribe("late", 1, Overflow::Wait).recv().is_none());
    }

    #[test]
    fn for_a_watchers_sake_no_run_goes_on() {
        let hub = Hub::default();
        let watcher = hub.watch("http", 2);
        assert!(!hub.is_deserted(), "nobody came yet");
        let reader = hub.subscribe("jsonl", 2, Overflow::DropOldest);
        hub.publish(&Arc::default(), &|| true);
        assert!(!hub.is_deserted() && watcher.try_recv().is_some());
        drop(reader);
        assert!(hub.is_deserted());
    }
}
