//! What is known of channels, found by their names or by numbers.

use std::hash::{BuildHasher, Hasher};
use std::ops::{Index, IndexMut};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::routing::number;
use crate::wire::Channel;

/// By how much fewer channels there have to be than there is topic for, until that topic is given back.
const SPARSE: usize = 8;

/// Something for each of many channels, found by the channel's name or by a number that it keeps.
///
/// A table has up to 2.3 slots for each entry. So this one holds nothing but numbers, and names are compared where the
/// rest stands.
#[derive(Debug)]
pub struct Directory<T> {
    entries: Slab<(Channel, T)>,
    numbers: HashTable<u32>,
    seed: RandomState,
}

impl<T> Directory<T> {
    /// Returns the number of a channel, if it is there. What Redis sends need not be text for that.
    pub fn find(&self, channel: &(impl AsRef<[u8]> + ?Sized)) -> Option<u32> {
        let channel = channel.as_ref();
        let is_it = |number: &u32| self.entries[*number as usize].0.as_str().as_bytes() == channel;
        self.numbers.find(hash(&self.seed, channel), is_it).copied()
    }

    /// Adds a channel that is not there, and returns its number.
    pub fn insert(&mut self, channel: Channel, value: T) -> u32 {
        let Self { entries, numbers, seed } = self;
        let hash = hash(seed, channel.as_str().as_bytes());
        let number = number(entries.insert((channel, value)));
        numbers.insert_unique(hash, number, |other| hash_at(entries, seed, *other));
        number
    }

    /// Takes a channel out.
    pub fn remove(&mut self, number: u32) -> (Channel, T) {
        let hash = hash_at(&self.entries, &self.seed, number);
        if let Ok(found) = self.numbers.find_entry(hash, |other| *other == number) {
            found.remove();
        }
        let entry = self.entries.remove(number as usize);
        if self.entries.is_empty() {
            // A slab keeps topic up to the highest number of a peak.
            self.entries = Slab::new();
        }
        entry
    }

    /// Keeps only what is to be kept.
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

    /// Returns the name of a channel.
    pub fn name(&self, number: u32) -> &Channel {
        &self.entries[number as usize].0
    }

    /// Returns the name of a channel, and what is known of it, to be changed.
    pub fn entry_mut(&mut self, number: u32) -> (&Channel, &mut T) {
        let (channel, value) = &mut self.entries[number as usize];
        (channel, value)
    }

    /// Returns the number of channels.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns what is known of each channel.
    pub fn iter(&self) -> impl Iterator<Item = (&Channel, &T)> {
        self.entries.iter().map(|(_, (channel, value))| (channel, value))
    }

    /// Returns what is known of each channel, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, (_, value))| value)
    }

    /// Tells whether most of its memory is of use to nobody: a peak has needed it.
    pub fn is_sparse(&self) -> bool {
        self.numbers.len() < self.numbers.capacity() / SPARSE
    }

    /// Gives memory back, as far as nobody has to get another number for that.
    pub fn shrink(&mut self) {
        let Self { entries, numbers, seed } = self;
        entries.shrink_to_fit();
        numbers.shrink_to(2 * entries.len(), |number| hash_at(entries, seed, *number));
    }

    /// Gives memory back. Numbers may be others from now on.
    pub fn compact(&mut self) {
        let Self { entries, numbers, seed } = self;
        entries.compact(|(channel, _), from, to| {
            let hash = hash(seed, channel.as_str().as_bytes());
            let found = numbers.find_mut(hash, |number| *number as usize == from);
            found.map(|found| *found = number(to)).is_some()
        });
        self.shrink();
    }
}

impl<T> Default for Directory<T> {
    fn default() -> Self {
        Self { entries: Slab::new(), numbers: HashTable::new(), seed: RandomState::default() }
    }
}

impl<T> Index<u32> for Directory<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.entries[number as usize].1
    }
}

impl<T> IndexMut<u32> for Directory<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.entries[number as usize].1
    }
}

/// What stands in the table of docs/performance/memory.md.
#[cfg(test)]
pub(super) const SIZE: (&str, usize) = ("numbers", size_of::<u32>() + 1);

fn hash_at<T>(entries: &Slab<(Channel, T)>, seed: &RandomState, number: u32) -> u64 {
    hash(seed, entries[number as usize].0.as_str().as_bytes())
}

fn hash(seed: &RandomState, channel: &[u8]) -> u64 {
    let mut hasher = seed.build_hasher();
    hasher.write(channel);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(number: usize) -> Channel {
        Channel::from_redis(&format!("user:{number}:"))
    }

    /// Returns a directory of a thousand channels of which only every hundredth is left.
    fn after_a_peak() -> Directory<usize> {
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
    fn check(directory: &Directory<usize>) {
        assert_eq!((directory.len(), directory.iter().count()), (10, 10));
        for number in 0..1_000 {
            let found = directory.find(channel(number).as_str());
            assert_eq!(found.map(|found| directory[found]), (number % 100 == 99).then_some(number));
            assert!(found.is_none_or(|found| *directory.name(found) == channel(number)));
        }
    }

    #[test]
    fn each_is_found_under_its_number_until_it_is_taken_out() {
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
    fn the_last_one_leaves_no_room_behind() {
        let mut directory = after_a_peak();
        directory.shrink();
        for number in (99..1_000).step_by(100).rev() {
            let found = directory.find(channel(number).as_str()).unwrap();
            directory.remove(found);
        }
        assert_eq!((directory.len(), directory.entries.capacity()), (0, 0));
    }

    #[test]
    fn after_a_peak_each_is_found_under_another_number() {
        let mut directory = after_a_peak();
        directory.compact();
        check(&directory);
        assert!(!directory.is_sparse() && directory.entries.capacity() < 100);
        assert_eq!(directory.insert(channel(0), 0), 10);
    }
}
