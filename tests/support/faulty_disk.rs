//! A file system that fails on request: one operation with an error, or the machine from one operation on.
//!
//! It writes through to a real folder and keeps beside it what a power cut would leave: of every file the content that was
//! synced, of every folder the names that were synced.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gsil::formats::file_system::{Disk, FileSystem, OpenFile};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails; half of what it was to write is written. A full disk stays full.
    Error(ErrorKind),
    /// The process dies: nothing is written any more, all that was written stays.
    Killed,
    /// The power is cut: what was not synced is gone.
    PowerCut,
    /// The power is cut, and the names survive but the content that was not synced is zeros, as some file systems leave it.
    PowerCutLeavingZeros,
}

#[derive(Debug, Clone)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    root: PathBuf,
    /// What exists; the first is the root.
    nodes: Vec<Node>,
    num_operations: usize,
    fail_at: usize,
    fault: Fault,
    has_failed: bool,
    free_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
enum Node {
    File { durable: Vec<u8> },
    Folder { live: BTreeMap<String, usize>, durable: BTreeMap<String, usize> },
}

impl FaultyDisk {
    /// Everything below `root` is watched; operation `fail_at`, counted from 1, meets the fault.
    pub fn new(root: &Path, fail_at: usize, fault: Fault) -> Self {
        let mut state = State {
            root: root.to_owned(),
            nodes: Vec::new(),
            num_operations: 0,
            fail_at,
            fault,
            has_failed: false,
            free_bytes: None,
        };
        state.add_existing(root);
        FaultyDisk(Arc::new(Mutex::new(state)))
    }

    /// A disk on which nothing fails, and nothing is synced: faster than a real one.
    pub fn without_faults(root: &Path) -> Self {
        Self::new(root, usize::MAX, Fault::Killed)
    }

    /// A disk on which nothing fails but which says that so much is free.
    pub fn with_free_bytes(root: &Path, free_bytes: u64) -> Self {
        let disk = Self::without_faults(root);
        disk.0.lock().unwrap().free_bytes = Some(free_bytes);
        disk
    }

    /// True once the chosen operation came.
    pub fn has_failed(&self) -> bool {
        self.0.lock().unwrap().has_failed
    }
}

impl State {
    /// Takes what lies at `path` as durable; its node.
    fn add_existing(&mut self, path: &Path) -> usize {
        let node = self.nodes.len();
        if path.is_file() {
            self.nodes.push(Node::File { durable: fs::read(path).unwrap() });
            return node;
        }
        let empty = BTreeMap::new();
        self.nodes.push(Node::Folder { live: empty.clone(), durable: empty });
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            names.insert(entry.file_name().into_string().unwrap(), self.add_existing(&entry.path()));
        }
        self.nodes[node] = Node::Folder { live: names.clone(), durable: names };
        node
    }

    /// Counts an operation; an error if it is the one that fails, or if it comes after the end of the world.
    fn begin(&mut self, takes_space: bool) -> io::Result<()> {
        self.num_operations += 1;
        let is_now = self.num_operations == self.fail_at;
        let was_before = self.has_failed;
        self.has_failed |= is_now;
        match self.fault {
            Fault::Error(ErrorKind::StorageFull) if self.has_failed && takes_space => {
                Err(ErrorKind::StorageFull.into())
            }
            // A full disk fails at the first operation that takes space.
            Fault::Error(ErrorKind::StorageFull) => Ok(()),
            Fault::Error(kind) if is_now => Err(kind.into()),
            Fault::Error(_) => Ok(()),
            _ if !self.has_failed => Ok(()),
            Fault::PowerCut | Fault::PowerCutLeavingZeros if !was_before => {
                self.cut_power();
                Err(io::Error::other("the power is off"))
            }
            _ => Err(io::Error::other("this process is dead")),
        }
    }

    fn names(&self, path: &Path) -> Vec<String> {
        let below = path.strip_prefix(&self.root).unwrap_or_else(|_| panic!("{} is not watched", path.display()));
        below.iter().map(|name| name.to_str().unwrap().to_owned()).collect()
    }

    fn find(&self, path: &Path) -> Option<usize> {
        self.names(path).iter().try_fold(0, |node, name| match &self.nodes[node] {
            Node::Folder { live, .. } => live.get(name).copied(),
            Node::File { .. } => None,
        })
    }

    fn live_names(&mut self, folder: &Path) -> &mut BTreeMap<String, usize> {
        let node = self.find(folder).unwrap_or_else(|| panic!("{} does not exist", folder.display()));
        match &mut self.nodes[node] {
            Node::Folder { live, .. } => live,
            Node::File { .. } => panic!("{} is a file", folder.display()),
        }
    }

    fn link(&mut self, path: &Path, node: usize) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        self.live_names(path.parent().unwrap()).insert(name, node);
    }

    fn unlink(&mut self, path: &Path) -> Option<usize> {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        self.live_names(path.parent().unwrap()).remove(&name)
    }

    fn add(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        self.link(path, self.nodes.len() - 1);
    }

    /// Makes the real folder what is left after a power cut.
    fn cut_power(&mut self) {
        let mut left = Vec::new();
        self.collect(0, &self.root, &mut left);
        fs::remove_dir_all(&self.root).unwrap();
        fs::create_dir(&self.root).unwrap();
        for (path, content) in left {
            match content {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::create_dir(path).unwrap(),
            }
        }
    }

    /// What will be left: folders (without content) before what is in them.
    fn collect(&self, node: usize, at: &Path, left: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
        let Node::Folder { live, durable } = &self.nodes[node] else { return };
        let leaves_zeros = self.fault == Fault::PowerCutLeavingZeros;
        // The lock is taken past this file system, and its name is synced at once.
        let lock = at.join(".lock");
        if lock.exists() {
            left.push((lock, Some(Vec::new())));
        }
        for (name, child) in if leaves_zeros { live } else { durable } {
            let path = at.join(name);
            match &self.nodes[*child] {
                Node::File { durable } => {
                    let mut bytes = durable.clone();
                    if leaves_zeros {
                        bytes.resize(fs::metadata(&path).unwrap().len() as usize, 0);
                    }
                    left.push((path, Some(bytes)));
                }
                Node::Folder { .. } => {
                    left.push((path.clone(), None));
                    self.collect(*child, &path, left);
                }
            }
        }
    }
}

