//! Deadlines of the phases of a request; a connection as a whole has none.
//!
//! hyper only has a timeout for request heads, which also runs while a connection is idle, and none for answers.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::stream::Stream;

/// How long each phase of a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For the head of a request, for its body, and for the client to take the answer.
    pub request: Duration,
    /// For the server to answer; every wait before that has a shorter deadline of its own.
    pub answer: Duration,
    /// For a client of Engine.IO to get a packet.
    pub poll: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
}

/// The phases of an HTTP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The head of a request is being read.
    Head,
    /// The body of a request is being read, or its answer prepared.
    Answer,
    /// The client waits for packets.
    Poll,
    /// The answer is being written.
    Write,
    /// Every request has been answered.
    Idle,
}

/// The phase of one connection and its deadline.
#[derive(Debug)]
pub(super) struct Deadlines {
    times: Times,
    phase: Cell<Phase>,
    deadline: Cell<Instant>,
}

impl Deadlines {
    /// Starts with the head of the first request.
    pub(super) fn new(times: Times) -> Rc<Self> {
        let deadline = Cell::new(Instant::now() + times.request);
        Rc::new(Self { times, phase: Cell::new(Phase::Head), deadline })
    }

    /// Starts a phase.
    pub(super) fn enter(&self, phase: Phase) {
        let time = match phase {
            Phase::Head | Phase::Write => self.times.request,
            Phase::Answer => self.times.answer,
            Phase::Poll => self.times.poll,
            Phase::Idle => self.times.idle,
        };
        self.phase.set(phase);
        self.deadline.set(Instant::now() + time);
    }

    /// Starts phase `to`, if the connection is in phase `from`.
    fn advance(&self, from: Phase, to: Phase) {
        if self.phase.get() == from {
            self.enter(to);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.phase.get() == Phase::Idle
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline.get()
    }
}

/// A client's socket that advances the phase when a request starts and when an answer has been written.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) stream: Stream,
    pub(super) deadlines: Rc<Deadlines>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.deadlines.advance(Phase::Idle, Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.deadlines.advance(Phase::Idle, Phase::Write);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// hyper flushes when it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.deadlines.advance(Phase::Write, Phase::Idle);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
