//! Tests that start a Redis of their own in order to break or configure it.

#![expect(clippy::unwrap_used, reason = "test helpers")]

mod churn;
mod cluster;
mod connect_order;
mod cuts;
mod deployments;
mod descriptors;
mod echo_memory;
mod error_replies;
mod event_queue;
mod handshake_races;
mod histories;
mod keyspace_events;
mod large_sessions;
mod least_rights;
mod live;
mod live_joins;
mod live_presence;
mod live_proof;
mod live_turns;
mod outage;
mod plain_events;
mod presence;
mod publications;
mod readiness;
mod refusals;
mod sentinel;
mod socket_io;
mod socket_io_events;
mod tls;
mod yunity_loss;
