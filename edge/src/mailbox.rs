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
