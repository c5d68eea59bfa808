//! Numbers: only the position of one is stored, and it is decoded when it is needed.

use super::input::PickleInput;
use crate::codec::{DecodeError, Value};

/// Longest binary integer that is decoded, since converting it to decimal takes quadratic time.
const MAX_INTEGER_BYTES: usize = 256;
/// Longest line of a number in a value: a memo may repeat one, and each repetition reads the line. 256 bytes take 617 digits.
pub(super) const MAX_LINE_BYTES: usize = 620;
/// Digits of the decimal number that one step of the conversion yields.
const CHUNK_DIGITS: usize = 9;
const CHUNK: u64 = 1_000_000_000;

/// Decodes the integer whose opcode is at `at`, if it fits into 64 bits.
pub(super) fn integer(pickle: &[u8], at: u32) -> Option<i64> {
    let mut input = PickleInput::new(pickle.get(usize::try_from(at).ok()?..)?);
    match input.byte().ok()? {
        b'J' => Some(i64::from(u32::try_from(input.unsigned(4).ok()?).ok()?.cast_signed())),
        b'K' => i64::try_from(input.unsigned(1).ok()?).ok(),
        b'M' => i64::try_from(input.unsigned(2).ok()?).ok(),
        0x8a => {
            let width = input.byte().ok()?;
            if width == 0 || width > 8 {
                return (width == 0).then_some(0);
            }
            let unused = 64 - 8 * u32::from(width);
            Some((input.unsigned(width).ok()? << unused).cast_signed() >> unused)
        }
        b'I' | b'L' => {
            let line = std::str::from_utf8(input.line().ok()?).ok()?.trim();
            line.strip_suffix('L').unwrap_or(line).parse().ok()
        }
        _ => None,
    }
}

/// Decodes the integer whose opcode is at `at`, of any size. Before protocol 2, `00` and `01` are booleans.
pub(super) fn value(pickle: &[u8], at: u32) -> Result<Value, DecodeError> {
    let start = usize::try_from(at).map_err(|_| DecodeError::Damaged)?;
    let mut input = PickleInput::new(pickle.get(start..).unwrap_or_default());
    let width = match input.byte()? {
        code @ (b'I' | b'L') => {
            let line = input.line()?.trim_ascii();
            match line {
                b"00" | b"01" if code == b'I' => return Ok(Value::Bool(line == b"01")),
                _ => return decimal(line.strip_suffix(b"L").unwrap_or(line)),
            }
        }
        0x8a => 1,
        0x8b => 4,
        _ => return integer(pickle, at).map(Value::Integer).ok_or(DecodeError::Damaged),
    };
    let length = input.unsigned(width)?;
    let bytes = input.take(length)?;
    if bytes.len() > MAX_INTEGER_BYTES {
        return Err(DecodeError::TooLarge);
    }
    let digits = to_decimal(bytes);
    Ok(digits.parse().map_or(Value::BigInteger(digits), Value::Integer))
}

/// Decodes the floating-point number whose opcode is at `at`.
pub(super) fn float(pickle: &[u8], at: u32) -> Option<f64> {
    let mut input = PickleInput::new(pickle.get(usize::try_from(at).ok()?..)?);
    if input.byte().ok()? == b'F' {
        return std::str::from_utf8(input.line().ok()?).ok()?.trim().parse().ok();
    }
    Some(f64::from_be_bytes(input.take(8).ok()?.try_into().ok()?))
}

/// Parses a decimal integer.
fn decimal(text: &[u8]) -> Result<Value, DecodeError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(DecodeError::Damaged);
    }
    let zeros = digits[..digits.len() - 1].iter().take_while(|digit| **digit == b'0').count();
    let sign = if text.starts_with(b"-") { "-" } else { "" };
    let text = format!("{sign}{}", String::from_utf8_lossy(&digits[zeros..]));
    Ok(text.parse().map_or(Value::BigInteger(text), Value::Integer))
}

