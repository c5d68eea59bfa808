//! The commands that ask the admin listener.

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use super::{Admin, TOKEN};
use crate::support::gateway::binary;
use crate::support::sessions::{john, session_key};
use crate::support::within_deadline;

/// Runs a command against an admin listener.
async fn run(listen: &str, arguments: &[&str]) -> Output {
    let mut command = Command::from(binary());
    command.args(["--set", &format!("admin.listen={listen}")]).args(arguments);
    within_deadline("the end of the command", command.output()).await.unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn connections_channels_and_users_are_printed() {
    let admin = Admin::start(&[("server.shards", "2"), ("admin.token", TOKEN)]).await;
    let listen = admin.address.to_string();
    let token = format!("admin.token={TOKEN}");
    let ask = async |arguments: &[&str]| run(&listen, &[&["--set", &token][..], arguments].concat()).await;
    let cookie = john(&session_key());
    let mut clients = Vec::new();
    for path in ["/ws/chat?subscribe-broadcast", "/ws/news?subscribe-broadcast&subscribe-user"] {
        clients.push(admin.gateway.request(path).header("Cookie", &cookie).connect().await);
    }
    clients.push(admin.gateway.connect("/ws/news?subscribe-broadcast").await);

    let table = printed(&ask(&["connections"]).await);
    let mut lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let head = "ID USER DIALECT FORM AGE IDLE IN OUT WAITING FROM WHERE";
    assert_eq!(lines.remove(0).join(" "), head, "{table}");
    lines.sort_by_key(|cells| (cells[10], cells[1]));
    let shown: Vec<_> = lines.iter().map(|cells| (cells[1], cells[2], cells[3], cells[10])).collect();
    let expected = [("john", "chat"), ("-", "news"), ("john", "news")];
    assert_eq!(shown, expected.map(|(user, facility)| (user, "relay", "websocket", facility)), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours in a pipe: {table}");

    let json = printed(&ask(&["connections", "--json", "--user", "john", "--facility", "news"]).await);
    let found: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((found.len(), &found[0]["facility"]), (1, &"news".into()), "{json}");
    let nobody = ask(&["connections", "--user", "nobody"]).await;
    assert_eq!((printed(&nobody).as_str(), nobody.stderr.as_slice()), ("", &b"no connections match\n"[..]));

    let prefix = clients[0].channel().unwrap().split("broadcast:").next().unwrap().to_owned();
    let expected =
        format!("LISTENERS  CHANNEL\n        1  {prefix}broadcast:chat\n        2  {prefix}broadcast:news\n");
    assert_eq!(printed(&ask(&["channels", &format!("{prefix}broadcast:")]).await), expected);
    assert_eq!(printed(&ask(&["users", "--json"]).await), "{\"connections\":2,\"user\":\"john\"}\n");

    let refused = ask(&["connections", "--address", "localhost"]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("IP address"), "{refused:?}");
}

#[tokio::test]
async fn a_gateway_that_cannot_be_asked_is_named() {
    let output = run("", &["connections"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64) && said.contains("admin.listen is empty"), "{output:?}");
    let output = run("127.0.0.1:1", &["users"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("127.0.0.1:1: "), "{output:?}");
}
