//! One client's socket: reads what has arrived, runs the requests, and writes all replies together.

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
    sync::Notify,
    time::Instant,
};

use super::{dispatch::dispatch, reply::Reply, request::Requests, store::MemoryStore};

/// Bytes read before requests run and other tasks get a turn.
const READ_BYTES: usize = 64 * 1024;
/// Bytes read by one system call. The buffer is zeroed first, which takes 0.1 µs for this size.
const CHUNK_BYTES: usize = 8 * 1024;
/// Above this output, or half of the limit, requests neither run nor are read: backpressure for a client that pipelines
/// faster than it reads. Without it such a client would reach the limit and be disconnected.
const HIGH_WATER_BYTES: usize = 1 << 20;
/// Time for the client to read its last replies after QUIT, a protocol error or the end of its stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client's task.
pub(crate) struct StoreConnection {
    stream: TcpStream,
    store: Rc<RefCell<MemoryStore>>,
    slot: usize,
    wakeup: Rc<Notify>,
    buffer: BytesMut,
    requests: Requests,
    high_water: usize,
    /// The buffer may contain complete requests that did not run because of backpressure.
    has_backlog: bool,
    close_deadline: Option<Instant>,
}

impl Drop for StoreConnection {
    fn drop(&mut self) {
        self.store.borrow_mut().remove_client(self.slot);
    }
}

impl StoreConnection {
    /// Adds the client to the store; dropping the connection removes it.
    ///
    /// # Errors
    /// When the client has already disconnected.
    pub(crate) fn new(stream: TcpStream, store: Rc<RefCell<MemoryStore>>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        let mut borrowed = store.borrow_mut();
        let slot = borrowed.add_client(peer, local);
        let wakeup = borrowed.output(slot).wakeup();
        let requests = Requests::new(borrowed.limits.max_request_bytes);
        let high_water = HIGH_WATER_BYTES.min(borrowed.limits.max_output_bytes / 2 + 1);
        drop(borrowed);
        Ok(Self {
            stream,
            store,
            slot,
            wakeup,
            buffer: BytesMut::new(),
            requests,
            high_water,
            has_backlog: false,
            close_deadline: None,
        })
    }

    /// Serves the client until either side closes the connection.
    ///
    /// Waits for bytes to read while the output is below the high-water mark, for room to write while there is output,
    /// for output that other clients cause, and for the timeout of a closing connection.
    ///
    /// # Errors
    /// When the socket fails.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        loop {
            if self.has_backlog && self.is_below_high_water() {
                self.run_requests();
            }
            self.write()?;
            if self.is_finished() {
                return Ok(());
            }
            if self.has_backlog && self.is_below_high_water() {
                // The socket took all replies at once; other clients get a turn before the next batch.
                tokio::task::yield_now().await;
                continue;
            }
            let Some(ready) = self.wait().await? else { continue };
            if ready.is_readable() || ready.is_read_closed() {
                self.read()?;
            }
        }
    }

    /// Waits for the socket, or for new output (`None`).
    async fn wait(&self) -> io::Result<Option<Ready>> {
        let may_read = self.close_deadline.is_none() && self.is_below_high_water();
        let must_write = !self.store.borrow().output(self.slot).pending().is_empty();
        let interest = match (may_read, must_write) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, _) => Interest::WRITABLE,
        };
        let deadline = self.close_deadline.unwrap_or_else(Instant::now);
        tokio::select! {
            ready = self.stream.ready(interest) => ready.map(Some),
            () = self.wakeup.notified() => Ok(None),
            () = tokio::time::sleep_until(deadline), if self.close_deadline.is_some() => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn is_below_high_water(&self) -> bool {
        self.store.borrow().output(self.slot).pending().len() < self.high_water
    }

    fn is_finished(&self) -> bool {
        let store = self.store.borrow();
        let client = &store.clients[self.slot];
        client.disconnected
            || (self.close_deadline.is_some() && !self.has_backlog && client.output.pending().is_empty())
    }

    fn read(&mut self) -> io::Result<()> {
        if self.close_deadline.is_some() || !self.is_below_high_water() {
            return Ok(());
        }
        let mut budget = READ_BYTES;
        while budget > 0 {
            let filled = self.buffer.len();
            self.buffer.resize(filled + CHUNK_BYTES, 0);
            let read = self.stream.try_read(&mut self.buffer[filled..]);
            self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => {
                    self.start_closing();
                    break;
                }
                Ok(bytes) => budget = budget.saturating_sub(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.run_requests();
        Ok(())
    }

    /// Runs complete requests until the output reaches the high-water mark.
    fn run_requests(&mut self) {
        let mut store = self.store.borrow_mut();
        self.has_backlog = false;
        loop {
            let client = &store.clients[self.slot];
            if client.closing || client.disconnected {
                break;
            }
            if client.output.pending().len() >= self.high_water {
                self.has_backlog = true;
                break;
            }
            match self.requests.decode(&mut self.buffer) {
                Ok(Some(request)) => dispatch(&mut store, self.slot, &request),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(
                        connection = client.id,
                        "malformed request to the embedded store; closing the connection"
                    );
                    store.send_reply(self.slot, &Reply::error(&error.to_string()));
                    store.clients[self.slot].closing = true;
                }
            }
        }
        store.set_unread(self.slot, self.buffer.len());
        let closing = store.clients[self.slot].closing;
        drop(store);
        if self.buffer.is_empty() && self.buffer.capacity() > READ_BYTES {
            self.buffer = BytesMut::new();
        }
        if closing {
            self.start_closing();
        }
    }

    fn start_closing(&mut self) {
        self.close_deadline.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT);
    }

    fn write(&self) -> io::Result<()> {
        let mut store = self.store.borrow_mut();
        loop {
            let pending = store.output(self.slot).pending();
            if pending.is_empty() {
                return Ok(());
            }
            match self.stream.try_write(pending) {
                Ok(bytes) => store.mark_written(self.slot, bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
