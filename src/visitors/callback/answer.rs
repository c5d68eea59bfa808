//! The callback's answer: its JSON, and the visitor that it identifies.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use crate::access::session::KeyPattern;
use crate::access::{Identity, groups_fit, name_fits};
use crate::visitors::{AuthSource, Visitor};
use crate::wire::{Flags, SessionKey};

/// An answer of the callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    identity: Identity,
    allowed: Option<Flags>,
    /// When it arrived.
    at: Instant,
    /// Its validity from then on; `None` means without limit.
    valid_for: Option<Duration>,
}

/// The JSON object of an answer. Optional members may be null; unknown members are ignored.
#[derive(Deserialize)]
struct AnswerJson {
    // Required, since a response without it comes from another view.
    #[serde(deserialize_with = "Option::deserialize")]
    user: Option<String>,
    #[serde(default)]
    id: Option<PrimaryKey>,
    #[serde(default)]
    groups: Option<Vec<String>>,
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    allow: Option<Vec<String>>,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<Duration>,
}

/// A primary key.
#[derive(Deserialize)]
#[serde(untagged)]
enum PrimaryKey {
    Number(i64),
    Text(String),
}

impl Answer {
    /// Parses an answer: null or an object. A session that does not match the pattern is ignored.
    ///
    /// # Errors
    ///
    /// When the JSON is malformed, a member has a wrong type, or a name is too long. The text quotes nothing of the
    /// answer, which is private.
    pub fn read(json: &[u8], pattern: &KeyPattern) -> Result<Self, String> {
        let anonymous =
            Self { identity: Identity::anonymous(), allowed: None, at: Instant::now(), valid_for: None };
        if json.trim_ascii() == b"null" {
            return Ok(anonymous);
        }
        // serde would accept an array as the members of an object, in order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err("is neither a JSON object nor null".to_owned());
        }
        let written: AnswerJson = serde_json::from_slice(json).map_err(|error| {
            let problem =
                if error.is_data() { "lacks user, or has a member of a wrong type" } else { "is not JSON" };
            format!("{problem} (line {}, column {})", error.line(), error.column())
        })?;
        let session = written.session.filter(|key| pattern.admits(key)).map(|key| SessionKey::new(&key));
        let mut identity = Identity { session, ..anonymous.identity };
        if let Some(user) = written.user {
            let id = match written.id {
                Some(PrimaryKey::Number(id)) => id.to_string(),
                Some(PrimaryKey::Text(id)) if !id.is_empty() => id,
                _ => user.clone(),
            };
            let names = written.groups.unwrap_or_default();
            if !groups_fit(&names) || !name_fits(&user) || !name_fits(&id) {
                return Err("has too many groups, or too long a name".to_owned());
            }
            // Without a name and a primary key the visitor is anonymous.
            if !id.is_empty() {
                identity.user_id = Some(id.into());
                identity.groups = names.into_iter().collect();
            }
            identity.user = Some(user).filter(|user| !user.is_empty()).map(Into::into);
        }
        let allowed = written.allow.map(|names| Flags::named(names.iter().map(String::as_str)));
        Ok(Self { identity, allowed, valid_for: written.expires_in, ..anonymous })
    }

    /// Returns the time for which the answer may be cached.
    pub fn cacheable_for(&self, cache: Duration) -> Duration {
        self.valid_for.map_or(cache, |valid_for| valid_for.min(cache))
    }

    /// Returns the visitor, with the lifetime that is left now.
    pub fn visitor(&self, auth_source: AuthSource) -> Visitor {
        let left = self.valid_for.map(|valid_for| valid_for.saturating_sub(self.at.elapsed()));
        Visitor {
            identity: self.identity.clone(),
            allowed: self.allowed,
            auth_source,
            lives_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            ..Visitor::default()
        }
    }

    /// Returns whether it names a logged-in user without a name.
    pub fn lacks_name(&self) -> bool {
        self.identity.user_id.is_some() && self.identity.user.is_none()
    }

    /// Returns whether it names a user.
    pub fn names_user(&self) -> bool {
        self.identity.user.is_some()
    }

    /// Returns its approximate size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let Identity { session, user_id, user, groups } = &self.identity;
        let names = groups.iter().map(|name| &**name).chain(user.as_deref()).chain(user_id.as_deref());
        let names: usize = names.map(|name| size_of::<String>() + name.len()).sum();
        size_of::<Self>() + names + session.as_ref().map_or(0, |key| key.as_str().len())
    }
}

