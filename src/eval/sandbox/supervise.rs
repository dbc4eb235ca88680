//! The first process of a run: it leaves the system's namespaces, starts the second, and ends it in time.
//!
//! It is outside of the second's limits, so the program cannot end it. When its own parent dies, it ends too, and with it
//! everything that was started: the second process is the first of its pid namespace.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use super::plan::{Plan, Report};
use super::private_root;
use crate::error::{Error, Result};

/// How often the clock is looked at.
const BLINK: Duration = Duration::from_millis(2);
/// How long processes that outlived the program are hunted for.
const HUNT: Duration = Duration::from_secs(2);
pub(super) const PROGRAM: &str = "program.py";

/// Reads a plan and a program from stdin, runs it, and writes a `Report` to stderr.
///
/// # Errors
/// [`Error::Disk`] if there is nobody to report to.
pub fn supervise() -> Result<()> {
    let report = run().unwrap_or_else(|error| Report::Refused(error.to_string()));
    let line = serde_json::to_string(&report).map_err(|error| Error::usage(error.to_string()))?;
    writeln!(io::stderr(), "{line}").map_err(Error::writing("write", "standard error"))
}

fn run() -> io::Result<Report> {
    let parent = getppid();
    let mut input = String::new();
    io::stdin().read_to_string(&mut input)?;
    let (plan, source) = input.split_once('\n').unwrap_or_default();
    let plan: Plan = serde_json::from_str(plan)?;
    set_child_subreaper(true)?;
    let mut gsil = Path::new("/proc/self/exe"); // found even where its folder cannot be entered
    if plan.namespaces {
        private_root::leave_namespaces()?;
        private_root::enter(&plan)?;
        gsil = &plan.gsil;
    } else {
        fs::create_dir(plan.work_folder())?;
    }
    fs::write(plan.work_folder().join(PROGRAM), source)?;
    let is_over = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&is_over))?;
    let child = Command::new(gsil)
        .args(["__sandbox", "confine", &serde_json::to_string(&plan)?])
        .stdin(Stdio::null())
        .stderr(Stdio::from(io::stdout().as_fd().try_clone_to_owned()?))
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", gsil.display())))?;
    let report = watch(child, plan.limits.wall_time, &|| getppid() != parent || is_over.load(Ordering::Relaxed))?;
    end_orphans();
    Ok(report)
}

/// Waits for the end, or brings it about.
fn watch(mut child: Child, wall_time: Duration, is_unwanted: &dyn Fn() -> bool) -> io::Result<Report> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(report(status));
        }
        let is_late = started.elapsed() >= wall_time;
        if is_late || is_unwanted() {
            child.kill()?;
            child.wait()?;
            return Ok(if is_late { Report::TimedOut } else { Report::Stopped });
        }
        thread::sleep(BLINK);
    }
}

fn report(status: ExitStatus) -> Report {
    match status.code() {
        Some(code) => Report::Exited(code),
        None => Report::Killed(status.signal().unwrap_or_default()),
    }
}

/// Without a pid namespace the program's own children may live on. They are this process's now.
fn end_orphans() {
    let started = Instant::now();
    while started.elapsed() < HUNT {
        let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(_) => return, // no children
            Ok(WaitStatus::StillAlive) => thread::sleep(BLINK),
            Ok(_) => {}
        }
    }
}
