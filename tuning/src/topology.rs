//! The cores that this process may use, and what lies between them.
//!
//! # Invariants
//! - A topology has at least one core, each core once, in ascending order of id.
//! - Only cores of the calling thread's affinity mask are listed. A cgroup's cpuset narrows that
//!   mask, so a container's cores are counted, not the machine's.
//! - What sysfs does not tell is `None`, and placement then falls back on core ids.

use crate::sysfs;
use std::fmt;
use std::path::Path;

/// A logical core (hardware thread), by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub usize);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A last-level cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// 2 or 3 on most hosts.
    pub level: u32,
    /// Its size in bytes, where known.
    pub size_bytes: Option<u64>,
    /// The cores that share it, also those that this process may not use, in ascending order.
    pub shared_by: Vec<CoreId>,
}

/// A core that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// The kernel's number.
    pub id: CoreId,
    /// The hardware threads of the same physical core, this one included, in ascending order; also
    /// those that this process may not use.
    pub siblings: Vec<CoreId>,
    /// The socket.
    pub package: Option<u32>,
    /// The memory node that is near.
    pub numa_node: Option<u32>,
    /// The cache of the highest level.
    pub last_level_cache: Option<Cache>,
}

impl Core {
    /// A core of which nothing but its number is known.
    pub fn unknown(id: CoreId) -> Self {
        Self { id, siblings: vec![id], package: None, numa_node: None, last_level_cache: None }
    }

    /// Reads what sysfs tells about a core; `cpus` is `/sys/devices/system/cpu`.
    fn read(id: CoreId, cpus: &Path) -> Self {
        let cpu = cpus.join(format!("cpu{id}"));
        let siblings = core_list(&cpu.join("topology/thread_siblings_list"))
            .filter(|siblings| siblings.contains(&id))
            .unwrap_or_else(|| vec![id]);
        Self {
            id,
            siblings,
            package: sysfs::read_value(cpu.join("topology/physical_package_id")),
            numa_node: numa_node(&cpu),
            last_level_cache: last_level_cache(&cpu),
        }
    }
}

/// The cores that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    cores: Vec<Core>,
    cpu_quota: Option<usize>,
}

impl Topology {
    /// Reads the host's topology.
    ///
    /// Call it before any thread is pinned: it sees what the *calling thread* may run on. Where the
    /// affinity mask cannot be read (more than 1,024 CPUs), as many cores from 0 on are assumed as
    /// the standard library counts.
    pub fn detect() -> Self {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let ids = core_affinity::get_core_ids().filter(|ids| !ids.is_empty()).map_or_else(
            || (0..available).collect(),
            |ids| ids.iter().map(|core| core.id).collect::<Vec<_>>(),
        );
        let quota = (available < ids.len()).then_some(available);
        Self::read(ids, quota, Path::new("/sys/devices/system/cpu"))
    }

    fn read(ids: Vec<usize>, cpu_quota: Option<usize>, cpus: &Path) -> Self {
        Self::new(ids.into_iter().map(|id| Core::read(CoreId(id), cpus)).collect(), cpu_quota)
    }

    /// A topology of these cores, in any order; `cpu_quota` as in [`Topology::cpu_quota`].
    ///
    /// # Panics
    /// If there is no core, a core is listed twice, or the quota is zero.
    pub fn new(mut cores: Vec<Core>, cpu_quota: Option<usize>) -> Self {
        assert!(!cores.is_empty(), "a process runs on at least one core");
        assert_ne!(cpu_quota, Some(0), "a quota is at least one core");
        cores.sort_by_key(|core| core.id);
        assert!(cores.windows(2).all(|pair| pair[0].id < pair[1].id), "a core is listed twice");
        Self { cores, cpu_quota }
    }

    /// The cores, in ascending order of id.
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// How many cores' worth of time the cgroup grants, rounded down, if fewer than there are cores
    /// (`docker run --cpus`, a Kubernetes CPU limit). Beyond it the kernel stops all threads until
    /// the next period, so a slot that spins takes time from those that work.
    pub fn cpu_quota(&self) -> Option<usize> {
        self.cpu_quota
    }

    /// How many slots can each have a core's time of their own.
    pub fn slots_max(&self) -> usize {
        self.cpu_quota.unwrap_or(usize::MAX).min(self.cores.len())
    }
}

fn core_list(path: &Path) -> Option<Vec<CoreId>> {
    let mut ids = sysfs::parse_list(&sysfs::read(path)?)?;
    ids.sort_unstable();
    ids.dedup();
    Some(ids.into_iter().map(CoreId).collect())
}