impl FileSystem for FaultyDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.begin(true)?;
        Disk.create_folder(path)?;
        let ancestors: Vec<&Path> = path.ancestors().take_while(|folder| *folder != state.root).collect();
        for folder in ancestors.into_iter().rev() {
            if state.find(folder).is_none() {
                state.add(folder, Node::Folder { live: BTreeMap::new(), durable: BTreeMap::new() });
            }
        }
        Ok(())
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.0.lock().unwrap();
        state.begin(true)?;
        let file = Disk.create_file(path)?;
        state.add(path, Node::File { durable: Vec::new() });
        Ok(Box::new(FaultyFile { disk: self.clone(), path: path.to_owned(), file }))
    }

    fn append_to_file(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.0.lock().unwrap();
        state.begin(true)?;
        let file = Disk.append_to_file(path)?;
        if state.find(path).is_none() {
            state.add(path, Node::File { durable: Vec::new() });
        }
        Ok(Box::new(FaultyFile { disk: self.clone(), path: path.to_owned(), file }))
    }

    fn truncate_file(&self, path: &Path, num_bytes: u64) -> io::Result<()> {
        self.0.lock().unwrap().begin(false)?;
        Disk.truncate_file(path, num_bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.begin(false)?;
        Disk.rename(from, to)?;
        let node = state.unlink(from).unwrap();
        state.link(to, node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.begin(false)?;
        Disk.remove(path)?;
        state.unlink(path);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.begin(false)?;
        let node = state.find(path).unwrap();
        if let Node::Folder { live, durable } = &mut state.nodes[node] {
            durable.clone_from(live);
        }
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> Option<u64> {
        self.0.lock().unwrap().free_bytes.or_else(|| Disk.free_bytes(path))
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    file: Box<dyn OpenFile>,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.0.lock().unwrap();
        if let Err(error) = state.begin(true) {
            let is_torn = matches!(state.fault, Fault::Error(_) | Fault::Killed);
            if is_torn && state.num_operations == state.fail_at {
                self.file.write_all(&bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OpenFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.begin(true)?;
        let node = state.find(&self.path).unwrap();
        state.nodes[node] = Node::File { durable: fs::read(&self.path)? };
        Ok(())
    }
}
