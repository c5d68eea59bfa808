//! Reads files that settings name, with limits: on size, since a device has no end, and on time, since a pipe may
//! have no writer.

use std::fs::{File, metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use config::{ConfigError, FileFormat, Format, Map, Source, Value};

/// Largest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Timeout of reading a pipe or a file on a network.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The text of a settings file. Its values carry the file's name for errors.
#[derive(Debug, Clone)]
pub(super) struct NamedText {
    pub(super) name: String,
    pub(super) text: String,
}

impl Source for NamedText {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let parsed = FileFormat::Toml.parse(Some(&self.name), &self.text);
        parsed.map_err(|cause| match overflowing_line(&self.text) {
            // Unlike other errors, the parser reports this one without a line.
            Some(line) if !cause.to_string().contains("line ") => {
                ConfigError::Message(format!("{}: {cause} (line {line})", self.name))
            }
            _ => ConfigError::FileParse { uri: Some(self.name.clone()), cause },
        })
    }
}

/// Returns the line of the first integer that exceeds 64 bits.
fn overflowing_line(text: &str) -> Option<usize> {
    let overflows = |line: &str| {
        let value = line.split_once('=').map_or("", |(_, value)| value.split('#').next().unwrap_or_default());
        let digits = value.trim().trim_start_matches(['+', '-']).replace('_', "");
        digits.len() > 18
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.parse::<i64>().is_err()
    };
    text.lines().position(overflows).map(|index| index + 1)
}

/// Reads a regular file or a pipe, such as a shell's `<(…)`.
///
/// # Errors
///
/// With the reason, which does not name the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let kind = metadata(path).map_err(|error| error.to_string())?.file_type();
    if kind.is_dir() {
        return Err("is a directory; expected a file".to_owned());
    }
    let is_pipe = std::os::unix::fs::FileTypeExt::is_fifo(&kind);
    if !kind.is_file() && !is_pipe {
        return Err("is a device or a socket; expected a file".to_owned());
    }
    let (done, result) = mpsc::sync_channel(1);
    let path = PathBuf::from(path);
    // A read that never returns keeps this thread until the process exits, which this error causes.
    std::thread::spawn(move || done.send(read_bounded(&path)));
    let bytes = result
        .recv_timeout(READ_TIMEOUT)
        .map_err(|_| format!("no end within {} s", READ_TIMEOUT.as_secs()))?;
    let bytes = bytes.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    Ok(bytes)
}

/// Reads a text file in UTF-8.
///
/// # Errors
///
/// With the reason, which does not name the file, and the position of invalid UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(read(path)?).map_err(|error| no_text(error.as_bytes()))?;
    // Editors on Windows write a byte order mark.
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Describes where UTF-8 is invalid. Columns count characters.
fn no_text(bytes: &[u8]) -> String {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return "is not valid UTF-8 but UTF-16 (line 1, column 1); save it as UTF-8".to_owned();
    }
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("is not valid UTF-8 (line {line}, column {column}); save it as UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_of_invalid_utf8_counts_characters() {
        for (bytes, place) in [
            (&b"\xff"[..], "line 1, column 1"),
            (b"a = 1\nb = '\xe4'\n", "line 2, column 6"),
            ("ä = 1\r\n# ö".as_bytes().split_last().unwrap().1, "line 2, column 3"),
            (b"\xff\xfea\0", "UTF-16"),
        ] {
            assert!(no_text(bytes).contains(place), "{bytes:?}: {}", no_text(bytes));
        }
    }
}
