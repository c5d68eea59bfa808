//! What a visitor may be told of itself.

use serde_json::json;

use super::{AuthSource, Visitor};

impl Visitor {
    /// Returns what it may be told of itself, as JSON. The session key is not in it: pages must not learn what a cookie
    /// keeps from them.
    pub fn profile(&self) -> String {
        let identity = &self.identity;
        let known_by = match self.auth_source {
            AuthSource::None => None,
            AuthSource::Session(_) => Some("session"),
            AuthSource::Token(_) => Some("token"),
            AuthSource::Callback(_) => Some("callback"),
        };
        let profile = json!({
            // Whose name is not known may be logged in, too.
            "logged_in": identity.user_id.is_some(),
            "user": identity.user.as_deref(),
            "groups": &*identity.groups,
            "session": identity.session.is_some(),
            "known_by": known_by,
            // Seconds until that is over, if it ends.
            "expires_in": self.lives_ms.map(|ms| ms.div_ceil(1000)),
        });
        profile.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Identity;
    use crate::wire::SessionKey;

    #[test]
    fn a_profile_tells_everything_but_the_session_key() {
        let nobody = r#"{"expires_in":null,"groups":[],"known_by":null,"logged_in":false,"session":false,"user":null}"#;
        assert_eq!(Visitor::default().profile(), nobody);
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
        let profile = john.profile();
        let told = r#"{"expires_in":2,"groups":["staff","</script>"],"known_by":"session","logged_in":true,"session":true,"user":"john \"j\""}"#;
        assert_eq!(profile, told);
        assert!(!profile.contains(key.as_str()));
    }
}
