//! Options of SET, GETEX and the expire family, and the arithmetic of expiry.

use bytes::Bytes;

use crate::embedded::{
    integer,
    reply::{NOT_AN_INTEGER, Reply, SYNTAX},
};

/// How a time is given.
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

    /// Converts to Unix milliseconds; `None` is an overflow.
    pub(crate) fn deadline(self, value: i64, now: i64) -> Option<i64> {
        let value = if self.seconds { value.checked_mul(1_000)? } else { value };
        if self.absolute { Some(value) } else { value.checked_add(now) }
    }
}

/// Reads the time of SET, SETEX and GETEX, which must be in the future of 1970.
pub(crate) fn positive_deadline(unit: TimeUnit, text: &[u8], now: i64, command: &str) -> Result<i64, Reply> {
    let value = integer::parse(text).ok_or(NOT_AN_INTEGER)?;
    let deadline = unit.deadline(value, now).filter(|_| value > 0);
    deadline.ok_or_else(|| invalid_expire_time(command))
}

/// Makes the error for a time that cannot be.
pub(crate) fn invalid_expire_time(command: &str) -> Reply {
    Reply::error(&format!("ERR invalid expire time in '{command}' command"))
}

/// What becomes of the key's expiry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Lifetime {
    /// Nothing was said.
    #[default]
    Unsaid,
    Keep,
    Persist,
    Until(TimeUnit, Bytes),
}

/// Whether a value is written at all.
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
    /// Reads the options of SET.
    pub(crate) fn of_set(args: &[Bytes]) -> Result<Self, Reply> {
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
                b"KEEPTTL" => options.live(Lifetime::Keep)?,
                _ => options.live_until(&name, args.next())?,
            }
        }
        Ok(options)
    }

    /// Reads the options of GETEX.
    pub(crate) fn of_getex(args: &[Bytes]) -> Result<Self, Reply> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let name = name.to_ascii_uppercase();
            match &name[..] {
                b"PERSIST" => options.live(Lifetime::Persist)?,
                _ => options.live_until(&name, args.next())?,
            }
        }
        Ok(options)
    }

    fn live_until(&mut self, name: &[u8], value: Option<&Bytes>) -> Result<(), Reply> {
        let unit = TimeUnit::named(name).ok_or(SYNTAX)?;
        // Redis refuses EX beside PX, and takes the last of two EX only because it looks for other flags.
        if let Lifetime::Until(earlier, _) = self.lifetime
            && earlier == unit
        {
            self.lifetime = Lifetime::Unsaid;
        }
        self.live(Lifetime::Until(unit, value.ok_or(SYNTAX)?.clone()))
    }

    fn live(&mut self, lifetime: Lifetime) -> Result<(), Reply> {
        if self.lifetime != Lifetime::Unsaid && self.lifetime != lifetime {
            return Err(SYNTAX);
        }
        self.lifetime = lifetime;
        Ok(())
    }
}
