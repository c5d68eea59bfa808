//! What is delivered of a message of a Channels group: `deliver` and `types` of a rule.

use crate::wire::socket_io::validate_json;

/// What is delivered of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDelivery {
    /// The part of the message.
    pub part: DeliveredPart,
    /// The values of `type` that are delivered; all if empty.
    pub types: Box<[Box<str>]>,
}

/// The part of a message that is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveredPart {
    /// The whole map, as JSON.
    Event,
    /// The value of one field.
    Field(Box<str>),
    /// A text of JSON with values of fields in it.
    Template(Box<[DeliveryPiece]>),
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryPiece {
    /// A fixed text.
    Text(Box<str>),
    /// The value of a field, as JSON.
    Field(Box<str>),
}

impl GroupDelivery {
    /// Parses `deliver`: `event`, the name of a field, or a template.
    ///
    /// # Errors
    ///
    /// With the problem.
    pub(super) fn new(deliver: &str, types: &[String]) -> Result<Self, String> {
        let part = match deliver {
            "event" => DeliveredPart::Event,
            name if is_field(name) => DeliveredPart::Field(name.into()),
            template => DeliveredPart::Template(pieces(template)?),
        };
        Ok(Self { part, types: types.iter().map(|kind| kind.as_str().into()).collect() })
    }
}

fn is_field(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn pieces(template: &str) -> Result<Box<[DeliveryPiece]>, String> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(open) = template[at..].find('{').map(|open| at + open) {
        at = open + 1;
        let Some(name) = template[at..].split_once('}').map(|(name, _)| name).filter(|name| is_field(name))
        else {
            // A brace of JSON.
            continue;
        };
        pieces.push(DeliveryPiece::Text(template[from..open].into()));
        pieces.push(DeliveryPiece::Field(name.into()));
        at += name.len() + 1;
        from = at;
    }
    pieces.push(DeliveryPiece::Text(template[from..].into()));
    // A field within a string, or as a key, would be JSON with only some values.
    for value in ["0", "\"x\""] {
        let filled: String = pieces
            .iter()
            .map(|piece| match piece {
                DeliveryPiece::Text(text) => text,
                DeliveryPiece::Field(_) => value,
            })
            .collect();
        validate_json(&filled, None).map_err(|_| {
            format!("{template:?} is neither event, nor the name of a field, nor JSON in which each {{field}} stands where a value may stand")
        })?;
    }
    Ok(pieces.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(deliver: &str) -> Result<DeliveredPart, String> {
        GroupDelivery::new(deliver, &[]).map(|delivery| delivery.part)
    }

    #[test]
    fn a_template_has_fields_only_where_values_stand() {
        assert_eq!(part("event"), Ok(DeliveredPart::Event));
        assert_eq!(part("message"), Ok(DeliveredPart::Field("message".into())));
        let template = r#"{"type": "chat_message", "message": {message}}"#;
        let text = |text: &str| DeliveryPiece::Text(text.into());
        let expected = [
            text(r#"{"type": "chat_message", "message": "#),
            DeliveryPiece::Field("message".into()),
            text("}"),
        ];
        assert_eq!(part(template), Ok(DeliveredPart::Template(expected.into())));
        assert!(part(r#"{"type":"reload"}"#).is_ok(), "a fixed text");
        assert!(part("[{a},{b}]").is_ok());
        for wrong in ["", "{", "{\"a\": {b}", r#"{"a": "{b}"}"#, "{{a}: 1}", "hello {a}", "{a} {b}", "9a"] {
            assert!(part(wrong).unwrap_err().contains("where a value may stand"), "{wrong}");
        }
    }
}
