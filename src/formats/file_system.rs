//! The few things that saving asks of a file system, behind one trait, so that a test can let any of them fail.
//!
//! Everything that a run folder holds is written through [`FileSystem`]; reading loses nothing and goes past it. [`Disk`] is
//! the real one. Next: `atomic_write`.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

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

/// Before each further try of a rename or a removal, milliseconds. Windows refuses them while another program has the file,
/// or one of the folder's, open; virus scanners and indexers open new files for a moment. Other systems do not mind.
const PAUSES: &[u64] = if cfg!(windows) { &[10, 50, 200, 500, 1000, 2000] } else { &[] };

/// Does `work`, and again after each pause while access is refused.
fn patiently(pauses: &[u64], mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    /// Windows' `ERROR_SHARING_VIOLATION`, which has no kind of its own.
    const IS_OPEN_ELSEWHERE: Option<i32> = Some(32);
    for &pause in pauses {
        match work() {
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == IS_OPEN_ELSEWHERE =>
            {
                thread::sleep(Duration::from_millis(pause));
            }
            result => return result,
        }
    }
    work()
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
        patiently(PAUSES, || fs::rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        patiently(PAUSES, || if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_program_has_open_is_tried_again_and_other_errors_are_not() {
        let tries = |num_refusals: usize, refusal: fn() -> io::Error| {
            let mut num_tries = 0;
            let result = patiently(&[0, 0], || {
                num_tries += 1;
                if num_tries > num_refusals { Ok(()) } else { Err(refusal()) }
            });
            (num_tries, result.is_ok())
        };
        let denied = || io::ErrorKind::PermissionDenied.into();
        assert_eq!(tries(0, denied), (1, true));
        assert_eq!(tries(2, denied), (3, true));
        assert_eq!(tries(2, || io::Error::from_raw_os_error(32)), (3, true));
        assert_eq!(tries(3, denied), (3, false), "it ends");
        assert_eq!(tries(1, || io::ErrorKind::NotFound.into()), (1, false));
    }
}
