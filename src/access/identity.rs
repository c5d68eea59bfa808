//! The identity of a visitor.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use crate::wire::SessionKey;

/// The identity of a visitor. A logged-in visitor has a `user_id`, and a `user` if its name is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The session, if it exists in the store.
    pub session: Option<SessionKey>,
    /// The user's primary key, if the visitor is logged in.
    pub user_id: Option<Arc<str>>,
    /// The user's name, if it is known.
    pub user: Option<Arc<str>>,
    /// The names of the user's groups.
    pub groups: Groups,
}

/// The names of a user's groups. Users with the same groups can share one list, so that each costs one pointer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Groups(Option<Arc<Box<[Box<str>]>>>);

/// Interned lists of groups: visitors with the same groups share one list.
#[derive(Debug, Default)]
pub struct GroupLists(RefCell<HashSet<Groups>>);

/// Most groups of one user, and longest name of a user or a group in bytes. Each group is a channel; Django's names
/// have at most 150 characters.
const MAX_GROUPS: usize = 1_024;
const MAX_NAME_BYTES: usize = 1_024;

/// Returns whether a list of groups is within the bounds.
pub fn groups_fit(groups: &[String]) -> bool {
    groups.len() <= MAX_GROUPS && groups.iter().all(|name| name_fits(name))
}

/// Returns whether a name or a primary key is within the bound.
pub fn name_fits(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
}

/// Most lists that are interned; beyond that, visitors keep lists of their own.
const MAX_LISTS: usize = 1_024;

impl GroupLists {
    /// Returns the shared list that equals `groups`.
    pub fn share(&self, groups: Groups) -> Groups {
        if groups.is_empty() {
            return groups;
        }
        let mut lists = self.0.borrow_mut();
        if let Some(shared) = lists.get(&groups) {
            return shared.clone();
        }
        if lists.len() >= MAX_LISTS {
            lists.retain(|list| list.0.as_ref().is_some_and(|names| Arc::strong_count(names) > 1));
        }
        if lists.len() < MAX_LISTS {
            lists.insert(groups.clone());
        }
        groups
    }
}

impl<T: Into<Box<str>>> FromIterator<T> for Groups {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        let names: Box<[_]> = names.into_iter().map(Into::into).collect();
        Self((!names.is_empty()).then(|| Arc::new(names)))
    }
}

impl Deref for Groups {
    type Target = [Box<str>];

    fn deref(&self) -> &[Box<str>] {
        self.0.as_ref().map_or(&[], |names| names)
    }
}

impl Identity {
    /// Returns the identity of an anonymous visitor.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Returns whether neither a user nor a session is known.
    pub fn is_anonymous(&self) -> bool {
        self.user.is_none() && self.user_id.is_none() && self.session.is_none()
    }
}
