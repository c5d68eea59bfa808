//! Compares the sizes of the types of a connection with docs/performance/memory.md, so that growth is noticed.

use crate::{broker, dialects, engine, hub, visitors};

const TABLE: &str = include_str!("../docs/performance/memory.md");

#[test]
fn sizes_match_the_table_of_memory() {
    let sizes: Vec<(&str, usize)> =
        [hub::SIZES, broker::SIZES, engine::SIZES, visitors::watch::SIZES, &dialects::relay::sizes()]
            .into_iter()
            .flatten()
            .copied()
            .collect();
    // A checked row starts with the name in backticks, followed by the size.
    let rows: Vec<(&str, usize)> = TABLE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name, rest.split(' ').next().unwrap().parse().unwrap()))
        .collect();
    for (name, size) in &sizes {
        assert!(rows.contains(&(name, *size)), "{name} has {size} bytes, which differs from the table");
    }
    for (name, _) in &rows {
        assert!(
            sizes.iter().any(|(known, _)| known == name),
            "{name} is in the table and no type has this name"
        );
    }
}
