//! Twelve programs that try to get out of the sandbox, each of which does its harm where nothing holds it (as far as that is
//! safe to show), and none of which does in the sandbox, with and without namespaces.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use gsil::eval::sandbox::{Ending, Limits, Outcome, Sandbox, Settings};
use tempfile::{TempDir, tempdir};

use crate::support::binary::say_skipped;

fn settings(gsil: &Path, namespaces: bool, limits: Limits) -> Settings {
    Settings { gsil: gsil.to_owned(), python: None, limits, namespaces }
}

/// Every form of the sandbox that this system offers: with namespaces, without.
struct Sandboxes {
    offered: Vec<Sandbox>,
    /// A folder that everybody may enter, with `gsil` in it: root's tests start it as a user who may not look into root's home.
    _program: TempDir,
}

impl Sandboxes {
    fn open(python: Option<&Path>) -> Self {
        let program = tempdir().unwrap();
        fs::set_permissions(program.path(), Permissions::from_mode(0o755)).unwrap();
        let (built, gsil) = (env!("CARGO_BIN_EXE_gsil"), program.path().join("gsil"));
        fs::hard_link(built, &gsil).or_else(|_| fs::copy(built, &gsil).map(drop)).unwrap();
        let limits = Limits { wall_time: Duration::from_secs(2), ..Limits::default() };
        let mut offered = Vec::new();
        for namespaces in [true, false] {
            let what = if namespaces { "the sandbox with namespaces" } else { "the sandbox without namespaces" };
            let python = python.map(Path::to_owned);
            match Sandbox::open(&Settings { python, ..settings(&gsil, namespaces, limits.clone()) }) {
                Ok(sandbox) if namespaces && sandbox.layers().namespaces.is_err() => {
                    say_skipped(what, &sandbox.layers().to_string());
                }
                Ok(sandbox) => offered.push(sandbox),
                Err(error) => say_skipped(what, &error.to_string()),
            }
        }
        Sandboxes { offered, _program: program }
    }
}

impl std::ops::Deref for Sandboxes {
    type Target = [Sandbox];

    fn deref(&self) -> &[Sandbox] {
        &self.offered
    }
}

/// Those of this test, which has a thread of its own; their folder goes with it.
fn sandboxes() -> Rc<Sandboxes> {
    thread_local!(static OWN: Rc<Sandboxes> = Rc::new(Sandboxes::open(None)));
    OWN.with(Rc::clone)
}

/// What a program does in every sandbox.
fn confined(source: &str) -> Vec<Outcome> {
    sandboxes().iter().map(|sandbox| sandbox.run(source).unwrap()).collect()
}

/// Whether there is a Python to run the programs with; where there is none, `sandboxes` is empty, too.
fn has_python() -> bool {
    let has_python = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !has_python {
        say_skipped("programs that try to escape", "no `python3` on the path");
    }
    has_python
}

