//! The parent's side of a run.

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};

use super::layers::{Landlock, Layers, Limits};
use super::plan::{Head, Plan, Report};
use super::python::{Python, on_path};
use super::{Ending, Outcome, Settings};
use crate::error::{Error, Result};

/// Who runs programs if this program is root's: the user that owns nothing.
const NOBODY: u32 = 65534;
/// How long after the program's time the supervisor may take to end it.
const GRACE: Duration = Duration::from_secs(10);
/// How long the last output may take to arrive once everything is over.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
const BLINK: Duration = Duration::from_millis(2);
/// The first line of the output is not the program's; it is no longer than this.
const MAX_HEAD_BYTES: usize = 1 << 12;

/// Runs Python programs, each by itself, from as many threads as wanted.
#[derive(Debug)]
pub struct Sandbox {
    gsil: PathBuf,
    python: Python,
    limits: Limits,
    layers: Layers,
}

/// Why a program was not run.
struct Refusal(String);

impl Sandbox {
    /// Finds an interpreter that runs in a sandbox here, and which layers hold it. Namespaces are left out if the kernel
    /// refuses them.
    ///
    /// # Errors
    /// [`Error::Usage`] if rlimits or landlock are missing, or namespaces where landlock alone is too old (before Linux
    /// 6.12), or no interpreter runs within them.
    pub fn open(settings: &Settings) -> Result<Self> {
        let candidates = match &settings.python {
            Some(python) => vec![python.clone()],
            None => on_path(),
        };
        let mut first_error = None;
        for candidate in candidates {
            match Python::describe(&candidate).and_then(|python| Self::with(python, settings)) {
                Ok(sandbox) => return Ok(sandbox),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| {
            Error::usage("no sandbox: there is no python3 on PATH")
                .with_hint("name a Python 3 interpreter with --python")
        }))
    }

    /// Tries the layers with a program that does nothing, first with namespaces, then without.
    fn with(python: Python, settings: &Settings) -> Result<Self> {
        let layers = Layers {
            namespaces: Ok(()),
            landlock: Landlock { abi: 0 },
            as_nobody: geteuid().is_root(),
            python: python.path.clone(),
        };
        let limits = Limits { wall_time: settings.limits.wall_time.max(GRACE), ..settings.limits.clone() };
        let mut sandbox = Sandbox { gsil: settings.gsil.clone(), python, limits, layers };
        if !settings.namespaces {
            sandbox.layers.namespaces = Err("not wanted".to_owned());
        }
        let mut tried = sandbox.try_out()?;
        if let (Err(Refusal(reason)), true) = (&tried, settings.namespaces) {
            sandbox.layers.namespaces = Err(reason.clone());
            tried = sandbox.try_out()?;
        }
        sandbox.layers.landlock = tried.map_err(|Refusal(reason)| sandbox.refused(&reason))?;
        sandbox.limits = settings.limits.clone();
        Ok(sandbox)
    }

    fn try_out(&self) -> Result<std::result::Result<Landlock, Refusal>> {
        Ok(match self.attempt("import math, typing\nprint('well')\n")? {
            Ok((landlock, Outcome { ending: Ending::Exited(0), output })) if output == "well\n" => Ok(landlock),
            Ok((_, Outcome { ending, output })) => {
                let said = output.lines().last().unwrap_or("it says nothing");
                Err(Refusal(format!("Python does not start there ({ending:?}): {said}")))
            }
            Err(refusal) => Err(refusal),
        })
    }

    /// Which layers hold every program.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Runs a program to its end. Its stdin is empty.
    ///
    /// # Errors
    /// [`Error::Disk`] without room for its folder; [`Error::Usage`] if the layers of [`Self::layers`] are not there any
    /// more: then nothing was run.
    pub fn run(&self, source: &str) -> Result<Outcome> {
        match self.attempt(source)? {
            Ok((landlock, outcome)) if landlock == self.layers.landlock => Ok(outcome),
            Ok((landlock, _)) => Err(self.refused(&format!("landlock has version {} now", landlock.abi))),
            Err(Refusal(reason)) => Err(self.refused(&reason)),
        }
    }

    fn refused(&self, reason: &str) -> Error {
        let hint = match reason.contains("Permission denied") && self.layers.as_nobody {
            true => {
                "as root, programs are run as the user nobody, who must be able to execute gsil and Python: name \
                     one that is installed for everybody with --python, or run gsil as an ordinary user"
            }
            false => {
                "the samples are files: judge them with --samples on a machine that has Linux 6.2 with user namespaces, or \
                     Linux 6.12"
            }
        };
        Error::usage(format!("no sandbox for {}: {reason}", self.python.path.display())).with_hint(hint)
    }

