//! Instructions of single steps on a message's and a visitor's way: `cargo bench --bench instructions [WORD]`.
//!
//! Each case runs twice under `valgrind --tool=callgrind`, with different numbers of repetitions; the difference of the
//! two counts, divided by that of the repetitions, leaves out the start and whatever is prepared. Other work of the machine
//! changes nothing of it; what is left of noise, below one per cent, are the seeds of hash tables. The kernel's part is not
//! in it: callgrind counts up to a system call and from its return on. With a word, only cases with it in their names run.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports on standard output")]

mod handshakes;
mod messages;
mod sessions;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Prepares a case, and returns what is repeated.
type Prepare = fn(&str) -> Box<dyn FnMut()>;

/// One case: its name, how it is prepared, and how often it is done at least. Twice that and one more is not too much
/// for what sockets hold that nobody reads.
struct Case(&'static str, Prepare, u32);

/// How the process is told that it is the one that is counted.
const COUNTED: &str = "--counted";

fn main() -> ExitCode {
    let cases: Vec<Case> =
        [messages::cases(), handshakes::cases(), sessions::cases()].into_iter().flatten().collect();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [counted, name, times] = &arguments[..]
        && counted == COUNTED
    {
        let Case(name, prepare, _) = cases.iter().find(|case| case.0 == *name).unwrap();
        let mut repeated = prepare(name);
        (0..times.parse::<u32>().unwrap()).for_each(|_| repeated());
        return ExitCode::SUCCESS;
    }
    let word = arguments.first().map_or("", String::as_str);
    for Case(name, _, least) in cases.iter().filter(|case| case.0.contains(word)) {
        let (Some(few), Some(many)) = (count(name, *least), count(name, 2 * least)) else {
            println!("{name}: valgrind cannot be run, or the case fails");
            return ExitCode::FAILURE;
        };
        println!("{name:60} {:>12}", many.saturating_sub(few) / u64::from(*least));
    }
    ExitCode::SUCCESS
}

/// Returns the instructions of so many repetitions, with everything around them.
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

/// Returns the text of a fixture of a session.
fn fixture(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/sessions/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
