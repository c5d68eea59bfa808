//! Django sessions in Redis, and clients that send their cookies.

use super::client::TestClient;
use super::{RedisServer, TestGateway, unique};

/// Returns a unique session key in Django's format: 32 lower-case alphanumeric characters.
pub fn session_key() -> String {
    let name: String = unique("s").to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let tail = &name[name.len().saturating_sub(32)..];
    format!("{tail:0>32}")
}

/// Returns the Redis key of a session.
pub fn redis_key(key: &str) -> String {
    format!(":1:django.contrib.sessions.cache{key}")
}

/// Writes a session in the format of a Django cache with a JSON serializer.
pub fn write_session(redis: &RedisServer, key: &str, content: &str) {
    redis.command(&["SET", &redis_key(key), content, "EX", "1000"]);
}

/// Logs in user 7, john, a member of `staff` and `red team`. Returns the cookie.
pub fn john(key: &str) -> String {
    write_session(
        RedisServer::shared(),
        key,
        r#"{"_auth_user_id": "7", "_auth_user_hash": "h", "ws4redis:username": "john", "ws4redis:memberof": ["staff", "red team"]}"#,
    );
    format!("sessionid={key}")
}

/// Logs in user 8, mary, a member of `blue`. Returns the cookie.
pub fn mary(key: &str) -> String {
    write_session(
        RedisServer::shared(),
        key,
        r#"{"_auth_user_id": "8", "_auth_user_hash": "h", "ws4redis:username": "mary", "ws4redis:memberof": ["blue"]}"#,
    );
    format!("sessionid={key}")
}

pub async fn connect(gateway: &TestGateway, path: &str, cookie: &str) -> TestClient {
    gateway.request(path).header("Cookie", cookie).connect().await
}

/// Writes a session as the signal receivers of the Django package do at login. Returns the cookie.
pub fn log_in(redis: &RedisServer, key: &str, id: &str, name: &str, groups: &[&str]) -> String {
    let groups: Vec<_> = groups.iter().map(|group| format!("{group:?}")).collect();
    let content = format!(
        r#"{{"_auth_user_id": "{id}", "_auth_user_hash": "h", "ws4redis:username": "{name}", "ws4redis:memberof": [{}]}}"#,
        groups.join(", ")
    );
    write_session(redis, key, &content);
    format!("sessionid={key}")
}

/// Publishes an invalidation for a user, as the Django package does after a change.
pub fn hint(gateway: &TestGateway, user: &str, reason: &str) {
    gateway.publish("ws4redis:control", format!(r#"{{"v":1,"user":"{user}","reason":"{reason}"}}"#));
}

/// Writes the identity key of a user.
pub fn write_user(gateway: &TestGateway, user: &str, value: &str) {
    RedisServer::shared().command(&["SET", &gateway.channel(&format!("ws4redis:identity:{user}")), value]);
}
