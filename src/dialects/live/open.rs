//! Opens a connection, from a checked handshake to its task.

use std::rc::Rc;

use tracing::{Span, field};

use super::connection::LiveConnection;
use super::subscribe::JoinedFacility;
use crate::access::Grant;
use crate::dialects::identify::{Identified, identify, revalidate};
use crate::dialects::relay::join;
use crate::http::{HandshakeRequest, Rejection, Upgraded};
use crate::shard::state::{ConnectionPermit, ShardState};

/// Opens a connection. Its first subscription is that of the address, unless the facility there is empty. Returns the
/// continuation that serves it, which runs once `http` has written the 101.
///
/// # Errors
///
/// When the visitor cannot be identified or is refused, or when the channels cannot be joined.
pub async fn open(
    state: &Rc<ShardState>,
    request: HandshakeRequest,
) -> Result<impl FnOnce(Upgraded, ConnectionPermit) + use<>, Rejection> {
    let handshake = &request.handshake;
    Span::current().record("facility", field::debug(&handshake.facility));
    let has_facility = !handshake.facility.as_str().is_empty();
    // From here on invalidations are logged for this handshake: its lease does not exist yet.
    let in_flight = state.visitors.leases.begin();
    let mut identified = identify(state, &request).await?;
    let (grant, joining, persisted) = loop {
        let visitor = &identified.visitor;
        let grant = match has_facility {
            true => state.policy.grant(handshake, &visitor.identity, visitor.allowed)?,
            false => Grant::default(),
        };
        let joining = join(state, &grant.subscribe, visitor);
        let read = joining.read(state, &grant.subscribe, visitor).await?;
        let (latest, is_same) = revalidate(state, identified, read.refreshed);
        identified = latest;
        // Another identity may have another grant.
        if is_same {
            break (grant, joining, read.persisted);
        }
    };
    if !state.hub.with(|hub| hub.check_capacity(&persisted)) {
        return Err(Rejection::OutboxesFull);
    }
    let Identified { visitor, since } = identified;
    let HandshakeRequest { handshake, credentials } = request;
    // Everything below runs after the 101.
    Ok(move |upgraded: Upgraded, permit: ConnectionPermit| {
        let Upgraded { stream, early, head } = upgraded;
        let mut connection = LiveConnection::new(permit, stream, head, credentials, &visitor.identity);
        connection.hold_lease(visitor, since, joining.watch);
        if has_facility {
            let joined = JoinedFacility { grant, subscription: joining.subscription, persisted, own: None };
            connection.open_facility(handshake, joined);
        }
        // Only now invalidations reach the connection through its lease.
        drop(in_flight);
        tokio::task::spawn_local(connection.serve(&early));
    })
}
