//! Decompression of values, up to a size limit. The format is detected by the first bytes.

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::FrameDecoderError;
use zlib_rs::{InflateConfig, ReturnCode, decompress_slice};

use super::DecodeError;

/// Bytes decompressed at a time.
const CHUNK_BYTES: usize = 8 << 10;
/// Growth of the output buffer for zlib and gzip, relative to the input first and to the last buffer then.
const GROWTH: usize = 8;
const SMALLEST: usize = 64;
/// zlib's window bits for its own container and for gzip's, both with the largest window.
const ZLIB: i32 = 15;
const GZIP: i32 = 31;
/// lz4's default block size.
const LZ4_BLOCK_BYTES: usize = 64 << 10;
/// Memory limit of xz in KiB: a dictionary of 8 MiB (preset 6; django-redis uses preset 4) and overhead.
const MAX_XZ_KIB: u32 = 9 << 10;

/// The compression formats of django-redis that have a magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zlib.
    Zlib,
    /// gzip.
    Gzip,
    /// An lz4 frame.
    Lz4,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
}

impl Compression {
    /// Returns the format of a value, if it is compressed. No map in JSON, msgpack or pickle starts with these bytes.
    pub fn of(value: &[u8]) -> Option<Self> {
        match *value {
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Some(Self::Zlib),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }

    /// Decompresses a value of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When the data is corrupt, or the output or the memory that is needed exceeds its limit.
    pub fn decompress(self, value: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
        match self {
            Self::Zlib => decompress_zlib(value, limit),
            Self::Gzip => inflate(value, GZIP, limit),
            Self::Lz4 if lz4_block(value) > limit.max(LZ4_BLOCK_BYTES) => Err(DecodeError::TooLarge),
            Self::Lz4 => drain(lz4_flex::frame::FrameDecoder::new(value), limit),
            // The window is the largest allocation, so bounding it bounds the memory.
            Self::Zstd => match StreamingDecoder::new_with_max_window_size(value, limit as u64) {
                Ok(decoder) => drain(decoder, limit),
                Err(FrameDecoderError::WindowSizeTooBig { .. }) => Err(DecodeError::TooLarge),
                Err(_) => Err(DecodeError::Damaged),
            },
            Self::Xz => drain(lzma_rust2::XzReader::new_mem_limit(value, false, MAX_XZ_KIB), limit),
        }
    }
}

/// Decompresses zlib data of at most `limit` bytes.
///
/// # Errors
///
/// When the data is corrupt, or the output exceeds the limit.
pub fn decompress_zlib(value: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    inflate(value, ZLIB, limit)
}

/// Decompresses in one call, and again into a larger buffer if the first is too small: a streaming decoder would cost
/// more than all the rest for an ordinary value of some hundred bytes.
fn inflate(value: &[u8], window_bits: i32, limit: usize) -> Result<Vec<u8>, DecodeError> {
    let mut size = value.len().max(SMALLEST);
    loop {
        size = size.saturating_mul(GROWTH).min(limit);
        let mut decompressed = vec![0; size];
        let (filled, status) = decompress_slice(&mut decompressed, value, InflateConfig { window_bits });
        let length = filled.len();
        match status {
            ReturnCode::Ok => {
                decompressed.truncate(length);
                return Ok(decompressed);
            }
            ReturnCode::BufError if size == limit => return Err(DecodeError::TooLarge),
            ReturnCode::BufError => {}
            _ => return Err(DecodeError::Damaged),
        }
    }
}

/// Returns the block size of an lz4 frame: each block is decompressed at once.
fn lz4_block(value: &[u8]) -> usize {
    value.get(5).map_or(0, |descriptor| 1 << (8 + 2 * (descriptor >> 4 & 7)))
}

/// Reads to the end, or fails at the limit.
fn drain(mut decoder: impl Read, limit: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decompressed = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        match decoder.read(&mut chunk).map_err(|_| DecodeError::Damaged)? {
            0 => return Ok(decompressed),
            count if decompressed.len() + count > limit => return Err(DecodeError::TooLarge),
            count => decompressed.extend_from_slice(&chunk[..count]),
        }
    }
}
