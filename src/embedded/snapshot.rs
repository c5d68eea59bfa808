//! A file with the strings of the store, so that a restart keeps sessions. Streams are not in it.
//!
//! Format: a line with its name, then a record for each key: database, expiry, two lengths, key, value; then the end mark.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::keyspace::{DATABASES, KeyValue, Keyspace};

/// The first line. Another format gets another number.
const NAME: &[u8] = b"ws4redis strings 1\n";
/// Stands in the first byte of a record: the file is complete.
const END: u8 = 0xff;
/// The expiry of a key that never expires.
const NEVER: i64 = -1;

/// A file, and the state of the keyspace that it has.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    saved_changes: u64,
    /// A failure is logged once.
    failed: bool,
}

impl SnapshotFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, saved_changes: 0, failed: false }
    }

    /// Loads the file into an empty keyspace. A file that cannot be read is reported, and replaced by the next save.
    pub(crate) fn load(&mut self, keyspace: &mut Keyspace, now: i64) {
        let path = self.path.display();
        match File::open(&self.path).and_then(|file| load(&file, keyspace, now)) {
            Ok(count) => tracing::info!(keys = count, %path, "embedded store: loaded the snapshot"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, %path, "embedded store: the snapshot cannot be read; sessions in it are lost");
            }
        }
        self.saved_changes = keyspace.changes();
    }

    /// Writes the file if the keyspace has changed since the last time.
    pub(crate) fn save(&mut self, keyspace: &Keyspace) {
        if self.saved_changes == keyspace.changes() {
            return;
        }
        match save(&self.path, keyspace) {
            Ok(()) => (self.saved_changes, self.failed) = (keyspace.changes(), false),
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                let path = self.path.display();
                tracing::warn!(%error, %path, "embedded store: the snapshot cannot be written; sessions will be lost. Change embedded.snapshot_file");
            }
            Err(_) => {}
        }
    }
}

fn save(path: &Path, keyspace: &Keyspace) -> io::Result<()> {
    let mut unfinished = path.to_owned().into_os_string();
    unfinished.push(".new");
    // Sessions are secrets.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut file = BufWriter::new(file);
    file.write_all(NAME)?;
    for (db, number) in (0..DATABASES).zip(0_u8..) {
        for entry in keyspace.entries(db) {
            let KeyValue::Text(value) = &entry.value else { continue };
            let length = |text: &[u8]| u32::try_from(text.len()).map_err(io::Error::other);
            file.write_all(&[number])?;
            file.write_all(&entry.expires.unwrap_or(NEVER).to_le_bytes())?;
            file.write_all(&length(&entry.key)?.to_le_bytes())?;
            file.write_all(&length(value)?.to_le_bytes())?;
            file.write_all(&entry.key)?;
            file.write_all(value)?;
        }
    }
    file.write_all(&[END])?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    std::fs::rename(&unfinished, path)
}

fn load(file: &File, keyspace: &mut Keyspace, now: i64) -> io::Result<usize> {
    let invalid = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
    let mut left = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut take = |length: usize| {
        // A damaged length must not allocate more than the file has.
        left = left.checked_sub(length as u64).ok_or_else(|| invalid("it is cut off"))?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    if take(NAME.len())? != NAME {
        return Err(invalid("it is not a snapshot of this version"));
    }
    let mut count = 0;
    loop {
        let db = match take(1)?.as_slice() {
            [END] => return Ok(count),
            [db] if usize::from(*db) < DATABASES => usize::from(*db),
            _ => return Err(invalid("it is damaged")),
        };
        let expires = i64::from_le_bytes(array(&take(8)?)?);
        let lengths = [array(&take(4)?)?, array(&take(4)?)?].map(u32::from_le_bytes);
        let (key, value) = (take(lengths[0] as usize)?, take(lengths[1] as usize)?);
        let expires = Some(expires).filter(|expires| *expires != NEVER);
        if expires.is_some_and(|when| when <= now) {
            continue;
        }
        let stored = keyspace.set(db, &key, &value, expires);
        stored.map_err(|_| io::Error::other("it does not fit into embedded.max_memory_bytes"))?;
        count += 1;
    }
}

fn array<const N: usize>(bytes: &[u8]) -> io::Result<[u8; N]> {
    bytes.try_into().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct TestFile(PathBuf);

    impl TestFile {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("ws4redis-{}-{name}", std::process::id())))
        }
    }

    impl Drop for TestFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn filled() -> Keyspace {
        let mut keyspace = Keyspace::new(1 << 20);
        keyspace.set(0, b"a", b"1", None).unwrap();
        keyspace.set(15, b"\x00\xff", &vec![7; 70_000], Some(100)).unwrap();
        keyspace.set(3, b"gone", b"", Some(50)).unwrap();
        keyspace
    }

    fn contents(keyspace: &Keyspace) -> Vec<(usize, Vec<u8>, Option<i64>)> {
        (0..DATABASES)
            .flat_map(|db| keyspace.entries(db).map(move |entry| (db, entry.key.to_vec(), entry.expires)))
            .collect()
    }

    #[test]
    fn a_snapshot_restores_the_strings_that_have_not_expired_and_only_the_user_reads_it() {
        let file = TestFile::new("restores");
        SnapshotFile::new(file.0.clone()).save(&filled());
        let mode = std::fs::metadata(&file.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut restored = Keyspace::new(1 << 20);
        SnapshotFile::new(file.0.clone()).load(&mut restored, 60);
        let expected = vec![(0, b"a".to_vec(), None), (15, b"\x00\xff".to_vec(), Some(100))];
        assert_eq!(contents(&restored), expected);
        let value = restored.get(15, b"\x00\xff").map(|entry| entry.value.bytes());
        assert_eq!(value, Some(70_000));
    }

    #[test]
    fn an_unchanged_keyspace_is_not_written_again() {
        let file = TestFile::new("unchanged");
        let mut snapshot = SnapshotFile::new(file.0.clone());
        let mut keyspace = filled();
        snapshot.save(&keyspace);
        std::fs::remove_file(&file.0).unwrap();
        snapshot.save(&keyspace);
        assert!(!file.0.exists());
        keyspace.remove(0, b"a");
        snapshot.save(&keyspace);
        assert!(file.0.exists());
    }

    #[test]
    fn every_cut_and_every_damaged_byte_is_an_error_or_other_keys_but_never_a_panic() {
        let file = TestFile::new("damaged");
        let mut small = Keyspace::new(1 << 20);
        small.set(1, b"key", b"value", Some(9)).unwrap();
        save(&file.0, &small).unwrap();
        let whole = std::fs::read(&file.0).unwrap();
        let load_bytes = |bytes: &[u8]| {
            std::fs::write(&file.0, bytes).unwrap();
            load(&File::open(&file.0).unwrap(), &mut Keyspace::new(1 << 20), 0)
        };
        assert_eq!(load_bytes(&whole).unwrap(), 1);
        for length in 0..whole.len() {
            assert!(load_bytes(&whole[..length]).is_err(), "{length}");
        }
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0xff;
            let _ = load_bytes(&damaged);
        }
    }
}
