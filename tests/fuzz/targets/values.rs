//! Values of every type in pickle, msgpack and JSON, within limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::codec::{Value, ValueLimits, json, msgpack, pickle};

const LIMITS: ValueLimits = ValueLimits { bytes: 4_096, items: 1_000, depth: 16 };

fuzz_target!(|input: &[u8]| {
    for read_value in [pickle::read_value, msgpack::read_value, json::read_value] {
        if let Ok(value) = read_value(input, LIMITS) {
            assert!(count(&value, LIMITS.depth) <= LIMITS.items);
        }
    }
});

/// Counts a value and those within it, and checks its depth.
fn count(value: &Value, depth: usize) -> usize {
    let within: Vec<&Value> = match value {
        Value::List(items) | Value::Tuple(items) => items.iter().collect(),
        Value::Map(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).collect(),
        _ => return 1,
    };
    let depth = depth.checked_sub(1).expect("the depth limit holds");
    1 + within.into_iter().map(|value| count(value, depth)).sum::<usize>()
}
