//! Tests that need a Redis of their own, to break it.

mod connect_order;
