//! The sizes in the table of docs/performance/memory.md.

use super::directory;
use super::listener::Listener;
use super::member::{Member, Membership};
use super::topic::{MemberSlot, TopicEntry};
use crate::wire::Topic;

pub(crate) const SIZES: &[(&str, usize)] = &[
    ("Listener", 2 * size_of::<usize>() + size_of::<Listener>()),
    ("Member", size_of::<Member>()),
    ("Membership", size_of::<Membership>()),
    ("MemberSlot", size_of::<MemberSlot>()),
    ("TopicEntry", size_of::<(Topic, TopicEntry)>()),
    directory::SIZE,
];
