//! What a figure was measured on, and what the system says of this process. Linux tells all of it; elsewhere some is None.

use std::fs;

use serde::{Deserialize, Serialize};

/// What a reader of a figure must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As `--device` takes it.
    pub device: String,
    /// The adapter or processor behind it.
    pub device_description: String,
    /// The processor's own name.
    pub cpu: Option<String>,
    /// Threads of the CPU work; `RAYON_NUM_THREADS` sets them.
    pub threads: usize,
    pub system: String,
    pub gsil_version: String,
    /// Of the measurement, local time, `YYYY-MM-DD`.
    pub date: String,
}

impl Machine {
    /// This machine with the given device.
    pub fn of(device_name: &str) -> Self {
        Machine {
            device: device_name.to_owned(),
            device_description: crate::device::description(device_name).unwrap_or_else(|| "unknown".to_owned()),
            cpu: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_name(&text)),
            threads: rayon::current_num_threads(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            gsil_version: env!("CARGO_PKG_VERSION").to_owned(),
            date: chrono::Local::now().format("%Y-%m-%d").to_string(),
        }
    }
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    field(cpuinfo, "model name")
}

/// The value of a `key : value` line.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The most memory that this process ever held, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    peak_memory_in(&fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_memory_in(status: &str) -> Option<u64> {
    let kib: u64 = field(status, "VmHWM")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time of all threads of this process since it started, in seconds, to a hundredth.
pub fn cpu_seconds() -> Option<f64> {
    cpu_seconds_in(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn cpu_seconds_in(stat: &str) -> Option<f64> {
    // Linux counts in hundredths of a second here on every platform (USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    // Field 2 is the program's name in brackets and may hold anything; fields 14 and 15 are what is wanted.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_read_from_what_linux_writes() {
        // Lines of proc(5) as a Linux 6.1 printed them; the name with a bracket and spaces is made up.
        let status = "Name:\tgsil\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(peak_memory_in(status), Some(2048 * 1024));
        let stat = "7 (a ) b) R 1 7 1 0 -1 4194304 93 0 0 0 150 25 3 4 20 0 1 0 5 6 7";
        assert_eq!(cpu_seconds_in(stat), Some(1.75));
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU: fast\nmodel\t\t: 17\n";
        assert_eq!(cpu_name(cpuinfo).as_deref(), Some("A CPU: fast"));
        assert_eq!((peak_memory_in(""), cpu_seconds_in(""), cpu_name("")), (None, None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_held_memory_and_used_time() {
        assert!(peak_memory_bytes().unwrap() > 100_000);
        assert!(cpu_seconds().unwrap() >= 0.0);
    }
}
