//! Django's sessions in Redis: the session, and what is known of its user beside it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tracing::{info, warn};

use super::large_values::{LargeReads, LargeValues, Outcome};
use super::{AuthSource, IdentifyError, Visitor};
use crate::access::session::{KeyTemplate, Reading, Session, Undecodable, UserName, decode, decode_quickly};
use crate::access::{Identity, are_reasonable, is_reasonable};
use crate::redis::{Entry, Lookups, ReadFailed};
use crate::telemetry::LogThrottle;
use crate::wire::{Namespace, SessionKey};

/// Reads sessions.
#[derive(Debug)]
pub struct Sessions {
    settings: Reading,
    /// The prefix of the per-user keys.
    users_prefix: String,
    keys: Rc<Lookups>,
    users: Rc<Lookups>,
    /// The template under which a session was found last.
    found_at: Cell<usize>,
    large: Rc<LargeReads<Decoded>>,
    large_users: Rc<LargeReads<Option<User>>>,
    undecodable: LogThrottle,
    mismatched: LogThrottle,
    unreadable_users: LogThrottle,
    hinted: Cell<bool>,
}

/// What a value was decoded to.
type Decoded = Result<Option<Session>, Undecodable>;

/// A session that was found.
struct Found {
    template: usize,
    session: Session,
    lives_ms: Option<u64>,
}

/// What becomes of a session that the doctor has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It is found, and read.
    Read,
    /// It is under none of the templates.
    Missing,
    /// Its signature does not fit, or there is no secret.
    Refused,
    /// It cannot be read.
    Unreadable,
}

/// What the Django package writes of each user.
#[derive(Debug, Clone, Deserialize)]
struct User {
    v: u32,
    active: bool,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    auth_hashes: Option<Vec<String>>,
}

impl Sessions {
    /// Takes the settings, the prefix of all channels, and where sessions and users are read.
    pub fn new(
        settings: Reading,
        namespace: &Namespace,
        keys: Rc<Lookups>,
        users: Rc<Lookups>,
        large: LargeValues,
    ) -> Self {
        let large_users = LargeReads::new(large.clone(), users.clone(), |_, value| User::read(value));
        let (templates, secrets) = (settings.templates.clone(), settings.secrets.clone());
        let large = LargeReads::new(large, keys.clone(), move |number, value| {
            decode(value, templates[number].forms(), &secrets)
        });
        Self {
            settings,
            users_prefix: namespace.own("identity:"),
            keys,
            users,
            found_at: Cell::new(0),
            large,
            large_users,
            undecodable: LogThrottle::default(),
            mismatched: LogThrottle::default(),
            unreadable_users: LogThrottle::default(),
            hinted: Cell::new(false),
        }
    }

    /// Finds out who sent this session cookie. Without a session that can be read it is nobody.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or refuses to give out any of the keys under which the session may lie.
    pub async fn identify(&self, cookie: &str) -> Result<Visitor, IdentifyError> {
        if !self.settings.pattern.admits(cookie) {
            return Ok(Visitor::default());
        }
        let key = SessionKey::new(cookie);
        let Some(found) = self.find(&key).await? else { return Ok(Visitor::default()) };
        let Found { template, mut session, lives_ms } = found;
        session.qualify_user();
        // Some caches keep a key longer than its session.
        let ends_ms = session.ends_at.map(milliseconds_until);
        if ends_ms == Some(0) {
            return Ok(Visitor::default());
        }
        let lives_ms = [lives_ms, ends_ms].into_iter().flatten().min();
        let (is_copy, user_id) = (self.is_copy(template), session.user_id.clone());
        let copy = is_copy.then(|| session.clone());
        let identity = self.recognise(&key, session).await?;
        let of_nobody = user_id.filter(|_| identity.user_id.is_none());
        let of_nobody = of_nobody.map(|id| Session { user_id: Some(id), ..Session::default() });
        let (auth_source, template) = (AuthSource::Session(key), u8::try_from(template).ok());
        let said = copy.or(of_nobody).map(Rc::new);
        Ok(Visitor {
            identity,
            allowed: None,
            auth_source,
            template,
            lives_ms,
            said,
            is_copy,
            missing: false,
        })
    }

