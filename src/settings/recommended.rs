//! Writes values into the text of a settings file.

use std::fmt::Write as _;

/// Replaces the value of a setting. The shipped file has each in a line of its own.
pub(super) fn with_value(text: &str, key: &str, value: &str) -> String {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = "";
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(found) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            current = found;
        }
        match line.split_once(" = ") {
            Some((found, old)) if found == name && current == table => {
                let comment = old.find("  # ").map_or("", |start| &old[start..]);
                lines.push(format!("{name} = {}{comment}", written(old, value)));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Returns a value in TOML, in the type of the old one.
fn written(old: &str, value: &str) -> String {
    if let Some(old) = old.strip_prefix('[') {
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        let numbers = old.starts_with(|c: char| c.is_ascii_digit());
        let item = |item: &str| if numbers { item.to_owned() } else { quoted(item) };
        return format!("[{}]", items.map(item).collect::<Vec<_>>().join(", "));
    }
    if old.starts_with('"') { quoted(value) } else { value.trim().to_owned() }
}

fn quoted(text: &str) -> String {
    let escaped = text.chars().fold(String::new(), |mut escaped, letter| {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            control if control.is_control() => {
                let _ = write!(escaped, "\\u{:04X}", u32::from(control));
            }
            plain => escaped.push(plain),
        }
        escaped
    });
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use crate::settings::recommended;

    fn changed(assignments: &[&str]) -> Vec<String> {
        let assignments: Vec<_> = assignments.iter().map(|one| (*one).to_owned()).collect();
        let (before, after) = (recommended(&[]).unwrap(), recommended(&assignments).unwrap());
        assert_eq!(before.lines().count(), after.lines().count());
        let pairs = before.lines().zip(after.lines());
        pairs.filter(|(before, after)| before != after).map(|(_, after)| after.to_owned()).collect()
    }

    #[test]
    fn values_of_the_command_line_are_in_the_file() {
        assert_eq!(changed(&[]), Vec::<String>::new());
        assert_eq!(
            changed(&[
                "prefix=de\"mo\\",
                "server.shards=3",
                "origin.allowed=http://a, http://b",
                "redis.url=redis://h"
            ]),
            [
                r#"prefix = "de\"mo\\""#,
                "shards = 3  # 0 to 64",
                r#"url = "redis://h""#,
                r#"allowed = ["http://a", "http://b"]"#,
            ]
        );
    }

    #[test]
    fn an_invalid_value_is_refused() {
        for assignment in ["no.such=1", "server.shards=x", "prefix"] {
            assert!(recommended(&[assignment.to_owned()]).is_err(), "{assignment}");
        }
    }
}
