//! A table whose entries are found by name or by number.

use std::hash::{BuildHasher, Hasher};
use std::ops::{Index, IndexMut};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

/// A table with fewer entries than this part of its capacity is shrunk.
const SPARSE: usize = 8;

/// Entries found by name or by a number that stays the same for the life of the entry.
///
/// A hash table has up to 2.3 slots for each entry. This one holds only numbers, and compares the names in the slab.
#[derive(Debug)]
pub struct Directory<K, T> {
    entries: Slab<(K, T)>,
    numbers: HashTable<u32>,
    seed: RandomState,
}

impl<K: AsRef<str>, T> Directory<K, T> {
    /// Returns the number of a name. Takes bytes, because Redis may send a name that is not UTF-8.
    pub fn find(&self, name: &(impl AsRef<[u8]> + ?Sized)) -> Option<u32> {
        let name = name.as_ref();
        let is_name = |number: &u32| self.entries[*number as usize].0.as_ref().as_bytes() == name;
        self.numbers.find(hash(&self.seed, name), is_name).copied()
    }

    /// Adds an entry under a new name, and returns its number.
    pub fn insert(&mut self, name: K, value: T) -> u32 {
        let Self { entries, numbers, seed } = self;
        let hash = hash(seed, name.as_ref().as_bytes());
        let number = to_u32(entries.insert((name, value)));
        numbers.insert_unique(hash, number, |other| hash_at(entries, seed, *other));
        number
    }

    /// Removes an entry.
    pub fn remove(&mut self, number: u32) -> (K, T) {
        let hash = hash_at(&self.entries, &self.seed, number);
        if let Ok(found) = self.numbers.find_entry(hash, |other| *other == number) {
            found.remove();
        }
        let entry = self.entries.remove(number as usize);
        if self.entries.is_empty() {
            // A slab keeps the capacity of its peak otherwise.
            self.entries = Slab::new();
        }
        entry
    }

    /// Removes the entries for which `keep` returns false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let entries = &mut self.entries;
        self.numbers.retain(|number| {
            let stays = keep(&entries[*number as usize].1);
            if !stays {
                entries.remove(*number as usize);
            }
            stays
        });
    }

    /// Returns the name of an entry.
    pub fn name(&self, number: u32) -> &K {
        &self.entries[number as usize].0
    }

    /// Returns the name and value of an entry, if there is one with this number.
    pub fn get_mut(&mut self, number: u32) -> Option<(&K, &mut T)> {
        self.entries.get_mut(number as usize).map(|(name, value)| (&*name, value))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the entries with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &T)> {
        self.entries.iter().map(|(_, (name, value))| (name, value))
    }

    /// Returns the entries from a number on, with their numbers and names.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, &K, &T)> {
        let numbers = first..to_u32(self.entries.capacity());
        numbers.filter_map(|number| {
            let (name, value) = self.entries.get(number as usize)?;
            Some((number, name, value))
        })
    }

    /// Returns the values, mutably.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, (_, value))| value)
    }

    /// Returns whether most of the capacity is unused since a peak.
    pub fn is_sparse(&self) -> bool {
        self.numbers.len() < self.numbers.capacity() / SPARSE
    }

    /// Frees memory without changing a number.
    pub fn shrink(&mut self) {
        let Self { entries, numbers, seed } = self;
        entries.shrink_to_fit();
        numbers.shrink_to(2 * entries.len(), |number| hash_at(entries, seed, *number));
    }

    /// Frees memory. Numbers may change.
    pub fn compact(&mut self) {
        let Self { entries, numbers, seed } = self;
        entries.compact(|(name, _), from, to| {
            let hash = hash(seed, name.as_ref().as_bytes());
            let found = numbers.find_mut(hash, |number| *number as usize == from);
            found.map(|found| *found = to_u32(to)).is_some()
        });
        self.shrink();
    }
}

impl<K, T> Default for Directory<K, T> {
    fn default() -> Self {
        Self { entries: Slab::new(), numbers: HashTable::new(), seed: RandomState::default() }
    }
}

impl<K, T> Index<u32> for Directory<K, T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.entries[number as usize].1
    }
}

impl<K, T> IndexMut<u32> for Directory<K, T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.entries[number as usize].1
    }
}

/// The size in the table of docs/performance/memory.md.
#[cfg(test)]
pub(super) const SIZE: (&str, usize) = ("numbers", size_of::<u32>() + 1);

/// Converts an index. Numbers have 32 bits, because 64 would double the size of the types that hold them.
pub(super) fn to_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a process has fewer than 2^32 connections")
}

fn hash_at<K: AsRef<str>, T>(entries: &Slab<(K, T)>, seed: &RandomState, number: u32) -> u64 {
    hash(seed, entries[number as usize].0.as_ref().as_bytes())
}

pub(super) fn hash(seed: &RandomState, name: &[u8]) -> u64 {
    let mut hasher = seed.build_hasher();
    hasher.write(name);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Channel;

    fn channel(number: usize) -> Channel {
        Channel::from_redis(&format!("user:{number}:"))
    }

    /// Returns a directory of 1,000 channels after the removal of all but every hundredth.
    fn after_a_peak() -> Directory<Channel, usize> {
        let mut directory = Directory::default();
        for number in 0..1_000 {
            directory.insert(channel(number), number);
        }
        directory.retain(|number| number % 10 == 9);
        for number in (9..1_000).step_by(10).filter(|number| number % 100 != 99) {
            let found = directory.find(channel(number).as_str()).unwrap();
            assert_eq!(directory.remove(found), (channel(number), number));
        }
        directory
    }

    #[track_caller]
    fn check(directory: &Directory<Channel, usize>) {
        assert_eq!((directory.len(), directory.iter().count()), (10, 10));
        for number in 0..1_000 {
            let found = directory.find(channel(number).as_str());
            assert_eq!(found.map(|found| directory[found]), (number % 100 == 99).then_some(number));
            assert!(found.is_none_or(|found| *directory.name(found) == channel(number)));
        }
    }

    #[test]
    fn each_entry_keeps_its_number_until_it_is_removed() {
        let mut directory = after_a_peak();
        check(&directory);
        assert!(directory.is_sparse());
        let numbers: Vec<_> = (0..10).map(|n| directory.find(channel(100 * n + 99).as_str())).collect();
        directory.shrink();
        check(&directory);
        assert!(!directory.is_sparse());
        assert!((0..10).all(|n| directory.find(channel(100 * n + 99).as_str()) == numbers[n]));
    }

    #[test]
    fn an_empty_directory_keeps_no_capacity() {
        let mut directory = after_a_peak();
        directory.shrink();
        for number in (99..1_000).step_by(100).rev() {
            let found = directory.find(channel(number).as_str()).unwrap();
            directory.remove(found);
        }
        assert_eq!((directory.len(), directory.entries.capacity()), (0, 0));
    }

    #[test]
    fn after_compacting_each_entry_is_found_under_its_new_number() {
        let mut directory = after_a_peak();
        directory.compact();
        check(&directory);
        assert!(!directory.is_sparse() && directory.entries.capacity() < 100);
        assert_eq!(directory.insert(channel(0), 0), 10);
    }
}
