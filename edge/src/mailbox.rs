//! What lies between the thread that captures and the one that computes: one slot.

use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

/// The end that puts things into the slot. There is one.
#[derive(Debug)]
pub struct Inlet<T> {
    slot: Sender<T>,
    /// To take out what is replaced.
    unread: Receiver<T>,
}

/// The end that takes them out.
#[derive(Debug)]
pub struct Outlet<T>(Receiver<T>);

/// Both ends of an empty slot.
pub fn mailbox<T>() -> (Inlet<T>, Outlet<T>) {
    let (slot, outlet) = bounded(1);
    (Inlet { slot, unread: outlet.clone() }, Outlet(outlet))
}

/// The other end of a mailbox is gone; what was to be put in comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed<T>(pub T);

impl<T> Inlet<T> {
    /// Puts `item` into the slot at once. What was there and had not been read is replaced and comes back: whoever reads
    /// always gets the newest.
    pub fn replace(&self, item: T) -> Option<T> {
        let mut item = item;
        let mut unread = None;
        loop {
            match self.slot.try_send(item) {
                Ok(()) => return unread,
                Err(TrySendError::Full(back)) => {
                    item = back;
                    // Nothing where it was read in between; then the slot is free.
                    unread = self.unread.try_recv().ok().or(unread);
                }
                // This end holds a receiver itself.
                Err(TrySendError::Disconnected(back)) => return Some(back),
            }
        }
    }

    /// Puts `item` into the slot when it is empty, however long that takes; comes back after `patience` to let the caller
    /// look whether it is still wanted.
    ///
    /// # Errors
    /// [`Closed`] with the item where the slot was not emptied in time.
    pub fn offer(&self, item: T, patience: Duration) -> Result<(), Closed<T>> {
        self.slot.send_timeout(item, patience).map_err(|e| Closed(e.into_inner()))
    }
}

/// Why nothing was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// Nothing came in time.
    Yet,
    /// Nothing will come any more.
    ForGood,
}

impl<T> Outlet<T> {
    /// Takes out what is there, or comes within `patience`.
    ///
    /// # Errors
    /// [`Empty`].
    pub fn take(&self, patience: Duration) -> Result<T, Empty> {
        self.0.recv_timeout(patience).map_err(|e| match e {
            RecvTimeoutError::Timeout => Empty::Yet,
            RecvTimeoutError::Disconnected => Empty::ForGood,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn the_newest_replaces_what_nobody_read() {
        let (inlet, outlet) = mailbox();
        assert_eq!(inlet.replace(1), None);
        assert_eq!(inlet.replace(2), Some(1));
        assert_eq!(inlet.replace(3), Some(2));
        assert_eq!(outlet.take(NOW), Ok(3));
        assert_eq!(outlet.take(NOW), Err(Empty::Yet));
        assert_eq!(inlet.replace(4), None);
    }

    #[test]
    fn a_full_slot_is_waited_for_and_the_item_comes_back() {
        let (inlet, outlet) = mailbox();
        assert_eq!(inlet.offer(1, NOW), Ok(()));
        assert_eq!(inlet.offer(2, Duration::from_millis(1)), Err(Closed(2)));
        assert_eq!(outlet.take(NOW), Ok(1));
        assert_eq!(inlet.offer(2, NOW), Ok(()));
    }

    #[test]
    fn what_lies_there_is_still_read_after_the_end() {
        let (inlet, outlet) = mailbox();
        assert_eq!(inlet.replace(7), None);
        drop(inlet);
        assert_eq!(outlet.take(NOW), Ok(7));
        assert_eq!(outlet.take(NOW), Err(Empty::ForGood));
    }

    #[test]
    fn a_slow_reader_sees_rising_numbers_and_the_last_one() {
        let (inlet, outlet) = mailbox();
        let writer = std::thread::spawn(move || {
            let replaced = (0..10_000).filter(|&n| inlet.replace(n).is_some()).count();
            (replaced, inlet)
        });
        let mut seen = Vec::new();
        while seen.last() != Some(&9_999) {
            if let Ok(n) = outlet.take(Duration::from_millis(50)) {
                seen.push(n);
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        let replaced = writer.join().map_or(0, |(replaced, _)| replaced);
        assert!(seen.is_sorted_by(|a, b| a < b));
        assert_eq!(seen.len() + replaced, 10_000, "each is read or comes back");
    }
}
