//! Work on many cores whose results are taken in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of results that may wait for one before them, beyond which nothing new is begun.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// What a thread works with, and on what.
pub(super) trait Worker<T> {
    /// What it makes of an item.
    type Output: Send;

    /// Works on an item; `None` where it gave up because `stop` says so.
    ///
    /// # Errors
    /// What ends the whole work.
    fn work(&mut self, item: &T, stop: &Stop<'_>) -> anyhow::Result<Option<Self::Output>>;
}

/// Whether to give up: the caller wants it, or the work has failed elsewhere.
pub(super) struct Stop<'a> {
    asked: &'a AtomicBool,
    failed: AtomicBool,
}

impl Stop<'_> {
    pub(super) fn is_set(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }
}

struct State<T, R> {
    /// Items given out, and results taken.
    given: usize,
    taken: usize,
    /// Results that wait for one before them, with their items, by number.
    done: BTreeMap<usize, (T, anyhow::Result<Option<R>>)>,
    waiting_bytes: usize,
    threads: usize,
}

struct Shared<T, R, I> {
    state: Mutex<State<T, R>>,
    items: Mutex<I>,
    changed: Condvar,
}

impl<T, R, I> Shared<T, R, I> {
    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        // A thread that panicked is joined, and its panic goes on; what it left is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T, R>>) -> MutexGuard<'a, State<T, R>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works on every item with at most `threads` workers, and takes the results in the items' order. `items` is asked for
/// the next item when a worker is free. `bytes` is what a result weighs while it waits for those before it.
///
/// Ends early where a worker gives up an item: the results before it are still taken.
///
/// # Errors
/// The first error of a worker or of `take`, in the items' order; results before it were taken.
pub(super) fn in_order<T: Send, W: Worker<T>>(
    items: impl Iterator<Item = T> + Send,
    threads: usize,
    stop: &AtomicBool,
    worker: impl Fn() -> anyhow::Result<W> + Sync,
    bytes: impl Fn(&W::Output) -> usize + Sync,
    mut take: impl FnMut(T, W::Output) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let threads = threads.max(1);
    let state = State { given: 0, taken: 0, done: BTreeMap::new(), waiting_bytes: 0, threads };
    let shared = Shared { state: Mutex::new(state), items: Mutex::new(items), changed: Condvar::new() };
    let stop = Stop { asked: stop, failed: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| serve(&shared, &stop, &worker, &bytes));
        }
        let result = take_all(&shared, &bytes, &mut take);
        stop.failed.store(true, Ordering::Relaxed);
        shared.changed.notify_all();
        result
    })
}

/// Takes results in order until there are no more.
fn take_all<T, R, I>(
    shared: &Shared<T, R, I>,
    bytes: &impl Fn(&R) -> usize,
    take: &mut impl FnMut(T, R) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let mut state = shared.lock();
        let next = state.taken;
        while !state.done.contains_key(&next) && state.threads > 0 {
            state = shared.wait(state);
        }
        let Some((item, result)) = state.done.remove(&next) else {
            return Ok(());
        };
        if let Ok(Some(result)) = &result {
            state.waiting_bytes -= bytes(result);
        }
        state.taken += 1;
        drop(state);
        shared.changed.notify_all();
        match result? {
            Some(result) => take(item, result)?,
            None => return Ok(()),
        }
    }
}

/// A thread's life.
fn serve<T, W: Worker<T>, I: Iterator<Item = T>>(
    shared: &Shared<T, W::Output, I>,
    stop: &Stop<'_>,
    worker: &impl Fn() -> anyhow::Result<W>,
    bytes: &impl Fn(&W::Output) -> usize,
) {
    let _leave = Leave { shared, stop };
    // Made when there is something to do.
    let mut own = None;
    while let Some((number, item)) = next_item(shared, stop) {
        let result = match &mut own {
            Some(own) => W::work(own, &item, stop),
            None => worker().and_then(|fresh| own.insert(fresh).work(&item, stop)),
        };
        let mut state = shared.lock();
        if let Ok(Some(result)) = &result {
            state.waiting_bytes += bytes(result);
        }
        state.done.insert(number, (item, result));
        drop(state);
        shared.changed.notify_all();
    }
}

/// Says that a thread is gone; where it panics, nobody waits for its result.
struct Leave<'a, T, R, I> {
    shared: &'a Shared<T, R, I>,
    stop: &'a Stop<'a>,
}

impl<T, R, I> Drop for Leave<'_, T, R, I> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop.failed.store(true, Ordering::Relaxed);
        }
        self.shared.lock().threads -= 1;
        self.shared.changed.notify_all();
    }
}

