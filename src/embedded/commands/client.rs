//! Commands for the connection: HELLO, AUTH, CLIENT, SELECT, PING, ECHO, QUIT and RESET.

use bytes::Bytes;

use super::{
    admin,
    call::CommandCall,
    spec::{CommandSpec, When, printable, wrong_arity},
};
use crate::embedded::{
    client::Client,
    integer,
    keyspace::DATABASES,
    reply::{NOT_AN_INTEGER, OK, Protocol, Reply, SYNTAX},
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::fallible("ping", -1, ping).when(When::InSubscriberMode),
    CommandSpec::infallible("echo", 2, |call| Reply::Bulk(call.args[1].clone())),
    CommandSpec::fallible("select", 2, select),
    CommandSpec::fallible("hello", -1, hello),
    CommandSpec::fallible("auth", -2, auth),
    CommandSpec::infallible("quit", -1, quit).when(When::Always),
    CommandSpec::infallible("reset", 1, reset).when(When::Always),
    CommandSpec::infallible("client", -2, |_| Reply::Nil).subcommands(CLIENT),
];

const CLIENT: &[CommandSpec] = &[
    CommandSpec::infallible("client|id", 2, |call| {
        Reply::Integer(i64::try_from(call.client().id).unwrap_or(i64::MAX))
    }),
    CommandSpec::fallible("client|setname", 3, |call| set_name(call, &call.args[2])),
    CommandSpec::infallible("client|getname", 2, get_name),
    CommandSpec::fallible("client|setinfo", 4, set_info),
    CommandSpec::infallible("client|info", 2, |call| Reply::Verbatim(Bytes::from(describe(call, call.slot)))),
    CommandSpec::fallible("client|list", -2, list),
    CommandSpec::fallible("client|no-evict", 3, on_or_off),
    CommandSpec::fallible("client|no-touch", 3, on_or_off),
];

fn ping(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let text = match call.args {
        [_] => None,
        [_, text] => Some(Reply::Bulk(text.clone())),
        _ => return Err(wrong_arity("ping")),
    };
    if call.client().in_subscriber_mode() {
        return Ok(Reply::Array(vec![Reply::text("pong"), text.unwrap_or(Reply::text(""))]));
    }
    Ok(text.unwrap_or(Reply::Simple("PONG")))
}

fn select(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let number = integer::parse(&call.args[1]).ok_or(NOT_AN_INTEGER)?;
    if i32::try_from(number).is_err() {
        return Err(Reply::error("ERR value is out of range, value must between -2147483648 and 2147483647"));
    }
    let db = usize::try_from(number).ok().filter(|&db| db < DATABASES);
    call.client().db = db.ok_or_else(|| Reply::error("ERR DB index is out of range"))?;
    Ok(OK)
}

fn hello(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let Some(version) = call.args.get(1) else { return Ok(hello_reply(call)) };
    let version = integer::parse(version);
    let version =
        version.ok_or_else(|| Reply::error("ERR Protocol version is not an integer or out of range"))?;
    let protocol = match version {
        2 => Protocol::Resp2,
        3 => Protocol::Resp3,
        _ => return Err(Reply::error("NOPROTO unsupported protocol version")),
    };
    let mut rest = &call.args[2..];
    while let [option, tail @ ..] = rest {
        rest = match (&option.to_ascii_uppercase()[..], tail) {
            (b"AUTH", [user, _, tail @ ..]) => {
                check_user(user)?;
                tail
            }
            (b"SETNAME", [name, tail @ ..]) => {
                set_name(call, name)?;
                tail
            }
            _ => {
                let option = printable(option, 128);
                return Err(Reply::error(&format!("ERR Syntax error in HELLO option '{option}'")));
            }
        };
    }
    call.client().protocol = protocol;
    Ok(hello_reply(call))
}

fn hello_reply(call: &mut CommandCall<'_>) -> Reply {
    let client = call.client();
    let proto = if client.protocol == Protocol::Resp3 { 3 } else { 2 };
    let id = i64::try_from(client.id).unwrap_or(i64::MAX);
    let pairs = [
        ("server", Reply::text("redis")),
        ("version", Reply::text(admin::REDIS_VERSION)),
        ("proto", Reply::Integer(proto)),
        ("id", Reply::Integer(id)),
        ("mode", Reply::text("standalone")),
        ("role", Reply::text("master")),
        ("modules", Reply::Array(Vec::new())),
    ];
    Reply::Map(pairs.into_iter().map(|(key, value)| (Reply::text(key), value)).collect())
}

