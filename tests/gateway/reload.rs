//! Reloads of the settings by SIGHUP.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::support::gateway::{GatewayBuilder, binary};
use crate::support::sessions::{john, session_key};
use crate::support::socket_io::{SocketIoGateway, join, open, text};
use crate::support::tokens::{path, token};
use crate::support::{SiteReply, TestGateway, TestSite, unique};
use crate::systemd::Systemd;

/// A settings file that a running gateway reads.
struct SettingsFile(PathBuf);

impl SettingsFile {
    fn new(text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(unique("ws4redis-reload")));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    /// Lets a gateway without a terminal read it.
    fn configure(&self, builder: GatewayBuilder) -> GatewayBuilder {
        builder.argument("--settings").argument(self.0.to_str().unwrap()).without_terminal()
    }

    async fn start(&self) -> TestGateway {
        self.configure(TestGateway::builder()).start().await
    }

    /// Writes other settings, and waits until the gateway follows them.
    async fn reload(&self, gateway: &TestGateway, text: &str) -> String {
        self.write(text);
        reload(gateway).await
    }
}

impl Drop for SettingsFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Sends SIGHUP, and returns the line that says what has come of it.
async fn reload(gateway: &TestGateway) -> String {
    let is_outcome =
        |line: &String| line.contains("settings reloaded") || line.contains("settings not reloaded");
    let before = gateway.log().into_iter().filter(is_outcome).count();
    gateway.signal("HUP");
    crate::support::eventually("the settings are reloaded", || {
        gateway.log().into_iter().filter(is_outcome).nth(before)
    })
    .await
}

