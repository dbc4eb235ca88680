//! The file system that a program sees: its interpreter and libraries, three devices, and a small folder in memory to work in.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, getegid, geteuid, pivot_root};

use super::plan::Plan;

const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/urandom"];
/// Files and folders that the private root may hold.
const NUM_INODES: u32 = 4096;
const NOTHING: Option<&str> = None;

/// Leaves the system's namespaces for new ones. The next process that is started is the first of the new pid namespace.
/// This process must have one thread.
pub fn leave_namespaces() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    let system = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | system)
        .map_err(|error| io::Error::other(format!("the system refuses new ones: {}", error.desc())))?;
    // The same number inside and outside, which is not root's: capabilities end when the next program is started.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{user} {user} 1"))?;
    write("/proc/self/gid_map", &format!("{group} {group} 1"))
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

/// Makes a root of the plan's folder and enters it; the old one can no longer be reached.
pub fn enter(plan: &Plan) -> io::Result<()> {
    let root = plan.folder.as_path();
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    // The folder to work in is another: what the program writes does not take the room of what it reads.
    mount_memory(root, 1 << 20)?;
    let shown = plan.readable.iter().chain([&plan.gsil]).cloned().chain(DEVICES.map(PathBuf::from));
    for path in shown.collect::<Vec<_>>() {
        show(&path, &inside(root, &path)?)?;
    }
    for (link, target) in &plan.links {
        let link = inside(root, link)?;
        // Before the question: a path with `..` is not there as long as a folder on its way is missing.
        fs::create_dir_all(link.parent().unwrap_or(root))?;
        if !link.exists() {
            symlink(target, link)?;
        }
    }
    let (work, old) = (inside(root, &plan.work_folder())?, root.join("gsil-old-root"));
    fs::create_dir(&work)?;
    mount_memory(&work, plan.limits.file_bytes)?;
    fs::create_dir(&old)?;
    pivot_root(root, &old)?;
    chdir("/")?;
    umount2("/gsil-old-root", MntFlags::MNT_DETACH)?;
    fs::remove_dir("/gsil-old-root")
}

fn mount_memory(folder: &Path, num_bytes: u64) -> io::Result<()> {
    let options = format!("size={num_bytes},nr_inodes={NUM_INODES},mode=755");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// Where a path of the system lies in the new root.
fn inside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let relative = path.strip_prefix("/").map_err(|_| io::Error::other(format!("{} is relative", path.display())))?;
    Ok(root.join(relative))
}

/// Makes a file or folder of the system appear at `place`.
fn show(path: &Path, place: &Path) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let metadata = fs::metadata(path).map_err(named)?;
    if metadata.is_dir() {
        fs::create_dir_all(place).map_err(named)?;
    } else {
        fs::create_dir_all(place.parent().unwrap_or(place)).map_err(named)?;
        make_file(place).map_err(named)?;
    }
    mount(Some(path), place, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING).map_err(|error| named(error.into()))
}

/// An empty file to mount on; one that is there already is left as it is.
fn make_file(place: &Path) -> io::Result<()> {
    if place.exists() {
        return Ok(());
    }
    OpenOptions::new().write(true).create_new(true).open(place).map(|_: File| ())
}