/// What a program prints where nothing holds it, in a folder of its own.
fn free(source: &str) -> String {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("program.py"), source).unwrap();
    let output = Command::new("python3")
        .args(["-I", "-B", "program.py"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A folder that everybody may read and write: what keeps a program out of it is the sandbox.
fn open_folder() -> TempDir {
    let folder = tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    folder
}

#[track_caller]
fn assert_denied(outcome: &Outcome, errors: &[&str]) {
    assert!(!outcome.output.contains("HARM"), "{outcome:?}");
    assert!(errors.iter().any(|error| outcome.output.contains(error)), "{outcome:?}");
}

/// Names of all processes that are not being taken away.
fn process_names() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let is_alive = |path: &Path| {
        fs::read_to_string(path.join("stat")).is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
    };
    processes.filter(|path| is_alive(path)).filter_map(|path| fs::read_to_string(path.join("comm")).ok()).collect()
}

#[test]
fn a_harmless_program_runs_and_its_exit_code_and_output_are_kept() {
    for outcome in confined("import sys, hashlib\nprint(6 * 7)\nprint('e', file=sys.stderr)\nsys.exit(3)") {
        assert_eq!(outcome.ending, Ending::Exited(3));
        assert!(outcome.output == "42\ne\n" || outcome.output == "e\n42\n", "{outcome:?}");
    }
}

#[test]
fn the_layers_say_what_is_on() {
    for sandbox in sandboxes().iter() {
        let text = sandbox.layers().to_string();
        assert!(text.contains("rlimits") && text.contains("landlock version"), "{text}");
        assert_eq!(text.contains("with a private root"), sandbox.layers().namespaces.is_ok(), "{text}");
        say_layers(&text);
    }
}

fn say_layers(text: &str) {
    println!("{text}");
}

#[test]
fn escape_1_spinning_ends_at_the_time_limit() {
    for outcome in confined("while True:\n    pass") {
        assert_eq!(outcome.ending, Ending::TimedOut);
    }
}

#[test]
fn escape_2_a_fork_bomb_stays_small_and_nothing_of_it_is_left() {
    if !has_python() {
        return;
    }
    // Bounded by itself: what it does without a sandbox is safe, and so is a sandbox that does not hold it.
    let bounded = "
import ctypes, os, time
ctypes.CDLL(None).prctl(15, b'gsil-bomb')
made = 0
for _ in range(60):
    try:
        if os.fork() == 0:
            os.setsid()
            time.sleep(SECONDS)
            os._exit(0)
        made += 1
    except OSError as error:
        print(error)
        break
print('HARM' if made == 60 else 'made', made)
";
    assert!(free(&bounded.replace("SECONDS", "0.2")).contains("HARM 60"));
    for outcome in confined(&bounded.replace("SECONDS", "600").replace("gsil-bomb", "gsil-bomb-1")) {
        assert_denied(&outcome, &["Resource temporarily unavailable"]);
    }
    let bomb = "
import ctypes, os
ctypes.CDLL(None).prctl(15, b'gsil-bomb-2')
while True:
    try:
        os.fork()
    except OSError:
        pass
";
    for outcome in confined(bomb) {
        assert_eq!(outcome.ending, Ending::TimedOut);
    }
    assert!(!process_names().iter().any(|name| name.starts_with("gsil-bomb-")), "{:?}", process_names());
}

#[test]
fn escape_3_four_gigabytes_are_not_given() {
    if !has_python() {
        return;
    }
    // Mapped, not touched: safe without a sandbox.
    let source = "import mmap\nmmap.mmap(-1, 4 << 30)\nprint('HARM')";
    assert!(free(source).contains("HARM"));
    for outcome in confined(source) {
        assert_denied(&outcome, &["Cannot allocate memory", "MemoryError"]);
    }
    for outcome in confined("x = bytearray(4 << 30)\nprint('HARM')") {
        assert_denied(&outcome, &["MemoryError"]);
    }
}

#[test]
fn escape_4_a_big_file_is_cut_and_a_private_root_bounds_all_files_together() {
    if !has_python() {
        return;
    }
    let source = "
with open('big', 'wb', buffering=0) as file:
    for _ in range(64):
        file.write(bytes(1 << 20))
print('HARM', file.name)
";
    assert!(free(source).contains("HARM"));
    for outcome in confined(source) {
        assert_denied(&outcome, &["File too large", "No space left"]);
    }
    let many = "
for i in range(8):
    with open(f'part-{i}', 'wb', buffering=0) as file:
        for _ in range(8):
            file.write(bytes(1 << 20))
print('HARM')
";
    for sandbox in sandboxes().iter().filter(|sandbox| sandbox.layers().namespaces.is_ok()) {
        assert_denied(&sandbox.run(many).unwrap(), &["No space left"]);
    }
}

#[test]
fn escape_5_nothing_is_reached_over_the_network() {
    if !has_python() {
        return;
    }
    let (listener, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    listener.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let source = format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nprint('HARM')");
    assert!(free(&source).contains("HARM"));
    assert!(listener.accept().is_ok());
    for outcome in confined(&source) {
        assert_denied(&outcome, &["Network is unreachable", "Permission denied"]);
        assert!(listener.accept().is_err());
    }
    let port = udp.local_addr().unwrap().port();
    let source = format!(
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))\nprint('HARM')"
    );
    assert!(free(&source).contains("HARM"));
    assert!(udp.recv(&mut [0; 8]).is_ok());
    for sandbox in sandboxes().iter().filter(|sandbox| sandbox.layers().namespaces.is_ok()) {
        assert_denied(&sandbox.run(&source).unwrap(), &["Network is unreachable"]);
        assert!(udp.recv(&mut [0; 8]).is_err());
    }
}

