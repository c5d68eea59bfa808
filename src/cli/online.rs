//! `ws4redis connections`, `channels` and `users`: what a running gateway has, from its admin listener.

use serde_json::Value;

use super::output::{CommandOutput, note};
use super::table::{Column, Table};
use super::{ChannelFlags, CommandError, ConnectionFlags, OutputFlags, UserFlags, block_on, terminal};
use crate::admin::ask_for_page;
use crate::settings::{AdminSettings, Settings};

/// A list of the admin listener.
#[derive(Debug)]
pub struct OnlineList {
    name: &'static str,
    filters: Vec<(&'static str, String)>,
    columns: &'static [Column],
    last: &'static str,
    cells: fn(&Value) -> Vec<String>,
}

const fn text(title: &'static str, width: usize) -> Column {
    Column { title, width, is_number: false }
}

const fn number(title: &'static str, width: usize) -> Column {
    Column { title, width, is_number: true }
}

const CONNECTIONS: &[Column] = &[
    text("ID", 28),
    text("USER", 14),
    text("DIALECT", 9),
    text("FORM", 12),
    number("AGE", 5),
    number("IDLE", 5),
    number("IN", 6),
    number("OUT", 7),
    number("WAITING", 7),
    text("FROM", 21),
];

const CHANNELS: &[Column] = &[number("LISTENERS", 9)];

const USERS: &[Column] = &[number("CONNECTIONS", 11)];

impl OnlineList {
    /// Returns the list of channels, or of groups of Django Channels, that begin so.
    pub fn channels(flags: ChannelFlags) -> Self {
        let prefix = flags.prefix.map(|prefix| ("prefix", prefix));
        let kind = flags.groups.then(|| ("kind", "group".to_owned()));
        Self {
            name: "channels",
            filters: prefix.into_iter().chain(kind).collect(),
            columns: CHANNELS,
            last: if flags.groups { "GROUP" } else { "CHANNEL" },
            cells: |found| {
                let name = if found["group"].is_string() { &found["group"] } else { &found["channel"] };
                vec![cell(&found["listeners"]), cell(name)]
            },
        }
    }

    /// Returns the list of users whose names begin so.
    pub fn users(flags: UserFlags) -> Self {
        Self {
            name: "users",
            filters: flags.prefix.map(|prefix| ("prefix", prefix)).into_iter().collect(),
            columns: USERS,
            last: "USER",
            cells: |found| vec![cell(&found["connections"]), cell(&found["user"])],
        }
    }

    /// Returns the list of connections that match.
    pub fn connections(flags: ConnectionFlags) -> Self {
        let ConnectionFlags { user, group, session, facility, dialect, form, namespace, address, .. } = flags;
        let filters = [
            ("user", user),
            ("group", group),
            ("session", session),
            ("facility", facility),
            ("dialect", dialect),
            ("form", form),
            ("namespace", namespace),
            ("address", address),
        ];
        Self {
            name: "connections",
            filters: filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            columns: CONNECTIONS,
            last: "WHERE",
            cells: connection_cells,
        }
    }
}

/// Prints a list of the gateway that runs with these settings.
///
/// # Errors
///
/// When there is no admin listener, it does not answer or refuses, or standard output fails.
pub fn print_online(settings: &Settings, list: &OnlineList, flags: OutputFlags) -> Result<(), CommandError> {
    let admin = settings.admin.as_ref().ok_or_else(|| {
        let text =
            format!("admin.listen is empty, and {} asks there: set it, for the gateway, too", list.name);
        CommandError::Arguments(text)
    })?;
    block_on(print_pages(admin, list, CommandOutput::new(flags)))
}

async fn print_pages(
    admin: &AdminSettings,
    list: &OnlineList,
    output: CommandOutput,
) -> Result<(), CommandError> {
    let table = Table::new(list.columns, list.last, terminal::columns());
    let (mut after, mut count) = (None::<String>, 0_usize);
    // A page at a time: the reader of the output may be slow, and the listener's deadline is for a request.
    loop {
        let page = ask_for_page(admin, list.name, &list.filters, after.as_deref()).await;
        let page = page.map_err(|reason| CommandError::Unhealthy(format!("{}: {reason}", admin.listen)))?;
        for object in page[list.name].as_array().into_iter().flatten() {
            if count == 0 && !output.json {
                output.print(|| Value::Null, || output.dim(&table.head()))?;
            }
            output.print(|| object.clone(), || table.row(&(list.cells)(object)))?;
            count += 1;
        }
        let Some(next) = page["next"].as_str() else { break };
        after = Some(next.to_owned());
    }
    if count == 0 && !output.json {
        note(&format!("no {} match", list.name));
    }
    Ok(())
}

fn connection_cells(connection: &Value) -> Vec<String> {
    let names = |key: &str, of: &dyn Fn(&Value) -> Option<String>| -> Option<String> {
        Some(connection[key].as_array()?.iter().filter_map(of).collect::<Vec<_>>().join(" "))
    };
    let place = connection["facility"].as_str().map(str::to_owned);
    let place = place.or_else(|| names("facilities", &|name| Some(name.as_str()?.to_owned())));
    let place = place.or_else(|| names("namespaces", &|joined| Some(joined["name"].as_str()?.to_owned())));
    let from = if connection["address"].is_string() { &connection["address"] } else { &connection["peer"] };
    vec![
        cell(&connection["id"]),
        cell(&connection["user"]),
        cell(&connection["dialect"]),
        cell(&connection["form"]),
        duration(&connection["age_seconds"]),
        duration(&connection["idle_seconds"]),
        cell(&connection["received"]),
        cell(&connection["delivered"]),
        cell(&connection["waiting_bytes"]),
        cell(from),
        place.unwrap_or_default(),
    ]
}

/// Returns a value as a cell shows it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns a number of seconds in the largest unit that holds at least two of it.
fn duration(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_u64() else { return "-".to_owned() };
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(unit, _)| seconds >= 2 * unit);
    unit.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_two_digits_and_more() {
        for (seconds, expected) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_800, "2d")]
        {
            assert_eq!(duration(&seconds.into()), expected);
        }
        assert_eq!(duration(&Value::Null), "-");
    }
}