    /// Reads a session again. Where only a copy of it was read, and that is missing now, it is what the copy said, and
    /// what is known of its user by now.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive).
    pub async fn revalidate(&self, key: &SessionKey, before: &Visitor) -> Result<Visitor, IdentifyError> {
        let read = self.identify(key.as_str()).await?;
        let copy = before.said.as_ref().filter(|_| before.is_copy && !read.is_known());
        let Some(copy) = copy else { return Ok(read) };
        let identity = self.recognise(key, Session::clone(copy)).await?;
        Ok(Visitor { identity, lives_ms: None, missing: true, ..before.clone() })
    }

    /// Looks for the session under each template, in order: first as far as the last one was found, then under the rest.
    async fn find(&self, key: &SessionKey) -> Result<Option<Found>, IdentifyError> {
        let templates = &self.settings.templates;
        let (likely, rest) = templates.split_at(templates.len().min(self.found_at.get() + 1));
        let mut refused = 0;
        for (offset, part) in [(0, likely), (likely.len(), rest)] {
            let keys: Vec<_> = part.iter().map(|template| template.render(key)).collect();
            for (entry, number) in self.keys.read(&keys).await?.into_iter().zip(offset..) {
                refused += usize::from(entry.refused);
                let (Some(decoded), lives_ms) = self.decode(entry, number, &keys[number - offset]).await?
                else {
                    continue;
                };
                match decoded {
                    Ok(Some(session)) => {
                        self.found_at.set(number);
                        return Ok(Some(Found { template: number, session, lives_ms }));
                    }
                    Ok(None) => {}
                    Err(error) => self.note_undecodable(&templates[number], error),
                }
            }
        }
        if refused > 0 && refused == templates.len() { Err(IdentifyError::NoRedis) } else { Ok(None) }
    }

    /// Decodes what was read of a key; a large value is read again for that, when it is its turn.
    async fn decode(&self, entry: Entry, number: usize, key: &str) -> Outcome<Decoded> {
        let Some(value) = entry.value else { return Ok((None, None)) };
        let forms = self.settings.templates[number].forms();
        if !entry.is_partial
            && let Some(decoded) = decode_quickly(&value, forms, &self.settings.secrets)
        {
            return Ok((Some(decoded), entry.lives_ms));
        }
        drop(value);
        self.large.read(number, key).await
    }

    /// Returns the key under which a session lies.
    pub fn key_of(&self, key: &SessionKey, template: u8) -> Option<String> {
        Some(self.settings.templates.get(usize::from(template))?.render(key))
    }

    /// Returns the sessions that may lie under a key, each with the template that fits, by number.
    pub fn sessions_at(&self, key: &str) -> impl Iterator<Item = (u8, SessionKey)> {
        let keys = (0..=u8::MAX).zip(&self.settings.templates).map(|(n, template)| (n, template.key_in(key)));
        let keys = keys.filter_map(|(number, key)| Some((number, key?)));
        keys.filter(|(_, key)| self.settings.pattern.admits(key)).map(|(n, key)| (n, SessionKey::new(key)))
    }

    /// Tells whether what lies under a template is only a copy of what the database holds.
    pub fn is_copy(&self, template: usize) -> bool {
        self.settings.templates.get(template).is_some_and(KeyTemplate::is_copy)
    }

    /// Looks for a session of the doctor's: what stands in the transport of reading it, if anything does.
    ///
    /// # Errors
    ///
    /// When Redis is lost.
    pub async fn probe(&self, key: &str, nonce: &str) -> Result<Probe, ReadFailed> {
        if !self.settings.pattern.admits(key) {
            return Ok(Probe::Unreadable);
        }
        let templates = &self.settings.templates;
        let keys: Vec<_> = templates.iter().map(|template| template.render(&SessionKey::new(key))).collect();
        let mut found = Probe::Missing;
        for (number, entry) in self.keys.read(&keys).await?.into_iter().enumerate() {
            let decoded = self.decode(entry, number, &keys[number]).await.map_err(|_| ReadFailed)?;
            let (Some(decoded), _) = decoded else { continue };
            match decoded {
                Ok(Some(session)) if session.doctor.as_deref() == Some(nonce) => return Ok(Probe::Read),
                Err(Undecodable::Forged | Undecodable::NoSecret) => found = Probe::Refused,
                _ if found == Probe::Missing => found = Probe::Unreadable,
                _ => {}
            }
        }
        Ok(found)
    }