#[tokio::test]
async fn a_settings_file_of_the_working_directory_that_is_gone_changes_nothing() {
    let directory = std::env::temp_dir().join(unique("ws4redis-directory"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("settings.toml"), "anonymous_publish = false\n").unwrap();
    let gateway = TestGateway::builder().directory(&directory).without_terminal().start().await;
    gateway.post("/ws/x?publish-broadcast", "x").expect_status(403).await;
    std::fs::remove_dir_all(&directory).unwrap();
    let outcome = reload(&gateway).await;
    assert!(outcome.contains("settings not reloaded") && outcome.contains("settings.toml"), "{outcome}");
    gateway.post("/ws/x?publish-broadcast", "x").expect_status(403).await;
}

#[tokio::test]
async fn a_page_whose_origin_was_refused_is_accepted_after_a_reload_and_open_sockets_stay() {
    let file = SettingsFile::new("");
    let gateway = file.start().await;
    let mut open = gateway.connect("/ws/x?subscribe-broadcast").await;
    let cookie = format!("sessionid={}", session_key());
    let page = || {
        let request = gateway.request("/ws/x?subscribe-broadcast").header("Cookie", &cookie);
        request.header("Origin", "https://pages.example")
    };
    for _ in 0..3 {
        page().expect_status(403).await;
    }
    let allowed = "[origin]\nallowed = [\"https://pages.example\"]\n";
    let line = file.reload(&gateway, allowed).await;
    assert!(line.contains("INFO") && line.contains("changed: origin.allowed"), "{line}");
    for _ in 0..3 {
        page().connect().await.expect_nothing().await;
    }
    let line = file.reload(&gateway, allowed).await;
    assert!(line.contains("none that a reload applies has changed"), "{line}");
    file.reload(&gateway, "").await;
    for _ in 0..3 {
        page().expect_status(403).await;
    }
    open.expect_nothing().await;
}

#[tokio::test]
async fn a_file_with_an_error_changes_nothing_and_its_line_is_named() {
    let rules = "[[access]]\nfacility = [\"*\"]\nanonymous = [\"subscribe-*\"]\n";
    let file = SettingsFile::new(rules);
    let gateway = file.start().await;
    let cases = [
        ("[origin]\nallowed = [\"https://a.example\"]\n[redis]\nurl = \n", "line 4"),
        ("[origin]\nallowed = [\"https://a.example/path\"]\n", "line 2: origin.allowed"),
        ("expire = 1\n[server]\nlisten_to = \"x\"\n", "line 3"),
        ("\n[messages]\nmax_facilities = 0 # none\n", "line 3: messages.max_facilities"),
        ("[ping]\ninterval_seconds = 1\ntimeout_seconds = \"soon\"\n", "line 3: ping.timeout_seconds"),
        (
            "[[access]]\nfacility = [\"x\"]\n\n[[access]]\nfacility = [\"*\"]\nusers = [\"write\"]\n",
            "line 6: access",
        ),
        ("[auth.jwt]\nalgorithm = \"HS256\"\nkey_file = \"/nonexistent\"\n", "line 3: auth.jwt.key_file"),
    ];
    for (text, place) in cases {
        let line = file.reload(&gateway, text).await;
        assert!(line.contains("ERROR") && line.contains("those before stay in force"), "{line}");
        assert!(line.contains(place) && line.contains(file.0.to_str().unwrap()), "{place}: {line}");
        let mut client = gateway.connect("/ws/x?subscribe-broadcast&publish-broadcast").await;
        client.send_text("not published").await;
        client.expect_nothing().await;
    }
    std::fs::remove_file(&file.0).unwrap();
    let line = reload(&gateway).await;
    assert!(line.contains("settings not reloaded"), "{line}");
    file.reload(&gateway, rules).await;
}

#[tokio::test]
async fn settings_that_need_a_restart_are_named_until_they_are_as_at_the_start() {
    let file = SettingsFile::new("[ping]\ninterval_seconds = 30\n");
    let gateway = file.start().await;
    let changed = "[ping]\ninterval_seconds = 40\n[messages]\noutbox_seconds = 9\nmax_facilities = 5\n";
    for count in 1..=2 {
        file.reload(&gateway, changed).await;
        let warning = &["WARN", "messages.outbox_seconds, ping.interval_seconds need a restart"];
        gateway.expect_log(warning).await;
        assert_eq!(gateway.count_log(&["need a restart"]), count);
    }
    file.reload(&gateway, "[ping]\ninterval_seconds = 30\n").await;
    assert_eq!(gateway.count_log(&["need a restart"]) + gateway.count_log(&["needs a restart"]), 2);
}

#[tokio::test]
async fn a_withdrawn_rule_narrows_or_closes_open_clients_of_each_dialect() {
    let wide = "[[access]]\nfacility = [\"*\"]\nanonymous = [\"*\"]\nusers = [\"*\"]\n\
                [socketio]\nenabled = true\nnamespaces = [\"/\", \"/chat\"]\n";
    let file = SettingsFile::new(wide);
    let gateway = file.start().await;
    let flags = "subscribe-broadcast&publish-broadcast&echo";
    let cookie = john(&session_key());
    let mut anonymous = gateway.connect(&format!("/ws/news?{flags}")).await;
    let user = gateway.request(&format!("/ws/news?subscribe-user&{flags}")).header("Cookie", &cookie);
    let mut user = user.connect().await;
    let mut refused = gateway.connect(&format!("/ws/chat?{flags}")).await;
    let mut live = gateway.live("/ws/").await;
    live.subscribe("news", &["subscribe-broadcast", "publish-broadcast"]).await;
    live.subscribe("chat", &["subscribe-broadcast"]).await;
    let (mut engine, _) = open(gateway.request("/socket.io/?EIO=4&transport=websocket")).await;
    join(&mut engine, "/").await;
    join(&mut engine, "/chat").await;
    anonymous.send_text("heard").await;
    anonymous.expect_text("heard").await;
    user.expect_text("heard").await;
    live.expect(json!({"t": "msg", "f": "news", "a": "broadcast", "d": "heard"})).await;

    let tight = "[[access]]\nfacility = [\"news\", \"\"]\nanonymous = [\"subscribe-broadcast\"]\n\
                  users = [\"subscribe-broadcast\"]\n\
                  [socketio]\nenabled = true\nnamespaces = [\"/\"]\n";
    let outcome = file.reload(&gateway, tight).await;
    assert!(outcome.contains("changed: access, socketio.namespaces"), "{outcome}");
    assert_eq!(refused.expect_close(1008).await, "not allowed any more");
    assert_eq!(text(&mut engine).await, "41/chat,");
    let answer = live.next().await;
    assert_eq!((&answer["t"], &answer["f"]), (&json!("sub"), &json!("news")), "{answer}");
    let answer = live.next().await;
    assert_eq!((&answer["t"], &answer["f"]), (&json!("err"), &json!("chat")), "{answer}");
    anonymous.send_text("not published").await;
    user.send_text("not published").await;
    anonymous.expect_nothing().await;
    user.expect_nothing().await;
    gateway.publish("broadcast:news", "still heard");
    anonymous.expect_text("still heard").await;
    user.expect_text("still heard").await;
    live.expect(json!({"t": "msg", "f": "news", "a": "broadcast", "d": "still heard"})).await;

    file.reload(&gateway, wide).await;
    let answer = live.next().await;
    assert_eq!((&answer["t"], &answer["f"]), (&json!("sub"), &json!("news")), "{answer}");
    anonymous.send_text("heard again").await;
    user.expect_text("heard again").await;
}

#[tokio::test]
async fn anonymous_clients_of_socket_io_leave_when_they_are_not_admitted_any_more() {
    let text_of = |anonymous: bool| format!("[socketio]\nenabled = true\nanonymous = {anonymous}\n");
    let file = SettingsFile::new(&text_of(true));
    let gateway = file.start().await;
    let target = "/socket.io/?EIO=4&transport=websocket";
    let (mut anonymous, _) = open(gateway.request(target)).await;
    join(&mut anonymous, "/").await;
    let (mut user, _) = open(gateway.request(target).header("Cookie", john(&session_key()))).await;
    join(&mut user, "/").await;
    let server = SocketIoGateway { gateway, channel: String::new() };
    let (polling, _) = server.connect_polling().await;
    let gateway = &server.gateway;
    file.reload(gateway, &text_of(false)).await;
    assert_eq!(text(&mut anonymous).await, "41");
    assert_eq!(polling.poll().await, "41");
    let (mut late, _) = open(gateway.request(target)).await;
    late.send_text("40").await;
    assert!(text(&mut late).await.starts_with("44"));
    user.expect_nothing().await;
}

#[tokio::test]
async fn the_limits_of_publications_and_connections_are_reloaded() {
    let rules = |rate: u32| {
        format!(
            "[[access]]\nfacility = [\"*\"]\nanonymous = [\"*\"]\npublish_messages_per_second = {rate}\n\
             publish_burst_seconds = 1\n[server]\nmax_connections = {}\n",
            if rate == 0 { 100 } else { 1 }
        )
    };
    let file = SettingsFile::new(&rules(0));
    let gateway = file.start().await;
    let mut client = gateway.connect("/ws/x?publish-broadcast").await;
    let mut other = gateway.connect("/ws/x?publish-broadcast").await;
    for _ in 0..20 {
        client.send_text("fast").await;
    }
    client.expect_nothing().await;
    let line = file.reload(&gateway, &rules(1)).await;
    assert!(line.contains("access, server.max_connections"), "{line}");
    gateway.request("/ws/x").expect_status(503).await;
    other.expect_nothing().await;
    for _ in 0..20 {
        client.send_text("too fast").await;
    }
    client.expect_close(1008).await;
    other.expect_nothing().await;
    file.reload(&gateway, &rules(0)).await;
    gateway.connect("/ws/x").await;
}

#[tokio::test]
async fn the_log_filter_is_reloaded_unless_a_variable_sets_it() {
    let file = SettingsFile::new("[log]\nfilter = \"warn,ws4redis=info\"\n");
    let quiet = file.configure(TestGateway::builder().without_variable("RUST_LOG"));
    let quiet = quiet.start().await;
    let loud = file.start().await;
    assert!(quiet.count_log(&["DEBUG"]) == 0 && loud.count_log(&["DEBUG"]) > 0);
    file.reload(&quiet, "[log]\nfilter = \"ws4redis=debug\"\n").await;
    quiet.connect("/ws/x").await;
    quiet.expect_log(&["DEBUG", "connection opened"]).await;
    file.reload(&loud, "[log]\nfilter = \"error\"\n").await;
    let before = loud.count_log(&["DEBUG", "connection opened"]);
    loud.connect("/ws/x").await;
    crate::support::eventually("a line", || {
        (loud.count_log(&["DEBUG", "connection opened"]) > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_of_tokens_are_read_again_by_a_reload_even_if_no_setting_has_changed() {
    let key = SettingsFile::new("");
    std::fs::copy(path("HS256.key"), &key.0).unwrap();
    let settings = format!("[auth.jwt]\nalgorithm = \"HS256\"\nkey_file = \"{}\"\n", key.0.display());
    let file = SettingsFile::new(&settings);
    let gateway = file.start().await;
    let target = format!("/ws/x?subscribe-user&access_token={}", token("HS256", r#"{"sub":"john"}"#));
    let mut open = gateway.connect(&target).await;
    key.write("another secret, which has enough bytes");
    gateway.connect(&target).await;
    reload(&gateway).await;
    gateway.request(&target).expect_status(403).await;
    key.write("short");
    let line = reload(&gateway).await;
    assert!(line.contains("settings not reloaded") && line.contains("auth.jwt.key_file"), "{line}");
    std::fs::copy(path("HS256.key"), &key.0).unwrap();
    reload(&gateway).await;
    gateway.connect(&target).await;
    // Without tokens, the parameter has no meaning.
    file.reload(&gateway, "").await;
    gateway.connect(&target).await;
    gateway.publish("user:john:x", "to john");
    open.expect_text("to john").await;
}

#[tokio::test]
async fn the_secret_and_the_headers_of_the_callback_are_reloaded() {
    let site = TestSite::start(|_| SiteReply::json("null")).await;
    let settings = |secret: &str| {
        format!(
            "[auth]\ncallback_url = \"{}\"\ncallback_secret = \"{secret}\"\ncallback_headers = [\"X-Site: {secret}\"]\n\
             callback_forward = [\"X-{secret}\"]\ncallback_cache_seconds = 0\n",
            site.url()
        )
    };
    let file = SettingsFile::new(&settings("first"));
    let gateway = file.start().await;
    let ask = || {
        let request = gateway.request("/ws/x").header("Cookie", "a=1");
        request.header("X-First", "one").header("X-Second", "two")
    };
    ask().connect().await;
    let asked = site.expect_requests(1).await.pop().unwrap();
    assert_eq!((asked.all("x-ws4redis-secret"), asked.all("x-site")), (vec!["first"], vec!["first"]));
    assert_eq!((asked.all("x-first"), asked.all("x-second")), (vec!["one"], vec![]));
    file.reload(&gateway, &settings("second")).await;
    ask().connect().await;
    let asked = site.expect_requests(2).await.pop().unwrap();
    assert_eq!((asked.all("x-ws4redis-secret"), asked.all("x-site")), (vec!["second"], vec!["second"]));
    assert_eq!((asked.all("x-first"), asked.all("x-second")), (vec![], vec!["two"]));
}

#[tokio::test]
async fn systemd_is_told_of_a_reload_and_of_its_outcome() {
    let (systemd, file) = (Systemd::start(), SettingsFile::new(""));
    let builder = TestGateway::builder().variable("NOTIFY_SOCKET", systemd.name());
    let gateway = file.configure(builder).start().await;
    assert_eq!(systemd.notification(), "READY=1\n");
    file.reload(&gateway, "anonymous_publish = false\n").await;
    let reloading = systemd.notification();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(time.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
    assert_eq!(systemd.notification(), "READY=1\nSTATUS=settings reloaded; changed: anonymous_publish\n");
    file.reload(&gateway, "anonymous_publish = 3\nexpire = x\n").await;
    assert!(systemd.notification().starts_with("RELOADING=1\n"));
    let outcome = systemd.notification();
    assert!(
        outcome.starts_with("READY=1\nSTATUS=settings not reloaded: ") && outcome.contains("line 2"),
        "{outcome}"
    );
    assert_eq!(outcome.lines().count(), 2, "{outcome}");
}

#[tokio::test]
async fn a_command_reloads_the_settings_and_prints_what_has_changed() {
    let socket = std::env::temp_dir().join(unique("ws4redis-admin"));
    let admin = format!("[admin]\nlisten = \"unix:{}\"\n", socket.display());
    let file = SettingsFile::new(&admin);
    let gateway = file.start().await;
    let command = async |flags: &[&str]| {
        let mut command = binary();
        command.arg("--settings").arg(&file.0).arg("reload").args(flags);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
        (done.status.code().unwrap(), said)
    };
    assert_eq!(command(&[]).await, (0, "changed: nothing\nneed a restart: nothing\n".to_owned()));
    file.write(&format!("anonymous_publish = false\nexpire = 7\n{admin}"));
    let done = command(&["--json"]).await;
    assert_eq!(done, (0, "{\"changed\":[\"anonymous_publish\"],\"restart\":[\"expire\"]}\n".to_owned()));
    gateway.expect_log(&["changed: anonymous_publish"]).await;
    file.write(&format!("expire = 7\nexpires = 8\n{admin}"));
    let (code, said) = command(&[]).await;
    assert!(code == 64 && said.contains("line 2"), "{said}");
    assert_eq!(gateway.count_log(&["settings not reloaded"]), 0, "the command has read the file first");
    let request = "POST /reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        std::io::read_to_string(stream).unwrap()
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 422 ") && answer.contains("line 2"), "{answer}");
    file.write(&admin);
    drop(gateway);
    let (code, said) = command(&[]).await;
    assert!(code == 1 && said.contains("unix:"), "{said}");
}
