//! The listener: accepts clients up to the limit, and lets keys expire that nobody looks at.

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
    time::MissedTickBehavior,
};

use super::{
    connection::StoreConnection,
    limits::{ServeError, StoreLimits},
    store::MemoryStore,
};

/// How often expired keys are looked for; `expired` events come at most this late, plus the work itself.
const EXPIRY_PERIOD: Duration = Duration::from_millis(100);
/// How many keys expire before other tasks have their turn.
const EXPIRY_BATCH: usize = 1_000;
/// How long to wait after a failed accept, which usually means that file descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the store on a listener until `stop` is ready; then all connections end and the data are gone.
///
/// Runs on the thread that polls it, with a `LocalSet` and `spawn_local` of its own: the future is not `Send`, so drive it
/// by `block_on` of a current-thread runtime with I/O and time enabled. Dropping the future ends everything, too.
///
/// # Errors
/// When the listener's address is not a loopback address, or cannot be read.
pub async fn serve(
    listener: TcpListener,
    limits: StoreLimits,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Address)?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    tracing::info!(%address, limit_bytes = limits.max_memory_bytes, "embedded store started, its data live in memory only");
    let store = Rc::new(RefCell::new(MemoryStore::new(limits)));
    let local = LocalSet::new();
    local
        .run_until(async {
            tokio::select! {
                () = stop => {}
                () = accept(&listener, &store) => {}
                () = expire(&store) => {}
            }
        })
        .await;
    tracing::info!("embedded store stopped");
    Ok(())
}

async fn accept(listener: &TcpListener, store: &Rc<RefCell<MemoryStore>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(stream, store),
            Err(error) => {
                tracing::warn!(%error, "embedded store could not accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: TcpStream, store: &Rc<RefCell<MemoryStore>>) {
    let full = {
        let store = store.borrow();
        store.clients.len() >= store.limits.max_clients
    };
    if full {
        tracing::warn!(
            setting = "embedded.max_clients",
            "embedded store refused a client, too many are connected"
        );
        // A fresh socket has room for this; if not, the closed connection says enough.
        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
        return;
    }
    if let Ok(connection) = StoreConnection::new(stream, Rc::clone(store)) {
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.run().await {
                report(&error);
            }
        });
    }
}

fn report(error: &io::Error) {
    tracing::debug!(%error, "connection to the embedded store failed");
}

async fn expire(store: &Rc<RefCell<MemoryStore>>) {
    let mut tick = tokio::time::interval(EXPIRY_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        loop {
            let more = store.borrow_mut().expire(EXPIRY_BATCH);
            if !more {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}
