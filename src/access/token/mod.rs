//! JSON Web Tokens (RFC 7519): who a token says somebody is, if it is to be trusted.

mod claims;
mod keys;
mod provider;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Token, are_reasonable, is_reasonable};
use claims::OtherClaims;
use keys::Key;

pub use keys::{KeyFile, Unusable};

/// Longer tokens are not looked at.
const MAX_BYTES: usize = 8 * 1024;

/// Keys that are tried for a token that names none.
const TRIED_KEYS: usize = 16;

/// Claims that name the user in the tokens of common libraries and providers.
const NAMES: [&str; 7] = ["sub", "user_id", "username", "preferred_username", "uid", "upn", "email"];

/// By how much the site's clock may be ahead of ours.
const EARLY: Duration = Duration::from_secs(5);

/// Verifies tokens, by one algorithm, whatever they say themselves.
#[derive(Clone)]
pub struct Verifier {
    algorithm: Algorithm,
    keys: Vec<Key>,
    /// Whether a token's `kid` chooses among the keys.
    named: bool,
    audience: Vec<String>,
    issuer: Option<String>,
    user_claim: String,
    groups_claim: String,
}

/// What a token says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Who it is; none for nobody in particular.
    pub subject: Option<String>,
    /// The groups of the subject.
    pub groups: Vec<String>,
    /// When it ends, if ever.
    pub expires_at: Option<SystemTime>,
    /// Where there is no subject: another claim of the token that may name it.
    pub other_name: Option<&'static str>,
}

/// Why a token is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// No JSON Web Token, or claims of the wrong types.
    #[error("the token is malformed, or signed in a way that is not known")]
    Malformed,
    /// Signed by somebody else, or by another algorithm, or changed since.
    #[error("the token's signature, algorithm or key is not the one that is expected")]
    Forged,
    /// Its `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` is still to come.
    #[error("the token is not valid yet")]
    Early,
    /// Its `aud` or `iss` is another.
    #[error("the token's audience or issuer is not the one that is expected")]
    Elsewhere,
    /// Several tokens came together, or an empty one.
    #[error("there has to be one token, which is not empty")]
    Unclear,
}

/// The claims as they are written. Null is no value for any of them.
#[derive(Deserialize)]
struct Written {
    #[serde(default, deserialize_with = "present")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Audience>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<String>,
    #[serde(flatten)]
    others: OtherClaims,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Verifier {
    /// Takes the algorithm, by its name in RFC 7518 or RFC 8037, its keys, and whose tokens are trusted; no audience
    /// and an empty issuer stand for any.
    ///
    /// # Errors
    ///
    /// When the algorithm is none of the four, or the file holds no sound key for it.
    pub fn new(
        algorithm: &str,
        file: KeyFile<'_>,
        audience: Vec<String>,
        issuer: String,
    ) -> Result<Self, Unusable> {
        provider::install();
        let algorithm = keys::algorithm(algorithm)?;
        Ok(Self {
            algorithm,
            keys: keys::read(algorithm, file)?,
            named: matches!(file, KeyFile::Set(_)),
            audience,
            issuer: Some(issuer).filter(|issuer| !issuer.is_empty()),
            user_claim: Self::USER_CLAIM.to_owned(),
            groups_claim: Self::GROUPS_CLAIM.to_owned(),
        })
    }

    /// The claim that names the user where no other is set.
    pub const USER_CLAIM: &str = "sub";

    /// The claim that lists the user's groups where no other is set.
    pub const GROUPS_CLAIM: &str = "groups";

    /// Claims that are checked, and so name nobody.
    pub const RESERVED: [&str; 5] = ["aud", "exp", "iat", "iss", "nbf"];

    /// Returns the claim that names the user.
    pub fn user_claim(&self) -> &str {
        &self.user_claim
    }

    /// Takes the names of the claims that name the user and list the user's groups.
    #[must_use]
    pub fn reading(self, user_claim: String, groups_claim: String) -> Self {
        Self { user_claim, groups_claim, ..self }
    }

    /// Returns what a token says, if it is to be trusted now.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn verify(&self, token: &Token, now: SystemTime) -> Result<Claims, Untrusted> {
        let token = token.as_str();
        if token.len() > MAX_BYTES {
            return Err(Untrusted::Malformed);
        }
        let written = self.open(token)?;
        let expires_at = written.exp.map(time).transpose()?;
        if expires_at.is_some_and(|end| end <= now) {
            return Err(Untrusted::Expired);
        }
        if written.nbf.map(time).transpose()?.is_some_and(|begin| begin > now + EARLY) {
            return Err(Untrusted::Early);
        }
        let audience = match &written.aud {
            None => &[][..],
            Some(Audience::One(name)) => std::slice::from_ref(name),
            Some(Audience::Several(names)) => names,
        };
        let for_us = self.audience.is_empty() || audience.iter().any(|name| self.audience.contains(name));
        if !for_us || (self.issuer.is_some() && self.issuer != written.iss) {
            return Err(Untrusted::Elsewhere);
        }
        let mut others = written.others;
        let subject = match others.take(&self.user_claim) {
            Some(Value::String(text)) => Some(text).filter(|text| !text.is_empty()),
            Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
            Some(_) => return Err(Untrusted::Malformed),
            None => None,
        };
        let groups = match others.take(&self.groups_claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(groups) => Vec::<String>::deserialize(groups).map_err(|_| Untrusted::Malformed)?,
        };
        if subject.is_none() {
            let other_name = NAMES.into_iter().find(|name| others.has(name));
            return Ok(Claims { expires_at, other_name, ..Claims::default() });
        }
        if !are_reasonable(&groups) || !subject.as_deref().is_none_or(is_reasonable) {
            return Err(Untrusted::Malformed);
        }
        Ok(Claims { subject, groups, expires_at, other_name: None })
    }

    /// Returns the claims, once a signature holds.
    fn open(&self, token: &str) -> Result<Written, Untrusted> {
        let header = decode_header(token).map_err(|error| untrusted(error.kind()))?;
        // An extension that has to be understood (RFC 7515, section 4.1.11) is none that we know.
        if header.alg != self.algorithm || header.crit.is_some() {
            return Err(Untrusted::Forged);
        }
        let mut validation = Validation::new(self.algorithm);
        // The claims are checked here, by our own clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let asked = header.kid.as_deref().filter(|_| self.named);
        let candidates =
            self.keys.iter().filter(|key| asked.is_none_or(|kid| key.id.as_deref() == Some(kid)));
        for Key { key, .. } in candidates.take(TRIED_KEYS) {
            match decode(token, key, &validation).map_err(|error| untrusted(error.kind())) {
                Ok(data) => return Ok(data.claims),
                Err(Untrusted::Forged) => {}
                Err(untrusted) => return Err(untrusted),
            }
        }
        Err(Untrusted::Forged)
    }
}

fn untrusted(kind: &ErrorKind) -> Untrusted {
    match kind {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => Untrusted::Forged,
        _ => Untrusted::Malformed,
    }
}

/// Reads a time in seconds, which may have a fraction.
fn time(seconds: f64) -> Result<SystemTime, Untrusted> {
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| Untrusted::Malformed)?;
    UNIX_EPOCH.checked_add(since).ok_or(Untrusted::Malformed)
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Shows no key.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("algorithm", &self.algorithm)
            .field("keys", &self.keys.len())
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .field("user_claim", &self.user_claim)
            .field("groups_claim", &self.groups_claim)
            .finish_non_exhaustive()
    }
}
