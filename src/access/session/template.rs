//! Under which Redis keys a session is looked for, and what is believed there.

use super::Forms;
use crate::wire::{AudienceKind, Namespace, SessionKey};

/// Where the session key stands in a template.
const PLACE: &str = "{key}";

/// A Redis key with a place for the session key, and the forms of value that are trusted under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    before: Box<str>,
    after: Box<str>,
    forms: Forms,
}

/// Why a key template is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnfitTemplate {
    /// It has no place for the key, or several.
    #[error("the key template must hold {{key}} once")]
    Place,
    /// It trusts nothing.
    #[error("the key template trusts no form of value")]
    Forms,
    /// The cookie alone would choose the Redis key, so that only a signature can tell a session from something else.
    #[error("a key template that begins with {{key}} can trust the signed form only")]
    Bare,
    /// Persisted messages, which clients may write, lie under such keys.
    #[error("the key template can name a persisted message, so it can trust the signed form only")]
    Message,
}

impl KeyTemplate {
    /// Takes a template such as `:1:django.contrib.sessions.cache{key}`; the namespace is that of the site's channels.
    ///
    /// # Errors
    ///
    /// When it does not hold `{key}` exactly once, trusts nothing, or trusts unsigned values under keys of which the
    /// cookie chooses too much or that persisted messages can have.
    pub fn new(template: &str, forms: Forms, namespace: &Namespace) -> Result<Self, UnfitTemplate> {
        let (before, after) = template.split_once(PLACE).ok_or(UnfitTemplate::Place)?;
        if after.contains(PLACE) {
            return Err(UnfitTemplate::Place);
        }
        if forms == Forms::NONE {
            return Err(UnfitTemplate::Forms);
        }
        if forms.meets(Forms::UNSIGNED) {
            if before.is_empty() {
                return Err(UnfitTemplate::Bare);
            }
            if may_name_message(before, after, namespace) {
                return Err(UnfitTemplate::Message);
            }
        }
        Ok(Self { before: before.into(), after: after.into(), forms })
    }

    /// Returns the templates of Django's `cache` and `cached_db` engines, then those of django-redis-sessions and its
    /// fork, with their usual prefixes and with none.
    pub fn defaults() -> Vec<Self> {
        let template = |before: &str, forms| Self { before: before.into(), after: Box::default(), forms };
        vec![
            template(":1:django.contrib.sessions.cache", Forms::UNSIGNED),
            template(":1:django.contrib.sessions.cached_db", Forms::UNSIGNED),
            template("session:", Forms::SIGNED),
            template("django_sessions:", Forms::SIGNED),
            template("", Forms::SIGNED),
        ]
    }

    /// Tells whether what lies there is only a copy of a row in the database, as Django's `cached_db` engine keeps it:
    /// where it is missing, the session may go on.
    pub fn is_copy(&self) -> bool {
        self.before.contains("cached_db") || self.after.contains("cached_db")
    }

    /// Returns the session key in a key that the template gives.
    pub fn key_in<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&*self.before)?.strip_suffix(&*self.after)
    }

    /// Returns the forms of value that are trusted under this key.
    pub const fn forms(&self) -> Forms {
        self.forms
    }

    /// Returns the Redis key of a session.
    pub fn render(&self, key: &SessionKey) -> String {
        [&self.before, key.as_str(), &self.after].concat()
    }

    /// Returns the template as it is written in settings.
    pub fn text(&self) -> String {
        [&self.before, PLACE, &self.after].concat()
    }
}

/// Tells whether some session key, which has no colon, makes the template the key of a persisted message.
fn may_name_message(before: &str, after: &str, namespace: &Namespace) -> bool {
    AudienceKind::ALL.iter().any(|kind| {
        let colon = if namespace.as_str().is_empty() { "" } else { ":" };
        let prefix = [namespace.as_str(), colon, kind.word(), ":"].concat();
        // Such a prefix and nothing but a session key behind it: of all audiences only broadcast has no second colon.
        let rest = match before.strip_prefix(&prefix) {
            Some(name) => {
                return *kind == AudienceKind::Broadcast || name.contains(':') || after.contains(':');
            }
            None => prefix.strip_prefix(before),
        };
        let Some(rest) = rest else { return false };
        let within_key = rest.find(':').unwrap_or(rest.len());
        (0..=within_key).any(|end| rest.get(end..).is_some_and(|rest| after.starts_with(rest)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, forms: Forms, namespace: &str, expected: Result<&str, UnfitTemplate>) {
        let key = SessionKey::new("k");
        let rendered = KeyTemplate::new(template, forms, &Namespace::new(namespace));
        let rendered = rendered.map(|template| template.render(&key));
        assert_eq!(rendered.as_deref(), expected.as_ref().copied(), "{template}");
    }

    #[test]
    fn the_key_takes_its_place() {
        check(
            ":1:django.contrib.sessions.cache{key}",
            Forms::UNSIGNED,
            "",
            Ok(":1:django.contrib.sessions.cachek"),
        );
        check("mysite:3:x{key}y", Forms::PICKLE, "mysite", Ok("mysite:3:xky"));
        check("{key}", Forms::SIGNED, "", Ok("k"));
        check("session:{key}", Forms::UNSIGNED, "", Ok("session:k"));
        check("key", Forms::SIGNED, "", Err(UnfitTemplate::Place));
        check("{key}{key}", Forms::SIGNED, "", Err(UnfitTemplate::Place));
        check("{key}", Forms::NONE, "", Err(UnfitTemplate::Forms));
    }

    #[test]
    fn unsigned_values_are_not_trusted_where_messages_may_lie() {
        for (template, namespace, refused) in [
            ("{key}", "", UnfitTemplate::Bare),
            ("{key}:x", "", UnfitTemplate::Bare),
            ("broadcast:{key}", "", UnfitTemplate::Message),
            ("user:john:{key}", "", UnfitTemplate::Message),
            ("session:{key}:x", "", UnfitTemplate::Message),
            ("ns:broadcast:{key}", "ns", UnfitTemplate::Message),
            (":1:group:{key}:x", ":1", UnfitTemplate::Message),
            ("b{key}:x", "", UnfitTemplate::Message),
            ("ns:{key}:", "ns", UnfitTemplate::Message),
        ] {
            check(template, Forms::JSON, namespace, Err(refused));
            assert!(KeyTemplate::new(template, Forms::SIGNED, &Namespace::new(namespace)).is_ok());
        }
        for (template, namespace) in
            [("broadcast:{key}", "ns"), ("ns:broadcast:{key}", "other"), ("x{key}:y", "")]
        {
            assert!(
                KeyTemplate::new(template, Forms::JSON, &Namespace::new(namespace)).is_ok(),
                "{template}"
            );
        }
    }

    #[test]
    fn the_defaults_are_fit_in_every_namespace_and_bare_keys_need_a_signature() {
        for template in KeyTemplate::defaults() {
            for namespace in ["", "mysite", ":1", "session"] {
                let again = KeyTemplate::new(&template.text(), template.forms(), &Namespace::new(namespace));
                assert_eq!(again.as_ref(), Ok(&template));
            }
            assert!(template.text().starts_with(":1:") || template.forms() == Forms::SIGNED);
        }
    }
}
