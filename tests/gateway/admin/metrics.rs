//! The route `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

use super::Admin;
use crate::support::events::SseClient;
use crate::support::sessions::{john, session_key};
use crate::support::within_deadline;

/// The samples of an exposition, by name and labels.
type Samples = BTreeMap<String, f64>;

/// Parses an exposition strictly: each sample follows the help and the type of its family, and the text ends as it has to.
fn parse(text: &str) -> (Samples, BTreeMap<String, String>) {
    let (mut samples, mut families) = (Samples::new(), BTreeMap::new());
    let mut family = (String::new(), String::new());
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    for line in text.lines().take_while(|line| *line != "# EOF") {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, meaning) = help.split_once(' ').unwrap();
            assert!(!meaning.is_empty() && !families.contains_key(name), "{line}");
            family = (name.to_owned(), String::new());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family.0, "{line}");
            kind.clone_into(&mut family.1);
            families.insert(name.to_owned(), kind.to_owned());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let suffixes: &[&str] = match family.1.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{other}: {line}"),
            };
            assert!(suffixes.iter().any(|end| bare == format!("{}{end}", family.0)), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && samples.insert(name.to_owned(), value).is_none(), "{line}");
        }
    }
    (samples, families)
}

async fn samples(admin: &Admin) -> Samples {
    parse(&admin.get("/metrics").expect_status(200).await.body).0
}

/// Waits until samples have these values.
async fn expect(admin: &Admin, expected: &[(&str, f64)]) -> Samples {
    let mut last = Samples::new();
    let reached = async {
        loop {
            last = samples(admin).await;
            if expected.iter().all(|(name, value)| last.get(*name) == Some(value)) {
                break;
            }
        }
    };
    if tokio::time::timeout(crate::support::DEADLINE, reached).await.is_err() {
        let found: Vec<_> = expected.iter().map(|(name, value)| (name, value, last.get(*name))).collect();
        panic!("{found:?}");
    }
    last
}

#[tokio::test]
async fn what_clients_do_is_counted() {
    let admin = Admin::start(&[("server.shards", "2")]).await;
    let gateway = &admin.gateway;
    // The harness has tried handshakes of its own.
    let before = samples(&admin).await;
    let target = "/ws/counted?subscribe-broadcast&publish-broadcast&echo";
    let cookie = john(&session_key());
    let mut socket = gateway.request(target).header("Cookie", &cookie).connect().await;
    let mut other = gateway.connect("/ws/counted?subscribe-broadcast").await;
    let mut stream = SseClient::open(gateway.stream("/ws/counted?subscribe-broadcast")).await;
    let _page = gateway.live("/ws/").await;
    let foreign = gateway.request(target).header("Origin", "http://evil.example");
    foreign.header("Cookie", cookie).expect_status(403).await;
    socket.send_text("hello").await;
    for client in [&mut socket, &mut other] {
        client.expect_text("hello").await;
    }
    stream.expect("hello").await;
    let found = expect(
        &admin,
        &[
            ("ws4redis_connections{dialect=\"relay\",form=\"websocket\"}", 2.0),
            ("ws4redis_connections{dialect=\"relay\",form=\"event-stream\"}", 1.0),
            ("ws4redis_connections{dialect=\"live\",form=\"websocket\"}", 1.0),
            ("ws4redis_connections{dialect=\"socket_io\",form=\"polling\"}", 0.0),
            ("ws4redis_handshakes_total{status=\"200\"}", 1.0),
            ("ws4redis_handshakes_total{status=\"403\"}", 1.0),
            ("ws4redis_received_messages_total", 1.0),
            ("ws4redis_received_bytes_total", 5.0),
            ("ws4redis_acknowledged_publications_total", 1.0),
            ("ws4redis_delivered_messages_total", 3.0),
            ("ws4redis_delivered_bytes_total", 21.0),
            ("ws4redis_redis_up{shard=\"1\",use=\"messages\"}", 1.0),
            ("ws4redis_redis_up{shard=\"0\",use=\"sessions\"}", 1.0),
            ("ws4redis_sockets", 4.0),
        ],
    )
    .await;
    assert!(found["ws4redis_sessions_total{outcome=\"found\",key=\"0\"}"] >= 1.0, "{found:?}");
    assert!(found["ws4redis_run_messages_count"] >= 1.0);
    let accepted = "ws4redis_handshakes_total{status=\"101\"}";
    assert!((found[accepted] - before[accepted] - 3.0).abs() < 0.5, "{found:?}");
    assert!(found["ws4redis_delivery_seconds_count"] >= 1.0 && found["ws4redis_delivery_seconds_sum"] < 5.0);
    assert!(found["ws4redis_redis_command_seconds_count"] >= 1.0);
    assert!(found["ws4redis_shard_busy_seconds_total{shard=\"0\"}"] > 0.0);
    assert!(found["process_resident_memory_bytes"] > 1e6 && found["process_open_fds"] > 4.0);
    drop((socket, other, stream));
    expect(&admin, &[("ws4redis_connections{dialect=\"relay\",form=\"websocket\"}", 0.0)]).await;
}

#[tokio::test]
async fn lookups_of_sessions_are_counted_by_their_outcome() {
    let admin = Admin::start(&[]).await;
    for cookie in ["sessionid=short", "sessionid=0123456789abcdef0123456789abcdef"] {
        admin.gateway.request("/ws/f?subscribe-broadcast").header("Cookie", cookie).connect().await;
    }
    let found = samples(&admin).await;
    assert!(found["ws4redis_sessions_total{outcome=\"invalid\",key=\"\"}"] >= 1.0, "{found:?}");
    assert!(found["ws4redis_sessions_total{outcome=\"missing\",key=\"\"}"] >= 1.0, "{found:?}");
}

#[tokio::test]
async fn the_document_names_each_metric_and_no_other() {
    let admin = Admin::start(&[]).await;
    let response = within_deadline("the metrics", admin.get("/metrics").expect_status(200)).await;
    let kind = response.header("content-type").unwrap();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let (_, families) = parse(&response.body);
    let document = include_str!("../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| {
        let mut columns = line.strip_prefix("| `")?.split(" | ");
        let name = columns.next()?.trim_end_matches('`').to_owned();
        Some((name, columns.next()?.to_owned()))
    });
    let documented: BTreeSet<_> = rows.collect();
    let names = families.into_iter().map(|(name, kind)| match kind.as_str() {
        "counter" => (format!("{name}_total"), kind),
        "info" => (format!("{name}_info"), kind),
        _ => (name, kind),
    });
    assert_eq!(names.collect::<BTreeSet<_>>(), documented);
}
