//! Where a setting stands in a file, for errors about its value.

/// Returns the lines that set a key, from 1 on: `redis.url`, or `access[1].facility` for the second table of its name, without
/// the number for all of them.
pub(super) fn lines_of(text: &str, key: &str) -> Vec<usize> {
    let (mut table, mut tables, mut number) = ("", Vec::new(), 0);
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            table = name.trim();
            tables.push(table);
            number = tables.iter().filter(|known| **known == table).count() - 1;
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (table, number) = (name.trim(), 0);
        }
        let name = line.split_once('=').map(|(name, _)| name.trim().replace([' ', '"'], ""));
        let is_found = name.is_some_and(|name| {
            if table.is_empty() {
                return name == key;
            }
            [format!("{table}.{name}"), format!("{table}[{number}].{name}")].contains(&key.to_owned())
        });
        if is_found {
            found.push(index + 1);
        }
    }
    found
}

/// Returns the lines that contain a text, from 1 on, comments aside.
pub(super) fn lines_with(text: &str, wanted: &str) -> Vec<usize> {
    let has = |line: &str| line.split('#').next().is_some_and(|line| line.contains(wanted));
    text.lines().enumerate().filter(|(_, line)| has(line)).map(|(index, _)| index + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_section_and_in_each_table_of_its_name() {
        let text = "expire = 1 # first\n[redis]\n url= \"x\"\n# url = 1\n\n[[access]]\nfacility = []\n\
                    [[access]]\n users = []\n facility = []\ngroups.staff = []\n";
        for (key, lines) in [
            ("expire", &[1][..]),
            ("redis.url", &[3]),
            ("url", &[]),
            ("access.facility", &[7, 10]),
            ("access[1].facility", &[10]),
            ("access.users", &[9]),
            ("access.groups.staff", &[11]),
        ] {
            assert_eq!(lines_of(text, key), lines, "{key}");
        }
        assert_eq!(lines_of("origin.allowed = []", "origin.allowed"), [1]);
    }
}
