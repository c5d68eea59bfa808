//! JSON Web Tokens (RFC 7519): verification, and the claims that identify a visitor.

mod claims;
mod keys;
mod provider;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Token, groups_fit, name_fits};
use claims::OtherClaims;
use keys::VerificationKey;

pub use keys::{KeyError, KeyFile};

/// Longer tokens are refused unread.
const MAX_BYTES: usize = 8 * 1024;

/// Most keys that are tried for a token without `kid`.
const TRIED_KEYS: usize = 16;

/// Claims that name the user in tokens of common libraries and providers; used for a hint in the log.
const NAMES: [&str; 7] = ["sub", "user_id", "username", "preferred_username", "uid", "upn", "email"];

/// Tolerated clock skew for `nbf`.
const EARLY: Duration = Duration::from_secs(5);

/// Verifies tokens with one configured algorithm; the algorithm that a token names is not used.
#[derive(Clone)]
pub struct Verifier {
    algorithm: Algorithm,
    keys: Vec<VerificationKey>,
    /// Whether a token's `kid` chooses among the keys.
    named: bool,
    audience: Vec<String>,
    issuer: Option<String>,
    user_claim: String,
    groups_claim: String,
}

/// The claims of a verified token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// The user; `None` for an anonymous visitor.
    pub subject: Option<String>,
    /// The groups of the subject.
    pub groups: Vec<String>,
    /// When it expires, if it does.
    pub expires_at: Option<SystemTime>,
    /// Without a subject: another claim of the token that may name the user.
    pub other_name: Option<&'static str>,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Not a JSON Web Token, or a claim has a wrong type.
    #[error("the token is malformed, or its signature algorithm is unknown")]
    Malformed,
    /// The signature, the algorithm or the key is wrong.
    #[error("the token's signature, algorithm or key is not the one that is expected")]
    Forged,
    /// Its `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its `aud` or `iss` does not match.
    #[error("the token's audience or issuer is not the one that is expected")]
    WrongAudience,
    /// Several tokens were sent, or an empty one.
    #[error("exactly one token is required, and it must not be empty")]
    NotOneToken,
}

/// The claims of a token's payload. None of them may be null.
#[derive(Deserialize)]
struct ClaimsJson {
    #[serde(default, deserialize_with = "present")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<TokenAudience>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<String>,
    #[serde(flatten)]
    others: OtherClaims,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenAudience {
    One(String),
    Several(Vec<String>),
}

impl Verifier {
    /// Creates a verifier for an algorithm (RFC 7518, RFC 8037) and its keys. An empty list of audiences and an empty
    /// issuer accept any.
    ///
    /// # Errors
    ///
    /// When the algorithm is not supported, or the file has no valid key for it.
    pub fn new(
        algorithm: &str,
        file: KeyFile<'_>,
        audience: Vec<String>,
        issuer: String,
    ) -> Result<Self, KeyError> {
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

    /// The default claim that names the user.
    pub const USER_CLAIM: &str = "sub";

    /// The default claim that lists the user's groups.
    pub const GROUPS_CLAIM: &str = "groups";

    /// Registered claims, which cannot name the user.
    pub const RESERVED: [&str; 5] = ["aud", "exp", "iat", "iss", "nbf"];

    /// Returns the claim that names the user.
    pub fn user_claim(&self) -> &str {
        &self.user_claim
    }

    /// Sets the claims that name the user and list the user's groups.
    #[must_use]
    pub fn with_claims(self, user_claim: String, groups_claim: String) -> Self {
        Self { user_claim, groups_claim, ..self }
    }

    /// Verifies a token and returns its claims.
    ///
    /// # Errors
    ///
    /// With the reason why the token is refused.
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
            return Err(Untrusted::NotYetValid);
        }
        let audience = match &written.aud {
            None => &[][..],
            Some(TokenAudience::One(name)) => std::slice::from_ref(name),
            Some(TokenAudience::Several(names)) => names,
        };
        let audience_matches =
            self.audience.is_empty() || audience.iter().any(|name| self.audience.contains(name));
        if !audience_matches || (self.issuer.is_some() && self.issuer != written.iss) {
            return Err(Untrusted::WrongAudience);
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
            let other_name = NAMES.into_iter().find(|name| others.has_name(name));
            return Ok(Claims { expires_at, other_name, ..Claims::default() });
        }
        if !groups_fit(&groups) || !subject.as_deref().is_none_or(name_fits) {
            return Err(Untrusted::Malformed);
        }
        Ok(Claims { subject, groups, expires_at, other_name: None })
    }

    /// Verifies the signature and returns the claims.
    fn open(&self, token: &str) -> Result<ClaimsJson, Untrusted> {
        let header = decode_header(token).map_err(|error| untrusted(error.kind()))?;
        // We support no critical extension (RFC 7515, section 4.1.11).
        if header.alg != self.algorithm || header.crit.is_some() {
            return Err(Untrusted::Forged);
        }
        let mut validation = Validation::new(self.algorithm);
        // The claims are checked by `verify`, against its `now`.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let asked = header.kid.as_deref().filter(|_| self.named);
        let candidates =
            self.keys.iter().filter(|key| asked.is_none_or(|kid| key.id.as_deref() == Some(kid)));
        for VerificationKey { key, .. } in candidates.take(TRIED_KEYS) {
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

/// Converts a `NumericDate` (RFC 7519, section 2), which may have a fraction.
fn time(seconds: f64) -> Result<SystemTime, Untrusted> {
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| Untrusted::Malformed)?;
    UNIX_EPOCH.checked_add(since).ok_or(Untrusted::Malformed)
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Keys are secret, so `Debug` shows only their number.
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
