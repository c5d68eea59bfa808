//! One client's socket: reads all that is ready, runs it, writes all replies together.

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
    sync::Notify,
    time::Instant,
};
use tokio_util::codec::Decoder;

use super::{dispatch::dispatch, reply::Reply, request::Requests, store::MemoryStore};

/// How much is read in one turn.
const READ_BYTES: usize = 64 * 1024;
/// How much one system call may bring; zeroing it first costs 0.1 µs.
const CHUNK_BYTES: usize = 8 * 1024;
/// With more than this waiting, or half of the output bound, no further request is run and nothing is read, so that a
/// client which pipelines more than it reads is slowed down, not cut.
const HIGH_WATER_BYTES: usize = 1 << 20;
/// How long a client may take to read the last replies after QUIT, a protocol error or its own end of stream.
const FAREWELL: Duration = Duration::from_secs(5);

/// A client's task.
pub(crate) struct StoreConnection {
    stream: TcpStream,
    store: Rc<RefCell<MemoryStore>>,
    slot: usize,
    bell: Rc<Notify>,
    buffer: BytesMut,
    requests: Requests,
    high_water: usize,
    /// Requests may lie in the buffer that were not run because too many replies waited.
    behind: bool,
    farewell: Option<Instant>,
}

impl Drop for StoreConnection {
    fn drop(&mut self) {
        self.store.borrow_mut().leave(self.slot);
    }
}

impl StoreConnection {
    /// Enters the client into the store, which it leaves when the connection is dropped.
    ///
    /// # Errors
    /// When the socket has no addresses any more.
    pub(crate) fn new(stream: TcpStream, store: Rc<RefCell<MemoryStore>>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        let mut borrowed = store.borrow_mut();
        let slot = borrowed.enter(peer, local);
        let bell = borrowed.output(slot).bell();
        let requests = Requests::new(borrowed.limits.max_request_bytes);
        let high_water = HIGH_WATER_BYTES.min(borrowed.limits.max_output_bytes / 2 + 1);
        drop(borrowed);
        Ok(Self {
            stream,
            store,
            slot,
            bell,
            buffer: BytesMut::new(),
            requests,
            high_water,
            behind: false,
            farewell: None,
        })
    }

    /// Serves the client until either side ends it.
    ///
    /// # Errors
    /// When the socket fails.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        loop {
            if self.behind && self.has_room() {
                self.run_requests();
            }
            self.write()?;
            if self.is_over() {
                return Ok(());
            }
            if self.behind && self.has_room() {
                tokio::task::yield_now().await;
                continue;
            }
            let Some(ready) = self.wait().await? else { continue };
            if ready.is_readable() || ready.is_read_closed() {
                self.read()?;
            }
        }
    }

    /// Waits for the socket, or for something to write (`None`).
    async fn wait(&self) -> io::Result<Option<Ready>> {
        let may_read = self.farewell.is_none() && self.has_room();
        let must_write = !self.store.borrow().output(self.slot).pending().is_empty();
        let interest = match (may_read, must_write) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, _) => Interest::WRITABLE,
        };
        let deadline = self.farewell.unwrap_or_else(Instant::now);
        tokio::select! {
            ready = self.stream.ready(interest) => ready.map(Some),
            () = self.bell.notified() => Ok(None),
            () = tokio::time::sleep_until(deadline), if self.farewell.is_some() => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn has_room(&self) -> bool {
        self.store.borrow().output(self.slot).pending().len() < self.high_water
    }

    fn is_over(&self) -> bool {
        let store = self.store.borrow();
        let client = &store.clients[self.slot];
        client.cut || (self.farewell.is_some() && !self.behind && client.output.pending().is_empty())
    }

    fn read(&mut self) -> io::Result<()> {
        if self.farewell.is_some() || !self.has_room() {
            return Ok(());
        }
        let mut left = READ_BYTES;
        while left > 0 {
            let filled = self.buffer.len();
            self.buffer.resize(filled + CHUNK_BYTES, 0);
            let read = self.stream.try_read(&mut self.buffer[filled..]);
            self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => {
                    self.say_farewell();
                    break;
                }
                Ok(bytes) => left = left.saturating_sub(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.run_requests();
        Ok(())
    }

    /// Runs what has arrived whole, as long as the replies have room.
    fn run_requests(&mut self) {
        let mut store = self.store.borrow_mut();
        self.behind = false;
        loop {
            let client = &store.clients[self.slot];
            if client.closing || client.cut {
                break;
            }
            if client.output.pending().len() >= self.high_water {
                self.behind = true;
                break;
            }
            match self.requests.decode(&mut self.buffer) {
                Ok(Some(request)) => dispatch(&mut store, self.slot, &request),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(
                        connection = client.id,
                        "client of the embedded store broke the protocol"
                    );
                    store.answer(self.slot, &Reply::error(&error.to_string()));
                    store.clients[self.slot].closing = true;
                }
            }
        }
        store.unread(self.slot, self.buffer.len());
        let closing = store.clients[self.slot].closing;
        drop(store);
        if self.buffer.is_empty() && self.buffer.capacity() > READ_BYTES {
            self.buffer = BytesMut::new();
        }
        if closing {
            self.say_farewell();
        }
    }

    fn say_farewell(&mut self) {
        self.farewell.get_or_insert_with(|| Instant::now() + FAREWELL);
    }

    fn write(&self) -> io::Result<()> {
        let mut store = self.store.borrow_mut();
        loop {
            let pending = store.output(self.slot).pending();
            if pending.is_empty() {
                return Ok(());
            }
            match self.stream.try_write(pending) {
                Ok(bytes) => store.written(self.slot, bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
