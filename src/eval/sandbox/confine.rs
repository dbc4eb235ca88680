//! The second process of a run: it takes from itself what the program must not have, then it becomes Python.

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};

use super::layers::{Landlock, Limits};
use super::plan::{Head, Plan};
use super::supervise::PROGRAM;
use crate::error::{Error, Result};

/// The rules that must be there: all of files, truncation included (Linux 6.2).
const NEEDED: ABI = ABI::V3;
/// The rules that are used where they are there: TCP (4), device controls (5), signals and abstract sockets (6).
const WANTED: ABI = ABI::V6;
/// Without a pid namespace only landlock keeps the program from signalling other processes.
const NEEDED_ALONE: u32 = 6;

/// Runs the program of a plan. The first line on stdout is a `Head`.
///
/// # Errors
/// [`Error::Usage`] with what could not be taken away, after saying it on stdout: then nothing was run.
pub fn confine(plan: &str) -> Result<Infallible> {
    let Err(refused) = run(plan);
    say(&Head::Refused(refused.clone())).map_err(Error::writing("write", "standard output"))?;
    Err(Error::usage(refused))
}

fn run(plan: &str) -> std::result::Result<Infallible, String> {
    let plan: Plan = serde_json::from_str(plan).map_err(|error| error.to_string())?;
    let work = plan.work_folder();
    let stderr = io::stdout().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    limit(&plan.limits).map_err(|error| format!("rlimits: {error}"))?;
    set_no_new_privs().map_err(|error| format!("no_new_privs: {error}"))?;
    let landlock = restrict(&plan, &work)?;
    if !plan.namespaces && landlock.abi < NEEDED_ALONE {
        let abi = landlock.abi;
        return Err(format!("there are no namespaces, and landlock has only version {abi}: 6 is needed (Linux 6.12)"));
    }
    say(&Head::Confined(landlock)).map_err(|error| error.to_string())?;
    let error = Command::new(&plan.python)
        .args(["-I", "-B", PROGRAM])
        .current_dir(&work)
        .env_clear()
        .envs([("HOME", &work), ("TMPDIR", &work)])
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stderr(Stdio::from(stderr))
        .exec();
    Err(format!("{}: {error}", plan.python.display()))
}

fn say(head: &Head) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(head)?)?;
    stdout.flush()
}

fn limit(limits: &Limits) -> nix::Result<()> {
    for (resource, value) in [
        (Resource::RLIMIT_CPU, limits.cpu_s()),
        (Resource::RLIMIT_AS, limits.memory_bytes),
        (Resource::RLIMIT_FSIZE, limits.file_bytes),
        (Resource::RLIMIT_NPROC, limits.num_processes),
        (Resource::RLIMIT_NOFILE, limits.num_open_files),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(resource, value, value)?;
    }
    Ok(())
}

/// Puts landlock's rules on this process; they hold for whatever it becomes and starts.
fn restrict(plan: &Plan, work: &Path) -> std::result::Result<Landlock, String> {
    let explain = |error: landlock::RulesetError| format!("landlock: {error}");
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(WANTED) & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))
        .map_err(explain)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(WANTED)))
        .and_then(|rules| rules.scope(Scope::from_all(WANTED)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(&plan.readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&plan.executable, read | AccessFs::Execute)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/dev/zero", "/dev/urandom"], AccessFs::ReadFile)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/dev/null"], read | AccessFs::WriteFile)))
        .and_then(|rules| rules.add_rules(path_beneath_rules([work], write)))
        .and_then(|rules| rules.restrict_self())
        .map_err(explain)?;
    match (status.no_new_privs, status.landlock) {
        (true, LandlockStatus::Available { effective_abi, .. }) => Ok(Landlock { abi: effective_abi as u32 }),
        (_, status) => Err(format!("landlock is not in force: {status:?}")),
    }
}