    fn attempt(&self, source: &str) -> Result<std::result::Result<(Landlock, Outcome), Refusal>> {
        let folder = PrivateFolder::new(self.layers.as_nobody)?;
        let plan = Plan {
            folder: folder.0.clone(),
            gsil: self.gsil.clone(),
            python: self.python.path.clone(),
            executable: self.python.executable.clone(),
            readable: self.python.readable.clone(),
            links: self.python.links.clone(),
            limits: self.limits.clone(),
            namespaces: self.layers.namespaces.is_ok(),
        };
        let mut child = match self.start(&folder.0) {
            Ok(child) => child,
            Err(error) => return Ok(Err(Refusal(format!("{}: {error}", self.gsil.display())))),
        };
        let plan = serde_json::to_string(&plan).map_err(|error| Error::usage(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A supervisor that is gone already says why.
            let _ = stdin.write_all(format!("{plan}\n{source}").as_bytes());
        }
        let max_bytes = MAX_HEAD_BYTES + self.limits.output_bytes;
        let output = child.stdout.take().map(|stdout| read_in_thread(stdout, max_bytes));
        Ok(self.conclude(child, output))
    }

    fn start(&self, folder: &Path) -> std::io::Result<Child> {
        // The link is found even where nobody may not enter the folder that the program lies in.
        let mut command = Command::new(match std::env::current_exe() {
            Ok(own) if own == self.gsil => Path::new("/proc/self/exe"),
            _ => &self.gsil,
        });
        if self.layers.as_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
            .args(["__sandbox", "supervise"])
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    fn conclude(
        &self,
        mut child: Child,
        output: Option<Receiver<Chunk>>,
    ) -> std::result::Result<(Landlock, Outcome), Refusal> {
        let mut gathered = Gathered::default();
        let pid = Pid::from_raw(child.id() as i32);
        let deadline = Instant::now() + self.limits.wall_time + GRACE;
        let is_over = |child: &mut Child| !matches!(child.try_wait(), Ok(None)) || Instant::now() > deadline;
        while !is_over(&mut child) {
            match &output {
                Some(output) => gathered.receive(output, BLINK, &mut || {
                    // The supervisor knows what to end.
                    let _ = kill(pid, Signal::SIGTERM);
                }),
                None => thread::sleep(BLINK),
            }
        }
        // What is left of its group, the supervisor included if it hangs. There may be nothing.
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = child.wait();
        if let Some(output) = &output {
            let end = Instant::now() + LAST_OUTPUT;
            while !gathered.is_complete && Instant::now() < end {
                gathered.receive(output, BLINK, &mut || {});
            }
        }
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            let _ = stderr.read_to_string(&mut said);
        }
        gathered.outcome(&said, self.limits.output_bytes)
    }
}

/// A piece of output; None says that more than the limit came.
type Chunk = Option<Vec<u8>>;

/// Reads up to `max_bytes`, and goes on reading so that a writer that is being ended is not held up.
fn read_in_thread(mut stdout: ChildStdout, max_bytes: usize) -> Receiver<Chunk> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let (mut buffer, mut num_bytes, mut is_too_much) = ([0; 1 << 14], 0, false);
        loop {
            let count = match stdout.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            num_bytes += count;
            let chunk = (num_bytes <= max_bytes).then(|| buffer[..count].to_vec());
            if is_too_much {
                continue;
            }
            is_too_much = chunk.is_none();
            if sender.send(chunk).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The output so far.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    is_too_much: bool,
    is_complete: bool,
}

impl Gathered {
    fn receive(&mut self, output: &Receiver<Chunk>, wait: Duration, on_too_much: &mut dyn FnMut()) {
        match output.recv_timeout(wait) {
            Ok(Some(chunk)) => self.bytes.extend(chunk),
            Ok(None) => {
                self.is_too_much = true;
                on_too_much();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                self.is_complete = true;
                thread::sleep(wait);
            }
        }
    }

    fn outcome(self, report: &str, max_bytes: usize) -> std::result::Result<(Landlock, Outcome), Refusal> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n').unwrap_or(self.bytes.len());
        let report: Option<Report> = report.lines().last().and_then(|line| serde_json::from_str(line).ok());
        if let Some(Report::Refused(reason)) = report {
            return Err(Refusal(reason));
        }
        let landlock = match serde_json::from_slice(&self.bytes[..end]) {
            Ok(Head::Confined(landlock)) => landlock,
            Ok(Head::Refused(reason)) => return Err(Refusal(reason)),
            Err(_) => return Err(Refusal("the sandbox's own process died before Python began".to_owned())),
        };
        let output = &self.bytes[(end + 1).min(self.bytes.len())..];
        let ending = match report {
            _ if self.is_too_much || output.len() > max_bytes => Ending::TooMuchOutput,
            Some(Report::Exited(code)) => Ending::Exited(code),
            Some(Report::Killed(signal)) => Ending::Killed(signal),
            _ => Ending::TimedOut,
        };
        let output = String::from_utf8_lossy(&output[..output.len().min(max_bytes)]).into_owned();
        Ok((landlock, Outcome { ending, output }))
    }
}

/// A folder of one run, which only the program's user can enter; removed with the value.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new(for_nobody: bool) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("gsil-sandbox-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::writing("create", path)(error)),
            }
            let folder = PrivateFolder(path);
            if for_nobody {
                chown(&folder.0, Some(NOBODY), Some(NOBODY)).map_err(Error::writing("hand over", &folder.0))?;
            }
            return Ok(folder);
        }
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // What a program has locked itself out of stays behind in the system's folder of temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
