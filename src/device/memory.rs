//! How much memory this machine has and this process takes: what an estimate begins from and is compared with.

use sysinfo::System;

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
        let container = system.cgroup_limits().map(|limits| (limits.total_memory, limits.free_memory));
        let memory = container.map_or(machine, |(total, free)| machine.limited(total, free));
        (memory.total_bytes > 0).then_some(memory)
    }

    /// With the limit of a container, where that is one: a container without a limit reports nothing, or all there is.
    fn limited(self, total_bytes: u64, free_bytes: u64) -> Self {
        match total_bytes {
            0 => self,
            total if total >= self.total_bytes => self,
            total_bytes => HostMemory { total_bytes, available_bytes: free_bytes.min(self.available_bytes) },
        }
    }
}

/// What this process holds in memory now; None where the system does not tell as plainly as Linux does.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_with_less_memory_than_the_machine_is_what_counts() {
        let machine = HostMemory { total_bytes: 100, available_bytes: 60 };
        assert_eq!(machine.limited(40, 30), HostMemory { total_bytes: 40, available_bytes: 30 });
        assert_eq!(machine.limited(90, 80), HostMemory { total_bytes: 90, available_bytes: 60 });
        assert_eq!(machine.limited(100, 10), machine);
        assert_eq!(machine.limited(0, 0), machine);
    }

    #[test]
    fn this_machine_has_memory_and_this_process_takes_part_of_it() {
        let memory = HostMemory::of_this_machine().unwrap();
        assert!(memory.total_bytes > 100 << 20 && memory.available_bytes <= memory.total_bytes, "{memory:?}");
        assert!(resident_bytes().is_none_or(|resident| (1 << 20..memory.total_bytes).contains(&resident)));
    }
}
