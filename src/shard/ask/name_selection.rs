//! A page of a list of names: the first ones, in order, behind a given name. Each shard has a part of the list.

use std::collections::BTreeMap;

/// Which names are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameQuery {
    /// Only names behind this one.
    pub after: Box<str>,
    /// Only names that begin so.
    pub prefix: Box<str>,
    /// Most names of the answer, the first ones.
    pub limit: usize,
}

/// Selects names. Its memory is bounded by the limit, whatever the number of names.
#[derive(Debug)]
pub struct NameSelection<'a, V> {
    query: &'a NameQuery,
    found: BTreeMap<String, V>,
}

impl<'a, V: Default> NameSelection<'a, V> {
    /// Selects nothing yet.
    pub fn new(query: &'a NameQuery) -> Self {
        Self { query, found: BTreeMap::new() }
    }

    /// Calls `action` with the value of a name, if it may be among the first ones.
    pub fn update(&mut self, name: &str, action: impl FnOnce(&mut V)) {
        let NameQuery { after, prefix, limit } = self.query;
        if name <= &**after || !name.starts_with(&**prefix) {
            return;
        }
        if let Some(value) = self.found.get_mut(name) {
            return action(value);
        }
        // A name that was removed is behind the last one, and so never comes back.
        if self.found.len() >= *limit {
            match self.found.last_entry() {
                Some(last) if name < last.key().as_str() => drop(last.remove()),
                _ => return,
            }
        }
        action(self.found.entry(name.to_owned()).or_default());
    }

    /// Returns the names with their values, in order.
    pub fn into_names(self) -> impl Iterator<Item = (String, V)> {
        self.found.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_first_names_are_selected_with_their_sums(
            names in proptest::collection::vec("[ab]{1,3}", 0..40),
            after in "[ab]{0,2}",
            prefix in "[ab]{0,1}",
            limit in 1_usize..6,
        ) {
            let mut expected = BTreeMap::<&str, usize>::new();
            for name in names.iter().filter(|name| **name > after && name.starts_with(&prefix)) {
                *expected.entry(name).or_default() += 1;
            }
            let expected: Vec<_> =
                expected.into_iter().take(limit).map(|(name, count)| (name.to_owned(), count)).collect();
            let query = NameQuery { after: after.into(), prefix: prefix.into(), limit };
            let mut selection = NameSelection::<usize>::new(&query);
            for name in &names {
                selection.update(name, |count| *count += 1);
            }
            proptest::prop_assert_eq!(selection.into_names().collect::<Vec<_>>(), expected);
        }
    }
}
