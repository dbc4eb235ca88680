//! A sandbox for model-written Python programs: Linux only, and refused where its layers are missing.
//!
//! ```text
//! mod           what a caller sees: open, run, how a program ended
//! layers        what a program may use, and what holds it
//! run           the caller's side of a run
//! plan          what the processes of a run tell each other
//! python        where the interpreter and its libraries lie
//! supervise     process 1: new namespaces, a private root, the clock
//! private_root  the file system that the program sees
//! confine       process 2: limits and landlock on itself, then it becomes Python
//! ```
//! Processes 1 and 2 are this program itself, started with a hidden subcommand: what is done to them is done before Python
//! begins, by safe calls. The layers, from the outside in:
//!
//! * user: `nobody` if this program runs as root, else the user's own;
//! * namespaces (user, pid, net, mount, ipc, uts) where the kernel allows them: no other process is seen, there is no
//!   network, and the root holds Python, its libraries, three devices and a small folder in memory, nothing else;
//! * rlimits: processor time, memory and file size of each process, processes, open files, no core dumps;
//! * landlock: only Python and its libraries are read, only the private folder is written, no TCP, no signals outward;
//! * no_new_privs: setuid programs give nothing;
//! * a clock and a cap on what is printed; at the end everything that was started is killed.
//!
//! # What it does not protect from
//! It is a fence around mistakes and mischief of a language model, not a virtual machine. Not held back are: a flaw of the
//! kernel, whose whole interface of system calls stays open (no seccomp filter); side channels (timing, caches); load on
//! processors and memory up to the limits, of every program that runs at once (the limit of memory is per process); reading
//! what Python's own folders hold, installed packages included. Where there
//! are no namespaces, UDP and sockets in the file system are not held back either. For programs that someone wrote to break
//! out, use a machine that holds nothing of value.

#[cfg(target_os = "linux")]
pub mod confine;
mod layers;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod private_root;
#[cfg(target_os = "linux")]
mod python;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
pub mod supervise;

use std::path::PathBuf;
use std::time::Duration;

pub use layers::{Landlock, Layers, Limits};
#[cfg(target_os = "linux")]
pub use run::Sandbox;

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This program's binary, which the sandbox starts again: `std::env::current_exe()`.
    pub gsil: PathBuf,
    /// The interpreter. None: the first `python3` of `PATH` that runs in the sandbox.
    pub python: Option<PathBuf>,
    pub limits: Limits,
    /// False leaves namespaces out, as on a kernel that has none.
    pub namespaces: bool,
}

/// What a program did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub ending: Ending,
    /// What it wrote to stdout and stderr, cut at the limit.
    pub output: String,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal: the kernel's, for a limit or a fault.
    Killed(i32),
    /// It was still running at [`Limits::wall_time`].
    TimedOut,
    /// It wrote more than [`Limits::output_bytes`].
    TooMuchOutput,
}

impl Default for Limits {
    /// 3 s as openai/human-eval, 1 GiB, files of 16 MiB, 1 MiB of output, 16 processes, 64 open files.
    fn default() -> Self {
        Limits {
            wall_time: Duration::from_secs(3),
            memory_bytes: 1 << 30,
            file_bytes: 16 << 20,
            output_bytes: 1 << 20,
            num_processes: 16,
            num_open_files: 64,
        }
    }
}

/// There is none on this system.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub struct Sandbox(std::convert::Infallible);

#[cfg(not(target_os = "linux"))]
impl Sandbox {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(_settings: &Settings) -> crate::error::Result<Self> {
        Err(crate::error::Error::usage(
            "model-written code is not run on this system: the sandbox needs Linux 6.2 or later, 6.12 without namespaces",
        )
        .with_hint(
            "the samples are files: copy the output folder to a Linux machine and judge them there with --samples",
        ))
    }

    pub fn layers(&self) -> &Layers {
        match self.0 {}
    }

    pub fn run(&self, _source: &str) -> crate::error::Result<Outcome> {
        match self.0 {}
    }
}
