//! The acknowledgement state of one connection's publications.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::publisher::Publisher;
use crate::metrics::{ShardCells, cells};

/// Why a publication failed, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishError {
    /// It was written and not acknowledged, or Redis refused it. It is not retried.
    Lost,
    /// Redis was unreachable for too long, or temporarily cannot execute it. It was not published.
    Waited,
}

/// The acknowledgement state of one connection's publications, in order.
#[derive(Default)]
pub struct PublishAcks {
    issued: Cell<u32>,
    acknowledged: Cell<u32>,
    bytes: Cell<usize>,
    failure: Cell<Option<PublishError>>,
    task: Cell<Option<Waker>>,
    /// In a cluster, the publisher whose queue holds those in flight.
    publisher: RefCell<Weak<Publisher>>,
}

impl PublishAcks {
    /// Bytes added per publication to the limits in flight: for its commands, and to bound the number of small ones.
    pub(super) const OVERHEAD_BYTES: usize = 1024;

    /// Records a publication of `bytes` bytes and returns its number.
    pub fn issue(&self, bytes: usize) -> u32 {
        self.bytes.set(self.bytes.get() + bytes + Self::OVERHEAD_BYTES);
        self.issued.replace(self.issued.get() + 1)
    }

    /// Returns the number of acknowledged publications: all with smaller numbers.
    pub fn acknowledged(&self) -> u32 {
        self.acknowledged.get()
    }

    /// Returns the bytes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Returns the first failure, if any.
    pub fn failure(&self) -> Option<PublishError> {
        self.failure.get()
    }

    /// Registers the task to wake on a change.
    pub fn watch(&self, cx: &Context<'_>) {
        self.task.set(Some(cx.waker().clone()));
    }

    /// Waits until nothing is in flight. Cancel-safe.
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

    /// Returns the publisher of the preceding publications, if any is in flight.
    pub(super) fn publisher(&self) -> Option<Rc<Publisher>> {
        let others = self.issued.get() - self.acknowledged.get() > 1;
        if others { self.publisher.borrow().upgrade() } else { None }
    }

    /// Records the publisher of the latest publication.
    pub(super) fn set_publisher(&self, publisher: &Rc<Publisher>) {
        self.publisher.replace(Rc::downgrade(publisher));
    }

    /// Records that an acknowledged publication may be lost after all.
    pub(super) fn doubt(&self) {
        self.failure.set(self.failure.get().or(Some(PublishError::Lost)));
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Records the outcome of the oldest publication in flight.
    pub(super) fn settle(&self, bytes: usize, result: Result<(), PublishError>) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes + Self::OVERHEAD_BYTES));
        if result.is_ok() {
            cells(|cells| ShardCells::add(&cells.acknowledged, 1));
        }
        match result {
            // After a failure, the number would no longer name the acknowledged ones.
            Ok(()) if self.failure.get().is_none() => self.acknowledged.set(self.acknowledged.get() + 1),
            Ok(()) => {}
            Err(failure) => self.failure.set(self.failure.get().or(Some(failure))),
        }
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}
