//! What a program may use, and what holds it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a program may use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// From start to end.
    pub wall_time: Duration,
    /// Address space of each process.
    pub memory_bytes: u64,
    /// The largest file; in a private root, all files together.
    pub file_bytes: u64,
    /// What is kept of stdout and stderr; a program that writes more is ended.
    pub output_bytes: usize,
    /// Processes and threads at once.
    pub num_processes: u64,
    pub num_open_files: u64,
}

impl Limits {
    /// The limit on the processor time of each process: one to two seconds more than the clock gives it.
    pub fn cpu_s(&self) -> u64 {
        self.wall_time.as_secs() + 2
    }
}

/// The version of the kernel's landlock interface that is in force: 3 files, 4 TCP, 6 signals and abstract sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landlock {
    pub abi: u32,
}

/// Which layers hold a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// Why there are none, if there are none.
    pub namespaces: Result<(), String>,
    pub landlock: Landlock,
    /// This program runs as root, model-written programs as `nobody`.
    pub as_nobody: bool,
    pub python: PathBuf,
}

impl Layers {
    /// What is not on, and why: one phrase each.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if let Err(reason) = &self.namespaces {
            missing
                .push(format!("namespaces and private root ({reason}): UDP and sockets in the file system are open"));
        }
        if self.landlock.abi < 6 {
            missing.push(format!("landlock's newer rules (this kernel has version {})", self.landlock.abi));
        }
        missing
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut on = vec!["rlimits (cpu, memory, file size, processes, open files, no core)".to_owned()];
        if self.namespaces.is_ok() {
            on.push("namespaces (user, pid, net, mount, ipc, uts) with a private root".to_owned());
        }
        on.push(format!("landlock version {}", self.landlock.abi));
        on.push("no_new_privs".to_owned());
        if self.as_nobody {
            on.push("user nobody".to_owned());
        }
        on.push("clock, output cap, all processes killed at the end".to_owned());
        write!(f, "on: {}; ", on.join(", "))?;
        let missing = self.missing();
        write!(f, "off: {}", if missing.is_empty() { "nothing".to_owned() } else { missing.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_say_what_is_on_and_what_is_off() {
        let mut layers = Layers {
            namespaces: Ok(()),
            landlock: Landlock { abi: 6 },
            as_nobody: false,
            python: PathBuf::from("/usr/bin/python3"),
        };
        assert!(layers.to_string().ends_with("off: nothing"), "{layers}");
        layers.namespaces = Err("EPERM".to_owned());
        let text = layers.to_string();
        assert!(!text.contains("(user, pid") && text.contains("off: namespaces and private root (EPERM)"), "{text}");
    }
}
