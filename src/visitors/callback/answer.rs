//! What the callback answers, as JSON, and what it means.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use crate::access::session::KeyPattern;
use crate::access::{Identity, are_reasonable, is_reasonable};
use crate::visitors::{AuthSource, Visitor};
use crate::wire::{Flags, SessionKey};

/// What the callback says of a visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    identity: Identity,
    allowed: Option<Flags>,
    /// When it came.
    at: Instant,
    /// For how long it holds from then on; none: without end.
    holds: Option<Duration>,
}

/// An answer as it is written. What may be absent may be null, too; unknown members are for later versions.
#[derive(Deserialize)]
struct Written {
    // Absent, it is some other view's answer.
    #[serde(deserialize_with = "Option::deserialize")]
    user: Option<String>,
    #[serde(default)]
    id: Option<Id>,
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
enum Id {
    Number(i64),
    Text(String),
}

impl Answer {
    /// Reads an answer. A session that is none by the pattern is left out.
    ///
    /// # Errors
    ///
    /// When it is neither null nor an object with members as agreed on; in words that repeat nothing of it.
    pub fn read(json: &[u8], pattern: &KeyPattern) -> Result<Self, String> {
        let nobody = Self { identity: Identity::anonymous(), allowed: None, at: Instant::now(), holds: None };
        if json.trim_ascii() == b"null" {
            return Ok(nobody);
        }
        // serde takes a list for the members of an object, in their order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err("is no JSON object, nor null".to_owned());
        }
        let written: Written = serde_json::from_slice(json).map_err(|error| {
            let what =
                if error.is_data() { "lacks user, or has a member of a wrong type" } else { "is no JSON" };
            format!("{what} (line {}, column {})", error.line(), error.column())
        })?;
        let session = written.session.filter(|key| pattern.admits(key)).map(|key| SessionKey::new(&key));
        let mut identity = Identity { session, ..nobody.identity };
        if let Some(user) = written.user {
            let id = match written.id {
                Some(Id::Number(id)) => id.to_string(),
                Some(Id::Text(id)) if !id.is_empty() => id,
                _ => user.clone(),
            };
            let names = written.groups.unwrap_or_default();
            if !are_reasonable(&names) || !is_reasonable(&user) || !is_reasonable(&id) {
                return Err("has more groups, or longer names, than anybody needs".to_owned());
            }
            // Neither a name nor a key: nobody is logged in.
            if !id.is_empty() {
                identity.user_id = Some(id.into());
                identity.groups = names.into_iter().collect();
            }
            identity.user = Some(user).filter(|user| !user.is_empty()).map(Into::into);
        }
        let allowed = written.allow.map(|names| Flags::named(names.iter().map(String::as_str)));
        Ok(Self { identity, allowed, holds: written.expires_in, ..nobody })
    }

    /// Returns for how long it may serve for the same question.
    pub fn keeps(&self, cache: Duration) -> Duration {
        self.holds.map_or(cache, |holds| holds.min(cache))
    }

    /// Returns the visitor, as of now.
    pub fn visitor(&self, auth_source: AuthSource) -> Visitor {
        let left = self.holds.map(|holds| holds.saturating_sub(self.at.elapsed()));
        Visitor {
            identity: self.identity.clone(),
            allowed: self.allowed,
            auth_source,
            lives_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            ..Visitor::default()
        }
    }

    /// Tells whether somebody is logged in whose name is not known.
    pub fn lacks_name(&self) -> bool {
        self.identity.user_id.is_some() && self.identity.user.is_none()
    }

    /// Tells whether it names a user.
    pub fn names_somebody(&self) -> bool {
        self.identity.user.is_some()
    }

    /// Returns about how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let Identity { session, user_id, user, groups } = &self.identity;
        let names = groups.iter().map(|name| &**name).chain(user.as_deref()).chain(user_id.as_deref());
        let names: usize = names.map(|name| size_of::<String>() + name.len()).sum();
        size_of::<Self>() + names + session.as_ref().map_or(0, |key| key.as_str().len())
    }
}

/// Reads a time above 0; one that is too long to be counted is without end.
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
        assert_eq!(answer.keeps(Duration::from_secs(5)), Duration::from_millis(1500));
    }

    #[test]
    fn what_is_absent_or_null_is_nothing() {
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
    fn a_session_that_is_none_is_left_out() {
        for session in ["", "short", "x:y", &KEY.to_uppercase(), &format!("{KEY}0"), &"a".repeat(5000)] {
            let visitor = read(&format!(r#"{{"user": "j", "session": "{session}"}}"#));
            assert_eq!(visitor.identity.session, None, "{session}");
        }
    }

    #[test]
    fn what_is_not_as_agreed_on_is_no_answer() {
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
