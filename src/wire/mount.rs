//! Mounts: the paths of Socket.IO clients, each with clients of its own.

/// A path of Socket.IO clients, by its number in the settings. Mounts share neither ids nor rooms.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mount(u8);

/// Several mounts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MountSet(u8);

impl Mount {
    /// Most mounts of a process.
    pub const MAX: usize = 8;

    /// Returns the mount with this number; `None` above the most.
    pub fn new(number: usize) -> Option<Self> {
        u8::try_from(number).ok().filter(|_| number < Self::MAX).map(Self)
    }

    /// Returns its number.
    pub fn number(self) -> usize {
        self.0.into()
    }

    /// Returns the character that marks the topics of the mount.
    pub(super) fn mark(self) -> char {
        char::from(b'0' + self.0)
    }
}

impl MountSet {
    /// Returns whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether a mount is one of them.
    pub fn contains(self, mount: Mount) -> bool {
        self.0 & (1 << mount.0) != 0
    }

    /// Returns the mounts, in order.
    pub fn iter(self) -> impl Iterator<Item = Mount> {
        (0..8).map(Mount).filter(move |mount| self.contains(*mount))
    }
}

impl FromIterator<Mount> for MountSet {
    fn from_iter<I: IntoIterator<Item = Mount>>(mounts: I) -> Self {
        Self(mounts.into_iter().fold(0, |set, mount| set | 1 << mount.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_mounts_that_were_put_into_it() {
        let mounts = [0, 7].map(|number| Mount::new(number).unwrap());
        let set: MountSet = mounts.into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), mounts);
        assert!(set.contains(mounts[1]) && !set.contains(Mount::new(1).unwrap()));
        assert!(MountSet::default().is_empty() && !set.is_empty());
        assert_eq!(Mount::new(8), None);
    }
}
