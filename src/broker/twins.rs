//! Messages that arrive twice: those of a facility with a history are published on the channel of version 2, with an id, and
//! on the plain channel. Listeners of version 2 listen to both, because a publisher may use the plain channel only.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::{Channel, HistoryNames, Message, split_live};

/// Messages within which the second one arrives in a cluster, where those of several nodes mix. One server sends it next: the
/// script that publishes both runs alone.
const CLUSTER_WINDOW: u32 = 64;

/// Recognises the second of two messages that are the same.
#[derive(Debug)]
pub(super) struct TwinFinder {
    /// None if no facility has a history.
    names: Option<HistoryNames>,
    window: u32,
    expected: VecDeque<ExpectedTwin>,
}

/// A message that was published on a channel of version 2.
#[derive(Debug)]
struct ExpectedTwin {
    channel: Channel,
    payload: Bytes,
    /// Messages within which it has to arrive.
    left: u32,
}

impl TwinFinder {
    pub(super) fn new(names: Option<HistoryNames>, in_cluster: bool) -> Self {
        Self { names, window: if in_cluster { CLUSTER_WINDOW } else { 1 }, expected: VecDeque::new() }
    }

    /// Takes note of a message. Returns whether the channel of version 2 has had it before.
    pub(super) fn is_second(&mut self, message: &Message) -> bool {
        let Some(names) = &self.names else { return false };
        let name = std::str::from_utf8(message.channel()).unwrap_or_default();
        if let Some(channel) = names.plain_of_live(name) {
            self.pass();
            if let Some((_, payload)) = split_live(message.payload()) {
                let payload = message.shared_payload().slice_ref(payload);
                self.expected.push_back(ExpectedTwin { channel, payload, left: self.window });
            }
            return false;
        }
        let is_twin =
            |twin: &ExpectedTwin| twin.channel.as_str() == name && *twin.payload == *message.payload();
        let found = self.expected.iter().position(is_twin);
        if let Some(index) = found {
            self.expected.remove(index);
        }
        self.pass();
        found.is_some()
    }

    /// Ends the wait: something else has come, or the connection is another one.
    pub(super) fn interrupt(&mut self) {
        if self.window == 1 {
            self.expected.clear();
        }
    }

    /// Ends the wait in any case.
    pub(super) fn reset(&mut self) {
        self.expected.clear();
    }

    fn pass(&mut self) {
        self.expected.retain_mut(|twin| {
            twin.left -= 1;
            twin.left > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Namespace;

    fn finder(in_cluster: bool) -> TwinFinder {
        TwinFinder::new(Some(HistoryNames::new(&Namespace::default(), false)), in_cluster)
    }

    fn message(channel: &str, payload: &str) -> Message {
        let bytes = Bytes::from(format!("{channel}{payload}"));
        let end = bytes.len();
        Message::new(bytes, 0..channel.len(), channel.len()..end)
    }

    /// Publications as they arrive: whether by the script, the facility and the payload.
    fn arrivals(published: &[(bool, u8, u8)]) -> Vec<(Message, bool)> {
        let mut arrivals = Vec::new();
        for (id, (by_script, facility, payload)) in published.iter().enumerate() {
            let (channel, payload) = (format!("broadcast:{facility}"), format!("{payload} x"));
            if *by_script {
                let live = message(&format!("ws4redis:live:{channel}"), &format!("{id}-0 {payload}"));
                arrivals.push((live, false));
            }
            arrivals.push((message(&channel, &payload), *by_script));
        }
        arrivals
    }

    proptest::proptest! {
        /// Whatever is published by whom: exactly the second messages of the script are recognised.
        #[test]
        fn a_message_is_recognised_if_and_only_if_the_script_has_published_it(
            published in proptest::collection::vec((proptest::bool::ANY, 0u8..2, 0u8..2), 0..40),
        ) {
            let mut finder = finder(false);
            for (message, is_second) in arrivals(&published) {
                proptest::prop_assert_eq!(finder.is_second(&message), is_second);
            }
        }

        /// In a cluster the order of two nodes may mix: no message is lost, and none is delivered twice.
        #[test]
        fn in_a_cluster_as_many_messages_are_recognised_as_the_script_has_published(
            published in proptest::collection::vec((proptest::bool::ANY, 0u8..2, 0u8..2), 0..20),
            raw in proptest::collection::vec((0usize..40, 0u8..2, 0u8..2), 0..10),
        ) {
            let mut finder = finder(true);
            let mut mixed: Vec<_> = arrivals(&published).into_iter().map(|(message, _)| message).collect();
            for (at, facility, payload) in &raw {
                let channel = format!("broadcast:{facility}");
                mixed.insert(*at % (mixed.len() + 1), message(&channel, &format!("{payload} x")));
            }
            let found = mixed.iter().filter(|message| finder.is_second(message)).count();
            let by_script = published.iter().filter(|(by_script, ..)| *by_script).count();
            proptest::prop_assert_eq!(found, by_script);
        }
    }

    #[test]
    fn an_equal_message_behind_an_acknowledgement_is_another_one() {
        let mut finder = finder(false);
        assert!(!finder.is_second(&message("ws4redis:live:broadcast:1", "1-0 a")));
        finder.interrupt();
        assert!(
            !finder.is_second(&message("broadcast:1", "a")),
            "the plain channel was subscribed behind the script"
        );
    }
}
