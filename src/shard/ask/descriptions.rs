//! What connections tell about themselves when they are asked.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::sync::Notify;

use super::{ConnectionFilter, ConnectionInfo};

/// Collects what connections tell about themselves.
///
/// Only a connection's own task knows its facility and its user: a second copy for a listing that nobody may ever request
/// would cost memory for each connection.
#[derive(Default)]
pub struct Descriptions {
    missing: Cell<usize>,
    filter: RefCell<Arc<ConnectionFilter>>,
    collected: RefCell<Vec<(usize, ConnectionInfo)>>,
    complete: Notify,
}

impl Descriptions {
    /// Expects this many connections to describe themselves. Those that match the filter are collected.
    pub fn expect(&self, count: usize, filter: &Arc<ConnectionFilter>) {
        self.missing.set(count);
        self.filter.replace(filter.clone());
    }

    /// Adds the description of the connection at a position.
    pub fn add(&self, position: usize, info: ConnectionInfo) {
        if self.filter.borrow().matches(&info) {
            self.collected.borrow_mut().push((position, info.shortened()));
        }
        self.missing.set(self.missing.get().saturating_sub(1));
        if self.missing.get() == 0 {
            self.complete.notify_one();
        }
    }

    /// Waits until all expected connections have described themselves. Cancel-safe.
    pub async fn complete(&self) {
        while self.missing.get() > 0 {
            self.complete.notified().await;
        }
    }

    /// Takes the descriptions, in the order of their positions.
    pub fn take(&self) -> Vec<(usize, ConnectionInfo)> {
        let mut collected = self.collected.take();
        collected.sort_unstable_by_key(|(position, _)| *position);
        collected
    }
}
