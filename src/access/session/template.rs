//! The templates of the Redis keys of sessions, and the forms that are trusted under each.

use super::Forms;
use crate::wire::{AudienceKind, Namespace, SessionKey};

/// The placeholder of the session key in a template.
const PLACEHOLDER: &str = "{key}";

/// A template of a Redis key, and the serialised forms that are trusted under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    before: Box<str>,
    after: Box<str>,
    forms: Forms,
}

/// Why a key template is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The placeholder is missing or repeated.
    #[error("the key template must hold {{key}} once")]
    Placeholder,
    /// No form is trusted.
    #[error("the key template trusts no form of value")]
    Forms,
    /// The cookie alone would determine the Redis key, so only a signature can distinguish a session from other values.
    #[error("a key template that begins with {{key}} can trust the signed form only")]
    Bare,
    /// The template matches keys of persisted messages, which clients can write.
    #[error("the key template can name a persisted message, so it can trust the signed form only")]
    Message,
}

impl KeyTemplate {
    /// Parses a template such as `:1:django.contrib.sessions.cache{key}`; `namespace` is the prefix of the site's channels.
    ///
    /// # Errors
    ///
    /// When `{key}` does not occur exactly once, no form is trusted, or unsigned values are trusted under keys that the
    /// cookie determines or that persisted messages can have.
    pub fn new(template: &str, forms: Forms, namespace: &Namespace) -> Result<Self, TemplateError> {
        let (before, after) = template.split_once(PLACEHOLDER).ok_or(TemplateError::Placeholder)?;
        if after.contains(PLACEHOLDER) {
            return Err(TemplateError::Placeholder);
        }
        if forms == Forms::NONE {
            return Err(TemplateError::Forms);
        }
        if forms.intersects(Forms::UNSIGNED) {
            if before.is_empty() {
                return Err(TemplateError::Bare);
            }
            if may_name_message(before, after, namespace) {
                return Err(TemplateError::Message);
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

    /// Returns whether the value is only a cached copy of a row in the database, as with Django's `cached_db` engine: a
    /// missing key does not mean that the session has ended.
    pub fn is_copy(&self) -> bool {
        self.before.contains("cached_db") || self.after.contains("cached_db")
    }

    /// Returns the session key in a Redis key that matches the template.
    pub fn key_in<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&*self.before)?.strip_suffix(&*self.after)
    }

    /// Returns the forms that are trusted under this key.
    pub const fn forms(&self) -> Forms {
        self.forms
    }

    /// Returns the Redis key of a session.
    pub fn render(&self, key: &SessionKey) -> String {
        [&self.before, key.as_str(), &self.after].concat()
    }

    /// Returns the template as written in the settings.
    pub fn text(&self) -> String {
        [&self.before, PLACEHOLDER, &self.after].concat()
    }
}

/// Returns whether some session key (without a colon) turns the template into the key of a persisted message.
fn may_name_message(before: &str, after: &str, namespace: &Namespace) -> bool {
    AudienceKind::ALL.iter().any(|kind| {
        let colon = if namespace.as_str().is_empty() { "" } else { ":" };
        let prefix = [namespace.as_str(), colon, kind.word(), ":"].concat();
        // Only a broadcast key has no second colon, so the rest must be the session key alone.
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
    fn check(template: &str, forms: Forms, namespace: &str, expected: Result<&str, TemplateError>) {
        let key = SessionKey::new("k");
        let rendered = KeyTemplate::new(template, forms, &Namespace::new(namespace));
        let rendered = rendered.map(|template| template.render(&key));
        assert_eq!(rendered.as_deref(), expected.as_ref().copied(), "{template}");
    }

    #[test]
    fn the_session_key_replaces_the_placeholder() {
        check(
            ":1:django.contrib.sessions.cache{key}",
            Forms::UNSIGNED,
            "",
            Ok(":1:django.contrib.sessions.cachek"),
        );
        check("mysite:3:x{key}y", Forms::PICKLE, "mysite", Ok("mysite:3:xky"));
        check("{key}", Forms::SIGNED, "", Ok("k"));
        check("session:{key}", Forms::UNSIGNED, "", Ok("session:k"));
        check("key", Forms::SIGNED, "", Err(TemplateError::Placeholder));
        check("{key}{key}", Forms::SIGNED, "", Err(TemplateError::Placeholder));
        check("{key}", Forms::NONE, "", Err(TemplateError::Forms));
    }

    #[test]
    fn unsigned_values_are_not_trusted_under_keys_that_messages_can_have() {
        for (template, namespace, refused) in [
            ("{key}", "", TemplateError::Bare),
            ("{key}:x", "", TemplateError::Bare),
            ("broadcast:{key}", "", TemplateError::Message),
            ("user:john:{key}", "", TemplateError::Message),
            ("session:{key}:x", "", TemplateError::Message),
            ("ns:broadcast:{key}", "ns", TemplateError::Message),
            (":1:group:{key}:x", ":1", TemplateError::Message),
            ("b{key}:x", "", TemplateError::Message),
            ("ns:{key}:", "ns", TemplateError::Message),
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
    fn the_defaults_are_valid_in_every_namespace_and_bare_keys_need_a_signature() {
        for template in KeyTemplate::defaults() {
            for namespace in ["", "mysite", ":1", "session"] {
                let again = KeyTemplate::new(&template.text(), template.forms(), &Namespace::new(namespace));
                assert_eq!(again.as_ref(), Ok(&template));
            }
            assert!(template.text().starts_with(":1:") || template.forms() == Forms::SIGNED);
        }
    }
}
