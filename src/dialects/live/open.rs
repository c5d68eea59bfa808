//! Opens a connection, from a checked handshake to its task.

use std::rc::Rc;

use tokio::time::timeout;
use tracing::{Span, field};

use super::connection::LiveConnection;
use super::reading::{FacilityReading, live_channels};
use super::refusal::RequestRefusal;
use super::resume::Resume;
use super::subscribe::{JoinedFacility, has_capacity};
use crate::access::Grant;
use crate::dialects::identify::{Identified, identify, no_redis, revalidate};
use crate::dialects::relay::join;
use crate::http::{HandshakeRequest, Rejection, ResumeText, Upgraded};
use crate::shard::state::{ConnectionPermit, ShardState};
use crate::visitors::AuthSource;

/// Opens a connection. Its first subscription is that of the address, unless the facility there is empty. Returns the
/// continuation that serves it, which runs once `http` has written the 101.
///
/// # Errors
///
/// When the visitor cannot be identified or is refused, or when the channels cannot be joined.
pub async fn open(
    state: &Rc<ShardState>,
    request: HandshakeRequest,
    from: ResumeText,
) -> Result<impl FnOnce(Upgraded, ConnectionPermit) + use<>, Rejection> {
    let handshake = &request.handshake;
    Span::current().record("facility", field::debug(&handshake.facility));
    let resume = resume_of(&from)?;
    let within = state.process.settings.server.handshake;
    let has_facility = !handshake.facility.as_str().is_empty();
    // From here on invalidations are logged for this handshake: its lease does not exist yet.
    let in_flight = state.visitors.leases.begin();
    let mut identified = identify(state, &request).await?;
    let (policy, grant, live, joining, persisted, history, groups) = loop {
        let (policy, visitor) = (state.policy.get(), &identified.visitor);
        let grant = if has_facility {
            policy.grant(handshake, &visitor.identity, visitor.allowed)?
        } else {
            Grant::default()
        };
        let live = live_channels(state, &handshake.facility, &grant.subscribe);
        let reading = FacilityReading::new(state, &handshake.facility, &grant, resume.as_ref());
        let is_late = |_| no_redis(state, "Redis did not answer within server.handshake_seconds");
        let (_permit, starts) = timeout(within, reading.begin()).await.map_err(is_late)??;
        let subscribed = timeout(within, reading.subscribed(&live)).await.map_err(is_late)??;
        let joining = join(state, &[&grant.subscribe[..], &live].concat(), visitor);
        drop(subscribed);
        let labelled = Some(&handshake.facility);
        let read = joining.read(state, &[], &grant.groups, labelled, visitor).await?;
        let reading = reading.read(&joining.subscription, &starts);
        let (persisted, history) = timeout(within, reading).await.map_err(is_late)??;
        let (latest, is_same) = revalidate(state, identified, read.refreshed);
        identified = latest;
        // Another identity may have another grant.
        if is_same {
            break (policy, grant, live, joining, persisted, history, read.groups);
        }
    };
    if !has_capacity(state, groups.as_ref()) {
        return Err(Rejection::OutboxesFull);
    }
    let Identified { visitor, since } = identified;
    let HandshakeRequest { handshake, credentials } = request;
    // Everything below runs after the 101.
    Ok(move |upgraded: Upgraded, permit: ConnectionPermit| {
        let Upgraded { stream, early, head } = upgraded;
        let mut connection = LiveConnection::new(permit, stream, head, credentials, &visitor.identity);
        // What the callback has answered is about this facility.
        let is_own = matches!(visitor.auth_source, AuthSource::Callback(_));
        let own = is_own.then(|| (visitor.clone(), since));
        connection.hold_lease(visitor, since, joining.watch);
        if has_facility {
            let subscription = joining.subscription;
            let permit = None;
            let joined =
                JoinedFacility { policy, grant, live, subscription, persisted, history, groups, permit, own };
            connection.open_facility(handshake, resume, joined);
        }
        // Only now invalidations reach the connection through its lease.
        drop(in_flight);
        tokio::task::spawn_local(connection.serve(&early));
    })
}

/// Returns where the histories of the address's facility are read from.
fn resume_of(from: &ResumeText) -> Result<Option<Resume>, Rejection> {
    if let Some(since) = &from.since {
        let since = Resume::since_in_address(since);
        return since
            .map(Some)
            .ok_or(Rejection::Bad("since has to be the id of a message, or those of audiences"));
    }
    let Some(last) = &from.last else { return Ok(None) };
    match last.parse() {
        Ok(last) if last > 0 => Ok(Some(Resume::Last(last))),
        _ => Err(Rejection::Bad("last has to be a positive number")),
    }
}

impl From<RequestRefusal> for Rejection {
    fn from(refusal: RequestRefusal) -> Self {
        match refusal {
            RequestRefusal::Unsubscribable => Self::Unsubscribable,
            RequestRefusal::NoMemory => Self::OutboxesFull,
            _ => Self::NoRedis,
        }
    }
}
