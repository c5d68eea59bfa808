//! Conversion of a pickle's root to a session.

use super::super::content::{Excessive, Field, FieldValue, MAX_GROUPS, add_group};
use super::PickleError;
use super::arena::{Arena, Index, Node};
use super::{Session, numbers, text};

impl From<Excessive> for PickleError {
    fn from(Excessive: Excessive) -> Self {
        Self::TooLarge
    }
}

/// Converts the root to a session; `None` if it is another value.
///
/// The root is a dictionary, or the tuple of django-redis' `HerdClient`: a marker, the dictionary, and its expiry.
pub(super) fn session(pickle: &[u8], arena: &Arena<'_>, root: Index) -> Result<Option<Session>, PickleError> {
    let root = arena.node(root);
    if let Node::Dict { .. } = root {
        return read_dict(pickle, arena, root).map(Some);
    }
    let Some([marker, dict, end]) = arena.triple(root) else { return Ok(None) };
    match (arena.node(marker), arena.node(dict), arena.node(end)) {
        (Node::Opaque, dict @ Node::Dict { .. }, Node::Integer { at }) => {
            let mut session = read_dict(pickle, arena, dict)?;
            session.ends_at = numbers::integer(pickle, at);
            // An unreadable expiry must not become no expiry.
            Ok(session.ends_at.is_some().then_some(session))
        }
        _ => Ok(None),
    }
}

/// Reads the links from last to first, so that the last value of a repeated key is used.
fn read_dict(pickle: &[u8], arena: &Arena<'_>, dict: Node) -> Result<Session, PickleError> {
    let mut session = Session::default();
    let mut found: Vec<Field> = Vec::new();
    for (key, value) in arena.links(dict) {
        let Some(field) = arena.field(key) else { continue };
        if !found.contains(&field) {
            found.push(field);
            session.set(field, read_value(pickle, arena, value)?);
        }
    }
    Ok(session)
}

fn read_value(pickle: &[u8], arena: &Arena<'_>, index: Index) -> Result<FieldValue, PickleError> {
    let node = arena.node(index);
    match node {
        Node::Text { .. } => read_text(arena, index),
        Node::Integer { at } => {
            Ok(numbers::integer(pickle, at).map_or(FieldValue::Other, FieldValue::Number))
        }
        Node::List { .. } | Node::Tuple { .. } => {
            let mut groups = Vec::new();
            for (count, (_, item)) in arena.links(node).enumerate() {
                // Counted here as well: one text can be linked many times, and each visit takes time.
                if count == MAX_GROUPS {
                    return Err(PickleError::TooLarge);
                }
                add_group(&mut groups, read_text(arena, item)?)?;
            }
            groups.reverse();
            Ok(FieldValue::List(groups))
        }
        _ => Ok(FieldValue::Other),
    }
}

fn read_text(arena: &Arena<'_>, index: Index) -> Result<FieldValue, PickleError> {
    let Some((bytes, encoding)) = arena.bytes(index) else { return Ok(FieldValue::Other) };
    if bytes.len() > FieldValue::MAX_ESCAPED_BYTES {
        return Err(PickleError::TooLarge);
    }
    match text::decode(bytes, encoding) {
        Some(text) => Ok(FieldValue::text(&text)?),
        None => Ok(FieldValue::Other),
    }
}
