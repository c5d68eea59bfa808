//! The server as its clients see it: the real binary, real sockets and a real Redis.
//!
//! `WS4REDIS_TEST_STORE=embedded` puts the embedded store in the place of Redis; tests that need a Redis of their own,
//! to break it, are in modules called `redis_only` and skipped then (`--skip redis_only::`).

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod activation;
mod callback;
mod callback_sockets;
mod commands;
mod delivery;
mod echo;
mod events;
mod frames;
mod front_ends;
mod handshake;
mod heartbeat;
mod http;
mod identity;
mod jwt;
mod keyspace_events;
mod limits;
mod lingering;
mod logs;
mod outboxes;
mod ping;
mod proxies;
mod publish;
mod publish_limits;
mod redis_only;
mod session_end;
mod shards;
mod shutdown;
mod signals;
mod slow_client;
mod smoke;
mod static_files;
mod support;
mod unfinished;
mod whoami;
