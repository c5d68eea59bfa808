//! Settings of tokens, checked: the trusted issuer and its keys.

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{bytes, list, require};
use crate::access::token::{KeyError, KeyFile, Verifier};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJwt {
    algorithm: String,
    key_file: String,
    jwks_file: String,
    #[serde(deserialize_with = "list")]
    audience: Vec<String>,
    issuer: String,
    user_claim: String,
    groups_claim: String,
}

impl RawJwt {
    pub(super) fn check(&self) -> Result<Option<Verifier>, SettingsError> {
        if self.algorithm.is_empty() {
            let unused = [&self.key_file, &self.jwks_file, &self.issuer].into_iter().all(String::is_empty);
            let unread =
                self.user_claim == Verifier::USER_CLAIM && self.groups_claim == Verifier::GROUPS_CLAIM;
            require(
                unused && unread && self.audience.is_empty(),
                "auth.jwt.algorithm",
                "is empty, so the other token settings have no effect; expected HS256, RS256, ES256 or EdDSA",
            )?;
            return Ok(None);
        }
        let one = self.key_file.is_empty() != self.jwks_file.is_empty();
        require(one, "auth.jwt.key_file", "set either this or jwks_file: tokens need a key")?;
        let (path, key) = match self.jwks_file.as_str() {
            "" => (&self.key_file, "auth.jwt.key_file"),
            _ => (&self.jwks_file, "auth.jwt.jwks_file"),
        };
        for (claim, key) in
            [(&self.user_claim, "auth.jwt.user_claim"), (&self.groups_claim, "auth.jwt.groups_claim")]
        {
            let sound = !claim.is_empty() && !Verifier::RESERVED.contains(&claim.as_str());
            require(sound, key, "must be the name of a claim other than aud, exp, iat, iss and nbf")?;
        }
        require(
            self.user_claim != self.groups_claim,
            "auth.jwt.groups_claim",
            "must be another claim than auth.jwt.user_claim",
        )?;
        let bytes = bytes(path, key)?;
        let file = if self.jwks_file.is_empty() { KeyFile::Key(&bytes) } else { KeyFile::Set(&bytes) };
        let verifier = Verifier::new(&self.algorithm, file, self.audience.clone(), self.issuer.clone());
        let verifier =
            verifier.map(|verifier| verifier.with_claims(self.user_claim.clone(), self.groups_claim.clone()));
        verifier.map(Some).map_err(|error| match error {
            KeyError::Algorithm => {
                SettingsError::Invalid { key: "auth.jwt.algorithm", problem: error.to_string() }
            }
            error => SettingsError::Invalid { key, problem: format!("{path}: {error}") },
        })
    }
}
