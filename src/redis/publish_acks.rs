//! What has become of one connection's publications.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::publisher::Publisher;

/// Why a publication did not reach Redis, as far as can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishError {
    /// It was written and not acknowledged, or Redis refused it. It is not repeated.
    Lost,
    /// It has waited too long for a Redis that cannot be reached, and was not written; or Redis cannot carry it out at the
    /// moment.
    Waited,
}

/// What has become of one connection's publications, in the order in which they were made.
#[derive(Default)]
pub struct PublishAcks {
    issued: Cell<u32>,
    acknowledged: Cell<u32>,
    bytes: Cell<usize>,
    failure: Cell<Option<PublishError>>,
    task: Cell<Option<Waker>>,
    /// Where those under way are queued, in a cluster.
    publisher: RefCell<Weak<Publisher>>,
}

impl PublishAcks {
    /// What a publication counts besides its payload, for the bounds of what is under way: its commands, and that many
    /// small ones would make comparing with them slow.
    pub(super) const OVERHEAD_BYTES: usize = 1024;

    /// Notes a publication of `bytes` bytes and returns its number.
    pub fn issue(&self, bytes: usize) -> u32 {
        self.bytes.set(self.bytes.get() + bytes + Self::OVERHEAD_BYTES);
        self.issued.replace(self.issued.get() + 1)
    }

    /// Returns how many were acknowledged: all with smaller numbers.
    pub fn acknowledged(&self) -> u32 {
        self.acknowledged.get()
    }

    /// Returns the bytes that are under way.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Returns why a publication failed, if one did. The first failure counts.
    pub fn failure(&self) -> Option<PublishError> {
        self.failure.get()
    }

    /// Remembers the task that is to be woken when something changes.
    pub fn watch(&self, cx: &Context<'_>) {
        self.task.set(Some(cx.waker().clone()));
    }

    /// Waits until nothing is under way. Safe to cancel.
    ///
    /// # Errors
    ///
    /// When a publication failed.
    pub async fn settled(&self) -> Result<(), PublishError> {
        poll_fn(|cx| {
            if let Some(failure) = self.failure.get() {
                return Poll::Ready(Err(failure));
            }
            if self.acknowledged.get() == self.issued.get() {
                return Poll::Ready(Ok(()));
            }
            self.watch(cx);
            Poll::Pending
        })
        .await
    }

    /// Returns where the publications before the last one wait, if some do.
    pub(super) fn publisher(&self) -> Option<Rc<Publisher>> {
        let others = self.issued.get() - self.acknowledged.get() > 1;
        if others { self.publisher.borrow().upgrade() } else { None }
    }

    /// Notes where the last publication waits.
    pub(super) fn set_publisher(&self, publisher: &Rc<Publisher>) {
        self.publisher.replace(Rc::downgrade(publisher));
    }

    /// Notes that some that were acknowledged may be lost all the same.
    pub(super) fn doubt(&self) {
        self.failure.set(self.failure.get().or(Some(PublishError::Lost)));
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Takes the fate of the oldest publication that is under way.
    pub(super) fn settle(&self, bytes: usize, result: Result<(), PublishError>) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes + Self::OVERHEAD_BYTES));
        match result {
            Ok(()) => self.acknowledged.set(self.acknowledged.get() + 1),
            Err(failure) => self.failure.set(self.failure.get().or(Some(failure))),
        }
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}
