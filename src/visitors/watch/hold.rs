//! The holds of connections on leases.

use std::cell::Ref;
use std::rc::{Rc, Weak};

use super::lease::{Lease, LeaseEnd};
use super::leases::Leases;
use crate::hub::Listener;
use crate::visitors::Visitor;

/// A connection's hold on its lease; dropping it releases the lease.
pub struct LeaseHold {
    lease: Rc<Lease>,
    leases: Rc<Leases>,
}

/// The hold of a part of a connection, which may end earlier than the connection.
pub struct PartialHold {
    hold: LeaseHold,
    listener: Weak<Listener>,
}

impl LeaseHold {
    pub(super) fn new(lease: Rc<Lease>, leases: Rc<Leases>) -> Self {
        Self { lease, leases }
    }

    /// Returns whether the session may have ended.
    pub fn is_doubtful(&self) -> bool {
        self.lease.is_doubtful()
    }

    /// Returns the current visitor.
    pub fn visitor(&self) -> Ref<'_, Visitor> {
        self.lease.visitor.borrow()
    }
}

impl Drop for LeaseHold {
    fn drop(&mut self) {
        if self.lease.release() {
            self.leases.remove(&self.lease);
        }
    }
}

impl PartialHold {
    /// Wraps the hold of the connection with this listener.
    pub fn new(hold: LeaseHold, listener: &Rc<Listener>) -> Self {
        Self { hold, listener: Rc::downgrade(listener) }
    }

    /// Returns whether the session may have ended.
    pub fn is_doubtful(&self) -> bool {
        self.hold.is_doubtful()
    }

    /// Returns the current visitor: after the end, the last one.
    pub fn visitor(&self) -> Ref<'_, Visitor> {
        self.hold.visitor()
    }

    /// Returns why the lease has ended, if it has. Listeners of version 2 are made to reauthorize then.
    pub fn ended(&self) -> Option<LeaseEnd> {
        self.hold.lease.ended()
    }
}

impl Drop for PartialHold {
    fn drop(&mut self) {
        self.hold.lease.remove(&self.listener);
    }
}
