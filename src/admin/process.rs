//! Figures of the process, by the names that all exporters of Prometheus use.

use std::fmt;
use std::fs::{read_dir, read_to_string};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::metrics::{PLAIN, counter, gauge};

/// Ticks per second of the times in `/proc`, on all platforms of Linux.
const TICKS: f64 = 100.0;

/// What the system knows of the process. What it does not tell is left out.
#[derive(Debug)]
pub(super) struct ProcessFigures {
    resident_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
    open_files: Option<u64>,
    max_files: Option<u64>,
}

impl ProcessFigures {
    /// Reads them.
    pub(super) fn read() -> Self {
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let limits = read_to_string("/proc/self/limits").unwrap_or_default();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let files = read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        Self {
            resident_bytes: kilobytes.map(|kilobytes| kilobytes * 1024),
            cpu_seconds: read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)),
            // The directory itself is open meanwhile.
            open_files: files.map(|files| files.saturating_sub(1)),
            max_files: limit.and_then(|limit| limit.split_whitespace().next()?.parse().ok()),
        }
    }
}

/// Returns the time in user and kernel mode (proc(5): fields 14 and 15). The name in parentheses may contain blanks.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory", self.resident_bytes),
            ("process_open_fds", "Open file descriptors", self.open_files),
            ("process_max_fds", "Most file descriptors that may be open", self.max_files),
        ];
        for (name, meaning, value) in gauges {
            if let Some(value) = value {
                gauge(encoder, name, meaning, [(PLAIN, value)])?;
            }
        }
        if let Some(seconds) = self.cpu_seconds {
            let meaning = "CPU time in user and kernel mode";
            counter(encoder, "process_cpu_seconds", meaning, [(PLAIN, seconds)])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_is_that_of_both_modes() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a) S"), None);
    }
}
