//! Keys, values and their expiry in sixteen databases, and the memory that they use.
//!
//! Pure data: the caller passes the time and publishes the events.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use slab::Slab;

use super::message_log::{LogEntry, MessageLog};

/// Number of databases, the default of Redis.
pub(crate) const DATABASES: usize = 16;

/// Overhead of an entry: slab slot 88, hash slot 48, expiry 64, three headers of `Bytes`.
const ENTRY_BYTES: usize = 256;

/// The memory limit would be exceeded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemoryFull;

/// The value of a key.
pub(crate) enum KeyValue {
    Text(Bytes),
    Stream(MessageLog),
}

impl KeyValue {
    /// Returns the name of the type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Stream(_) => "stream",
        }
    }

    /// Returns the memory that it uses.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Stream(log) => log.bytes(),
        }
    }
}

/// A key with its value.
pub(crate) struct KeyEntry {
    pub(crate) key: Bytes,
    pub(crate) value: KeyValue,
    /// Unix milliseconds.
    pub(crate) expires: Option<i64>,
}

impl KeyEntry {
    /// Returns whether the key has expired, even if it is not yet removed.
    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.expires.is_some_and(|when| when <= now)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.key.len() + self.value.bytes()
    }
}

#[derive(Default)]
struct Database {
    index: HashMap<Bytes, usize>,
    /// A key keeps its slot until it is removed, so the slot serves as the cursor of SCAN.
    entries: Slab<KeyEntry>,
    /// Number of keys with an expiry.
    volatile: usize,
}

impl Database {
    /// Adds a key that does not exist.
    fn insert(&mut self, key: &[u8], value: KeyValue) {
        let key = Bytes::copy_from_slice(key);
        let slot = self.entries.insert(KeyEntry { key: key.clone(), value, expires: None });
        self.index.insert(key, slot);
    }
}

/// All databases.
pub(crate) struct Keyspace {
    databases: [Database; DATABASES],
    by_expiry: BTreeSet<(i64, usize, Bytes)>,
    used_bytes: usize,
    limit_bytes: usize,
    /// Number of changes of keys so far.
    changes: u64,
}

