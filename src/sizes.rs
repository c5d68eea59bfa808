//! What connections take, compared with the table that tells of it: whoever makes one of these larger notices.

use crate::{broker, hub, socket, visitors};

const TABLE: &str = include_str!("../docs/performance/memory.md");

#[test]
fn what_a_connection_takes_is_what_the_table_says() {
    let sizes: Vec<(&str, usize)> = [hub::SIZES, broker::SIZES, visitors::watch::SIZES, &socket::sizes()]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    // A row whose size is checked begins with the name in backticks; the size stands behind it.
    let rows: Vec<(&str, usize)> = TABLE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name, rest.split(' ').next().unwrap().parse().unwrap()))
        .collect();
    for (name, size) in &sizes {
        assert!(rows.contains(&(name, *size)), "{name} takes {size} bytes, which the table does not say");
    }
    for (name, _) in &rows {
        assert!(sizes.iter().any(|(known, _)| known == name), "{name} is checked by nobody");
    }
}
