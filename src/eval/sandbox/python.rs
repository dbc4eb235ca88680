//! Where the interpreter and its libraries lie.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::plan::outermost;
use crate::error::{Error, Result};

/// Prints the interpreter, the folders of its modules, the folders that are its own, and the libraries that are loaded.
/// `-I`: as in the sandbox.
const DESCRIBE: &str = "
import json, os, sys, sysconfig
with open('/proc/self/maps') as maps:
    mapped = sorted({line.split(maxsplit=5)[5].strip() for line in maps if '/' in line})
own = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()]
venv = os.path.join(sys.prefix, 'pyvenv.cfg')
print(json.dumps({'path': sys.executable, 'executable': os.path.realpath(sys.executable), 'venv': venv, 'modules': sys.path, 'own': own, 'mapped': mapped}))
";
/// Where shared libraries and what they look for lie on common systems.
const SYSTEM: [&str; 10] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
];

/// An interpreter and what it needs to read.
#[derive(Debug, Clone)]
pub struct Python {
    /// As it is started: a virtual environment is known by this path, not by the interpreter that it leads to.
    pub path: PathBuf,
    /// The interpreter and the system's program loader.
    pub executable: Vec<PathBuf>,
    pub readable: Vec<PathBuf>,
    pub links: Vec<(PathBuf, PathBuf)>,
}

#[derive(Deserialize)]
struct Description {
    path: PathBuf,
    executable: PathBuf,
    /// What tells a virtual environment, if it is one.
    venv: PathBuf,
    modules: Vec<PathBuf>,
    own: Vec<PathBuf>,
    mapped: Vec<PathBuf>,
}

impl Python {
    /// Asks an interpreter, outside of any sandbox.
    ///
    /// # Errors
    /// One that does not start or is no Python 3.
    pub fn describe(path: &Path) -> Result<Self> {
        let no_python = |why: String| {
            Error::usage(format!("{}: {why}", path.display())).with_hint("name a Python 3 interpreter with --python")
        };
        let output = Command::new(path)
            .args(["-I", "-c", DESCRIBE])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| no_python(format!("cannot be started: {error}")))?;
        let description: Description = serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            no_python(format!("is no Python 3: {}", said.lines().last().unwrap_or("it says nothing")))
        })?;
        Ok(Python::new(description))
    }

    fn new(Description { path, executable, venv, mut modules, own, mapped }: Description) -> Self {
        // A `.pth` file of an installed package may name any folder of the user's.
        let own: Vec<PathBuf> = own.iter().filter_map(|folder| real(folder)).collect();
        modules.retain(|folder| real(folder).is_some_and(|real| own.iter().any(|own| real.starts_with(own))));
        let is_loader = |file: &&PathBuf| {
            let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.starts_with("ld-") || name.starts_with("ld.")
        };
        let loaders = mapped.iter().filter(is_loader).cloned();
        let started = [path.clone(), executable.clone(), venv];
        let executable = std::iter::once(executable).chain(loaders).collect();
        let libraries = mapped.iter().filter(|file| file.to_string_lossy().contains(".so"));
        let folders = libraries.filter_map(|file| file.parent().map(Path::to_owned));
        let wanted = SYSTEM.iter().map(PathBuf::from).chain(modules).chain(folders).chain(started);
        let (mut readable, mut links) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let Some(real) = real(&wanted) else { continue };
            if wanted != real {
                links.push((wanted, real.clone()));
            }
            readable.push(real);
        }
        links.sort();
        links.dedup();
        Python { path, executable, readable: outermost(readable), links }
    }
}

/// Where an absolute path leads; None for the root, and for what is not there.
fn real(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|_| path.is_absolute() && path.parent().is_some())
}

/// Every `python3` of `PATH`, in its order.
pub fn on_path() -> Vec<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).map(|folder| folder.join("python3")).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::create_dir_all;

    #[test]
    fn of_the_module_path_only_pythons_own_folders_are_readable() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (own, packages, project) = (root.join("own"), root.join("own/lib/site-packages"), root.join("project"));
        create_dir_all(&packages).unwrap();
        create_dir_all(&project).unwrap();
        let link = root.join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let python = Python::new(Description {
            path: own.join("python3"),
            executable: own.join("python3"),
            venv: own.join("pyvenv.cfg"),
            modules: vec![link.join("lib/site-packages"), project.clone(), root.clone(), own.join("../project")],
            own: vec![own, PathBuf::from("/")],
            mapped: Vec::new(),
        });
        assert!(python.readable.contains(&packages), "{:?}", python.readable);
        assert!(python.links.contains(&(link.join("lib/site-packages"), packages)), "{:?}", python.links);
        assert!(!python.readable.iter().any(|path| project.starts_with(path)), "{:?}", python.readable);
    }
}
