//! Django sessions in Redis: the session itself, and the identity key of its user.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use subtle::ConstantTimeEq;
use tracing::{info, warn};

use super::large_values::{LargeRead, LargeReads, LargeValues};
use super::{AuthSource, IdentifyError, Visitor};
use crate::access::session::{KeyTemplate, Reading, Session, Undecodable, UserName, decode, decode_quickly};
use crate::access::{Identity, groups_fit, name_fits};
use crate::metrics::{ShardCells, cells};
use crate::redis::{Lookups, ReadFailed, StoredValue};
use crate::telemetry::LogThrottle;
use crate::wire::{Namespace, SessionKey};

/// Reads sessions.
#[derive(Debug)]
pub struct Sessions {
    settings: Reading,
    /// Prefix of the identity keys, one for each user.
    users_prefix: String,
    keys: Rc<Lookups>,
    users: Rc<Lookups>,
    /// Index of the template under which the last session was found.
    last_template: Cell<usize>,
    large: Rc<LargeReads<Decoded>>,
    large_users: Rc<LargeReads<Option<User>>>,
    undecodable: LogThrottle,
    mismatched: LogThrottle,
    unreadable_users: LogThrottle,
    warned_nameless: Cell<bool>,
}

/// The result of decoding a value.
type Decoded = Result<Option<Session>, Undecodable>;

/// A session that was found.
struct Found {
    template: usize,
    session: Session,
    lives_ms: Option<u64>,
}

/// The result of looking up the session that `manage.py ws4redis_doctor` created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Found and decoded.
    Read,
    /// Not found under any template.
    Missing,
    /// Its signature does not match, or no secret is configured.
    Refused,
    /// It cannot be decoded.
    Unreadable,
}