fn auth(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    match call.args {
        [_, _] => Err(Reply::error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        [_, user, _] => check_user(user).map(|()| OK),
        _ => Err(SYNTAX),
    }
}

/// As in Redis without passwords, `default` is the only user, with any password.
fn check_user(user: &[u8]) -> Result<(), Reply> {
    if user == b"default" {
        return Ok(());
    }
    Err(Reply::error("WRONGPASS invalid username-password pair or user is disabled."))
}

fn quit(call: &mut CommandCall<'_>) -> Reply {
    call.client().closing = true;
    OK
}

fn reset(call: &mut CommandCall<'_>) -> Reply {
    call.store.clear_client(call.slot);
    let client = call.client();
    client.protocol = Protocol::Resp2;
    client.db = 0;
    client.name = Bytes::new();
    Reply::Simple("RESET")
}

fn set_name(call: &mut CommandCall<'_>, name: &[u8]) -> Result<Reply, Reply> {
    /// The memory of names is not counted, so their length is limited.
    const MAX_NAME_BYTES: usize = 1_024;
    if name.len() > MAX_NAME_BYTES || !name.iter().all(u8::is_ascii_graphic) {
        return Err(Reply::error("ERR Client names cannot contain spaces, newlines or special characters."));
    }
    call.client().name = Bytes::copy_from_slice(name);
    Ok(OK)
}

fn get_name(call: &mut CommandCall<'_>) -> Reply {
    let name = call.client().name.clone();
    if name.is_empty() { Reply::Nil } else { Reply::Bulk(name) }
}

/// Accepts and ignores the name of the library. Redis has this command since 7.2; newer clients send it to any server.
fn set_info(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let option = &call.args[2];
    if option.eq_ignore_ascii_case(b"lib-name") || option.eq_ignore_ascii_case(b"lib-ver") {
        return Ok(OK);
    }
    Err(Reply::error(&format!("ERR Unrecognized option '{}'", printable(option, 128))))
}

fn on_or_off(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let mode = &call.args[2];
    if mode.eq_ignore_ascii_case(b"on") || mode.eq_ignore_ascii_case(b"off") { Ok(OK) } else { Err(SYNTAX) }
}

fn list(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let kind = match &call.args[2..] {
        [] => None,
        [option, kind] if option.eq_ignore_ascii_case(b"type") => Some(kind.to_ascii_lowercase()),
        _ => return Err(SYNTAX),
    };
    let wanted = |client: &Client| match kind.as_deref() {
        None => true,
        Some(b"normal") => client.subscriptions() == 0,
        Some(b"pubsub") => client.subscriptions() > 0,
        Some(_) => false,
    };
    if let Some(kind) = kind.as_deref()
        && ![&b"normal"[..], b"pubsub", b"master", b"replica", b"slave"].contains(&kind)
    {
        return Err(Reply::error(&format!("ERR Unknown client type '{}'", printable(&call.args[3], 128))));
    }
    let slots: Vec<usize> =
        call.store.clients.iter().filter(|(_, client)| wanted(client)).map(|(slot, _)| slot).collect();
    let lines: String = slots.into_iter().map(|slot| describe(call, slot)).collect();
    Ok(Reply::Verbatim(Bytes::from(lines)))
}

fn describe(call: &CommandCall<'_>, slot: usize) -> String {
    let client = &call.store.clients[slot];
    let age = call.store.clock.uptime_seconds().saturating_sub(client.connected_at);
    let flags = match (client.subscriptions() > 0, &client.transaction) {
        (true, _) => "P",
        (false, Some(_)) => "x",
        (false, None) => "N",
    };
    let queued = client.transaction.as_ref().map_or("-1".to_owned(), |open| open.queue.len().to_string());
    format!(
        "id={} addr={} laddr={} fd={} name={} age={age} idle=0 flags={flags} db={} sub={} psub={} ssub=0 multi={queued} \
         qbuf={} obl={} cmd={} user=default redir=-1 resp={}\n",
        client.id,
        client.peer,
        client.local,
        slot,
        String::from_utf8_lossy(&client.name),
        client.db,
        client.channels.len(),
        client.patterns.len(),
        client.unread_bytes,
        client.output.pending().len(),
        client.last_command,
        if client.protocol == Protocol::Resp3 { 3 } else { 2 },
    )
}