impl Keyspace {
    /// Creates empty databases that use at most `limit_bytes` together.
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self {
            databases: Default::default(),
            by_expiry: BTreeSet::new(),
            used_bytes: 0,
            limit_bytes,
            changes: 0,
        }
    }

    /// Returns the entry, expired or not.
    pub(crate) fn get(&self, db: usize, key: &[u8]) -> Option<&KeyEntry> {
        let database = &self.databases[db];
        database.entries.get(*database.index.get(key)?)
    }

    /// Stores a value; an existing key keeps its slot.
    pub(crate) fn set(
        &mut self,
        db: usize,
        key: &[u8],
        value: &[u8],
        expires: Option<i64>,
    ) -> Result<(), MemoryFull> {
        let old_bytes = self.get(db, key).map_or(0, KeyEntry::bytes);
        let new_bytes = ENTRY_BYTES + key.len() + value.len();
        if new_bytes > old_bytes && self.used_bytes - old_bytes + new_bytes > self.limit_bytes {
            return Err(MemoryFull);
        }
        self.used_bytes = self.used_bytes - old_bytes + new_bytes;
        self.changes += 1;
        // Copied, because a slice would keep the whole read buffer alive.
        let value = KeyValue::Text(Bytes::copy_from_slice(value));
        if old_bytes > 0 {
            self.set_expiry(db, key, expires);
            let database = &mut self.databases[db];
            let slot = database.index[key];
            database.entries[slot].value = value;
        } else {
            self.databases[db].insert(key, value);
            self.set_expiry(db, key, expires);
        }
        Ok(())
    }

    /// Appends an entry to a stream, which is created if the key does not exist, and removes the oldest entries above
    /// `most`. Returns how many it removed. The key must not hold a string.
    pub(crate) fn append(
        &mut self,
        db: usize,
        key: &[u8],
        entry: LogEntry,
        most: Option<usize>,
    ) -> Result<usize, MemoryFull> {
        let is_new = self.get(db, key).is_none();
        let bytes = entry.bytes() + if is_new { ENTRY_BYTES + key.len() } else { 0 };
        self.reserve(bytes)?;
        if is_new {
            self.databases[db].insert(key, KeyValue::Stream(MessageLog::default()));
        }
        let database = &mut self.databases[db];
        let slot = database.index[key];
        let KeyValue::Stream(log) = &mut database.entries[slot].value else { return Ok(0) };
        log.push(entry);
        let before = log.bytes();
        let removed = most.map_or(0, |most| log.trim(most));
        let freed = before - log.bytes();
        self.release(freed);
        Ok(removed)
    }

    /// Changes when the key expires; `None` means never.
    pub(crate) fn set_expiry(&mut self, db: usize, key: &[u8], expires: Option<i64>) {
        self.changes += 1;
        let database = &mut self.databases[db];
        let Some(entry) = database.index.get(key).and_then(|slot| database.entries.get_mut(*slot)) else {
            return;
        };
        if let Some(when) = std::mem::replace(&mut entry.expires, expires) {
            database.volatile -= 1;
            self.by_expiry.remove(&(when, db, entry.key.clone()));
        }
        if let Some(when) = expires {
            database.volatile += 1;
            self.by_expiry.insert((when, db, entry.key.clone()));
        }
    }

    /// Removes a key; returns whether it existed.
    pub(crate) fn remove(&mut self, db: usize, key: &[u8]) -> bool {
        self.set_expiry(db, key, None);
        let database = &mut self.databases[db];
        let Some(slot) = database.index.remove(key) else { return false };
        self.used_bytes -= database.entries.remove(slot).bytes();
        true
    }

    /// Returns the key that expires first, if it has expired.
    pub(crate) fn first_due(&self, now: i64) -> Option<(usize, Bytes)> {
        let (when, db, key) = self.by_expiry.first()?;
        (*when <= now).then(|| (*db, key.clone()))
    }

    /// Removes all keys of a database.
    pub(crate) fn clear(&mut self, db: usize) {
        self.changes += 1;
        let database = std::mem::take(&mut self.databases[db]);
        for (_, entry) in database.entries {
            self.used_bytes -= entry.bytes();
            if let Some(when) = entry.expires {
                self.by_expiry.remove(&(when, db, entry.key));
            }
        }
    }

    /// Returns all entries of a database, expired or not.
    pub(crate) fn entries(&self, db: usize) -> impl Iterator<Item = &KeyEntry> {
        self.databases[db].entries.iter().map(|(_, entry)| entry)
    }

    /// Returns the entries of `count` slots from `cursor`, and the next cursor: 0 at the end.
    pub(crate) fn scan(
        &self,
        db: usize,
        cursor: usize,
        count: usize,
    ) -> (usize, impl Iterator<Item = &KeyEntry>) {
        let entries = &self.databases[db].entries;
        // Removals leave gaps, so slots in use may be above `len`, but never above `capacity`.
        let end = cursor.saturating_add(count).min(entries.capacity());
        let next = if end >= entries.capacity() || entries.is_empty() { 0 } else { end };
        (next, (cursor..end).filter_map(|slot| entries.get(slot)))
    }

    /// Returns the number of keys in a database, and of those with an expiry.
    pub(crate) fn len(&self, db: usize) -> (usize, usize) {
        (self.databases[db].index.len(), self.databases[db].volatile)
    }

    /// Counts memory for data other than keys.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), MemoryFull> {
        if self.used_bytes.saturating_add(bytes) > self.limit_bytes {
            return Err(MemoryFull);
        }
        self.used_bytes += bytes;
        Ok(())
    }

    /// Releases memory that `reserve` counted.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
    }

    /// Returns the number of changes so far, to compare with a later one.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns the memory in use.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_limit_holds_and_a_smaller_value_is_always_accepted() {
        let mut keyspace = Keyspace::new(2 * ENTRY_BYTES);
        assert_eq!(keyspace.set(0, b"k", &[0; 100], None), Ok(()));
        assert_eq!(keyspace.set(0, b"l", &[0; 300], None), Err(MemoryFull));
        assert_eq!(keyspace.set(0, b"k", b"", None), Ok(()));
        assert_eq!(keyspace.reserve(ENTRY_BYTES), Err(MemoryFull));
        keyspace.clear(0);
        assert_eq!(keyspace.used_bytes(), 0);
    }

    #[test]
    fn a_scan_returns_every_key_that_stays() {
        let mut keyspace = Keyspace::new(1 << 20);
        for number in 0..100 {
            keyspace.set(3, format!("k{number}").as_bytes(), b"", None).unwrap();
        }
        let (mut cursor, mut seen) = (0, BTreeSet::new());
        loop {
            let (next, entries) = keyspace.scan(3, cursor, 7);
            seen.extend(entries.map(|entry| entry.key.clone()));
            keyspace.remove(3, format!("k{}", next + 1).as_bytes());
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        assert!((0..100).step_by(7).all(|n| seen.contains(format!("k{n}").as_bytes())));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, u8, Option<i64>),
        Expire(u8, Option<i64>),
        Remove(u8),
        Due(i64),
        Clear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let when = proptest::option::of(0..20_i64);
        let step = prop_oneof![
            8 => (0..6_u8, any::<u8>(), when.clone()).prop_map(|(key, value, when)| Step::Set(key, value, when)),
            4 => (0..6_u8, when).prop_map(|(key, when)| Step::Expire(key, when)),
            4 => (0..6_u8).prop_map(Step::Remove),
            2 => (0..20_i64).prop_map(Step::Due),
            1 => Just(Step::Clear),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(steps in steps()) {
            let mut keyspace = Keyspace::new(1 << 20);
            let mut model: BTreeMap<u8, (u8, Option<i64>)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(key, value, when) => {
                        keyspace.set(1, &[key], &vec![value; usize::from(value)], when).unwrap();
                        model.insert(key, (value, when));
                    }
                    Step::Expire(key, when) => {
                        keyspace.set_expiry(1, &[key], when);
                        model.entry(key).and_modify(|entry| entry.1 = when);
                    }
                    Step::Remove(key) => prop_assert_eq!(keyspace.remove(1, &[key]), model.remove(&key).is_some()),
                    Step::Due(now) => {
                        while let Some((db, key)) = keyspace.first_due(now) {
                            prop_assert!(keyspace.remove(db, &key));
                        }
                        model.retain(|_, (_, when)| when.is_none_or(|when| when > now));
                    }
                    Step::Clear => {
                        keyspace.clear(1);
                        model.clear();
                    }
                }
                let found: BTreeMap<u8, (u8, Option<i64>)> = keyspace
                    .entries(1)
                    .map(|entry| (entry.key[0], (u8::try_from(entry.value.bytes()).unwrap(), entry.expires)))
                    .collect();
                prop_assert_eq!(&found, &model);
                prop_assert_eq!(keyspace.len(1), (model.len(), model.values().filter(|v| v.1.is_some()).count()));
                let bytes: usize = model.values().map(|(value, _)| ENTRY_BYTES + 1 + usize::from(*value)).sum();
                prop_assert_eq!(keyspace.used_bytes(), bytes);
            }
        }
    }
}
