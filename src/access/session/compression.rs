//! Compressed values, told by their first bytes; every one is unpacked up to the same limit and no further.

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::FrameDecoderError;
use zlib_rs::{InflateConfig, ReturnCode, decompress_slice};

/// Longest value after unpacking.
pub(super) const MAX_UNPACKED_BYTES: usize = 4 << 20;
/// Bytes unpacked at a time.
const CHUNK_BYTES: usize = 8 << 10;
/// How much larger the first buffer for zlib and gzip is than what comes in, and each further one than the last.
const GROWTH: usize = 8;
const SMALLEST: usize = 64;
/// zlib's numbers for its own and gzip's container, both with the largest window.
const ZLIB: i32 = 15;
const GZIP: i32 = 31;
/// The block that lz4 takes if nothing else is wished.
const LZ4_BLOCK_BYTES: usize = 64 << 10;
/// Memory for xz, in KiB: a dictionary of 8 MiB (preset 6; django-redis has preset 4) and what comes with it.
const MAX_XZ_KIB: u32 = 9 << 10;

/// Why a value cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    /// The data is damaged or cut short.
    Damaged,
    /// More comes out, or would have to be held, than is allowed.
    TooLarge,
}

/// The ways of compression that django-redis offers and that can be told by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Gzip,
    Lz4,
    Zstd,
    Xz,
}

impl Compression {
    /// Returns how a value is compressed, if it is; no session begins with these bytes by itself.
    pub(super) fn of(value: &[u8]) -> Option<Self> {
        match *value {
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Some(Self::Zlib),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }

    /// Unpacks a value, if no more than `limit` bytes come out.
    pub(super) fn unpack(self, value: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
        match self {
            Self::Zlib => unpack_zlib(value, limit),
            Self::Gzip => inflate(value, GZIP, limit),
            Self::Lz4 if lz4_block(value) > limit.max(LZ4_BLOCK_BYTES) => Err(Error::TooLarge),
            Self::Lz4 => drain(lz4_flex::frame::FrameDecoder::new(value), limit),
            // Nothing comes out before a window is full, and so nothing larger than the limit is begun.
            Self::Zstd => match StreamingDecoder::new_with_max_window_size(value, limit as u64) {
                Ok(decoder) => drain(decoder, limit),
                Err(FrameDecoderError::WindowSizeTooBig { .. }) => Err(Error::TooLarge),
                Err(_) => Err(Error::Damaged),
            },
            Self::Xz => drain(lzma_rust2::XzReader::new_mem_limit(value, false, MAX_XZ_KIB), limit),
        }
    }
}

/// Unpacks zlib data, as it is also found inside the signed form: the most frequent kind by far.
pub(super) fn unpack_zlib(value: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    inflate(value, ZLIB, limit)
}

/// Unpacks in one go, and in a larger buffer from the start if the first does not hold it: keeping a decoder for
/// several goes would cost a login session more time than all the rest.
fn inflate(value: &[u8], window_bits: i32, limit: usize) -> Result<Vec<u8>, Error> {
    let mut size = value.len().max(SMALLEST);
    loop {
        size = size.saturating_mul(GROWTH).min(limit);
        let mut unpacked = vec![0; size];
        let (filled, status) = decompress_slice(&mut unpacked, value, InflateConfig { window_bits });
        let length = filled.len();
        match status {
            ReturnCode::Ok => {
                unpacked.truncate(length);
                return Ok(unpacked);
            }
            ReturnCode::BufError if size == limit => return Err(Error::TooLarge),
            ReturnCode::BufError => {}
            _ => return Err(Error::Damaged),
        }
    }
}

/// Returns the size of the blocks that a frame of lz4 is made of, each of which is unpacked at once.
fn lz4_block(value: &[u8]) -> usize {
    value.get(5).map_or(0, |descriptor| 1 << (8 + 2 * (descriptor >> 4 & 7)))
}

/// Reads to the end or to the limit.
fn drain(mut decoder: impl Read, limit: usize) -> Result<Vec<u8>, Error> {
    let mut unpacked = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        match decoder.read(&mut chunk).map_err(|_| Error::Damaged)? {
            0 => return Ok(unpacked),
            count if unpacked.len() + count > limit => return Err(Error::TooLarge),
            count => unpacked.extend_from_slice(&chunk[..count]),
        }
    }
}
