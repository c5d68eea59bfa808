//! Texts that look like a library's heartbeat but are in no setting.

/// Default heartbeats of client libraries. Only these are ever logged: other texts are the clients' own content.
const KNOWN: [&str; 16] = [
    "ping",
    "PING",
    "Ping",
    "pong",
    "heartbeat",
    "HEARTBEAT",
    "--heartbeat--",
    "keepalive",
    "keep-alive",
    "{}",
    "\"ping\"",
    r#"{"type":"ping"}"#,
    r#"{"type": "ping"}"#,
    r#"{"event":"ping"}"#,
    r#"{"action":"ping"}"#,
    r#"{"type":"heartbeat"}"#,
];

/// Returns the text if it looks like a heartbeat, and counts it in `seen`: the client starts with it, as one that reconnects
/// because nothing answers, or repeats it. A person may write "ping" once.
pub(super) fn count_heartbeat(payload: &[u8], is_first: bool, seen: &mut u8) -> Option<&'static str> {
    let known = KNOWN.into_iter().find(|known| known.as_bytes() == payload)?;
    *seen = seen.saturating_add(1);
    (is_first || *seen > 1).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_looks_like_a_heartbeat_if_it_comes_first_or_again() {
        let mut seen = 0;
        let mut found = |texts: &[&str], begins: bool| {
            let texts = texts.iter().enumerate();
            let found = texts
                .map(|(at, text)| count_heartbeat(text.as_bytes(), begins && at == 0, &mut seen).is_some());
            found.collect::<Vec<_>>()
        };
        assert_eq!(
            found(&["hello", "ping", "pinging", "ping", "{}"], true),
            [false, false, false, true, true]
        );
        seen = 0;
        assert_eq!(count_heartbeat(b"ping", true, &mut seen), Some("ping"));
    }
}
