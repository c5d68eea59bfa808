//! Echo suppression: without the flag `echo` a client does not receive its own messages.

use crate::access::Grant;
use crate::hub::{Addition, Listener, Subscription};

use super::client::RelayClient;

/// Returns the topics that a client both subscribes and publishes to, those that it is joining included. Empty with the
/// flag `echo`.
pub(super) fn topics(grant: &Grant, subscription: &Subscription, addition: Option<&Addition>) -> Box<[u32]> {
    if grant.echo {
        return Box::default();
    }
    let own = subscription.topic_ids(&grant.publish);
    let Some(addition) = addition else { return own };
    own.into_iter().chain(addition.joining().topic_ids(&grant.publish)).collect()
}

/// Records a publication, so that its client does not receive it.
pub(super) fn expect(client: &RelayClient, listener: &Listener, payload: &[u8], number: u32) {
    client.subscription.expect_echo(listener, &client.echo_topics, payload, number);
}
