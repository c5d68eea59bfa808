//! Integers: only the position of one is stored, and it is decoded when a field needs it.

use super::input::PickleInput;

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
}
