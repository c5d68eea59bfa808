//! What the admin listener reads of a hub's topics.

use super::routing::Hub;
use crate::wire::Topic;

/// Returns the topics from a number on, with their numbers and the number of their members.
pub fn topics_from(hub: &Hub, first: u32) -> impl Iterator<Item = (u32, &Topic, usize)> {
    hub.topics.iter_from(first)
}

/// Returns the number of topics, with those that lost their last member since [`Hub::take_requests`].
pub fn topic_count(hub: &Hub) -> usize {
    hub.topics.len()
}
