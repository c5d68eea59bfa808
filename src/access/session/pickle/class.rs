//! The few classes that are known by name; all others are opaque.

/// A class or function whose results are read, as they are as good as what they wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Django's strings that need no escaping.
    SafeString,
    /// An ordered dictionary.
    OrderedDict,
    /// What makes instances before protocol 2.
    Reconstructor,
}

impl Class {
    /// Returns the class of this name, in whichever Python it was pickled.
    pub(super) fn named(module: &[u8], name: &[u8]) -> Option<Self> {
        match (module, name) {
            (b"django.utils.safestring", b"SafeString" | b"SafeText" | b"SafeUnicode") => {
                Some(Self::SafeString)
            }
            (b"collections", b"OrderedDict") => Some(Self::OrderedDict),
            (b"copy_reg" | b"copyreg", b"_reconstructor") => Some(Self::Reconstructor),
            _ => None,
        }
    }
}