fn next_item<T, R, I: Iterator<Item = T>>(shared: &Shared<T, R, I>, stop: &Stop<'_>) -> Option<(usize, T)> {
    let mut state = shared.lock();
    // Whoever works on the result that is waited for goes on; with none before it, its item may be taken.
    let failed = || stop.failed.load(Ordering::Relaxed);
    while state.waiting_bytes > MAX_WAITING_BYTES && state.given > state.taken && !failed() {
        state = shared.wait(state);
    }
    drop(state);
    if failed() {
        return None;
    }
    let mut items = shared.items.lock().unwrap_or_else(PoisonError::into_inner);
    let item = items.next()?;
    let mut state = shared.lock();
    let number = state.given;
    state.given += 1;
    Some((number, item))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    /// Squares, the slower the smaller; fails at one number.
    struct Squarer {
        fails_at: u64,
    }

    impl Worker<u64> for Squarer {
        type Output = u64;

        fn work(&mut self, item: &u64, stop: &Stop<'_>) -> anyhow::Result<Option<u64>> {
            std::thread::sleep(Duration::from_micros(500 * (8 - item % 8)));
            anyhow::ensure!(*item != self.fails_at, "no {item}");
            Ok((!stop.is_set()).then_some(item * item))
        }
    }

    fn squares(threads: usize, fails_at: u64, stop: &AtomicBool, most: usize) -> (Vec<u64>, Option<String>) {
        let mut taken = Vec::new();
        let result = in_order(
            0..40,
            threads,
            stop,
            || Ok(Squarer { fails_at }),
            |_| 8,
            |item, square| {
                assert_eq!(item * item, square);
                taken.push(square);
                if taken.len() == most {
                    stop.store(true, Ordering::Relaxed);
                }
                Ok(())
            },
        );
        (taken, result.err().map(|e| e.to_string()))
    }

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        let expected: Vec<u64> = (0..40).map(|i| i * i).collect();
        for threads in [1, 3, 64] {
            let stop = AtomicBool::new(false);
            assert_eq!(squares(threads, 99, &stop, 99), (expected.clone(), None));
        }
    }

    #[test]
    fn an_error_ends_the_work_after_the_results_before_it() {
        let (taken, error) = squares(3, 17, &AtomicBool::new(false), 99);
        assert_eq!((taken.len(), error.as_deref()), (17, Some("no 17")));
    }

    #[test]
    fn a_stop_leaves_a_run_of_results_without_gaps() {
        let (taken, error) = squares(3, 99, &AtomicBool::new(false), 5);
        assert_eq!(error, None);
        // Those that were done when it was set are still taken.
        assert!((5..40).contains(&taken.len()), "{}", taken.len());
    }

    #[test]
    fn a_worker_that_cannot_be_made_or_a_taker_that_fails_is_an_error() {
        let stop = AtomicBool::new(false);
        let made = |ok: bool| move || if ok { Ok(Squarer { fails_at: 99 }) } else { anyhow::bail!("none") };
        let refuse = |_, _| anyhow::bail!("full");
        assert_eq!(
            in_order(0..9, 2, &stop, made(false), |_| 8, |_, _| Ok(())).unwrap_err().to_string(),
            "none"
        );
        assert_eq!(in_order(0..9, 2, &stop, made(true), |_| 8, refuse).unwrap_err().to_string(), "full");
    }

    #[test]
    fn a_panic_goes_on_and_nobody_waits() {
        struct Panics;
        impl Worker<u64> for Panics {
            type Output = ();
            fn work(&mut self, item: &u64, _: &Stop<'_>) -> anyhow::Result<Option<()>> {
                assert_ne!(*item, 3);
                Ok(Some(()))
            }
        }
        let stop = AtomicBool::new(false);
        let run = || in_order(0..9, 2, &stop, || Ok(Panics), |()| 0, |_, ()| Ok(()));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }

    #[test]
    fn results_that_wait_are_bounded() {
        /// The first item takes long; every result weighs half of what may wait.
        struct Slow<'a>(&'a AtomicBool);
        impl Worker<u64> for Slow<'_> {
            type Output = u64;
            fn work(&mut self, item: &u64, _: &Stop<'_>) -> anyhow::Result<Option<u64>> {
                match item {
                    0 => std::thread::sleep(Duration::from_millis(100)),
                    4 => assert!(self.0.load(Ordering::SeqCst), "begun while three results wait"),
                    _ => {}
                }
                Ok(Some(*item))
            }
        }
        let first_taken = AtomicBool::new(false);
        in_order(
            0..20,
            2,
            &AtomicBool::new(false),
            || Ok(Slow(&first_taken)),
            |_| MAX_WAITING_BYTES / 2,
            |_, _| {
                first_taken.store(true, Ordering::SeqCst);
                Ok(())
            },
        )
        .unwrap();
    }
}
