//! The thread of the admin listener, and its accept loop.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{info, warn};

use super::connection::{AdminState, serve};
use super::publish::AdminPublisher;
use super::routes::RouteSet;
use super::shards::Shards;
use crate::server::listeners::{Listeners, SocketFile};
use crate::settings::AdminSettings;
use crate::stream::Permit;
use crate::telemetry::LogThrottle;

/// Pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of one read of data that is discarded.
const DISCARD_BYTES: usize = 4 * 1024;

/// Kernel send buffer of a connection, which the kernel doubles: a client that does not read its page is noticed.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// The result of binding: the file to remove at the end, if the address is a unix socket.
type Bound = anyhow::Result<Option<SocketFile>>;

/// Starts the thread, and returns once it listens. It serves until the process ends, also during the drain.
///
/// # Errors
///
/// When the thread cannot be started, or the address cannot be bound: the operator has set it, so a gateway without it is
/// not what was asked for.
pub async fn start(
    settings: AdminSettings,
    routes: RouteSet,
    shards: Shards,
    publisher: Option<AdminPublisher>,
) -> Bound {
    let (bound, is_bound) = oneshot::channel();
    let work = move || run(settings, routes, shards, publisher, bound);
    std::thread::Builder::new().name("admin".to_owned()).spawn(work)?;
    is_bound.await.context("the thread of the admin listener has ended")?
}

fn run(
    settings: AdminSettings,
    routes: RouteSet,
    shards: Shards,
    publisher: Option<AdminPublisher>,
    bound: oneshot::Sender<Bound>,
) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match runtime.context("cannot start a runtime for the admin listener") {
        Ok(runtime) => runtime,
        Err(error) => return drop(bound.send(Err(error))),
    };
    runtime.block_on(async {
        let (listeners, file) = match listen(&settings, routes).await {
            Ok((listeners, file)) => (listeners, file),
            Err(error) => return drop(bound.send(Err(error))),
        };
        let _ = bound.send(Ok(file));
        let discarded = RefCell::new(vec![0; DISCARD_BYTES].into_boxed_slice());
        accept(listeners, Rc::new(AdminState { settings, routes, shards, publisher, discarded })).await;
    });
}

async fn listen(
    settings: &AdminSettings,
    routes: RouteSet,
) -> anyhow::Result<(Listeners, Option<SocketFile>)> {
    let mut listeners = Listeners::bind(&settings.listen, routes.key()).await?;
    // "localhost" may have any address in /etc/hosts.
    let is_local = listeners.address().is_none_or(|address| address.ip().is_loopback());
    ensure!(
        is_local || !settings.is_local,
        "{}: {} is not a loopback address; use 127.0.0.1 in place of the name",
        routes.key(),
        listeners.name()
    );
    listeners.tune(SEND_BUFFER_BYTES)?;
    let scheme = if listeners.address().is_some() { "http://" } else { "" };
    info!("{}: {scheme}{}", routes.name(), listeners.name());
    let file = listeners.take_file();
    Ok((listeners, file))
}

/// Accepts connections up to the limit; further ones are closed unread. Waits for connections only. Never returns.
async fn accept(mut listeners: Listeners, state: Rc<AdminState>) {
    let (most, live) = (state.settings.max_connections, Arc::<AtomicUsize>::default());
    let listener = state.routes.key();
    let (full, failing) = (LogThrottle::default(), LogThrottle::default());
    loop {
        match listeners.accept().await {
            Ok(accepted) => match Permit::take(&live, most) {
                Some(permit) => drop(tokio::task::spawn_local(serve(state.clone(), accepted, permit))),
                None => {
                    if let Some(suppressed) = full.allow() {
                        warn!(
                            listener,
                            most,
                            suppressed,
                            "too many connections to the admin listener; one is closed. Raise admin.max_connections if they are yours"
                        );
                    }
                }
            },
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(suppressed) = failing.allow() {
                    warn!(listener, %error, suppressed, "cannot accept connections to the admin listener; trying again");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
