//! What a connection may hear and say is looked at again, because who its visitor is has changed.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Close;
use super::connection::{Connection, Parts, shared};
use crate::access::{ClientAddress, Grant};
use crate::hub::{Addition, Listener, NotJoined, Subscription};
use crate::wire::Channel;

/// Time after which a connection tries again to join what it could not, and what Redis has refused.
const RETRY: Duration = Duration::from_secs(1);
const REFUSED_RETRY: Duration = Duration::from_mins(1);

/// Waits until a subscription can be relied on, and reads the persisted values of its channels. Safe to cancel.
///
/// # Errors
///
/// When it cannot join.
pub async fn read_joined(
    subscription: &Subscription,
    parts: &Parts,
    channels: &[Channel],
) -> Result<Vec<Option<Bytes>>, NotJoined> {
    loop {
        subscription.joined().await?;
        subscription.begin_reading();
        let persisted = parts.store.persisted(channels).await;
        if !subscription.is_stale()? {
            return persisted.map_err(|_| NotJoined::Lost);
        }
    }
}

impl Connection {
    /// Looks again at what may be heard and said: channels that are not allowed any more are left at once, new ones
    /// joined beside the rest. Returns why the connection has to end, if it has to.
    pub(super) fn reauthorize(&mut self) -> Option<Close> {
        let parts = self.permit.shared();
        let speech = &mut self.speech;
        let share = speech.share.as_ref()?;
        let visitor = share.visitor();
        let grant = match parts.policy.grant(&speech.asked, &visitor.identity, visitor.allowed) {
            Ok(grant) => grant,
            // It ends in a moment, and the client has to hear why.
            Err(_) if share.is_doubtful() => Grant::default(),
            Err(_) => return Some(Close::Denied),
        };
        // An anonymous visitor keeps its bucket, which may be that of its address: the address is not known here.
        if !visitor.identity.is_anonymous() {
            speech.rate_limit =
                parts.visitors.rate_limit(&visitor.identity, ClientAddress::Local, grant.rate);
        }
        drop(visitor);
        // What was being joined may be allowed no more.
        speech.addition = None;
        let missing = self.subscription.narrow(&grant.subscribe);
        let publish = grant.publish;
        let addition = (!missing.is_empty()).then(|| self.subscription.join_beside(&missing));
        speech.echo_topics = if grant.echo {
            Box::default()
        } else {
            let beside = addition.iter().flat_map(|addition| addition.joining().topics_of(&publish));
            self.subscription.topics_of(&publish).into_iter().chain(beside).collect()
        };
        speech.channels = shared(publish);
        speech.addition = addition.map(|addition| {
            let adding = add(addition, missing, parts, self.listener.clone());
            AbortOnDropHandle::new(tokio::task::spawn_local(adding))
        });
        None
    }
}

/// Brings channels that have been joined beside those of a connection to it. Where they cannot be had together, each is
/// tried alone: one that Redis refuses, or that is flooded, does not keep the others away.
async fn add(addition: Addition, channels: Vec<Channel>, parts: Rc<Parts>, listener: Rc<Listener>) {
    let mut retry = None;
    let mut waiting = vec![(addition, channels)];
    while let Some((addition, channels)) = waiting.pop() {
        let reading = read_joined(addition.joining(), &parts, &channels);
        match timeout(parts.join_patience, reading).await.unwrap_or(Err(NotJoined::Lost)) {
            Ok(persisted) => addition.merge(&listener, &persisted),
            Err(NotJoined::Refused | NotJoined::Flooded) if channels.len() > 1 => {
                waiting.extend(channels.into_iter().map(|channel| {
                    let channels = vec![channel];
                    (addition.alone(&channels), channels)
                }));
            }
            // The log says so.
            Err(NotJoined::Refused) => retry = retry.or(Some(REFUSED_RETRY)),
            Err(NotJoined::Lost | NotJoined::Flooded) => retry = Some(RETRY),
        }
    }
    if let Some(retry) = retry {
        sleep(retry).await;
        listener.reauthorize();
    }
}
