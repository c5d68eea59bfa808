//! One connection of the admin listener, with one request.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tracing::debug;

use super::publish::AdminPublisher;
use super::routes::{RouteSet, answer};
use super::shards::Shards;
use crate::settings::AdminSettings;
use crate::stream::{Accepted, DiscardLimits, Permit, Stream};

/// Limits of a request head.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// Time for the client to close after the answer.
const LINGER: Duration = Duration::from_secs(1);

/// State shared by the connections.
pub(super) struct AdminState {
    pub(super) settings: AdminSettings,
    pub(super) routes: RouteSet,
    pub(super) shards: Shards,
    /// Publishes messages; none where that is not served.
    pub(super) publisher: Option<AdminPublisher>,
    /// Takes what is read and not used.
    pub(super) discarded: RefCell<Box<[u8]>>,
}

/// Serves the request of a connection, and closes it. One deadline covers the request and its answer; a client that misses
/// it gets no answer. `permit` is held until the end.
pub(super) async fn serve(state: Rc<AdminState>, accepted: Accepted, permit: Permit) {
    let stream = match Stream::new(accepted.socket) {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, "cannot watch a connection of the admin listener; it is closed"),
    };
    let AdminState { settings, routes, shards, publisher, .. } = &*state;
    let publisher = publisher.as_ref();
    let respond =
        async |request| Ok::<_, Infallible>(answer(request, settings, *routes, shards, publisher).await);
    let service = service_fn(|request| Box::pin(respond(request)));
    let mut builder = http1::Builder::new();
    // A connection that stays open would keep its permit between two requests.
    builder.keep_alive(false).max_buf_size(MAX_HEADER_BYTES).max_headers(MAX_HEADERS);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|cx| connection.poll_without_shutdown(cx));
    let in_time = timeout(state.settings.request, served).await;
    let stream = connection.into_parts().io.into_inner();
    match in_time {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(error = ?error.to_string(), "admin request could not be served"),
        Err(_) => return debug!("admin request took too long"),
    }
    // Closing with unread data would reset the connection and destroy the answer.
    stream.shutdown();
    stream.discard(&state.discarded, DiscardLimits::total(LINGER), |_| false).await;
    drop(permit);
}
