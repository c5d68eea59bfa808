//! End-to-end tests of the gateway: the real binary, real sockets and a real Redis.
//!
//! `WS4REDIS_TEST_STORE=embedded` replaces Redis by the embedded store. Tests that start a Redis of their own, in order
//! to break it, are in `redis_only`; skip them then with `--skip redis_only::`.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod activation;
mod admin;
mod callback;
mod callback_sockets;
mod channels;
mod channels_core;
mod channels_live;
mod check;
mod commands;
mod delivery;
mod development;
mod echo;
mod emitter;
mod events;
mod frames;
mod front_ends;
mod handshake;
mod heartbeat;
mod history;
mod http;
mod identity;
mod jwt;
mod keyspace_events;
mod limits;
mod lingering;
mod listening;
mod live;
mod live_callback;
mod live_history;
mod live_publish;
mod live_resume;
mod live_streams;
mod logs;
mod messenger;
mod mounts;
mod outboxes;
mod ping;
mod polling;
mod polling_end;
mod polling_load;
mod proxies;
mod publish;
mod publish_limits;
mod redis_manager;
mod redis_only;
mod reload;
mod session_end;
mod shards;
mod shutdown;
mod signals;
mod slow_client;
mod smoke;
mod socket_io;
mod static_files;
mod support;
mod systemd;
mod unfinished;
mod whoami;
mod yunity;
