//! Settings and subcommands: accepted input, errors and exit codes.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use crate::support::gateway::binary;
use crate::support::{RedisServer, TestGateway, unique};

/// Runs a command that must exit by itself.
fn run(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input);
    let pid = child.id();
    // A server that starts instead of rejecting its settings would run without end.
    let (ended, watch) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::spawn(move || {
        if watch.recv_timeout(crate::support::DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            crate::support::signal(pid, "KILL");
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watching.join().unwrap();
    output
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = run(binary().args(arguments), b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{arguments:?}: {part} is not in {said}");
    }
}

fn settings_file(text: &str) -> String {
    let path = std::env::temp_dir().join(unique("ws4redis-settings"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn invalid_settings_exit_with_64_and_name_the_key() {
    for (text, parts) in [
        ("websocket_ulr = '/x/'\n", ["websocket_ulr", "websocket_url"]),
        ("[server]\nlistn = '127.0.0.1:1'\n", ["listn", "listen"]),
        ("[severs]\nlisten = '127.0.0.1:1'\n", ["severs", "server"]),
        ("[ping]\ninterval_seconds = 'often'\n", ["ping.interval_seconds", "integer"]),
        ("[redis]\nexpire = 1\n", ["redis.expire", "did you mean expire, above the first [section]?"]),
        ("[auth.jwt]\nkey = 'secret'\n", ["auth.jwt.key", "did you mean auth.jwt.key_file?"]),
        ("[messages]\nwhen_slow = 'wait'\n", ["messages.when_slow", "drop-oldest"]),
        ("websocket_url = 'ws'\n", ["websocket_url", "slash"]),
        ("this is no TOML\n", ["TOML", "line 1"]),
    ] {
        let file = settings_file(text);
        refused(&["--settings", &file], 64, &parts);
        refused(&["--settings", &file, "check"], 64, &parts);
        std::fs::remove_file(file).unwrap();
    }
    refused(&["--settings", "/nowhere/settings.toml"], 64, &["/nowhere/settings.toml"]);
    refused(&["--set", "server.listn=127.0.0.1:1"], 64, &["listn"]);
    refused(&["--set", "server.listen"], 64, &["KEY=VALUE"]);
    refused(&["--set", "redis.url=http://127.0.0.1"], 64, &["redis.url", "redis://"]);
    refused(&["--set", "origin.allowed=a b"], 64, &["origin.allowed", "a b"]);
}

#[test]
fn a_generated_settings_file_denies_publishing_to_anonymous_visitors() {
    let output = run(binary().arg("generate-settings"), b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("\nanonymous_publish = false\n").count(), 1, "{said}");
    let shipped = said.replace("\nanonymous_publish = false\n", "\nanonymous_publish = true\n");
    assert_eq!(shipped, include_str!("../../settings.toml"), "the rest is as built in");
    // Contradicting rules are rejected, not ignored.
    let rule = |verb: &str| format!("[[access]]\nfacility = \"x\"\nanonymous = [\"{verb}-broadcast\"]\n");
    let file = settings_file(&format!("{said}{}", rule("publish")));
    refused(&["--settings", &file, "check"], 64, &["anonymous_publish: is false", "[[access]]"]);
    std::fs::write(&file, format!("{said}{}", rule("subscribe"))).unwrap();
    refused(&["--settings", &file, "check", "--set", "redis.url=redis://127.0.0.1:1"], 69, &["redis.url"]);
    std::fs::remove_file(file).unwrap();
}

/// Returns the line of a setting in the output of `ws4redis settings`.
fn line<'a>(said: &'a str, key: &str) -> &'a str {
    said.lines()
        .find(|line| line.starts_with(&format!("{key} = ")))
        .unwrap_or_else(|| panic!("{key}: {said}"))
}

#[test]
fn the_settings_in_force_are_printed_with_their_sources_and_without_secrets() {
    let file = settings_file(
        "prefix = 'demo'\n[session]\nsecret_key = 'geheim1'\n[messages]\nmax_facilities = 7\n\
         [[access]]\nfacility = ['chat']\nusers = ['*']\n",
    );
    let mut command = binary();
    command.args(["settings", "--settings", &file, "--set", "server.shards=3"]);
    command.args(["--set", "admin.listen=127.0.0.1:1", "--set", "admin.token=geheim2geheim2geheim2"]);
    command
        .env("WS4REDIS_REDIS__URL", "redis://:geheim3@h:1/2")
        .env("WS4REDIS_MESSAGES__MAX_FACILITIES", "8");
    command.env("WS4REDIS_ORIGIN__ALLOWED", "http://a, http://b");
    let output = run(&mut command, b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!said.contains("geheim") && !said.contains('\u{1b}'), "{said}");
    for (key, expected) in [
        ("prefix", format!("prefix = \"demo\"  # {file}")),
        ("expire", "expire = 3600  # default".to_owned()),
        ("server.shards", "server.shards = 3  # --set".to_owned()),
        ("session.secret_key", format!("session.secret_key = \"***\"  # {file}")),
        ("admin.token", "admin.token = \"***\"  # --set".to_owned()),
        ("redis.url", "redis.url = \"redis://***@h:1/2\"  # WS4REDIS_REDIS__URL".to_owned()),
        (
            "messages.max_facilities",
            "messages.max_facilities = 8  # WS4REDIS_MESSAGES__MAX_FACILITIES".to_owned(),
        ),
        (
            "origin.allowed",
            "origin.allowed = [\"http://a\", \"http://b\"]  # WS4REDIS_ORIGIN__ALLOWED".to_owned(),
        ),
        ("access", format!("access = [{{ facility = [\"chat\"], users = [\"*\"] }}]  # {file}")),
    ] {
        assert_eq!(line(&said, key), expected);
    }
    let changed = run(command.arg("--changed"), b"");
    let changed = String::from_utf8(changed.stdout).unwrap();
    assert_eq!(changed.lines().count(), 9, "{changed}");
    let json = run(command.arg("--json"), b"");
    let lines: Vec<serde_json::Value> = String::from_utf8(json.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shards = lines.iter().find(|line| line["key"] == "server.shards").unwrap();
    assert_eq!(shards.to_string(), r#"{"key":"server.shards","name":"--set","source":"flag","value":3}"#);
    std::fs::remove_file(&file).unwrap();
    refused(&["settings", "--set", "server.shards=x"], 64, &["server.shards"]);
}

#[test]
fn a_secret_of_digits_is_not_printed() {
    let file = settings_file("[admin]\nlisten = '127.0.0.1:1'\ntoken = 12345678901234567\n");
    let output = run(binary().args(["settings", "--changed", "--settings", &file]), b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line(&said, "admin.token"), format!("admin.token = \"***\"  # {file}"));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_generated_settings_file_has_the_values_of_the_flags() {
    let file = std::env::temp_dir().join(unique("ws4redis-generated"));
    let name = file.to_str().unwrap();
    let arguments = [
        "generate-settings",
        "--redis",
        "redis://:x@h:1/2",
        "--set",
        "prefix=a\"b",
        "--listen",
        "127.0.0.1:7",
        "--output",
        name,
    ];
    let output = run(binary().args(arguments), b"");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let said = std::fs::read_to_string(&file).unwrap();
    for line in [
        "url = \"redis://:x@h:1/2\"",
        "prefix = \"a\\\"b\"",
        "listen = \"127.0.0.1:7\"",
        "anonymous_publish = false",
    ] {
        assert_eq!(said.lines().filter(|found| *found == line).count(), 1, "{line}");
    }
    let printed = run(binary().args(["settings", "--changed", "--settings", name]), b"");
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(line(&printed, "redis.url").contains("redis://***@h:1/2"), "{printed}");
    // A file of the operator is not overwritten.
    refused(&arguments, 64, &["--output", name]);
    refused(&["generate-settings", "--set", "no.such=1"], 64, &["no"]);
    refused(
        &["generate-settings", "--set", "origin.allowed[0]=http://a"],
        64,
        &["origin.allowed[0]", "whole"],
    );
    std::fs::remove_file(&file).unwrap();
}

/// How the completions of a shell offer a subcommand. Those of bash have no descriptions.
fn completion(shell: &str, name: &str, about: &str) -> String {
    let doubled = about.replace('\'', "''");
    match shell {
        "bash" => format!("ws4redis,{name})\n"),
        "elvish" => format!("cand {name} '{doubled}'\n"),
        "fish" => format!("-f -a \"{name}\" -d '{}'\n", about.replace('\'', r"\'")),
        "powershell" => {
            format!("::new('{name}', '{name}', [CompletionResultType]::ParameterValue, '{doubled}')\n")
        }
        _ => format!("'{name}:{}' \\\n", about.replace(':', r"\:").replace('\'', r"'\''")),
    }
}

#[test]
fn the_man_page_and_the_completions_have_all_commands() {
    let help = String::from_utf8(run(binary().arg("--help"), b"").stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = commands.map_while(|line| line.trim().split_once(' ')).collect();
    let names: Vec<_> = commands.iter().map(|(name, _)| *name).collect();
    assert!(names.contains(&"serve") && names.contains(&"man"), "{help}");
    let page = String::from_utf8(run(binary().arg("man"), b"").stdout).unwrap();
    for name in names.iter().filter(|name| **name != "help") {
        assert!(page.contains(&format!(".SH \"ws4redis {name}\"\n")), "{name}: {page}");
    }
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let completions = String::from_utf8(run(binary().args(["completions", shell]), b"").stdout).unwrap();
        for (name, about) in &commands {
            let expected = completion(shell, name, about.trim());
            assert!(completions.contains(&expected), "{shell}: {expected}\n{completions}");
        }
    }
    let bash = run(binary().args(["completions", "bash"]), b"").stdout;
    assert!(run(Command::new("bash").arg("-n"), &bash).status.success());
    refused(&["completions", "tcsh"], 64, &["tcsh"]);
}

#[test]
fn unsupported_parts_of_a_redis_url_are_rejected_by_name() {
    for (url, part) in [
        ("redis://127.0.0.1?databse=2", "databse"),
        ("redis://127.0.0.1?socket_timeout=2", "redis.command_timeout_seconds"),
        ("unix:/run/redis.sock?database=2", "database"),
        ("rediss://127.0.0.1?ssl=1", "ssl"),
        ("redis-sentinel://127.0.0.1?sentinelServiceName=m&service=m", "service"),
        ("redis-sentinel://127.0.0.1", "sentinelServiceName"),
        ("redis-cluster://127.0.0.1?db=3", "a cluster has database 0 only"),
        ("redis-cluster://127.0.0.1?sentinelServiceName=m", "sentinelServiceName"),
        ("redis://127.0.0.1?node=127.0.0.2:1", "node"),
        ("redis://127.0.0.1/256", "0 to 255"),
        ("redis://127.0.0.1?db=two", "0 to 255"),
    ] {
        for key in ["redis.url", "session.redis_url"] {
            refused(&["--set", &format!("{key}={url}"), "check"], 64, &[&format!("{key}: "), part]);
        }
    }
}

#[test]
fn a_settings_file_that_is_not_text_exits_with_64_and_names_file_and_position() {
    let directory = std::env::temp_dir().join(unique("ws4redis-directory"));
    std::fs::create_dir(&directory).unwrap();
    let socket = directory.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let written = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let latin1 = written("latin1", b"prefix = 'a'\nheartbeat = 'gr\xfc\xdfe'\n");
    let utf16 = written("utf16", b"\xff\xfep\0r\0e\0f\0i\0x\0");
    let huge = written("huge", &b"# 89 123456789\n".repeat(1 << 17));
    let (directory_name, socket) = (directory.display().to_string(), socket.display().to_string());
    for (file, part) in [
        (latin1.as_str(), "not valid UTF-8 (line 2, column 16)"),
        (&utf16, "UTF-16"),
        (&directory_name, "directory"),
        (&socket, "device or a socket"),
        ("/dev/zero", "device or a socket"),
        ("/dev/null", "device or a socket"),
        (&huge, "larger than 1048576 bytes"),
    ] {
        refused(&["--settings", file], 64, &[file, part]);
        refused(&["--settings", file, "check"], 64, &[file, part]);
        // The same holds for the other files that settings refer to.
        let tokens =
            ["auth.jwt.algorithm=HS256", "auth.callback_url=http://127.0.0.1/", "session.secret_key=x"];
        for key in [
            "session.secret_key_file",
            "auth.callback_secret_file",
            "auth.jwt.key_file",
            "auth.jwt.jwks_file",
        ] {
            // A secret key may be binary.
            if key.starts_with("auth.jwt") && [&latin1, &utf16].contains(&&file.to_owned()) {
                continue;
            }
            let set = format!("{key}={file}");
            let unused = if key.starts_with("auth.jwt") { &tokens[1..] } else { &tokens[1..2] };
            let mut arguments = vec!["check", "--set", &set];
            if key.starts_with("auth.jwt") {
                arguments.extend(["--set", tokens[0]]);
            }
            arguments.extend(unused.iter().flat_map(|assignment| ["--set", assignment]));
            refused(&arguments, 64, &[key, file, part]);
        }
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn settings_may_come_from_a_pipe_and_start_with_a_byte_order_mark() {
    let program = env!("CARGO_BIN_EXE_ws4redis");
    let script = format!(
        "{program} --settings <(printf '\\xef\\xbb\\xbfprefix = \"piped\"\\n') check --set redis.url=redis://127.0.0.1:1"
    );
    let output = run(Command::new("bash").args(["-c", &script]), b"");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("piped:broadcast:"), "{said}");
}

#[test]
fn a_secret_under_the_wrong_key_is_not_printed() {
    for text in [
        "[redis]\nurl = \"redis://:geheim@host:1\n",
        "redis = 'redis://:geheim@host:1'\n",
        "expire = 'redis://:geheim@host:1'\n",
        "[redis]\nurl = 'redis://joe:12/geheim@host:1/0'\n",
        "[redis]\nurl = 'redis:joe:geheim@host:1/0'\n",
        "[redis]\nurl = 'redis://:p@s/s#geheim%rd@host:1/0'\n",
        "[redis]\nurl = 'redis://:geheim'\n",
        "[redis]\nurl = 'http://:geheim@host:1/0'\n",
    ] {
        let file = settings_file(text);
        let output = run(binary().args(["--settings", &file, "check"]), b"");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success() && !said.contains("geheim"), "{text}: {said}");
        std::fs::remove_file(file).unwrap();
    }
    refused(&["--set", "redis.url:redis://:geheim@host"], 64, &["KEY=VALUE"]);
    let output = run(binary().args(["--set", "redis.url:redis://:geheim@host"]), b"");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("geheim"));
}

#[test]
fn a_regular_file_is_not_replaced_by_a_unix_socket() {
    let file = settings_file("precious");
    let listen = format!("server.listen=unix:{file}");
    refused(&["--set", &listen, "--set", "redis.url=redis://127.0.0.1:1"], 1, &[&file, "is not a socket"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn environment_variables_that_are_not_utf8_are_rejected_only_if_they_are_settings() {
    use std::os::unix::ffi::OsStrExt;
    let garbage = std::ffi::OsStr::from_bytes(b"\xff");
    let output = run(binary().arg("generate-settings").env("FOREIGN", garbage), b"");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("[server]"), "the manual is printed");
    let output = run(binary().arg("check").env("WS4REDIS_PREFIX", garbage), b"");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("WS4REDIS_PREFIX"));
}

#[test]
fn invalid_flags_exit_with_64_and_help_with_0() {
    refused(&["--nonsense"], 64, &["--nonsense"]);
    refused(&["nonsense"], 64, &["nonsense"]);
    for (flag, part) in [("--help", "publish"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = run(binary().arg(flag), b"");
        assert_eq!(output.status.code(), Some(0), "{flag}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(part), "{flag}");
    }
}

#[test]
fn an_address_in_use_exits_with_1_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let url = format!("redis.url={}", RedisServer::shared().url());
    refused(&["--set", &format!("server.listen={address}"), "--set", &url], 1, &[&address, "in use"]);
}

#[tokio::test]
async fn the_environment_wins_over_the_file_and_flags_over_both() {
    let file = settings_file("heartbeat = 'file'\nprefix = 'file'\n[ping]\ninterval_seconds = 1\n");
    for (variable, flag, expected) in
        [(None, None, "file"), (Some("env"), None, "env"), (Some("env"), Some("flag"), "flag")]
    {
        let mut gateway = TestGateway::builder().argument("--settings").argument(&file);
        if let Some(value) = variable {
            gateway = gateway.variable("WS4REDIS_HEARTBEAT", value);
        }
        if let Some(value) = flag {
            gateway = gateway.argument("--set").argument(&format!("heartbeat={value}"));
        }
        let gateway = gateway.start().await;
        let mut client = gateway.connect("/ws/x").await;
        client.send_text(expected).await;
        client.expect_text(expected).await;
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn unknown_environment_variables_are_warned_of_by_name() {
    let gateway = TestGateway::builder()
        .variable("WS4REDIS_SERVER_LISTEN", "127.0.0.1:1")
        .variable("WS4REDIS_NONSENSE", "1")
        .variable("WS4REDIS_CONNECTION", "{'host': 'redis.example', 'password': 'geheim'}")
        .variable("WS4REDIS_SUBSCRIBER", "my.Subscriber")
        .set("anonymous_publish", "false")
        .start()
        .await;
    gateway.expect_log(&["WARN", "WS4REDIS_SERVER_LISTEN", "WS4REDIS_SERVER__LISTEN"]).await;
    gateway.expect_log(&["WARN", "WS4REDIS_NONSENSE", "settings.toml"]).await;
    gateway.expect_log(&["WARN", "WS4REDIS_CONNECTION", "redis.url"]).await;
    gateway.expect_log(&["WARN", "WS4REDIS_SUBSCRIBER", "not supported"]).await;
    assert_eq!(gateway.count_log(&["WARN"]), 4, "{:#?}", gateway.log());
    assert_eq!(gateway.count_log(&["geheim"]), 0, "values are not logged");
}

#[test]
fn check_reports_what_it_found_and_exits_with_0() {
    let url = RedisServer::shared().url();
    let mut command = binary();
    command.args(["check", "--set", &format!("redis.url={url}"), "--set", "server.listen=127.0.0.1:17499"]);
    let output = run(command.env("WS4REDIS_NOPE", "1"), b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["settings: fine", "WS4REDIS_NOPE", "127.0.0.1:17499", "/ws/", "redis: reached", &url] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn check_names_the_source_of_each_setting_and_warns_of_values_without_effect() {
    let file = settings_file("expire = 1\nprefix = \"geheim\"\n[server]\nshards = 1\n");
    let mut command = binary();
    command.args(["--settings", &file, "check", "--set", "server.shards=2", "--set"]);
    command.arg(format!("redis.url={}", RedisServer::shared().url()));
    let output = run(command.env("WS4REDIS_EXPIRE", "2").env("WS4REDIS_HEARTBEAT", "--x--"), b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let lines = [
        "expire: WS4REDIS_EXPIRE",
        "heartbeat: WS4REDIS_HEARTBEAT",
        "redis.url: --set",
        "server.shards: --set",
    ];
    for line in lines.map(str::to_owned).into_iter().chain([format!("prefix: {file}")]) {
        assert!(said.contains(&format!("\n  {line}\n")), "{line} is not in {said}");
    }
    let warnings: Vec<_> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 2, "{said}");
    let expected = format!("expire is set by WS4REDIS_EXPIRE, and its value in {file} has no effect");
    assert!(warnings[0].contains(&expected), "{said}");
    assert!(warnings[1].contains("server.shards is set by --set"), "{said}");
    assert!(!said.contains(": geheim") && !said.contains("--x--"), "values may be secrets: {said}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn check_without_redis_exits_with_69_and_hides_the_password() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("redis.url=redis://user:geheim@{free}/2");
    let output =
        run(binary().args(["check", "--set", &url, "--set", "redis.connect_timeout_seconds=1"]), b"");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains(&free.to_string()) && !said.contains("geheim"), "{said}");
    refused(
        &["publish", "--set", &url, "--set", "redis.connect_timeout_seconds=1", "--broadcast", "x", "m"],
        69,
        &["redis"],
    );
}

fn publish(prefix: &str, arguments: &[&str], input: &[u8]) -> Output {
    let url = format!("redis.url={}", RedisServer::shared().url());
    let prefix = format!("prefix={prefix}");
    run(binary().args(["publish", "--set", &url, "--set", &prefix]).args(arguments), input)
}

#[tokio::test]
async fn publish_reaches_connected_and_later_clients() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/room?subscribe-broadcast").await;
    let output = publish(gateway.namespace(), &["--broadcast", "room", "Hello"], b"");
    assert!(output.status.success(), "{output:?}");
    client.expect_text("Hello").await;
    gateway.connect("/ws/room?subscribe-broadcast").await.expect_text("Hello").await;
    let output = publish(gateway.namespace(), &["--broadcast", "room", "-"], b"from\nstdin\xff");
    assert!(output.status.success(), "{output:?}");
    client.expect_binary(b"from\nstdin\xff").await;
    client.expect_nothing().await;
}

#[test]
fn publish_uses_the_keys_and_expiry_of_upstream() {
    let prefix = unique("cli");
    let arguments =
        ["--broadcast", "--user", "john", "--user", "mary", "--group", "red team", "--session", "abc"];
    let output = publish(&prefix, &[&arguments[..], &["--expire", "50", "room", "kept"]].concat(), b"");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("5 channels"), "{output:?}");
    let redis = RedisServer::shared();
    for name in
        ["broadcast:room", "user:john:room", "user:mary:room", "group:red team:room", "session:abc:room"]
    {
        let key = format!("{prefix}:{name}");
        assert_eq!(redis.get(&key).as_deref(), Some(&b"kept"[..]), "{key}");
        let ttl = redis.command(&["TTL", &key]).integer();
        assert!((40..=50).contains(&ttl), "{key}: {ttl}");
    }
    for expire in ["0", "-1"] {
        let output = publish(&prefix, &["--broadcast", "--expire", expire, "fleeting", "x"], b"");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(redis.get(&format!("{prefix}:broadcast:fleeting")), None);
    }
    let output = publish(&prefix, &["--broadcast", "default", "x"], b"");
    assert!(output.status.success(), "{output:?}");
    let ttl = redis.command(&["TTL", &format!("{prefix}:broadcast:default")]).integer();
    assert!((3590..=3600).contains(&ttl), "{ttl}");
}

#[test]
fn publish_without_a_target_or_with_an_invalid_name_exits_with_64() {
    for (arguments, part) in [
        (&["room", "x"][..], "--broadcast"),
        (&["--broadcast", "a\nb", "x"], "control"),
        (&["--user", "", "room", "x"], "empty"),
        (&["--broadcast", "--group", "", "room", "x"], "empty"),
        (&["--broadcast"], "FACILITY"),
    ] {
        let output = publish("p", arguments, b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

mod redis_only {
    use super::*;

    #[tokio::test]
    async fn redis_is_reached_by_unix_socket_password_user_and_database() {
        let redis = RedisServer::start_with(&["--user", "gate", "on", ">geheim", "~*", "&*", "+@all"]);
        let address = format!("127.0.0.1:{}", redis.port());
        for url in [
            format!("unix:{}", redis.unix_path().display()),
            format!("redis://gate:geheim@{address}"),
            format!("redis://gate:geheim@{address}/3"),
        ] {
            let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).start().await;
            let mut client = gateway.connect("/ws/u?subscribe-broadcast&publish-broadcast&echo").await;
            client.send_text(&url).await;
            client.expect_text(&url).await;
            client.expect_nothing().await;
            assert_eq!(gateway.count_log(&["geheim"]), 0, "{:#?}", gateway.log());
        }
        let mut connection = redis.connection();
        connection.command(&["SELECT", "3"]);
        let keys = connection.command(&["DBSIZE"]).integer();
        assert_eq!(keys, 1, "the last message was kept in database 3");
        for (url, code) in
            [(format!("redis://gate:wrong@{address}"), 69), (format!("redis://gate:geheim@{address}"), 0)]
        {
            let output = run(binary().args(["check", "--set", &format!("redis.url={url}")]), b"");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(!said.contains("geheim") && !said.contains("wrong"), "{said}");
        }
    }
}
