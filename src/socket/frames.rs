//! Finds the boundaries of a client's frames (RFC 6455, section 5.2), and lengths that are not minimal, which tungstenite
//! accepts. Not here: everything behind a head, which tungstenite decodes.

/// Bytes of the longest head without its mask: two, and a length of 64 bits.
const MAX_HEAD: usize = 10;

const MASK_BYTES: u64 = 4;
pub(super) const MASKED: u8 = 0x80;
pub(super) const LENGTH_16: u8 = 126;
pub(super) const LENGTH_64: u8 = 127;
const CLOSE: u8 = 8;

/// Follows the frames of one client, however the input is split.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    /// The part of the current frame's head that has arrived.
    head: [u8; MAX_HEAD],
    head_bytes: u8,
    /// Whether the current or the last frame is a close frame.
    close: bool,
    /// Bytes of the current frame behind its head that have not arrived.
    rest: u64,
}

impl FrameScanner {
    /// Scans input. Returns the number of bytes before the first frame whose length is not minimal. Ignores everything
    /// behind a close frame.
    pub(super) fn scan(&mut self, input: &[u8]) -> usize {
        let (mut at, mut begin, mut sound) = (0, 0, input.len());
        while at < input.len() && !self.is_closed() {
            if self.rest > 0 {
                let skipped = usize::try_from(self.rest).unwrap_or(usize::MAX).min(input.len() - at);
                self.rest -= skipped as u64;
                at += skipped;
                continue;
            }
            if self.head_bytes == 0 {
                begin = at;
            }
            self.head[usize::from(self.head_bytes)] = input[at];
            self.head_bytes += 1;
            at += 1;
            let Some((length, is_minimal)) = self.length() else { continue };
            if !is_minimal {
                sound = sound.min(begin);
            }
            self.close = self.head[0] & 0x0f == CLOSE;
            let mask = if self.head[1] & MASKED == 0 { 0 } else { MASK_BYTES };
            self.rest = length.saturating_add(mask);
            self.head_bytes = 0;
        }
        sound
    }

    /// Returns whether a complete close frame has arrived.
    pub(super) fn is_closed(&self) -> bool {
        self.close && self.rest == 0 && self.head_bytes == 0
    }

    /// Returns the length in the head, and whether it is encoded in as few bytes as possible; none while the head is
    /// incomplete.
    fn length(&self) -> Option<(u64, bool)> {
        let head = &self.head[..usize::from(self.head_bytes)];
        let (&[_, second], extended) = head.split_first_chunk()?;
        match second & !MASKED {
            LENGTH_16 => {
                let length = u16::from_be_bytes(*extended.first_chunk()?);
                Some((length.into(), length >= LENGTH_16.into()))
            }
            LENGTH_64 => {
                let length = u64::from_be_bytes(*extended.first_chunk()?);
                Some((length, length > u16::MAX.into()))
            }
            length => Some((length.into(), true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame whose length is written in this many bytes behind the second one.
    fn frame(first: u8, payload: usize, length_bytes: usize) -> Vec<u8> {
        let length = (payload as u64).to_be_bytes();
        let second = match length_bytes {
            0 => u8::try_from(payload).unwrap(),
            2 => LENGTH_16,
            _ => LENGTH_64,
        };
        let head = [&[first, MASKED | second], &length[8 - length_bytes..], &[0; 4]].concat();
        [head, vec![b'x'; payload]].concat()
    }

    #[test]
    fn only_minimal_lengths_are_accepted() {
        for (payload, length_bytes, is_minimal) in [
            (0, 0, true),
            (125, 0, true),
            (0, 2, false),
            (125, 2, false),
            (126, 2, true),
            (65_535, 2, true),
            (5, 8, false),
            (126, 8, false),
            (65_535, 8, false),
            (65_536, 8, true),
        ] {
            let before = frame(0x82, 3, 0);
            let input = [&before[..], &frame(0x82, payload, length_bytes)].concat();
            let expected = if is_minimal { input.len() } else { before.len() };
            assert_eq!(FrameScanner::default().scan(&input), expected, "{payload} in {length_bytes}");
            // The same byte for byte: nothing of the frame that is not minimal but its head is let through.
            let mut scanner = FrameScanner::default();
            let refused = input.iter().any(|byte| scanner.scan(&[*byte]) == 0);
            assert_eq!(refused, !is_minimal, "{payload} in {length_bytes}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_close_frame_is_found_however_frames_are_cut_up(
            lengths in proptest::collection::vec(proptest::sample::select(vec![0_usize, 5, 125, 126, 70_000]), 0..6),
            close_bytes in 0_usize..126,
            piece in 1_usize..5_000,
        ) {
            let mut sent = Vec::new();
            for length in lengths {
                let length_bytes = if length < 126 { 0 } else if length < 65_536 { 2 } else { 8 };
                sent.extend(frame(0x82, length, length_bytes));
            }
            sent.extend(frame(0x88, close_bytes, 0));
            let mut scanner = FrameScanner::default();
            for (number, piece) in sent.chunks(piece).enumerate() {
                proptest::prop_assert!(!scanner.is_closed(), "closed before piece {}", number);
                proptest::prop_assert_eq!(scanner.scan(piece), piece.len());
            }
            proptest::prop_assert!(scanner.is_closed());
            scanner.scan(b"whatever follows");
            proptest::prop_assert!(scanner.is_closed());
        }
    }
}
