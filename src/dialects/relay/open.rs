//! Opens a connection, from a checked handshake to its task.

use std::rc::Rc;

use tracing::{Span, field};

use super::connection::RelayConnection;
use super::join::join;
use crate::dialects::identify::{Identified, identify, revalidate};
use crate::http::{HandshakeRequest, Rejection, Upgraded};
use crate::shard::state::{ConnectionPermit, ShardState};

/// Opens a connection. Returns the continuation that serves it, which runs once `http` has written the 101.
///
/// # Errors
///
/// When the visitor cannot be identified or is refused, or when the channels cannot be joined.
pub async fn open(
    state: &Rc<ShardState>,
    request: HandshakeRequest,
) -> Result<impl FnOnce(Upgraded, ConnectionPermit) + use<>, Rejection> {
    let HandshakeRequest { handshake, credentials } = &request;
    Span::current().record("facility", field::debug(&handshake.facility));
    // From here on invalidations are logged for this handshake: its lease does not exist yet.
    let in_flight = state.visitors.leases.begin();
    let mut identified = identify(state, &request).await?;
    let (policy, grant, joining, persisted, groups) = loop {
        let (policy, visitor) = (state.policy.get(), &identified.visitor);
        let grant = policy.grant(handshake, &visitor.identity, visitor.allowed)?;
        let joining = join(state, &grant.subscribe, visitor);
        let read = joining.read(state, &grant.subscribe, &grant.groups, None, visitor).await?;
        let (latest, is_same) = revalidate(state, identified, read.refreshed);
        identified = latest;
        // Another identity may have another grant.
        if is_same {
            break (policy, grant, joining, read.persisted, read.groups);
        }
    };
    let kept = groups.as_ref().map_or(&[][..], |groups| groups.values());
    if !state.hub.with(|hub| hub.check_capacity(&persisted) && hub.check_capacity(kept)) {
        return Err(Rejection::OutboxesFull);
    }
    let Identified { visitor, since } = identified;
    let rate_limit =
        state.visitors.rate_limits.limit(&visitor.identity, credentials.client_address, grant.rate);
    let HandshakeRequest { handshake, credentials } = request;
    // Everything below runs after the 101.
    Ok(move |upgraded: Upgraded, permit: ConnectionPermit| {
        let Upgraded { stream, early, head } = upgraded;
        let mut connection =
            RelayConnection::new(permit, stream, head, handshake, joining.subscription, grant);
        connection.keep_details(credentials.details);
        connection.release(&persisted);
        connection.open_layer(groups, &visitor.identity);
        connection.limit(rate_limit, visitor.identity.is_anonymous());
        connection.announce(&visitor.identity);
        connection.hold_lease(visitor, since, joining.watch);
        connection.reauthorize_unless(&policy);
        // Only now invalidations reach the connection through its lease.
        drop(in_flight);
        tokio::task::spawn_local(connection.serve(&early));
    })
}
