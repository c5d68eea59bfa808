//! The classes that are recognised by name.

/// A class or function whose instances are read as the value that they wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Django's `SafeString`.
    SafeString,
    /// An ordered dictionary.
    OrderedDict,
    /// `copyreg._reconstructor`, which creates instances before protocol 2.
    Reconstructor,
    /// `bytearray`, created from bytes.
    ByteArray,
}

impl Class {
    /// Returns the class by its module and name, in Python 2 or 3.
    pub(super) fn named(module: &[u8], name: &[u8]) -> Option<Self> {
        match (module, name) {
            (b"django.utils.safestring", b"SafeString" | b"SafeText" | b"SafeUnicode") => {
                Some(Self::SafeString)
            }
            (b"collections", b"OrderedDict") => Some(Self::OrderedDict),
            (b"copy_reg" | b"copyreg", b"_reconstructor") => Some(Self::Reconstructor),
            (b"builtins" | b"__builtin__", b"bytearray") => Some(Self::ByteArray),
            _ => None,
        }
    }
}
