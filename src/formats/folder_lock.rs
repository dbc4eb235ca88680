//! One process at a time in a folder: a lock that the system ends with the process, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Inside the folder; it says who holds the lock.
const LOCK_FILE: &str = ".lock";

/// A folder that this process alone may write to, as long as the value lives.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Locks a folder that exists.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process, or another value of this one, holds the lock; [`Error::Disk`].
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        // Not for appending: Windows does not lock such a file.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(Error::writing("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default(); // Windows does not let it be read
                let message = format!("another process works here ({})", holder.lines().last().unwrap_or("unknown"));
                return Err(Error::Locked { path: folder.to_owned(), message });
            }
            Err(TryLockError::Error(error)) => return Err(Error::writing("lock", &path)(error)),
        }
        let mut lock = FolderLock { file };
        let who = format!("process {} on {}\n", std::process::id(), host_name());
        lock.file
            .set_len(0)
            .and_then(|()| lock.file.write_all(who.as_bytes()))
            .map_err(Error::writing("write", &path))?;
        Ok(lock)
    }
}

/// Closing the file is not enough: a program that is being started at this moment holds a copy of it until it runs.
impl Drop for FolderLock {
    fn drop(&mut self) {
        // Without this the lock ends a little later, with the file.
        let _ = self.file.unlock();
    }
}

/// The name of this machine.
fn host_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|| "this machine".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_while_the_lock_lives_and_free_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let second = FolderLock::take(folder.path()).unwrap_err();
        assert_eq!(second.exit_code(), 7);
        let holder = match cfg!(windows) {
            true => "unknown".to_owned(),
            false => format!("process {} on {}", std::process::id(), host_name()),
        };
        assert!(second.to_string().contains(&format!("works here ({holder})")), "{second}");
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_is_free_although_a_copy_of_the_locked_file_is_still_open() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let _copy = first.file.try_clone().unwrap();
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
}
