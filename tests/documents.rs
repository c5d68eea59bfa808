//! What the documents promise is tested, and by the tests that they name.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::path::Path;

/// Returns the text of all files below a directory whose names end so.
fn texts(dir: &Path, ending: &str) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && name != "node_modules" {
            all.push_str(&texts(&path, ending));
        } else if name.ends_with(ending) {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
    all
}

/// Returns what a line says between backticks and looks like the name of a test: four words or more.
fn tests_named(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    quoted.filter(move |name| name.matches('_').count() >= 3 && name.chars().all(plain))
}

#[test]
fn every_rule_of_the_protocol_names_tests_and_they_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = texts(&root.join("src"), ".rs") + &texts(&root.join("tests"), ".rs");
    let protocol = std::fs::read_to_string(root.join("docs/protocol.md")).unwrap();
    let mut named = 0;
    for line in protocol.lines() {
        let rule = line.contains('→');
        assert!(!rule || tests_named(line).next().is_some(), "no test is named in: {line}");
        for test in tests_named(line) {
            assert!(code.contains(&format!("fn {test}(")), "docs/protocol.md names {test}, which is no test");
            named += 1;
        }
    }
    assert!(named > 30, "{named} tests are named");
}
