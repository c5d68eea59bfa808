//! The facts that a page may read about its own visitor.

use serde_json::{Value, json};

use super::{AuthSource, Visitor};

/// Returns the visitor's profile as a JSON object. It omits the session key, which an `HttpOnly` cookie hides from pages.
pub fn profile(visitor: &Visitor) -> String {
    facts(visitor).to_string()
}

/// Returns the profile with the presence of a session cookie, and the flags that the visitor's handshake is granted or not.
pub fn profile_of_handshake(
    visitor: &Visitor,
    has_cookie: bool,
    granted: &[String],
    refused: &[String],
) -> String {
    let mut facts = facts(visitor);
    facts["cookie"] = has_cookie.into();
    facts["granted"] = granted.into();
    facts["refused"] = refused.into();
    facts["advice"] = advice(visitor, has_cookie, refused).into();
    facts.to_string()
}

/// Returns what the author of the page may not expect, for the browser's console.
fn advice(visitor: &Visitor, has_cookie: bool, refused: &[String]) -> Vec<String> {
    let identity = &visitor.identity;
    let mut advice = Vec::new();
    if has_cookie && identity.session.is_none() && matches!(visitor.auth_source, AuthSource::None) {
        let text = "anonymous although the browser sends a session cookie: the session is not in Redis. It has ended, or \
                    SESSION_ENGINE stores sessions elsewhere, or session.keys or session.redis_url differ";
        advice.push(text.to_owned());
    }
    if identity.user_id.is_some() && identity.user.is_none() {
        let text = "the session has a user whose name the gateway does not know: add \
                    ws4redis.middleware.SessionMiddleware to MIDDLEWARE, after AuthenticationMiddleware";
        advice.push(text.to_owned());
    }
    if !refused.is_empty() {
        let reason = if identity.user_id.is_some() {
            ""
        } else {
            ", since the visitor is anonymous or a rule forbids it"
        };
        advice.push(format!("flags not granted: {}{reason}", refused.join(", ")));
    }
    advice
}

fn facts(visitor: &Visitor) -> Value {
    let identity = &visitor.identity;
    let known_by = match visitor.auth_source {
        AuthSource::None => None,
        AuthSource::Session(_) => Some("session"),
        AuthSource::Token(_) => Some("token"),
        AuthSource::Callback(_) => Some("callback"),
    };
    json!({
        // A user without a known name is logged in, too.
        "logged_in": identity.user_id.is_some(),
        "user": identity.user.as_deref(),
        "groups": &*identity.groups,
        "session": identity.session.is_some(),
        "known_by": known_by,
        // Seconds until the identity expires, if it does.
        "expires_in": visitor.lives_ms.map(|ms| ms.div_ceil(1000)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Identity;
    use crate::wire::SessionKey;

    #[test]
    fn a_profile_contains_everything_but_the_session_key() {
        let anonymous = r#"{"expires_in":null,"groups":[],"known_by":null,"logged_in":false,"session":false,"user":null}"#;
        assert_eq!(profile(&Visitor::default()), anonymous);
        let key = SessionKey::new("aonhk897c0q74kqva7rtv278kgdpr276");
        let john = Visitor {
            identity: Identity {
                session: Some(key.clone()),
                user_id: Some("7".into()),
                user: Some("john \"j\"".into()),
                groups: ["staff", "</script>"].into_iter().collect(),
            },
            auth_source: AuthSource::Session(key.clone()),
            lives_ms: Some(1001),
            ..Visitor::default()
        };
        let profile = profile(&john);
        let expected = r#"{"expires_in":2,"groups":["staff","</script>"],"known_by":"session","logged_in":true,"session":true,"user":"john \"j\""}"#;
        assert_eq!(profile, expected);
        assert!(!profile.contains(key.as_str()));
    }

    #[test]
    fn advice_names_what_the_author_of_a_page_may_not_expect() {
        let advice = |visitor: &Visitor, has_cookie, refused: &[&str]| {
            let refused: Vec<_> = refused.iter().map(|name| (*name).to_owned()).collect();
            advice(visitor, has_cookie, &refused).join("; ")
        };
        let nobody = Visitor::default();
        assert_eq!(advice(&nobody, false, &[]), "");
        assert!(advice(&nobody, true, &[]).starts_with("anonymous although"));
        assert_eq!(
            advice(&nobody, false, &["user", "group"]),
            "flags not granted: user, group, since the visitor is anonymous or a rule forbids it"
        );
        let key = SessionKey::new("aonhk897c0q74kqva7rtv278kgdpr276");
        let identity = Identity { session: Some(key.clone()), ..Identity::default() };
        let mut known = Visitor { identity, auth_source: AuthSource::Session(key), ..Visitor::default() };
        assert_eq!(advice(&known, true, &[]), "");
        known.identity.user_id = Some("7".into());
        assert!(advice(&known, true, &[]).contains("SessionMiddleware"));
        known.identity.user = Some("john".into());
        assert_eq!(advice(&known, true, &["publish-user"]), "flags not granted: publish-user");
    }
}
