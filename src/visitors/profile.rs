//! The response of `/whoami`: the facts that a page may read about its own visitor.

use serde_json::json;

use super::{AuthSource, Visitor};

/// Returns the visitor's profile as a JSON object. It omits the session key, which an `HttpOnly` cookie hides from pages.
pub fn profile(visitor: &Visitor) -> String {
    let identity = &visitor.identity;
    let known_by = match visitor.auth_source {
        AuthSource::None => None,
        AuthSource::Session(_) => Some("session"),
        AuthSource::Token(_) => Some("token"),
        AuthSource::Callback(_) => Some("callback"),
    };
    let profile = json!({
        // A user without a known name is logged in, too.
        "logged_in": identity.user_id.is_some(),
        "user": identity.user.as_deref(),
        "groups": &*identity.groups,
        "session": identity.session.is_some(),
        "known_by": known_by,
        // Seconds until the identity expires, if it does.
        "expires_in": visitor.lives_ms.map(|ms| ms.div_ceil(1000)),
    });
    profile.to_string()
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
}
