//! `ws4redis listen FACILITY…`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::support::gateway::binary;
use crate::support::{RedisServer, signal, unique, within_deadline};

/// A running command.
struct FacilityListener {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    notes: Lines<BufReader<ChildStderr>>,
    prefix: String,
}

impl FacilityListener {
    async fn start(arguments: &[&str]) -> Self {
        let prefix = unique("listening");
        let mut command = binary();
        command.arg("listen").args(arguments);
        command.args(["--set", &format!("prefix={prefix}")]);
        command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let notes = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut listener = Self { child, lines, notes, prefix };
        while !listener.note().await.starts_with("listening") {}
        listener
    }

    async fn note(&mut self) -> String {
        within_deadline("a note", self.notes.next_line()).await.unwrap().expect("the command has ended")
    }

    fn publish(&self, channel: &str, message: &[u8]) {
        let channel = format!("{}:{channel}", self.prefix);
        RedisServer::shared().command(&[b"PUBLISH", channel.as_bytes(), message]);
    }

    async fn next(&mut self) -> String {
        within_deadline("a line", self.lines.next_line()).await.unwrap().expect("the command has ended")
    }

    async fn next_json(&mut self) -> Value {
        let mut object: Value = serde_json::from_str(&self.next().await).unwrap();
        assert!(object["time"].as_str().unwrap().ends_with('Z'));
        object.as_object_mut().unwrap().remove("time");
        object
    }
}

#[tokio::test]
async fn all_messages_of_a_facility_are_printed_and_no_session_key() {
    let mut listener = FacilityListener::start(&["chat", "a[b]*", "--json"]).await;
    listener.publish("broadcast:chat", b"hello\n");
    listener.publish("user:john:chat", b"to john");
    listener.publish("group:staff:a[b]*", b"to staff");
    listener.publish("broadcast:other", b"not heard");
    listener.publish("broadcast:ab", b"not heard");
    listener.publish("session:0123456789abcdef0123456789abcdef:chat", b"to a session");
    listener.publish("broadcast:chat", b"\xff");
    let object = |facility: &str, audience: &str, text: &str| json!({ "facility": facility, "audience": audience, "data": text });
    assert_eq!(listener.next_json().await, object("chat", "broadcast", "hello\n"));
    assert_eq!(listener.next_json().await, object("chat", "user:john", "to john"));
    assert_eq!(listener.next_json().await, object("a[b]*", "group:staff", "to staff"));
    assert_eq!(listener.next_json().await, object("chat", "session", "to a session"));
    let binary = json!({ "facility": "chat", "audience": "broadcast", "base64": "/w==" });
    assert_eq!(listener.next_json().await, binary);
    signal(listener.child.id().unwrap(), "INT");
    let status = within_deadline("the end", listener.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn only_the_messages_of_named_audiences_are_printed_and_none_controls_the_terminal() {
    let mut listener = FacilityListener::start(&["chat", "--user", "john"]).await;
    listener.publish("broadcast:chat", b"not heard");
    listener.publish("user:jane:chat", b"not heard");
    listener.publish("user:john:chat", b"\x1b[2Jheard");
    let line = listener.next().await;
    assert!(line.ends_with(" chat user:john   [2Jheard"), "{line:?}");
}

#[tokio::test]
async fn a_facility_is_required_and_redis_has_to_answer() {
    for (arguments, code, part) in [
        (&["listen"][..], 64, "FACILITY"),
        (&["listen", "chat", "--socketio", "http://h/", "--session", "s"][..], 64, "--socketio"),
        (&["listen", "--socketio", "http://h/", "--session", "a", "--session", "b"][..], 64, "takes one"),
        (&["listen", "chat", "--set", "redis.url=redis://127.0.0.1:1"][..], 69, "redis.url"),
    ] {
        let output = Command::from(binary()).args(arguments).kill_on_drop(true).output();
        let output = within_deadline("the end", output).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}
