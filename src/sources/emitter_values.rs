//! Values of `MessagePack` as JavaScript's encoders write them, for events.

use super::event_value::ValueRules;
use crate::codec::Value;
use crate::wire::iso_text;
use crate::wire::socket_io::{EventData, EventValue, MessageLimits, encode_values};

/// The extension types of timestamps, of `undefined`, and of dates before `notepack.io` 3.
const TIMESTAMP: i8 = -1;
const NOTEPACK: i8 = 0;

const VALUES: ValueRules = ValueRules { keeps: has_json, extension };

/// Returns the event in the data of a packet: its name, then its arguments.
pub(super) fn event_data(data: Vec<Value>, limits: MessageLimits) -> Option<EventData> {
    let mut data = data.into_iter();
    let Value::Text(name) = data.next()? else { return None };
    let arguments = VALUES.event_values(data)?;
    encode_values(Some(&name), &arguments, limits).ok()
}

/// JSON has no `undefined`: JavaScript omits such a member.
fn has_json(key: &Value, value: &Value) -> bool {
    let is_undefined = matches!(value, Value::Extension(NOTEPACK, data) if *data == [0]);
    matches!(key, Value::Text(_)) && !is_undefined
}

fn extension(kind: i8, data: &[u8]) -> Option<EventValue<'static>> {
    let (seconds, nanoseconds) = match (kind, data) {
        (NOTEPACK, [0]) => return Some(EventValue::Null),
        (NOTEPACK, _) => {
            let milliseconds = i64::from_be_bytes(data.try_into().ok()?);
            let rest = u32::try_from(milliseconds.rem_euclid(1_000)).ok()?;
            (milliseconds.div_euclid(1_000), rest * 1_000_000)
        }
        (TIMESTAMP, [_, _, _, _]) => (u32::from_be_bytes(data.try_into().ok()?).into(), 0),
        (TIMESTAMP, [_, _, _, _, _, _, _, _]) => {
            let packed = u64::from_be_bytes(data.try_into().ok()?);
            (i64::try_from(packed & 0x3_ffff_ffff).ok()?, u32::try_from(packed >> 34).ok()?)
        }
        (TIMESTAMP, _) => {
            let (nanoseconds, seconds) = data.split_first_chunk()?;
            (i64::from_be_bytes(seconds.try_into().ok()?), u32::from_be_bytes(*nanoseconds))
        }
        _ => return None,
    };
    Some(iso_text(seconds, nanoseconds).map_or(EventValue::Null, |text| EventValue::Text(text.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_become_dates_as_javascript_writes_them() {
        let text = |text: &'static str| Some(EventValue::Text(text.into()));
        let long = |nanoseconds: u32, seconds: i64| {
            [&nanoseconds.to_be_bytes()[..], &seconds.to_be_bytes()].concat()
        };
        let packed = |nanoseconds: u64, seconds: u64| (nanoseconds << 34 | seconds).to_be_bytes().to_vec();
        for (kind, data, expected) in [
            (-1, vec![0, 0, 0, 0], text("1970-01-01T00:00:00.000Z")),
            (-1, vec![0xff; 4], text("2106-02-07T06:28:15.000Z")),
            (-1, packed(999_999_999, 951_782_400), text("2000-02-29T00:00:00.999Z")),
            (-1, long(1_000_000, -1), text("1969-12-31T23:59:59.001Z")),
            (-1, long(0, -62_198_755_200), text("-000001-01-01T00:00:00.000Z")),
            (-1, long(0, 253_402_300_800), text("+010000-01-01T00:00:00.000Z")),
            (-1, long(0, i64::MAX), Some(EventValue::Null)),
            (-1, long(1_000_000_000, 0), Some(EventValue::Null)),
            (0, (-1_i64).to_be_bytes().to_vec(), text("1969-12-31T23:59:59.999Z")),
            (0, vec![0], Some(EventValue::Null)),
            (0, vec![1], None),
            (-1, vec![0; 3], None),
            (-1, vec![0; 13], None),
            (1, vec![0; 4], None),
        ] {
            assert_eq!(extension(kind, &data), expected, "{kind} {data:?}");
        }
    }
}
