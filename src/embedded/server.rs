//! The listener: accepts clients up to the limit, and removes expired keys.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
    time::MissedTickBehavior,
};

use super::{
    connection::StoreConnection,
    limits::{ServeError, StoreLimits},
    snapshot::SnapshotFile,
    store::MemoryStore,
};

/// How often expired keys are removed: an `expired` event is published at most this late, plus the time of the removal.
const EXPIRY_PERIOD: Duration = Duration::from_millis(100);
/// Time between a change and its snapshot: what a killed process loses.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(5);
/// Number of keys removed before other tasks get a turn.
const EXPIRY_BATCH: usize = 1_000;
/// Pause after a failed accept. The usual cause, no free file descriptor, would otherwise be retried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a new store on a listener until `stop` is ready, or until the future is dropped. Then all connections close, and
/// the data are lost, except for the strings in the snapshot file. The store begins with these.
///
/// Waits for `stop`, for clients, and for the timers that remove expired keys and write the snapshot. The future is not `Send`: run it with
/// `block_on` of a current-thread runtime that has I/O and time enabled.
///
/// # Errors
/// When the listener's address is not a loopback address, or cannot be read.
pub async fn serve(
    listener: TcpListener,
    limits: StoreLimits,
    snapshot: Option<PathBuf>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Address)?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    tracing::info!(%address, limit_bytes = limits.max_memory_bytes, "embedded store started");
    let mut store = MemoryStore::new(limits);
    if let Some(name) = snapshot.as_deref().and_then(Path::file_name) {
        store.snapshot_name = name.to_string_lossy().replace(char::is_control, "_");
    }
    let mut snapshot = snapshot.map(SnapshotFile::new);
    if let Some(file) = &mut snapshot {
        let now = store.clock.now_ms();
        file.load(&mut store.keyspace, now);
    }
    let store = Rc::new(RefCell::new(store));
    let local = LocalSet::new();
    local
        .run_until(async {
            tokio::select! {
                () = stop => {}
                () = accept(&listener, &store) => {}
                () = expire(&store) => {}
                () = save_changes(snapshot.as_mut(), &store) => {}
            }
        })
        .await;
    if let Some(file) = &mut snapshot {
        file.save(&store.borrow().keyspace);
    }
    tracing::info!("embedded store stopped");
    Ok(())
}

async fn accept(listener: &TcpListener, store: &Rc<RefCell<MemoryStore>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(stream, store),
            Err(error) => {
                tracing::warn!(%error, "embedded store cannot accept a client; retrying");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: TcpStream, store: &Rc<RefCell<MemoryStore>>) {
    let is_full = {
        let store = store.borrow();
        store.clients.len() >= store.limits.max_clients
    };
    if is_full {
        tracing::warn!(
            setting = "embedded.max_clients",
            "embedded store reached its limit of clients; the next one is refused"
        );
        // Best effort: the send buffer of a new socket is empty, and closing the connection refuses the client anyway.
        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
        return;
    }
    if let Ok(connection) = StoreConnection::new(stream, Rc::clone(store)) {
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.run().await {
                tracing::debug!(%error, "connection to the embedded store failed");
            }
        });
    }
}

/// Writes the snapshot while the store runs. It is small, and a store for development may pause for it.
async fn save_changes(snapshot: Option<&mut SnapshotFile>, store: &Rc<RefCell<MemoryStore>>) {
    let Some(file) = snapshot else { return std::future::pending().await };
    loop {
        tokio::time::sleep(SNAPSHOT_PERIOD).await;
        file.save(&store.borrow().keyspace);
    }
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
