//! Sessions in pickles.

use super::Session;
use crate::codec::DecodeError;
use crate::codec::pickle::RecordPickle;

/// Decodes a session; `None` if the pickle is another value.
///
/// The root is a dictionary, or the tuple of django-redis' `HerdClient`: a marker, the dictionary, and its expiry.
pub(super) fn read(pickle: &[u8]) -> Result<Option<Session>, DecodeError> {
    let pickle = RecordPickle::<Session>::run(pickle)?;
    let root = pickle.root();
    let Some([marker, dict, end]) = root.triple() else { return root.record() };
    // An unreadable expiry must not become no expiry.
    let (true, Some(ends_at)) = (marker.is_opaque(), end.integer()) else { return Ok(None) };
    let session = dict.record()?;
    Ok(session.map(|session| Session { ends_at: Some(ends_at), ..session }))
}
