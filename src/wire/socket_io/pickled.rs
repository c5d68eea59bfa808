//! Writes an acknowledgement as releases of python-socketio up to 5.13.0 read it: in pickle, protocol 3, the oldest one with
//! bytes.

use bytes::Bytes;

use super::split::{JsonElements, JsonMembers};
use super::tokens::{is_key, unescape_json};
use crate::wire::AckOrigin;

/// Most digits of an integer: Python refuses to convert longer ones (`sys.int_info.default_max_str_digits`).
const MAX_DIGITS: usize = 4_300;

/// Returns the message that answers an event; `None` if the arguments are not a valid array of JSON.
pub fn pickled_callback(origin: &AckOrigin, arguments: &str, attachments: &[Bytes]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(128 + arguments.len());
    out.extend(b"\x80\x03}(");
    for (key, value) in [
        ("method", "callback"),
        ("host_id", &origin.host_id),
        ("sid", &origin.sid),
        ("namespace", &origin.namespace),
    ] {
        push_text(&mut out, key)?;
        push_text(&mut out, value)?;
    }
    push_text(&mut out, "id")?;
    push_number(&mut out, &origin.id.to_string())?;
    push_text(&mut out, "args")?;
    push_value(&mut out, arguments, attachments)?;
    out.extend(b"u.");
    Some(out)
}

/// Appends a value of valid JSON, which is at most as deep as was checked on receipt.
fn push_value(out: &mut Vec<u8>, json: &str, attachments: &[Bytes]) -> Option<()> {
    match json.bytes().next()? {
        b'n' => out.push(b'N'),
        b't' => out.push(b'\x88'),
        b'f' => out.push(b'\x89'),
        b'"' => push_text(out, &unescape_json(json)?)?,
        b'[' => {
            out.extend(b"](");
            for element in JsonElements::new(json)? {
                push_value(out, element.ok()?, attachments)?;
            }
            out.push(b'e');
        }
        b'{' => {
            if let Some(attachment) = attachment(json, attachments) {
                out.push(b'B');
                out.extend(u32::try_from(attachment.len()).ok()?.to_le_bytes());
                out.extend(&attachment[..]);
            } else {
                out.extend(b"}(");
                for member in JsonMembers::new(json)? {
                    let (key, value) = member.ok()?;
                    push_text(out, &unescape_json(key)?)?;
                    push_value(out, value, attachments)?;
                }
                out.push(b'u');
            }
        }
        _ => push_number(out, json)?,
    }
    Some(())
}

/// Returns the attachment to which an object refers.
fn attachment<'a>(json: &str, attachments: &'a [Bytes]) -> Option<&'a Bytes> {
    if attachments.is_empty() {
        return None;
    }
    let member = |name| JsonMembers::new(json)?.flatten().filter(|(key, _)| is_key(key, name)).last();
    let (_, mark) = member("_placeholder")?;
    let (_, number) = member("num")?;
    attachments.get(number.parse::<usize>().ok().filter(|_| mark == "true")?)
}

fn push_text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.push(b'X');
    out.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
    out.extend(text.as_bytes());
    Some(())
}

fn push_number(out: &mut Vec<u8>, number: &str) -> Option<()> {
    if !number.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    let is_integer = number.len() <= MAX_DIGITS && !number.contains(['.', 'e', 'E']);
    if is_integer {
        out.extend([b"L", number.as_bytes(), b"L\n"].concat());
    } else {
        out.push(b'G');
        out.extend(number.parse::<f64>().ok()?.to_be_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Channel;

    fn origin() -> AckOrigin {
        AckOrigin {
            channel: Channel::from_redis("socketio"),
            host_id: "h".into(),
            sid: "s".into(),
            namespace: "/".into(),
            id: 7,
            is_pickled: true,
        }
    }

    #[test]
    fn each_kind_of_value_has_its_opcode() {
        let arguments = r#"["\u017c",1,-1.5,true,false,null,{"a":[]},{"_placeholder":true,"num":0}]"#;
        let pickle = pickled_callback(&origin(), arguments, &[Bytes::from_static(b"\xff")]).unwrap();
        let text =
            |text: &str| [b"X", &[u8::try_from(text.len()).unwrap(), 0, 0, 0][..], text.as_bytes()].concat();
        let mut expected = b"\x80\x03}(".to_vec();
        for part in ["method", "callback", "host_id", "h", "sid", "s", "namespace", "/", "id"] {
            expected.extend(text(part));
        }
        expected.extend(b"L7L\n");
        expected.extend(text("args"));
        expected.extend(b"](");
        expected.extend(text("ż"));
        expected.extend(b"L1L\nG\xbf\xf8\0\0\0\0\0\0\x88\x89N}(");
        expected.extend(text("a"));
        expected.extend(b"](euB\x01\0\0\0\xffeu.");
        assert_eq!(pickle, expected);
    }

    #[test]
    fn long_integers_are_floats_and_invalid_json_is_refused() {
        let long = format!("[{}]", "9".repeat(5_000));
        let pickle = pickled_callback(&origin(), &long, &[]).unwrap();
        assert!(pickle.windows(9).any(|bytes| bytes == [&b"G"[..], &f64::INFINITY.to_be_bytes()].concat()));
        for invalid in ["", "[", "[x]", "[\"]"] {
            assert_eq!(pickled_callback(&origin(), invalid, &[]), None, "{invalid}");
        }
    }
}
