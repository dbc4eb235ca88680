//! The few things that saving asks of a file system, behind one trait, so that a test can let any of them fail.
//!
//! Everything that a run folder holds is written through [`FileSystem`]; reading loses nothing and goes past it. [`Disk`] is
//! the real one. Next: `atomic_write`.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// What writes need. Nothing is durable before it is synced: a file's content by [`OpenFile::sync`], the names in a folder
/// (new, renamed, removed) by [`FileSystem::sync_folder`].
pub trait FileSystem: Debug + Send + Sync {
    /// Makes a folder and its parents; one that exists is left as it is.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file, or empties the one that is there.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Opens a file to write at its end; makes it if need be.
    fn append_to_file(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Cuts a file off after `num_bytes`.
    fn truncate_file(&self, path: &Path, num_bytes: u64) -> io::Result<()>;
    /// Gives a file or folder another name; a file of that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a folder with everything in it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Free bytes of the disk that holds `path`; None where the system does not tell.
    fn free_bytes(&self, path: &Path) -> Option<u64>;
}

/// A file open for writing.
pub trait OpenFile: Write {
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

impl OpenFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl FileSystem for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append_to_file(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(OpenOptions::new().create(true).append(true).open(path)?))
    }

    fn truncate_file(&self, path: &Path, num_bytes: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.set_len(num_bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    /// Does nothing where folders cannot be opened (Windows).
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    #[cfg(unix)]
    fn free_bytes(&self, path: &Path) -> Option<u64> {
        let disk = rustix::fs::statvfs(path).ok()?;
        Some(disk.f_bavail * disk.f_frsize)
    }

    #[cfg(not(unix))]
    fn free_bytes(&self, _: &Path) -> Option<u64> {
        None
    }
}