/// Converts a little-endian integer in two's complement to decimal.
fn to_decimal(bytes: &[u8]) -> String {
    let is_negative = bytes.last().is_some_and(|byte| byte.cast_signed() < 0);
    // The limbs of the absolute value, least significant first.
    let mut carry = u64::from(is_negative);
    let mut limbs = Vec::with_capacity(bytes.len() / 4 + 1);
    for chunk in bytes.chunks(4) {
        let mut limb = [if is_negative { 0xff } else { 0 }; 4];
        limb[..chunk.len()].copy_from_slice(chunk);
        let limb = u32::from_le_bytes(limb);
        let sum = u64::from(if is_negative { !limb } else { limb }) + carry;
        carry = sum >> 32;
        limbs.push(sum & u64::from(u32::MAX));
    }
    limbs.push(carry);
    let mut chunks = Vec::new();
    while limbs.iter().any(|limb| *limb > 0) {
        let remainder = limbs.iter_mut().rev().fold(0, |remainder, limb| {
            let dividend = remainder << 32 | *limb;
            *limb = dividend / CHUNK;
            dividend % CHUNK
        });
        chunks.push(remainder);
    }
    let first = chunks.pop().unwrap_or(0);
    let rest = chunks.iter().rev().map(|chunk| format!("{chunk:0CHUNK_DIGITS$}"));
    let sign = if is_negative { "-" } else { "" };
    format!("{sign}{first}{}", rest.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_python_writes_them() {
        for (written, expected) in [
            (&b"J\xff\xff\xff\xff"[..], Some(-1)),
            (b"J\x00\x00\x00\x80", Some(-2_147_483_648)),
            (b"K\xff", Some(255)),
            (b"M\x00\x01", Some(256)),
            (b"\x8a\x00", Some(0)),
            (b"\x8a\x01\xff", Some(-1)),
            (b"\x8a\x05\x00\x00\x00\x00\x01", Some(1 << 32)),
            (b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80", Some(i64::MIN)),
            (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01", None),
            (b"I-12\n", Some(-12)),
            (b"L12L\n", Some(12)),
            (b"Lx\n", None),
            (b"K", None),
            (b"X", None),
        ] {
            assert_eq!(integer(written, 0), expected, "{written:?}");
        }
    }

    #[test]
    fn integers_of_any_size_become_digits() {
        let big = |digits: &str| Ok(Value::BigInteger(digits.to_owned()));
        for (written, expected) in [
            (&b"\x8a\x00"[..], Ok(Value::Integer(0))),
            (b"\x8a\x01\x80", Ok(Value::Integer(-128))),
            (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", Ok(Value::Integer(i64::MAX))),
            (b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80", Ok(Value::Integer(i64::MIN))),
            (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00", big("9223372036854775808")),
            (b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\xff", big("-9223372036854775809")),
            (b"\x8b\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", big("18446744073709551616")),
            (b"\x8a\x09\x00\x00\x64\xa7\xb3\xb6\xe0\x0d\x00", Ok(Value::Integer(1_000_000_000_000_000_000))),
            (b"L-12L\n", Ok(Value::Integer(-12))),
            (b"L12345678901234567890L\n", big("12345678901234567890")),
            (b"I00\n", Ok(Value::Bool(false))),
            (b"L01L\n", Ok(Value::Integer(1))),
            (b"L0L\n", Ok(Value::Integer(0))),
            (b"I-\n", Err(DecodeError::Damaged)),
            (b"I1_000\n", Err(DecodeError::Damaged)),
            (b"K", Err(DecodeError::Damaged)),
        ] {
            assert_eq!(value(written, 0), expected, "{written:?}");
        }
        let long = [b"\x8b\x01\x01\x00\x00".to_vec(), vec![1; 257]].concat();
        assert_eq!(value(&long, 0), Err(DecodeError::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn decimal_digits_agree_with_128_bit_integers(number in proptest::num::i128::ANY, unused in 0..128_u32) {
            let number = number >> unused;
            proptest::prop_assert_eq!(to_decimal(&number.to_le_bytes()), number.to_string());
        }
    }
}
