//! The documents name tests: each has to exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("a folder of sources can be read");
    for path in entries.map(|entry| entry.expect("an entry can be read").path()) {
        if path.is_dir() && !path.ends_with(".cache") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the names of all functions below `src` and `tests`.
fn functions() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let text: String =
        files.iter().map(|file| fs::read_to_string(file).expect("a source can be read")).collect();
    let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_test_that_the_protocol_names_exists() {
    let protocol =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md")).expect("it can be read");
    let functions = functions();
    // Names of tests are sentences; nothing else in backticks has four underscores.
    let named: Vec<_> =
        protocol.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() >= 4).collect();
    assert!(named.len() > 50, "only {} tests are named", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_rule_of_the_protocol_names_a_test() {
    let protocol =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md")).expect("it can be read");
    let rules = protocol.split("## Differences").next().unwrap_or_default();
    let numbered = |line: &str| line.starts_with(|c: char| c.is_ascii_digit());
    let without: Vec<_> = rules
        .lines()
        .filter(|line| (line.starts_with("- ") || numbered(line)) && !line.contains(" → `"))
        .collect();
    assert!(without.is_empty(), "rules without a test: {without:#?}");
}

/// Returns the text of every test in Rust, Python and JavaScript, and of the unit tests in `src`.
fn all_tests() -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder of tests can be read") {
            let path = entry.expect("an entry can be read").path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() {
                if !hidden && !path.ends_with("node_modules") {
                    collect(&path, text);
                }
            } else if path.extension().is_some_and(|it| it == "rs" || it == "py" || it == "mjs") {
                text.push_str(&fs::read_to_string(path).expect("a test can be read"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    collect(&root.join("src"), &mut text);
    collect(&root.join("tests"), &mut text);
    text
}

#[test]
fn every_row_of_the_reliability_tables_names_tests_that_exist() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md"))
        .expect("it can be read");
    let tests = all_tests();
    let exists = |name: &str| {
        let called = |keyword| tests.contains(&format!("{keyword} {name}("));
        // A test in JavaScript is named by a quoted sentence.
        let titled = |quote| tests.contains(&format!("{quote}{name}{quote}"));
        called("fn") || called("def") || (name.contains(' ') && (titled('\'') || titled('"')))
    };
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what "));
    for row in rows {
        let last = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "a row without a test: {row}");
        let missing: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "no such tests: {missing:?} in {row}");
    }
}
