//! Flags, settings, telemetry, server, exit code. No logic.

fn main() {
    let settings = ws4redis::settings::Settings::load(None, std::env::vars(), &[]).unwrap().0;
    let _guard = ws4redis::telemetry::init(settings.log_json);
    ws4redis::server::run(settings).unwrap();
}
