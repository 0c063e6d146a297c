//! How much memory there is for this process.

use crate::sysfs;
use std::path::{Path, PathBuf};

/// The host's memory in bytes, or what the cgroup grants if that is less; `None` if neither can be
/// read.
pub(crate) fn bytes_max() -> Option<u64> {
    let host = sysfs::read("/proc/meminfo").and_then(|text| total(&text));
    let cgroup = sysfs::read("/proc/self/cgroup").unwrap_or_default();
    // A limit of "max" is no number, and none.
    let granted = limit_files(&cgroup).into_iter().filter_map(sysfs::read_value::<u64>);
    granted.chain(host).min()
}

fn total(meminfo: &str) -> Option<u64> {
    let kibibytes = sysfs::field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim();
    kibibytes.parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// Where the limits of a process's cgroup and of those around it are, by its `/proc/self/cgroup`.
fn limit_files(cgroup: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let inner = Path::new(path.strip_prefix('/')?);
        Some(
            inner.ancestors().map(|path| Path::new(root).join(path).join(file)).collect::<Vec<_>>(),
        )
    };
    cgroup.lines().filter_map(of_line).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_bytes() {
        assert_eq!(total("MemTotal:       24683956 kB\nMemFree: 1 kB"), Some(24_683_956 << 10));
        for nonsense in ["", "MemTotal:", "MemTotal: many kB", "MemTotal: 99999999999999999999 kB"]
        {
            assert_eq!(total(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn limits_are_those_of_the_cgroup_and_all_around_it() {
        let files = |cgroup| -> Vec<String> {
            limit_files(cgroup).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            files("0::/a/b"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            files("4:cpu,cpuacct:/c\n3:memory:/c\n"),
            [
                "/sys/fs/cgroup/memory/c/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        assert_eq!(files("nonsense\n1:\n"), Vec::<String>::new());
    }

    #[test]
    fn this_host_has_some() {
        assert!(bytes_max().is_some_and(|bytes| bytes > 64 << 20));
    }
}
