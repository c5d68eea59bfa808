//! The options of SET and GETEX, and the conversion of times to deadlines.

use bytes::Bytes;

use crate::embedded::{
    integer,
    reply::{NOT_AN_INTEGER, Reply, SYNTAX},
};

/// The unit of a time, and whether it is absolute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeUnit {
    pub(crate) seconds: bool,
    pub(crate) absolute: bool,
}

pub(crate) const SECONDS: TimeUnit = TimeUnit { seconds: true, absolute: false };
pub(crate) const MILLISECONDS: TimeUnit = TimeUnit { seconds: false, absolute: false };
pub(crate) const AT_SECONDS: TimeUnit = TimeUnit { seconds: true, absolute: true };
pub(crate) const AT_MILLISECONDS: TimeUnit = TimeUnit { seconds: false, absolute: true };

impl TimeUnit {
    fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"EX" => Some(SECONDS),
            b"PX" => Some(MILLISECONDS),
            b"EXAT" => Some(AT_SECONDS),
            b"PXAT" => Some(AT_MILLISECONDS),
            _ => None,
        }
    }

    /// Converts to Unix milliseconds; `None` means an overflow.
    pub(crate) fn deadline(self, value: i64, now: i64) -> Option<i64> {
        let value = if self.seconds { value.checked_mul(1_000)? } else { value };
        if self.absolute { Some(value) } else { value.checked_add(now) }
    }
}

/// Parses the time of SET, SETEX or GETEX, which must be positive.
pub(crate) fn positive_deadline(unit: TimeUnit, text: &[u8], now: i64, command: &str) -> Result<i64, Reply> {
    let value = integer::parse(text).ok_or(NOT_AN_INTEGER)?;
    let deadline = unit.deadline(value, now).filter(|_| value > 0);
    deadline.ok_or_else(|| invalid_expire_time(command))
}

/// Returns the error for an invalid time.
pub(crate) fn invalid_expire_time(command: &str) -> Reply {
    Reply::error(&format!("ERR invalid expire time in '{command}' command"))
}

/// The effect of a command on the key's expiry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Lifetime {
    /// No option was given.
    #[default]
    Unspecified,
    Keep,
    Persist,
    Until(TimeUnit, Bytes),
}

/// When SET writes the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SetCondition {
    #[default]
    Always,
    Absent,
    Present,
}

/// The options of SET and GETEX.
#[derive(Debug, Default)]
pub(crate) struct SetOptions {
    pub(crate) lifetime: Lifetime,
    pub(crate) condition: SetCondition,
    pub(crate) get: bool,
}

impl SetOptions {
    /// Parses the options of SET.
    pub(crate) fn parse_set(args: &[Bytes]) -> Result<Self, Reply> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let name = name.to_ascii_uppercase();
            match &name[..] {
                b"NX" if options.condition != SetCondition::Present => {
                    options.condition = SetCondition::Absent;
                }
                b"XX" if options.condition != SetCondition::Absent => {
                    options.condition = SetCondition::Present;
                }
                b"GET" => options.get = true,
                b"KEEPTTL" => options.set_lifetime(Lifetime::Keep)?,
                _ => options.set_expiry(&name, args.next())?,
            }
        }
        Ok(options)
    }

    /// Parses the options of GETEX.
    pub(crate) fn parse_getex(args: &[Bytes]) -> Result<Self, Reply> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let name = name.to_ascii_uppercase();
            match &name[..] {
                b"PERSIST" => options.set_lifetime(Lifetime::Persist)?,
                _ => options.set_expiry(&name, args.next())?,
            }
        }
        Ok(options)
    }

    fn set_expiry(&mut self, name: &[u8], value: Option<&Bytes>) -> Result<(), Reply> {
        let unit = TimeUnit::named(name).ok_or(SYNTAX)?;
        // Redis refuses EX together with PX, but accepts EX twice and uses the last one.
        if let Lifetime::Until(earlier, _) = self.lifetime
            && earlier == unit
        {
            self.lifetime = Lifetime::Unspecified;
        }
        self.set_lifetime(Lifetime::Until(unit, value.ok_or(SYNTAX)?.clone()))
    }

    fn set_lifetime(&mut self, lifetime: Lifetime) -> Result<(), Reply> {
        if self.lifetime != Lifetime::Unspecified && self.lifetime != lifetime {
            return Err(SYNTAX);
        }
        self.lifetime = lifetime;
        Ok(())
    }
}
