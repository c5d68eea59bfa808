//! Tests that need a Redis of their own, to break it.

mod churn;
mod connect_order;
mod deployments;
mod outage;
mod publications;
mod refusals;
