//! Counts the instructions of single steps: `cargo bench --bench instructions [-- WORD]`.
//!
//! Each case runs twice under `valgrind --tool=callgrind` with different numbers of repetitions. The difference of both
//! counts divided by the difference of the repetitions leaves out the start and the preparation. The load of the machine
//! does not matter. Seeds of hash tables add noise below one per cent. Instructions of the kernel are not counted.
//!
//! With a word, only cases with it in their names run. `--check` compares all cases with `recorded.txt` and fails where one
//! takes over 3 % more; `--record` writes that file. Counts depend on the compiler, so that both want the toolchain of
//! `recorded.txt` and of [`TOOLCHAIN`].
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports on standard output")]

mod handshakes;
mod messages;
mod recorded;
mod sessions;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The compiler of the recorded counts. A newer one gets counts of its own, in a commit that changes nothing else.
const TOOLCHAIN: &str = "1.95.0";

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

/// Returns the instructions of one repetition. Says why there are none.
fn measure(Case(name, _, least): &Case) -> Option<u64> {
    let (Some(few), Some(many)) = (count(name, *least), count(name, 2 * least)) else {
        println!("{name}: valgrind is missing (apt-get install valgrind), or the case fails");
        return None;
    };
    Some(many.saturating_sub(few) / u64::from(*least))
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
