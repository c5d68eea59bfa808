//! Compressed values, told by their first bytes; every one is unpacked up to the same limit and no further.

use std::io::Read;

use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};

/// Longest value after unpacking.
pub(super) const MAX_UNPACKED_BYTES: usize = 4 << 20;
/// Bytes unpacked at a time.
const CHUNK_BYTES: usize = 8 << 10;
/// Largest zstd window: what a decoder has to hold beside its output.
const MAX_WINDOW_BYTES: u64 = 4 << 20;
/// Memory for xz, in KiB: a dictionary of 8 MiB (preset 6; django-redis has preset 4) and what comes with it.
const MAX_XZ_KIB: u32 = 9 << 10;

/// Why a value cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    /// The data is damaged, cut short, or asks for more memory than it gets.
    Damaged,
    /// More comes out than [`MAX_UNPACKED_BYTES`].
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

    /// Unpacks a value.
    pub(super) fn unpack(self, value: &[u8]) -> Result<Vec<u8>, Error> {
        match self {
            Self::Zlib => unpack_zlib(value),
            Self::Gzip => drain(flate2::bufread::GzDecoder::new(value)),
            Self::Lz4 => drain(lz4_flex::frame::FrameDecoder::new(value)),
            Self::Zstd => {
                let decoder =
                    ruzstd::decoding::StreamingDecoder::new_with_max_window_size(value, MAX_WINDOW_BYTES);
                drain(decoder.map_err(|_| Error::Damaged)?)
            }
            Self::Xz => drain(lzma_rust2::XzReader::new_mem_limit(value, false, MAX_XZ_KIB)),
        }
    }
}

/// Unpacks zlib data, as it is also found inside the signed form: the most frequent kind by far.
///
/// In one go into memory that doubles up to the limit. A stream's window and buffers would cost a login session more
/// time than all the rest.
pub(super) fn unpack_zlib(value: &[u8]) -> Result<Vec<u8>, Error> {
    decompress_to_vec_zlib_with_limit(value, MAX_UNPACKED_BYTES).map_err(|error| match error.status {
        TINFLStatus::HasMoreOutput => Error::TooLarge,
        _ => Error::Damaged,
    })
}

/// Reads to the end or to the limit.
fn drain(mut decoder: impl Read) -> Result<Vec<u8>, Error> {
    let mut unpacked = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        match decoder.read(&mut chunk).map_err(|_| Error::Damaged)? {
            0 => return Ok(unpacked),
            count if unpacked.len() + count > MAX_UNPACKED_BYTES => return Err(Error::TooLarge),
            count => unpacked.extend_from_slice(&chunk[..count]),
        }
    }
}
