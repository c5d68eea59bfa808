//! Authentication and authorization as pure functions: Django sessions, tokens, the Origin rule, trusted proxies, and
//! the site's access rules. No I/O.

mod allowed_hosts;
mod cookie;
mod credentials;
mod digest;
mod facility_patterns;
mod group_rules;
mod hosts;
mod identity;
mod origin;
mod policy;
mod proxies;
mod rules;
pub mod session;
mod site;
pub mod token;

pub use cookie::value as cookie_value;
pub use credentials::{ClientAddress, Credentials, Fingerprint, Token};
pub use digest::{session_digest, session_hash};
pub use facility_patterns::FacilityPatterns;
pub use group_rules::{GroupGrant, GroupNames, GroupRule, GroupTemplate};
pub use hosts::{AllowedHosts, is_loopback};
pub use identity::{GroupLists, Groups, Identity, groups_fit, name_fits};
pub use origin::{AllowedOrigins, OriginRefused};
pub use policy::{Denied, Grant, Policy};
pub use proxies::{Peer, Proxies};
pub use rules::{Rate, Rule, RuleText};
