//! A small in-memory Redis for trying out.
