//! From the root of a pickle to a session.

use super::super::content::{Excessive, Field, MAX_GROUPS, Value, add_group};
use super::Error;
use super::arena::{Arena, Index, Node};
use super::{Session, numbers, text};

impl From<Excessive> for Error {
    fn from(Excessive: Excessive) -> Self {
        Self::TooLarge
    }
}

/// Returns the session that the root is; `None` if it is none.
///
/// Either a dictionary, or what django-redis' `HerdClient` wraps around it: a marker, the dictionary, and its end.
pub(super) fn session(pickle: &[u8], arena: &Arena<'_>, root: Index) -> Result<Option<Session>, Error> {
    let root = arena.node(root);
    if let Node::Dict { .. } = root {
        return read_dict(pickle, arena, root).map(Some);
    }
    let Some([marker, dict, end]) = arena.triple(root) else { return Ok(None) };
    match (arena.node(marker), arena.node(dict), arena.node(end)) {
        (Node::Opaque, dict @ Node::Dict { .. }, Node::Integer { at }) => {
            let mut session = read_dict(pickle, arena, dict)?;
            session.ends_at = numbers::integer(pickle, at);
            // An end that cannot be read must not become none.
            Ok(session.ends_at.is_some().then_some(session))
        }
        _ => Ok(None),
    }
}

/// Goes through the links from the last to the first, so that of each key the first one found counts.
fn read_dict(pickle: &[u8], arena: &Arena<'_>, dict: Node) -> Result<Session, Error> {
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

fn read_value(pickle: &[u8], arena: &Arena<'_>, index: Index) -> Result<Value, Error> {
    let node = arena.node(index);
    match node {
        Node::Text { .. } => read_text(arena, index),
        Node::Integer { at } => Ok(numbers::integer(pickle, at).map_or(Value::Other, Value::Number)),
        Node::List { .. } | Node::Tuple { .. } => {
            let mut groups = Vec::new();
            for (count, (_, item)) in arena.links(node).enumerate() {
                // Counted here too: one text can be linked many times, and looking at it takes time.
                if count == MAX_GROUPS {
                    return Err(Error::TooLarge);
                }
                add_group(&mut groups, read_text(arena, item)?)?;
            }
            groups.reverse();
            Ok(Value::List(groups))
        }
        _ => Ok(Value::Other),
    }
}

fn read_text(arena: &Arena<'_>, index: Index) -> Result<Value, Error> {
    let Some((bytes, encoding)) = arena.bytes(index) else { return Ok(Value::Other) };
    if bytes.len() > Value::MAX_WRITTEN_BYTES {
        return Err(Error::TooLarge);
    }
    match text::decode(bytes, encoding) {
        Some(text) => Ok(Value::text(&text)?),
        None => Ok(Value::Other),
    }
}
