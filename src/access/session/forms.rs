//! The serialised forms of a session, and the set of them that a key template trusts.

/// A set of forms. Compression is not a form of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forms(u8);

impl Forms {
    /// No form at all.
    pub const NONE: Self = Self(0);
    /// Python's pickle, protocols 0 to 5.
    pub const PICKLE: Self = Self(1);
    /// JSON.
    pub const JSON: Self = Self(2);
    /// Msgpack.
    pub const MSGPACK: Self = Self(4);
    /// Django's signed form of pickle, JSON or msgpack; it requires a valid signature.
    pub const SIGNED: Self = Self(8);
    /// The forms that cache backends write: anyone who can write the key is trusted.
    pub const UNSIGNED: Self = Self(Self::PICKLE.0 | Self::JSON.0 | Self::MSGPACK.0);

    /// Returns the form by its name in the settings: `pickle`, `json`, `msgpack` or `signed`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "pickle" => Some(Self::PICKLE),
            "json" => Some(Self::JSON),
            "msgpack" => Some(Self::MSGPACK),
            "signed" => Some(Self::SIGNED),
            _ => None,
        }
    }

    /// Returns the union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether the two sets intersect.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns the unsigned form that the first bytes of a value indicate.
    ///
    /// Pickle before protocol 2 starts with a mark or an empty dictionary; a single 0x80 is msgpack's empty map.
    pub(super) fn unsigned(value: &[u8]) -> Option<Self> {
        match *value {
            [b'{', ..] => Some(Self::JSON),
            [0x80] | [0x81..=0x8f | 0xde | 0xdf, ..] => Some(Self::MSGPACK),
            [0x80, 2..=5, ..] | [b'(' | b'}', ..] => Some(Self::PICKLE),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_determine_the_form() {
        for (value, expected) in [
            (&b"\x80\x05\x95"[..], Some(Forms::PICKLE)),
            (b"\x80\x02}q\x01.", Some(Forms::PICKLE)),
            (b"(dp0\n.", Some(Forms::PICKLE)),
            (b"}.", Some(Forms::PICKLE)),
            (b"{}", Some(Forms::JSON)),
            (b"\x80", Some(Forms::MSGPACK)),
            (b"\x84\xad_auth_user_id", Some(Forms::MSGPACK)),
            (b"\xde\x00\x10", Some(Forms::MSGPACK)),
            (b"\x80\x06", None),
            (b".eJx", None),
            (b"7", None),
            (b"", None),
        ] {
            assert_eq!(Forms::unsigned(value), expected, "{value:?}");
        }
    }

    #[test]
    fn sets_of_forms_intersect_if_they_share_a_form() {
        assert!(Forms::UNSIGNED.intersects(Forms::JSON));
        assert!(!Forms::UNSIGNED.intersects(Forms::SIGNED));
        assert!(!Forms::NONE.intersects(Forms::UNSIGNED.with(Forms::SIGNED)));
        assert_eq!(Forms::named("signed"), Some(Forms::SIGNED));
        assert_eq!(Forms::named("yaml"), None);
    }
}
