//! Counts the instructions of individual steps: `cargo bench --bench instructions [-- WORD]`.
//!
//! Each case runs twice under `valgrind --tool=callgrind` with different numbers of repetitions. Dividing the difference
//! of the counts by the difference of the repetitions removes start-up and preparation. The load of the machine does not
//! matter; hash seeds add noise below one per cent. Kernel instructions are not counted.
//!
//! With a word, only cases with this word in their name run. `--check` compares all cases with `recorded.txt` and fails if
//! one takes over 3 % more; `--record` writes that file. Counts depend on the compiler: both require the toolchain of
//! `recorded.txt` and [`TOOLCHAIN`].
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports on standard output")]

mod handshakes;
mod messages;
mod recorded;
mod sessions;
mod socket_io;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The compiler of the recorded counts. A newer one needs new counts, in a commit that changes nothing else.
const TOOLCHAIN: &str = "1.95.0";

/// Prepares a case and returns the repeated step.
type Prepare = fn(&str) -> Box<dyn FnMut()>;

/// A case: name, preparation and minimum number of repetitions. The output of twice that number plus one must fit into
/// socket buffers that are not read.
struct Case(&'static str, Prepare, u32);

/// Variable that marks the process that is counted.
const COUNTED: &str = "--counted";

fn main() -> ExitCode {
    let cases: Vec<Case> = [messages::cases(), socket_io::cases(), handshakes::cases(), sessions::cases()]
        .into_iter()
        .flatten()
        .collect();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [counted, name, times] = &arguments[..]
        && counted == COUNTED
    {
        let Case(name, prepare, _) = cases.iter().find(|case| case.0 == *name).unwrap();
        let mut repeated = prepare(name);
        (0..times.parse::<u32>().unwrap()).for_each(|_| repeated());
        return ExitCode::SUCCESS;
    }
    match arguments.first().map_or("", String::as_str) {
        "--check" => recorded::check(&cases),
        "--record" => recorded::record(&cases),
        word => print(cases.iter().filter(|case| case.0.contains(word))),
    }
}

fn print<'a>(cases: impl Iterator<Item = &'a Case>) -> ExitCode {
    for case in cases {
        let Some(instructions) = measure(case) else { return ExitCode::FAILURE };
        println!("{:60} {instructions:>12}", case.0);
    }
    ExitCode::SUCCESS
}

/// Returns the instructions of one repetition, or the reason why they could not be counted.
fn measure(Case(name, _, least): &Case) -> Option<u64> {
    let (Some(few), Some(many)) = (count(name, *least), count(name, 2 * least)) else {
        println!("{name}: valgrind is missing (apt-get install valgrind), or the case fails");
        return None;
    };
    Some(many.saturating_sub(few) / u64::from(*least))
}

/// Returns the instructions of this many repetitions, including start-up and preparation.
fn count(name: &str, times: u32) -> Option<u64> {
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args([COUNTED, name, &times.to_string()])
        .stdout(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&counted.stderr);
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    counted.status.success().then(|| line.rsplit(' ').next()?.parse().ok())?
}

/// Returns the text of a session fixture.
fn fixture(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/sessions/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