/// The identity key that the Django package writes for each user, as JSON.
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
    /// Creates a reader; `keys` reads sessions and `users` reads identity keys.
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
            last_template: Cell::new(0),
            large,
            large_users,
            undecodable: LogThrottle::default(),
            mismatched: LogThrottle::default(),
            unreadable_users: LogThrottle::default(),
            warned_nameless: Cell::new(false),
        }
    }

    /// Identifies the visitor by the value of the session cookie. Without a readable session it is anonymous.
    ///
    /// # Errors
    ///
    /// When Redis is lost or denies access to every key of the session, or too many large sessions wait.
    pub async fn identify(&self, cookie: &str) -> Result<Visitor, IdentifyError> {
        if !self.settings.pattern.admits(cookie) {
            cells(|cells| ShardCells::add(&cells.sessions_invalid, 1));
            return Ok(Visitor::default());
        }
        let key = SessionKey::new(cookie);
        let found = self.find(&key).await;
        cells(|cells| match &found {
            Ok(Some(found)) => cells.count_session(found.template),
            Ok(None) => ShardCells::add(&cells.sessions_missing, 1),
            Err(_) => ShardCells::add(&cells.sessions_unavailable, 1),
        });
        let Some(found) = found? else { return Ok(Visitor::default()) };
        let Found { template, mut session, lives_ms } = found;
        session.qualify_user();
        // Some caches keep a key longer than its session is valid.
        let ends_ms = session.ends_at.map(milliseconds_until);
        if ends_ms == Some(0) {
            return Ok(Visitor::default());
        }
        let lives_ms = [lives_ms, ends_ms].into_iter().flatten().min();
        let (is_copy, user_id) = (self.is_copy(template), session.user_id.clone());
        let copy = is_copy.then(|| session.clone());
        let identity = self.resolve_user(&key, session).await?;
        let logged_out = user_id.filter(|_| identity.user_id.is_none());
        let owner = logged_out.map(|id| Session { user_id: Some(id), ..Session::default() });
        let (auth_source, template) = (AuthSource::Session(key), u8::try_from(template).ok());
        let content = copy.or(owner).map(Rc::new);
        Ok(Visitor {
            identity,
            allowed: None,
            auth_source,
            template,
            lives_ms,
            content,
            is_copy,
            missing: false,
        })
    }

    /// Reads a session again. If it was a cached copy that is missing now, the content of the last read is used with
    /// the user's current identity key.
    ///
    /// # Errors
    ///
    /// As for [`identify`](Self::identify).
    pub async fn revalidate(&self, key: &SessionKey, before: &Visitor) -> Result<Visitor, IdentifyError> {
        let read = self.identify(key.as_str()).await?;
        let copy = before.content.as_ref().filter(|_| before.is_copy && !read.is_known());
        let Some(copy) = copy else { return Ok(read) };
        let identity = self.resolve_user(key, Session::clone(copy)).await?;
        Ok(Visitor { identity, lives_ms: None, missing: true, ..before.clone() })
    }

    /// Looks the session up under each template, in order: first up to the template of the last session, then the rest.
    async fn find(&self, key: &SessionKey) -> Result<Option<Found>, IdentifyError> {
        let templates = &self.settings.templates;
        let (likely, rest) = templates.split_at(templates.len().min(self.last_template.get() + 1));
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
                        self.last_template.set(number);
                        return Ok(Some(Found { template: number, session, lives_ms }));
                    }
                    Ok(None) => {}
                    Err(error) => self.note_undecodable(&templates[number], error),
                }
            }
        }
        if refused > 0 && refused == templates.len() { Err(IdentifyError::NoRedis) } else { Ok(None) }
    }

    /// Decodes the value of a key; a large value is read and decoded when a permit is free.
    async fn decode(&self, entry: StoredValue, number: usize, key: &str) -> LargeRead<Decoded> {
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

    /// Returns the Redis key of a session under a template.
    pub fn key_of(&self, key: &SessionKey, template: u8) -> Option<String> {
        Some(self.settings.templates.get(usize::from(template))?.render(key))
    }

    /// Returns the sessions that a Redis key may belong to, each with the index of the matching template.
    pub fn sessions_at(&self, key: &str) -> impl Iterator<Item = (u8, SessionKey)> {
        let keys = (0..=u8::MAX).zip(&self.settings.templates).map(|(n, template)| (n, template.key_in(key)));
        let keys = keys.filter_map(|(number, key)| Some((number, key?)));
        keys.filter(|(_, key)| self.settings.pattern.admits(key)).map(|(n, key)| (n, SessionKey::new(key)))
    }

    /// Returns whether sessions under a template are only cached copies; the database has the originals.
    pub fn is_copy(&self, template: usize) -> bool {
        self.settings.templates.get(template).is_some_and(KeyTemplate::is_copy)
    }

    /// Looks up the doctor's session and returns what prevents it from being read, if anything does.
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
        cells(|cells| ShardCells::add(&cells.sessions_undecodable, 1));
        if let Some(suppressed) = self.undecodable.allow() {
            warn!(template = template.text(), %error, suppressed, "a session cannot be read, its visitor counts as anonymous");
        }
    }

    /// Returns the identity of a session's user. The identity key takes precedence over the session.
    async fn resolve_user(&self, key: &SessionKey, session: Session) -> Result<Identity, IdentifyError> {
        let mut identity = Identity { session: Some(key.clone()), ..Identity::default() };
        let Some(user_id) = session.user_id else { return Ok(identity) };
        let (mut username, mut groups) = (session.username, session.groups.unwrap_or_default());
        let user_key = [format!("{}{user_id}", self.users_prefix)];
        let found = self.users.read(&user_key).await?;
        let entry = found.into_iter().next().unwrap_or_default();
        if !entry.is_absent() {
            // An unreadable key may be a tombstone of a deleted user, so the visitor counts as anonymous.
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
            if !user.accepts(session.auth_hash.as_deref()) {
                if let Some(suppressed) = self.mismatched.allow() {
                    info!(
                        suppressed,
                        "a session's password hash is not the one in the user's identity key, its visitor counts as anonymous. This is expected for sessions older than a password change; if it continues, two sites with the same prefix share this Redis: set another prefix (WS4REDIS_PREFIX) for one of them"
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
        if identity.user.is_none() && !self.warned_nameless.replace(true) {
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
    /// Parses an identity key; `None` if its format is unknown or a name is too long.
    fn read(value: &[u8]) -> Option<Self> {
        let user = serde_json::from_slice::<Self>(value).ok().filter(|user| user.v == 1)?;
        let name_fits = user.username.as_deref().is_none_or(name_fits);
        (name_fits && groups_fit(&user.groups)).then_some(user)
    }

    /// Returns whether the session's password hash is still one of the user's.
    fn accepts(&self, session_hash: Option<&str>) -> bool {
        let Some(hashes) = &self.auth_hashes else { return true };
        session_hash.is_some_and(|own| hashes.iter().any(|hash| hash.as_bytes().ct_eq(own.as_bytes()).into()))
    }
}

/// Returns the milliseconds until a Unix time, 0 if it has passed.
fn milliseconds_until(unix_seconds: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0));
    u64::try_from(then.saturating_sub(now).as_millis()).unwrap_or(u64::MAX)
}
