//! Writes values into the text of a settings file.

/// Replaces the value of a setting, given in TOML. Returns `None` if no line has the setting; the shipped file has each in a
/// line of its own.
pub(super) fn with_value(text: &str, key: &str, value: &str) -> Option<String> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let (mut current, mut is_found) = ("", false);
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(found) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            current = found;
        }
        match line.split_once(" = ") {
            Some((found, old)) if found == name && current == table => {
                let comment = old.find("  # ").map_or("", |start| &old[start..]);
                lines.push(format!("{name} = {value}{comment}"));
                is_found = true;
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.push(String::new());
    is_found.then(|| lines.join("\n"))
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
                "redis.url=redis://h",
                "demo.enabled=off",
                "messages.max_facilities=07",
                "socketio.enabled=on",
                "socketio.engine=4",
            ]),
            [
                r#"prefix = "de\"mo\\""#,
                "shards = 3  # 0 to 64",
                r#"url = "redis://h""#,
                "max_facilities = 7  # 1 to 10000",
                r#"allowed = ["http://a", "http://b"]"#,
                "enabled = true",
                "engine = [4]",
                r#"enabled = "off""#,
            ]
        );
    }

    #[test]
    fn an_invalid_value_is_refused() {
        for assignment in ["no.such=1", "server.shards=x", "prefix", "origin.allowed[0]=http://a", "redis=x"]
        {
            assert!(recommended(&[assignment.to_owned()]).is_err(), "{assignment}");
        }
    }
}