    fn note_undecodable(&self, template: &KeyTemplate, error: Undecodable) {
        if let Some(suppressed) = self.undecodable.allow() {
            warn!(template = template.text(), %error, suppressed, "a session cannot be read, its visitor counts as anonymous");
        }
    }

    /// Returns whose session it is. What is known of the user beside the session wins over it.
    async fn recognise(&self, key: &SessionKey, session: Session) -> Result<Identity, IdentifyError> {
        let mut identity = Identity { session: Some(key.clone()), ..Identity::default() };
        let Some(user_id) = session.user_id else { return Ok(identity) };
        let (mut username, mut groups) = (session.username, session.groups.unwrap_or_default());
        let user_key = [format!("{}{user_id}", self.users_prefix)];
        let found = self.users.read(&user_key).await?;
        let entry = found.into_iter().next().unwrap_or_default();
        if !entry.is_absent() {
            // A key that cannot be read may be a tombstone: better nobody than somebody who is gone.
            let user = if entry.is_partial {
                self.large_users.read(0, &user_key[0]).await?.0.flatten()
            } else {
                User::read(&entry.value.unwrap_or_default())
            };
            let Some(user) = user else {
                if let Some(suppressed) = self.unreadable_users.allow() {
                    warn!(
                        suppressed,
                        "an identity key cannot be read or has names above 1,024 bytes, its user counts as anonymous; run manage.py ws4redis_refresh"
                    );
                }
                return Ok(identity);
            };
            if !user.active {
                return Ok(identity);
            }
            if !user.knows(session.auth_hash.as_deref()) {
                if let Some(suppressed) = self.mismatched.allow() {
                    info!(
                        suppressed,
                        "a session's password hash is not the one in the user's identity key, its visitor counts as anonymous. This is right for sessions from before a new password; if it goes on, two sites with the same prefix share this Redis: set another prefix (WS4REDIS_PREFIX) for one of them"
                    );
                }
                return Ok(identity);
            }
            (username, groups) = (user.username, user.groups);
        }
        let user_id: Arc<str> = user_id.into();
        identity.user = match self.settings.user {
            UserName::Username => username.filter(|name| !name.is_empty()).map(Into::into),
            UserName::Pk => Some(user_id.clone()),
        };
        if identity.user.is_none() && !self.hinted.replace(true) {
            info!(
                "a logged-in user's session holds no name, so there is no user channel; install the Django package, log in again, give the user a name, or set session.user = \"pk\""
            );
        }
        identity.user_id = Some(user_id);
        identity.groups = groups.into_iter().collect();
        Ok(identity)
    }
}

impl User {
    /// Reads an identity key; `None` if it is not as the package writes it, or names are too long.
    fn read(value: &[u8]) -> Option<Self> {
        let user = serde_json::from_slice::<Self>(value).ok().filter(|user| user.v == 1)?;
        let named = user.username.as_deref().is_none_or(is_reasonable);
        (named && are_reasonable(&user.groups)).then_some(user)
    }

    /// Tells whether the session's digest of the password is still the user's.
    fn knows(&self, session_hash: Option<&str>) -> bool {
        let Some(hashes) = &self.auth_hashes else { return true };
        session_hash.is_some_and(|own| hashes.iter().any(|hash| equal(hash.as_bytes(), own.as_bytes())))
    }
}

/// Returns the milliseconds until a Unix time, 0 if it has passed.
fn milliseconds_until(unix_seconds: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0));
    u64::try_from(then.saturating_sub(now).as_millis()).unwrap_or(u64::MAX)
}

/// Compares in a time that does not tell where the difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
