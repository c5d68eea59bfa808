//! Events and requests of Node's emitters and servers.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use ws4redis::settings::Settings;
use ws4redis::sources::{Source, SourceReader};
use ws4redis::wire::Message;

fn reader() -> SourceReader {
    let assignments = ["socketio.enabled=true", "socketio.emitter.enabled=true"].map(str::to_owned);
    let (settings, _) =
        Settings::load(None, std::iter::empty(), &assignments).expect("the settings are valid");
    SourceReader::new(&settings, None)
}

thread_local! {
    static READER: RefCell<SourceReader> = RefCell::new(reader());
}

fuzz_target!(|input: &[u8]| {
    for (source, channel) in
        [(Source::Emitter, "socket.io#/#"), (Source::EmitterRequest, "socket.io-request#/#")]
    {
        let bytes = [channel.as_bytes(), input].concat();
        let message =
            Message::new(bytes.into(), 0..channel.len(), channel.len()..channel.len() + input.len());
        let _ = READER.with_borrow_mut(|reader| reader.read(source, message, |_| true));
    }
});
