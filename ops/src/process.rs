//! What this process has used so far, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory now, in bytes.
    pub resident_bytes: u64,
    /// The most resident memory so far, in bytes.
    pub resident_bytes_peak: u64,
    /// Threads now.
    pub threads: u64,
    /// Processor time so far, user and system.
    pub cpu: Duration,
}

impl Usage {
    /// Reads `/proc/self`. What cannot be read is zero.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self::parse(&status, &stat)
    }

    fn parse(status: &str, stat: &str) -> Self {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Self {
            resident_bytes: field("VmRSS") * 1_024,
            resident_bytes_peak: field("VmHWM") * 1_024,
            threads: field("Threads"),
            cpu: cpu_of(stat),
        }
    }
}

/// Processor time, user and system, that threads of this process have used so far whose names begin so. What
/// cannot be read is zero.
pub fn threads_cpu(name: &str) -> Duration {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let cpu = |thread: fs::DirEntry| {
        let of_thread = |file: &str| fs::read_to_string(thread.path().join(file)).ok();
        of_thread("comm")?.starts_with(name).then(|| cpu_of(&of_thread("stat").unwrap_or_default()))
    };
    threads.flatten().filter_map(cpu).sum()
}

/// Processor time in the text of `/proc/.../stat`.
fn cpu_of(stat: &str) -> Duration {
    // Behind the command's name, which may hold anything, parentheses too.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    // A tick is 10 ms in what every Linux shows to programs (USER_HZ).
    Duration::from_millis(ticks * 10)
}

/// Makes the peak of resident memory begin anew, where the kernel allows it.
pub fn reset_peak_resident() {
    // Refused in some containers: the peak then is that of the whole process.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_understood() {
        let status =
            "Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t7\n";
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 7 0 100 1 2";
        let usage = Usage::parse(status, stat);
        assert_eq!(
            usage,
            Usage {
                resident_bytes: 1 << 20,
                resident_bytes_peak: 2 << 20,
                threads: 7,
                cpu: Duration::from_secs(2),
            }
        );
        assert_eq!(Usage::parse("", ""), Usage::default());
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::now();
        assert!(usage.resident_bytes > 0 && usage.threads > 0, "{usage:?}");
    }
}
