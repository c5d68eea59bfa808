//! Why a request is refused: the only table of the codes in `err` objects. They are those of HTTP.

use crate::access::Denied;
use crate::events::DisconnectReason;
use crate::hub::JoinError;
use crate::visitors::IdentifyError;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestRefusal {
    /// It makes no sense.
    Invalid(&'static str),
    /// The token is not valid, or tokens are not accepted.
    Token,
    /// The site's rules or its callback forbid it.
    Denied,
    /// The facility has no such subscription.
    NotSubscribed,
    /// The audiences are not granted.
    NoAudience,
    /// The socket has too many facilities.
    TooMany,
    /// A later request ended the subscription before it was active.
    Superseded,
    /// The client publishes more than its rule allows.
    TooFast,
    /// The client sends more requests than a page needs.
    TooOften,
    /// Redis refuses the channels.
    Unsubscribable,
    /// Redis or the callback cannot be reached, or too much is going on.
    Unavailable,
    /// The outboxes have no memory for what would be replayed.
    NoMemory,
    /// Redis failed, and the message may be lost.
    Lost,
}

impl RequestRefusal {
    /// Returns the code.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Invalid(_) => 400,
            Self::Token => 401,
            Self::Denied | Self::NoAudience => 403,
            Self::NotSubscribed => 404,
            Self::TooMany | Self::Superseded => 409,
            Self::TooFast | Self::TooOften => 429,
            Self::Unsubscribable | Self::Unavailable | Self::NoMemory | Self::Lost => 503,
        }
    }

    /// Returns the reason, for a developer.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Invalid(why) => why,
            Self::Token => "the token is not valid",
            Self::Denied => "the site's access rules do not allow this",
            Self::NoAudience => "no publish flag is granted for these audiences",
            Self::NotSubscribed => "not subscribed to this facility",
            Self::TooMany => "too many facilities on one socket",
            Self::Superseded => "a later request came before this one was done",
            Self::TooFast => "publishing too fast",
            Self::TooOften => "too many requests",
            Self::Unsubscribable => "Redis refuses the channels of this facility",
            Self::Unavailable => "not available at the moment",
            Self::NoMemory => "too many messages wait for slow clients",
            Self::Lost => "the message may be lost, Redis failed",
        }
    }

    /// Returns why a facility ends that is refused, as Django is told.
    pub(super) fn reason(self) -> DisconnectReason {
        match self {
            Self::Denied | Self::Token => DisconnectReason::SessionEnded,
            _ => DisconnectReason::ForcedServerClose,
        }
    }
}

impl From<Denied> for RequestRefusal {
    fn from(Denied: Denied) -> Self {
        Self::Denied
    }
}

impl From<JoinError> for RequestRefusal {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Refused => Self::Unsubscribable,
            JoinError::Lost | JoinError::Overflow => Self::Unavailable,
        }
    }
}

impl From<IdentifyError> for RequestRefusal {
    fn from(error: IdentifyError) -> Self {
        match error {
            IdentifyError::Untrusted(_) => Self::Token,
            IdentifyError::Refused => Self::Denied,
            IdentifyError::NoRedis | IdentifyError::Busy | IdentifyError::NoAnswer => Self::Unavailable,
        }
    }
}
