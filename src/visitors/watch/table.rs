//! A hash table of leases by auth source.

use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::lease::Lease;
use crate::visitors::AuthSource;

/// The table shrinks when fewer than one slot in this many is used.
const SPARSE: usize = 8;

/// Leases by auth source. The key is stored only in the lease, which saves one copy per entry.
#[derive(Default)]
pub(super) struct LeaseTable {
    table: HashTable<Rc<Lease>>,
    seed: RandomState,
}

impl LeaseTable {
    pub(super) fn find(&self, auth_source: &AuthSource) -> Option<&Rc<Lease>> {
        self.table.find(self.seed.hash_one(auth_source), |lease| *lease.auth_source() == *auth_source)
    }

    /// Inserts a lease, replacing another with the same auth source.
    pub(super) fn insert(&mut self, lease: Rc<Lease>) {
        let Self { table, seed } = self;
        let hash = |lease: &Rc<Lease>| seed.hash_one(&*lease.auth_source());
        table.entry(hash(&lease), |other| *other.auth_source() == *lease.auth_source(), hash).insert(lease);
    }

    /// Removes a lease, if it is present.
    pub(super) fn remove(&mut self, lease: &Rc<Lease>) {
        let Self { table, seed } = self;
        let hash = |lease: &Rc<Lease>| seed.hash_one(&*lease.auth_source());
        if let Ok(found) = table.find_entry(hash(lease), |other| Rc::ptr_eq(other, lease)) {
            found.remove();
        }
        // Free the memory of a connection peak.
        if table.len() < table.capacity() / SPARSE {
            table.shrink_to(2 * table.len(), hash);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Lease>> {
        self.table.iter()
    }
}

/// A size that docs/performance/memory.md lists.
#[cfg(test)]
pub(super) const SIZE: (&str, usize) = ("lease_table", size_of::<Rc<Lease>>() + 1);
