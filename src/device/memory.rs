//! How much memory this machine has and this process takes: what an estimate begins from and is compared with. And what
//! becomes of memory that is freed.

use sysinfo::{CGroupLimits, ProcessRefreshKind, ProcessesToUpdate, System};

/// Memory of the machine, or of the container that this process lives in if that has less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct HostMemory {
    pub total_bytes: u64,
    /// Free, or free as soon as somebody asks (caches of files).
    pub available_bytes: u64,
}

impl HostMemory {
    /// None where the system does not tell.
    pub fn of_this_machine() -> Option<Self> {
        let mut system = System::new();
        system.refresh_memory();
        let machine = HostMemory { total_bytes: system.total_memory(), available_bytes: system.available_memory() };
        let limits = limits_of_this_process(&mut system).or_else(|| system.cgroup_limits());
        let memory = limits.map_or(machine, |limits| machine.limited(&limits));
        (memory.total_bytes > 0).then_some(memory)
    }

    /// With the limit of a container, where that is one: a container without a limit reports nothing, or all there is.
    /// Free is all that its processes do not hold (`rss`): `free_memory` counts caches of files as taken.
    fn limited(self, limits: &CGroupLimits) -> Self {
        match limits.total_memory {
            0 => self,
            total if total >= self.total_bytes => self,
            total_bytes => {
                let free_bytes = total_bytes.saturating_sub(limits.rss);
                HostMemory { total_bytes, available_bytes: free_bytes.min(self.available_bytes) }
            }
        }
    }
}

/// The smallest limit of this process's group and of those around it (batch systems and service managers set theirs on
/// some of them), with what its own group holds. None where there are no groups, or where they go by the host's names.
fn limits_of_this_process(system: &mut System) -> Option<CGroupLimits> {
    let own = sysinfo::get_current_pid().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, ProcessRefreshKind::nothing());
    system.process(own)?.cgroup_limits()
}

/// What this process holds in memory now; None where the system does not tell as plainly as Linux does.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Asks glibc to keep freed memory for the next operation instead of giving large blocks back to the system. A step of
/// training takes and frees the same few hundred megabytes over and over; fetching their pages anew costs up to two seconds
/// a step in a virtual machine. To be called once, before the first thread. Other systems' allocators are left as they are.
///
/// Returns whether it was done.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let never = libc::c_int::MAX;
        let settings = [
            (libc::M_MMAP_MAX, 0), // every block from the heap: blocks that are mapped by themselves are unmapped when freed
            (libc::M_TRIM_THRESHOLD, never),
            (libc::M_TOP_PAD, 64 << 20),
            (libc::M_ARENA_MAX, 1), // else a thread's heap ends at 64 MiB
        ];
        // SAFETY: mallopt only sets the allocator's parameters.
        settings.into_iter().all(|(parameter, value)| unsafe { libc::mallopt(parameter, value) } == 1)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total_memory: u64, free_memory: u64, rss: u64) -> CGroupLimits {
        CGroupLimits { total_memory, free_memory, free_swap: 0, rss }
    }

    #[test]
    fn a_container_with_less_memory_than_the_machine_is_what_counts() {
        let machine = HostMemory { total_bytes: 100, available_bytes: 60 };
        let limited = |total, held| machine.limited(&limits(total, 0, held));
        assert_eq!(limited(40, 10), HostMemory { total_bytes: 40, available_bytes: 30 });
        assert_eq!(limited(90, 10), HostMemory { total_bytes: 90, available_bytes: 60 });
        assert_eq!(limited(100, 90), machine);
        assert_eq!(limited(0, 0), machine);
    }

    #[test]
    fn caches_of_files_in_a_container_are_free_as_soon_as_somebody_asks() {
        let machine = HostMemory { total_bytes: 100, available_bytes: 60 };
        // 35 of 40 are charged, 25 of them pages of files.
        assert_eq!(machine.limited(&limits(40, 5, 10)).available_bytes, 30);
        assert_eq!(machine.limited(&limits(40, 0, 50)).available_bytes, 0, "a limit that was lowered afterwards");
    }

    #[test]
    fn this_machine_has_memory_and_this_process_takes_part_of_it() {
        let memory = HostMemory::of_this_machine().unwrap();
        assert!(memory.total_bytes > 100 << 20 && memory.available_bytes <= memory.total_bytes, "{memory:?}");
        assert!(resident_bytes().is_none_or(|resident| (1 << 20..memory.total_bytes).contains(&resident)));
    }
}
