//! The documents: each test that they name exists, links lead to files, and repeated figures agree.

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

fn document(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the trimmed cells of every row of the tables in a document.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// docs/performance.md has the measured figures; the other documents repeat them.
#[test]
fn a_measured_figure_is_the_same_in_every_document() {
    let text = document("docs/performance.md");
    let rows = rows(&text);
    let goal = |work: &str, what: &str| {
        let row = rows.iter().find(|row| row[0] == work && row[1].starts_with(what));
        row.unwrap_or_else(|| panic!("docs/performance.md has no goal {work}, {what}"))[4]
    };
    let head = rows.iter().find(|row| row[0] == "server").expect("a table of all servers");
    let server = |name: &str, column: &str| {
        let column = head.iter().position(|cell| *cell == column).expect("a column of the table");
        rows.iter().find(|row| row[0] == name).expect("a row of the table")[column]
    };
    let (idle, session) = (server("**ws4redis**", "I1p bytes"), server("**ws4redis**", "I1s bytes"));
    let expected = [
        ("README.md", format!("takes {idle} bytes")),
        ("README.md", format!("session {session} bytes")),
        ("README.md", format!("binary is {}", goal("start", "size"))),
        ("README.md", format!("starts in {}", goal("start", "start"))),
        ("README.md", server("**ws4redis**", "F1 /s").replace(" M", " million")),
        (
            "README.md",
            goal("F1", "deliveries").replace("0.", "").replace(" × floor", " % of a bare `send` loop"),
        ),
        ("README.md", format!("{} per handshake", goal("C1s", "what the session adds"))),
        ("README.md", format!("{} messages were lost", goal("all", "lost"))),
        ("README.md", format!("takes {}", goal("large", "memory"))),
        (
            "README.md",
            format!(
                "| {idle} | – | {} | {} | – |",
                server("Centrifugo", "I1 bytes"),
                server("nchan", "I1 bytes")
            ),
        ),
        ("settings.toml", format!("takes {idle} bytes")),
        ("settings.toml", format!("{session} bytes")),
        ("docs/performance/memory.md", format!("pong | {idle} |")),
        ("docs/performance/memory.md", format!("| {session} |")),
        ("docs/performance.md", format!("An idle connection takes {idle} bytes")),
        ("docs/performance.md", format!("{session} bytes with a session")),
        ("docs/decisions/0001-one-small-task-per-connection.md", format!("takes {idle} bytes")),
    ];
    for (path, phrase) in expected {
        assert!(document(path).contains(&phrase), "{path} does not say: {phrase}");
    }
    // docs/scaling.md rounds up to the next hundred.
    let bytes: usize = session.replace(',', "").parse().expect("a number of bytes");
    let rounded = bytes.div_ceil(100) * 100;
    let row = format!("| bytes of a connection with a session | {},{:03} |", rounded / 1000, rounded % 1000);
    assert!(document("docs/scaling.md").contains(&row), "docs/scaling.md does not say: {row}");
}

#[test]
fn the_number_of_reached_goals_is_that_of_the_table() {
    let text = document("docs/performance.md");
    let (summary, table) = text.split_once("\n## Goals\n").expect("a table of goals");
    let rows = rows(table.split("\n## ").next().unwrap_or_default());
    let goals = &rows[2..];
    let reached = goals.iter().filter(|row| row[6].starts_with("yes")).count();
    let sentence = format!("{reached} of {} goals are reached.", goals.len());
    assert!(summary.contains(&sentence), "docs/performance.md does not say: {sentence}");
    for missed in goals.iter().filter(|row| !row[6].starts_with("yes")) {
        let line = format!("- {} ({}): {}, goal {}", missed[1], missed[0], missed[4], missed[2]);
        assert!(summary.contains(&line), "docs/performance.md does not say: {line}");
    }
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md"), root.join("python/README.md")];
    for folder in ["docs", "docs/decisions", "docs/performance"] {
        let entries = fs::read_dir(root.join(folder)).expect("a folder of documents can be read");
        let paths = entries.map(|entry| entry.expect("an entry can be read").path());
        documents.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    for path in documents {
        let text = fs::read_to_string(&path).expect("a document can be read");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = path.parent().expect("a document is in a folder").join(file);
            assert!(target.exists(), "{}: no such file: {link}", path.display());
            assert!(anchor.is_empty() || headings(&target).contains(anchor), "{}: {link}", path.display());
        }
    }
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn headings(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).expect("a document can be read");
    let titles =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches(['#', ' ']));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    titles
        .map(|title| title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}
