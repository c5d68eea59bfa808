//! Losses of messages that a connection has not taken note of.

use std::cell::Cell;

/// Which messages may have been lost.
#[derive(Debug, Default)]
pub struct Losses(Cell<u8>);

const OF_CHANNELS: u8 = 1;
const OF_LAYER: u8 = 2;

impl Losses {
    /// Notes a loss of messages of channels, or of the groups of a layer.
    pub(super) fn note(&self, is_layer: bool) {
        self.0.set(self.0.get() | if is_layer { OF_LAYER } else { OF_CHANNELS });
    }

    /// Returns whether messages of channels may have been lost since the last call.
    pub fn take_of_channels(&self) -> bool {
        self.take(OF_CHANNELS)
    }

    /// Returns whether messages of a layer's groups may have been lost since the last call.
    pub fn take_of_layer(&self) -> bool {
        self.take(OF_LAYER)
    }

    fn take(&self, kind: u8) -> bool {
        let noted = self.0.get();
        self.0.set(noted & !kind);
        noted & kind != 0
    }
}
