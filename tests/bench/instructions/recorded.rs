//! The counts in `recorded.txt`, one case per line: name, two or more spaces, instructions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::{Case, TOOLCHAIN, measure};

/// How far a case may exceed its recorded count, in per cent.
const TOLERANCE_PERCENT: u64 = 3;

/// A count above the limit is repeated; the smallest of three has the least noise.
const ATTEMPTS: usize = 3;

/// Compares all cases with their recorded counts.
pub(super) fn check(cases: &[Case]) -> ExitCode {
    let text = std::fs::read_to_string(file()).unwrap();
    let recorded: BTreeMap<&str, u64> = text.lines().filter_map(entry).collect();
    let mut failures = 0;
    if !toolchain_fits() {
        return ExitCode::FAILURE;
    }
    for case in cases {
        let Some(before) = recorded.get(case.0) else {
            println!("FAIL  {}: not recorded; run with --record", case.0);
            failures += 1;
            continue;
        };
        let bound = before + (before * TOLERANCE_PERCENT).div_ceil(100);
        let mut now = u64::MAX;
        for _ in 0..ATTEMPTS {
            let Some(instructions) = measure(case) else { return ExitCode::FAILURE };
            now = now.min(instructions);
            if now <= bound {
                break;
            }
        }
        let verdict = if now > bound { "FAIL" } else { "ok  " };
        failures += usize::from(now > bound);
        println!("{verdict}  {:60} {now:>12}, recorded {before}, at most {bound}", case.0);
    }
    for name in recorded.keys().filter(|name| cases.iter().all(|case| case.0 != **name)) {
        println!("FAIL  {name}: recorded, but no case has this name; run with --record");
        failures += 1;
    }
    if failures == 0 {
        return ExitCode::SUCCESS;
    }
    println!("Make the step cheaper, or record the new count and say why in docs/performance.md.");
    ExitCode::FAILURE
}

/// Writes the counts of all cases to the file.
pub(super) fn record(cases: &[Case]) -> ExitCode {
    if !toolchain_fits() {
        return ExitCode::FAILURE;
    }
    let mut text = format!(
        "# Instructions of each case with rustc {TOOLCHAIN}: cargo bench --bench instructions -- --record\n\
         # CI compares them within {TOLERANCE_PERCENT} %. A higher count needs a line in docs/performance.md that says why.\n"
    );
    for case in cases {
        let counts: Option<Vec<u64>> = (0..ATTEMPTS).map(|_| measure(case)).collect();
        let Some(least) = counts.and_then(|counts| counts.into_iter().min()) else {
            return ExitCode::FAILURE;
        };
        println!("{:60} {least:>12}", case.0);
        writeln!(text, "{:60} {least:>12}", case.0).unwrap();
    }
    std::fs::write(file(), text).unwrap();
    ExitCode::SUCCESS
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bench/instructions/recorded.txt")
}

fn entry(line: &str) -> Option<(&str, u64)> {
    let (name, count) = line.rsplit_once("  ")?;
    (!line.starts_with('#')).then_some((name.trim_end(), count.trim().parse().ok()?))
}

/// Returns whether the recorded counts are from the current compiler; prints a cure if not.
fn toolchain_fits() -> bool {
    let output = Command::new("rustc").arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let fits = version.split(' ').nth(1) == Some(TOOLCHAIN);
    if !fits {
        println!("the recorded counts are of rustc {TOOLCHAIN}, this is {}", version.trim());
        println!("run: cargo +{TOOLCHAIN} bench --bench instructions -- --check");
    }
    fits
}
