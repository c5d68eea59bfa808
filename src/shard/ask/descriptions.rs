//! What connections tell about themselves when they are asked.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::sync::Notify;

use super::{CloseRequest, ConnectionFilter, ConnectionInfo};

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
    /// How the connections that match are closed, if they are closed, and how many are.
    closing: RefCell<Option<(Arc<CloseRequest>, usize)>>,
}

impl Descriptions {
    /// Expects this many connections to describe themselves. Those that match the filter are collected.
    pub fn expect(&self, count: usize, filter: &Arc<ConnectionFilter>) {
        self.missing.set(count);
        self.filter.replace(filter.clone());
    }

    /// Closes, until [`Descriptions::end_closing`], the expected connections that match the filter.
    pub fn begin_closing(&self, request: Arc<CloseRequest>) {
        self.closing.replace(Some((request, 0)));
    }

    /// Returns how many connections have been closed since [`Descriptions::begin_closing`].
    pub fn end_closing(&self) -> usize {
        self.closing.take().map_or(0, |(_, closed)| closed)
    }

    /// Adds the description of the connection at a position. Returns the close code and the reason if the connection has to
    /// be closed.
    pub fn add(&self, position: usize, info: ConnectionInfo) -> Option<(u16, Box<str>)> {
        let matches = self.filter.borrow().matches(&info);
        if matches && self.closing.borrow().is_some() {
            return self.close_next();
        }
        if matches {
            self.collected.borrow_mut().push((position, info.shortened()));
        }
        self.count();
        None
    }

    /// Returns the close code and the reason for an expected connection that matches the filter; none if it is too late.
    pub fn close_next(&self) -> Option<(u16, Box<str>)> {
        self.count();
        let mut closing = self.closing.borrow_mut();
        let (request, closed) = closing.as_mut()?;
        *closed += 1;
        Some((request.code, request.reason.clone()))
    }

    fn count(&self) {
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