/// Parses a positive number of seconds; one too large for a `Duration` means without limit.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match Option::<f64>::deserialize(deserializer)? {
        Some(seconds) if seconds <= 0.0 => Err(serde::de::Error::custom("no time")),
        Some(seconds) => Ok(Duration::try_from_secs_f64(seconds).ok()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "aonhk897c0q74kqva7rtv278kgdpr276";

    #[track_caller]
    fn read(json: &str) -> Visitor {
        Answer::read(json.as_bytes(), &KeyPattern::default()).unwrap().visitor(AuthSource::None)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_a_visitor() {
        let json = format!(
            r#" {{"user": "john", "id": 7, "groups": ["staff"], "session": "{KEY}", "allow": ["subscribe-user", "x"], "expires_in": 1.5, "later": {{}}}}"#
        );
        let visitor = Visitor {
            identity: Identity {
                session: Some(SessionKey::new(KEY)),
                user_id: Some("7".into()),
                user: Some("john".into()),
                groups: ["staff"].into_iter().collect(),
            },
            allowed: Some(Flags::named(["subscribe-user"])),
            lives_ms: Some(1500),
            ..Visitor::default()
        };
        assert_eq!(read(&json), visitor);
        let answer = Answer::read(json.as_bytes(), &KeyPattern::default()).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(answer.visitor(AuthSource::None).lives_ms, Some(500));
        assert_eq!(answer.cacheable_for(Duration::from_secs(5)), Duration::from_millis(1500));
    }

    #[test]
    fn absent_and_null_members_have_no_value() {
        for json in ["null", " null\n", r#"{"user": null}"#, r#"{"user": null, "id": 7, "groups": ["a"]}"#] {
            assert_eq!(read(json), Visitor::default(), "{json}");
        }
        let nulls = r#"{"user": "j", "id": null, "groups": null, "session": null, "allow": null, "expires_in": null}"#;
        for json in
            [r#"{"user": "j"}"#, r#"{"user": "j", "id": ""}"#, nulls, r#"{"user": "j", "expires_in": 1e300}"#]
        {
            let john = Identity { user: Some("j".into()), user_id: Some("j".into()), ..Identity::default() };
            assert_eq!(read(json), Visitor { identity: john, ..Visitor::default() }, "{json}");
        }
        assert_eq!(read(r#"{"user": null, "allow": []}"#).allowed, Some(Flags::default()));
    }

    #[test]
    fn a_user_without_a_name_is_logged_in_by_the_primary_key_alone() {
        let nameless = Identity {
            user_id: Some("7".into()),
            groups: ["staff"].into_iter().collect(),
            ..Identity::default()
        };
        let read_as = |json| read(json).identity;
        assert_eq!(read_as(r#"{"user": "", "id": 7, "groups": ["staff"]}"#), nameless);
        assert_eq!(read_as(r#"{"user": "", "groups": ["staff"]}"#), Identity::default());
        let longest = "j".repeat(1024);
        let john = read_as(&format!(r#"{{"user": "{longest}", "id": "{longest}"}}"#));
        assert_eq!(john.user.as_deref(), Some(&*longest));
    }

    #[test]
    fn an_invalid_session_is_ignored() {
        for session in ["", "short", "x:y", &KEY.to_uppercase(), &format!("{KEY}0"), &"a".repeat(5000)] {
            let visitor = read(&format!(r#"{{"user": "j", "session": "{session}"}}"#));
            assert_eq!(visitor.identity.session, None, "{session}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for json in [
            "",
            "nul",
            "null null",
            "[null]",
            r#"["john"]"#,
            r#""john""#,
            "true",
            "7",
            "{}",
            "<html>",
            "\u{feff}null",
            r#"{"detail": "not found"}"#,
            r#"{"user": 7}"#,
            &format!(r#"{{"user": "{}"}}"#, "j".repeat(1025)),
            &format!(r#"{{"user": "j", "id": "{}"}}"#, "7".repeat(1025)),
            &format!(r#"{{"user": "j", "groups": ["{}"]}}"#, "g".repeat(1025)),
            r#"{"user": "a", "user": "b"}"#,
            r#"{"user": "a"} x"#,
            r#"{"user": "a", "id": 1.5}"#,
            r#"{"user": "a", "groups": "staff"}"#,
            r#"{"user": "a", "groups": [1]}"#,
            r#"{"user": null, "groups": [1]}"#,
            r#"{"user": "a", "session": 7}"#,
            r#"{"user": "a", "allow": "subscribe-user"}"#,
            r#"{"user": "a", "expires_in": 0}"#,
            r#"{"user": "a", "expires_in": -1}"#,
            r#"{"user": "a", "expires_in": "60"}"#,
            r#"{"user": "a", "expires_in": true}"#,
            r#"{"user": "a", "expires_in": 1e999}"#,
            r#"{"user": "a", "expires_in": NaN}"#,
        ] {
            assert!(Answer::read(json.as_bytes(), &KeyPattern::default()).is_err(), "{json}");
        }
        let problem = Answer::read(br#"{"user": {"geheim": 1}}"#, &KeyPattern::default()).unwrap_err();
        assert!(problem.contains("line 1") && !problem.contains("geheim"), "{problem}");
        assert!(Answer::read(b"{\"user\": \"\xff\"}", &KeyPattern::default()).is_err());
    }
}
