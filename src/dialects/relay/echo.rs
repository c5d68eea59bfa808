//! Echo suppression: without the flag `echo` a client does not get its own messages back.

use crate::access::Grant;
use crate::hub::{Addition, Listener, Subscription};

use super::client::RelayClient;

/// Returns the topics whose messages may be a client's own, those that it is joining included.
pub(super) fn topics(grant: &Grant, subscription: &Subscription, addition: Option<&Addition>) -> Box<[u32]> {
    if grant.echo {
        return Box::default();
    }
    let own = subscription.topics_of(&grant.publish);
    let Some(addition) = addition else { return own };
    own.into_iter().chain(addition.joining().topics_of(&grant.publish)).collect()
}

/// Records a publication, so that the client does not get it back.
pub(super) fn expect(client: &RelayClient, listener: &Listener, payload: &[u8], number: u32) {
    client.subscription.expect_echo(listener, &client.echo_topics, payload, number);
}