#[test]
fn escape_6_files_of_the_user_are_not_read_nor_listed() {
    if !has_python() {
        return;
    }
    let home = open_folder();
    let secret = home.path().join("secret");
    fs::write(&secret, "HARM").unwrap();
    let source = format!("print(open({secret:?}).read())");
    assert!(free(&source).contains("HARM"));
    for outcome in confined(&source) {
        assert_denied(&outcome, &["Permission denied", "No such file"]);
    }
    for outcome in confined(
        "import os\nfor folder in ['/home', '/root', '/etc', '/proc/1', '/var']:\n    try:\n        print('HARM', os.listdir(folder))\n    except OSError as error:\n        print(error)\nfor file in ['/etc/passwd', '/proc/1/environ', '/proc/self/environ']:\n    try:\n        print('HARM', open(file).read())\n    except OSError as error:\n        print(error)",
    ) {
        // The private root has an /etc of two files.
        let output = outcome
            .output
            .replace("HARM ['ld.so.cache', 'localtime']", "")
            .replace("HARM ['localtime', 'ld.so.cache']", "")
            .replace("HARM ['ld.so.cache']", "");
        assert_denied(&Outcome { output, ..outcome }, &["Permission denied", "No such file"]);
    }
}

#[test]
fn escape_7_nothing_is_written_outside_of_the_private_folder() {
    if !has_python() {
        return;
    }
    let folder = open_folder();
    let target = folder.path().join("written");
    let source = format!("open({target:?}, 'w').write('x')\nprint('HARM')");
    assert!(free(&source).contains("HARM"));
    assert!(target.exists());
    for outcome in confined(&source.replace("written", "written-2")) {
        assert_denied(&outcome, &["Permission denied", "No such file"]);
    }
    let kept = folder.path().join("kept");
    fs::write(&kept, "kept").unwrap();
    fs::set_permissions(&kept, Permissions::from_mode(0o666)).unwrap();
    for program in ["os.truncate(KEPT, 0)", "os.remove(KEPT)", "os.rename(KEPT, 'mine')", "os.chmod('..', 0)"] {
        let program = program.replace("KEPT", &format!("{kept:?}"));
        confined(&format!("import os\n{program}"));
        assert_eq!(fs::read_to_string(&kept).unwrap(), "kept", "{program}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    // Its own folder is its own, and the next program does not find it.
    for outcome in confined("open('own', 'x').write('1')\nprint(open('own').read())") {
        assert_eq!(outcome.output, "1\n");
    }
}

#[test]
fn escape_8_the_parent_cannot_be_killed() {
    if !has_python() {
        return;
    }
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("p.py"), "import os\nos.kill(os.getppid(), 9)").unwrap();
    let shell =
        Command::new("sh").args(["-c", "python3 p.py; echo alive"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(shell.stdout, b"", "without a sandbox the parent dies");
    // The test's own process is one of the targets: a sandbox that does not hold ends the tests.
    let source = format!(
        "import os, signal
for pid in {{os.getppid(), {}}} - {{0}}:
    for number in [signal.SIGTERM, signal.SIGKILL]:
        try:
            os.kill(pid, number)
            print('HARM', pid)
        except OSError as error:
            print(error)
print('through')",
        std::process::id()
    );
    for outcome in confined(&source) {
        assert_denied(&outcome, &["through"]);
        assert_denied(&outcome, &["No such process", "Operation not permitted"]);
    }
}

#[test]
fn escape_9_sleeping_ends_at_the_time_limit_also_with_signals_ignored() {
    let source = "import signal, time\nfor n in range(1, 32):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n    except OSError:\n        pass\ntime.sleep(600)\nprint('HARM')";
    for outcome in confined(source) {
        assert_eq!(outcome, Outcome { ending: Ending::TimedOut, output: String::new() });
    }
}

#[test]
fn escape_10_a_flood_of_output_is_cut() {
    for outcome in confined("while True:\n    print('x' * 1000)") {
        assert_eq!(outcome.ending, Ending::TooMuchOutput);
        assert!(outcome.output.len() <= Limits::default().output_bytes, "{}", outcome.output.len());
    }
}

#[test]
fn escape_11_nobody_becomes_root() {
    if !has_python() {
        return;
    }
    let source = "
import ctypes, os
for become in [os.setuid, os.seteuid, os.setgid]:
    try:
        become(0)
        print('HARM', os.getuid(), os.geteuid())
    except OSError as error:
        print(error)
print('no_new_privs', ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))
print('HARM' if os.geteuid() == 0 or os.getuid() == 0 else 'no root')
try:
    with open('/proc/self/status') as status:
        print(status.read())
except OSError:
    pass
";
    assert!(free(source).contains("no_new_privs 0"));
    for outcome in confined(source) {
        assert_denied(&outcome, &["Operation not permitted", "Invalid argument"]);
        assert_denied(&outcome, &["no_new_privs 1"]);
        assert_denied(&outcome, &["no root"]);
    }
}

#[test]
fn escape_12_no_other_process_is_traced() {
    if !has_python() {
        return;
    }
    let mut victim = Command::new("sleep").arg("600").spawn().unwrap();
    // PTRACE_SEIZE does not stop the victim.
    let source = format!(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nresult = libc.ptrace(0x4206, {}, 0, 0)\nprint('HARM' if result == 0 else 'errno', ctypes.get_errno())",
        victim.id()
    );
    let unheld = free(&source);
    let outcomes = confined(&source);
    victim.kill().unwrap();
    victim.wait().unwrap();
    if !unheld.contains("HARM") {
        say_skipped("ptrace without a sandbox", "this system lets no process trace another (yama)");
    }
    for outcome in outcomes {
        assert_denied(&outcome, &["errno 1", "errno 3"]); // EPERM, ESRCH
    }
}

#[test]
fn a_mount_or_a_new_namespace_does_not_undo_the_private_root() {
    let source = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x10000000 | 0x20000)  # CLONE_NEWUSER | CLONE_NEWNS
if libc.mount(b'none', os.getcwdb(), b'tmpfs', 0, None) == 0:
    print('HARM')
print('errno', ctypes.get_errno())
";
    for outcome in confined(source) {
        assert_denied(&outcome, &["errno 1"]);
    }
}

#[test]
fn a_virtual_environment_brings_its_packages() {
    // The interpreter that the sandbox takes by itself: the first on the path may lie where only root looks.
    let Some(found) = confined("import sys\nprint(sys.executable)").pop() else { return };
    let folder = open_folder();
    let (venv, copied) = (folder.path().join("venv"), folder.path().join("copied"));
    for (path, how) in [(&venv, "--symlinks"), (&copied, "--copies")] {
        let made = Command::new(found.output.trim()).args(["-m", "venv", "--without-pip", how]).arg(path).output();
        let made = made.unwrap();
        if !made.status.success() {
            return say_skipped("packages of a virtual environment", &String::from_utf8_lossy(&made.stderr));
        }
        let python = fs::read_dir(path.join("lib")).unwrap().next().unwrap().unwrap().path();
        fs::write(python.join("site-packages/of_the_environment.py"), "ANSWER = 42\n").unwrap();
    }
    let linked = folder.path().join("linked");
    std::os::unix::fs::symlink(&venv, &linked).unwrap();
    fs::create_dir(folder.path().join("beside")).unwrap();
    let by_way_of_another = folder.path().join("beside/../copied");
    for environment in [venv, linked, copied, by_way_of_another] {
        let opened = Sandboxes::open(Some(&environment.join("bin/python3")));
        assert_eq!(opened.len(), sandboxes().len(), "{}", environment.display());
        for sandbox in opened.iter() {
            let outcome = sandbox.run("from of_the_environment import ANSWER\nprint(ANSWER)").unwrap();
            assert!(outcome.output.contains("42"), "{outcome:?}");
        }
    }
}

#[test]
fn an_interpreter_that_is_none_is_refused_with_a_hint() {
    if sandboxes().is_empty() {
        return; // a system without the means is refused for that first, which was said
    }
    for python in ["/bin/true", "/does/not/exist"] {
        let settings = Settings {
            python: Some(PathBuf::from(python)),
            ..settings(Path::new(env!("CARGO_BIN_EXE_gsil")), true, Limits::default())
        };
        let error = Sandbox::open(&settings).unwrap_err();
        assert!(error.to_string().contains(python), "{error}");
        assert!(error.hint().unwrap().contains("--python"), "{error}");
    }
}