/// A core's directory holds a link `nodeN` to its memory node.
fn numa_node(cpu: &Path) -> Option<u32> {
    std::fs::read_dir(cpu)
        .ok()?
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

fn last_level_cache(cpu: &Path) -> Option<Cache> {
    std::fs::read_dir(cpu.join("cache"))
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("index"))
        .filter_map(|entry| {
            let index = entry.path();
            Some(Cache {
                level: sysfs::read_value(index.join("level"))?,
                size_bytes: sysfs::read(index.join("size")).and_then(|s| sysfs::parse_size(&s)),
                shared_by: core_list(&index.join("shared_cpu_list"))?,
            })
        })
        .max_by_key(|cache| cache.level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Two physical cores of two threads each on two nodes, as sysfs shows them.
    fn fake_sysfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (id, node, siblings) in [(0, 0, "0,2"), (1, 1, "1,3"), (2, 0, "0,2"), (3, 1, "1,3")] {
            let cpu = dir.path().join(format!("cpu{id}"));
            fs::create_dir_all(cpu.join("topology")).unwrap();
            fs::create_dir_all(cpu.join(format!("node{node}"))).unwrap();
            fs::write(cpu.join("topology/thread_siblings_list"), format!("{siblings}\n")).unwrap();
            fs::write(cpu.join("topology/physical_package_id"), format!("{node}\n")).unwrap();
            for (index, level, size, shared) in
                [(0, 1, "32K", siblings), (1, 2, "512K", siblings), (2, 3, "32M", "0-3")]
            {
                let cache = cpu.join(format!("cache/index{index}"));
                fs::create_dir_all(&cache).unwrap();
                fs::write(cache.join("level"), format!("{level}\n")).unwrap();
                fs::write(cache.join("size"), format!("{size}\n")).unwrap();
                fs::write(cache.join("shared_cpu_list"), format!("{shared}\n")).unwrap();
            }
        }
        dir
    }

    #[test]
    fn sysfs_gives_siblings_nodes_and_caches() {
        let sysfs = fake_sysfs();
        let topology = Topology::read(vec![3, 0], None, sysfs.path());
        assert_eq!(topology.cores().len(), 2);
        let last = &topology.cores()[1];
        assert_eq!(last.id, CoreId(3));
        assert_eq!(last.siblings, [CoreId(1), CoreId(3)]);
        assert_eq!((last.package, last.numa_node), (Some(1), Some(1)));
        let cache = last.last_level_cache.as_ref().unwrap();
        assert_eq!((cache.level, cache.size_bytes), (3, Some(32 << 20)));
        assert_eq!(cache.shared_by, [0, 1, 2, 3].map(CoreId));
    }

    #[test]
    fn a_host_without_sysfs_still_has_cores() {
        let nowhere = tempfile::tempdir().unwrap();
        let topology = Topology::read(vec![0, 1], None, nowhere.path());
        assert_eq!(topology.cores(), [Core::unknown(CoreId(0)), Core::unknown(CoreId(1))]);
    }

    #[test]
    fn sibling_lists_that_lack_their_own_core_are_not_believed() {
        let sysfs = fake_sysfs();
        fs::write(sysfs.path().join("cpu0/topology/thread_siblings_list"), "7").unwrap();
        let topology = Topology::read(vec![0], None, sysfs.path());
        assert_eq!(topology.cores()[0].siblings, [CoreId(0)]);
    }

    #[test]
    fn detection_agrees_with_the_standard_library() {
        let topology = Topology::detect();
        let available = std::thread::available_parallelism().unwrap().get();
        assert_eq!(topology.slots_max(), available);
        assert!(topology.cores().len() >= available);
    }

    #[test]
    fn detection_sees_the_affinity_of_the_calling_thread() {
        let wanted = Topology::detect().cores()[0].id;
        let seen = std::thread::spawn(move || {
            crate::pin_current_thread(wanted).unwrap();
            Topology::detect()
        })
        .join()
        .unwrap();
        assert_eq!(seen.cores().iter().map(|core| core.id).collect::<Vec<_>>(), [wanted]);
    }

    #[test]
    #[should_panic(expected = "listed twice")]
    fn a_core_listed_twice_is_refused() {
        Topology::new(vec![Core::unknown(CoreId(1)), Core::unknown(CoreId(1))], None);
    }
}
