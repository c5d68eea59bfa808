//! Leases, each to be found by its auth source.

use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::lease::Lease;
use crate::visitors::AuthSource;

/// By how much fewer leases there have to be than there is room for, until that room is given back.
const SPARSE: usize = 8;

/// Leases, each to be found by its auth source, which stands nowhere but in the lease.
#[derive(Default)]
pub(super) struct LeaseTable {
    table: HashTable<Rc<Lease>>,
    seed: RandomState,
}

impl LeaseTable {
    pub(super) fn find(&self, auth_source: &AuthSource) -> Option<&Rc<Lease>> {
        self.table.find(self.seed.hash_one(auth_source), |lease| *lease.auth_source() == *auth_source)
    }

    /// Adds a lease, in the place of another of the same auth source.
    pub(super) fn insert(&mut self, lease: Rc<Lease>) {
        let Self { table, seed } = self;
        let hash = |lease: &Rc<Lease>| seed.hash_one(&*lease.auth_source());
        table.entry(hash(&lease), |other| *other.auth_source() == *lease.auth_source(), hash).insert(lease);
    }

    /// Takes a lease out, if it is there.
    pub(super) fn remove(&mut self, lease: &Rc<Lease>) {
        let Self { table, seed } = self;
        let hash = |lease: &Rc<Lease>| seed.hash_one(&*lease.auth_source());
        if let Ok(found) = table.find_entry(hash(lease), |other| Rc::ptr_eq(other, lease)) {
            found.remove();
        }
        // After a peak its memory goes back.
        if table.len() < table.capacity() / SPARSE {
            table.shrink_to(2 * table.len(), hash);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Lease>> {
        self.table.iter()
    }
}

/// What stands in the table of docs/performance/memory.md.
#[cfg(test)]
pub(super) const SIZE: (&str, usize) = ("lease_table", size_of::<Rc<Lease>>() + 1);
