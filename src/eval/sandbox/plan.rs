//! What the processes of one run tell each other, as JSON lines.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layers::{Landlock, Limits};

/// Where a program works in a private root: no folder of the system's, which Python or this program might lie in.
const WORK_FOLDER: &str = "/gsil-sandbox";

/// What one run is to be. The first line that [`super::supervise`] reads; the program follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// An empty folder of this run alone.
    pub folder: PathBuf,
    pub gsil: PathBuf,
    pub python: PathBuf,
    /// Files that may be executed.
    pub executable: Vec<PathBuf>,
    /// Files and folders that may be read, without symbolic links in their paths and none inside another.
    pub readable: Vec<PathBuf>,
    /// Symbolic links by which the system knows some of them: `/lib` for `/usr/lib`.
    pub links: Vec<(PathBuf, PathBuf)>,
    pub limits: Limits,
    /// Use namespaces and a private root.
    pub namespaces: bool,
}

impl Plan {
    /// The folder that the program works in and may write to, as it sees it.
    pub fn work_folder(&self) -> PathBuf {
        match self.namespaces {
            true => PathBuf::from(WORK_FOLDER),
            false => self.folder.join("tmp"),
        }
    }
}

/// The first line on stdout, from [`super::confine`]; the program's own output follows.
#[derive(Debug, Serialize, Deserialize)]
pub enum Head {
    /// Python begins, within these.
    Confined(Landlock),
    /// Why nothing is run.
    Refused(String),
}

/// What [`super::supervise`] writes to its stderr when all is over.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    Exited(i32),
    Killed(i32),
    TimedOut,
    /// Asked to stop by the parent.
    Stopped,
    /// Why nothing was run.
    Refused(String),
}

/// Those of `paths` that lie in no other of them, sorted.
pub fn outermost(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    paths.dedup();
    let is_inside = |path: &Path, all: &[PathBuf]| all.iter().any(|other| other != path && path.starts_with(other));
    let all = paths.clone();
    paths.retain(|path| !is_inside(path, &all));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_inside_another_is_left_out() {
        let paths = ["/usr/lib/python3", "/usr/lib", "/usr/libexec", "/usr/lib", "/opt"].map(PathBuf::from).to_vec();
        assert_eq!(outermost(paths), ["/opt", "/usr/lib", "/usr/libexec"].map(PathBuf::from));
    }
}
