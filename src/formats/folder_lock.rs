//! One process at a time in a folder: a lock that the system ends with the process, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use super::atomic_write::sync_folder;
use super::file_system::Disk;
use crate::error::{Error, Result, is_not_allowed};

/// Inside the folder; it says who holds the lock.
const LOCK_FILE: &str = ".lock";
/// How its text begins.
const HOLDER: &str = "process";

/// A folder that no other process writes to, as long as the value lives.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Locks a folder that exists.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process, or another value of this one, holds the lock; [`Error::Usage`] for a file of
    /// its name that another program wrote; [`Error::Disk`].
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        // Not for appending: Windows does not lock such a file.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let is_new = !path.exists();
        let file = options.open(&path).map_err(Error::writing("open", &path))?;
        if is_new {
            sync_folder(&Disk, folder)?; // what is written after it is known to be a process's: see `was_taken`
        }
        file.try_lock().map_err(|error| match error {
            // Those who share it could not write down who they are.
            TryLockError::WouldBlock if file.try_lock_shared().is_ok() => {
                let message = "somebody who may only read it exports it now".to_owned();
                Error::Locked { path: folder.to_owned(), message }
            }
            error => refused(folder, error),
        })?;
        let mut lock = FolderLock { file };
        check_is_lock(&lock.file, &path)?;
        let who = format!("{HOLDER} {} on {}\n", std::process::id(), host_name());
        lock.file
            .set_len(0)
            .and_then(|()| lock.file.rewind())
            .and_then(|()| lock.file.write_all(who.as_bytes()))
            .map_err(Error::writing("write", &path))?;
        Ok(lock)
    }

    /// Whether a process works in the folder or has worked there, be it that the power was cut.
    pub fn was_taken(folder: &Path) -> bool {
        folder.join(LOCK_FILE).exists()
    }

    /// [`Self::take`] for one who only reads: where the folder may not be written, the lock is shared with others who
    /// read. None if there is none to share: nobody has worked there.
    ///
    /// # Errors
    /// As [`Self::take`]; [`Error::Input`] if the lock does not open.
    pub fn take_to_read(folder: &Path) -> Result<Option<Self>> {
        match Self::take(folder) {
            Err(Error::Disk { source, .. }) if is_not_allowed(source.kind()) => Self::share(folder),
            taken => taken.map(Some),
        }
    }

    fn share(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LOCK_FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(Error::reading(&path))?,
        };
        // Not for this process alone: a network file system refuses that for a file that is open for reading.
        file.try_lock_shared().map_err(|error| refused(folder, error))?;
        Ok(Some(FolderLock { file }))
    }
}

/// Refuses what no process of this program wrote. A power cut may leave nothing of what one did, or zeros.
fn check_is_lock(file: &File, path: &Path) -> Result<()> {
    let mut start = Vec::new();
    file.take(HOLDER.len() as u64).read_to_end(&mut start).map_err(Error::reading(path))?;
    match start.iter().all(|byte| *byte == 0) || start == HOLDER.as_bytes() {
        true => Ok(()),
        false => Err(Error::usage(format!("{} is not a lock of this program", path.display()))
            .with_hint("remove the file if nobody needs it, or work in another folder")),
    }
}

fn refused(folder: &Path, error: TryLockError) -> Error {
    let path = folder.join(LOCK_FILE);
    match error {
        TryLockError::WouldBlock => {
            let holder = fs::read_to_string(&path).unwrap_or_default(); // Windows does not let it be read
            let message = format!("another process works here ({})", holder.lines().last().unwrap_or("unknown"));
            Error::Locked { path: folder.to_owned(), message }
        }
        TryLockError::Error(error) => Error::writing("lock", &path)(error),
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
    fn a_file_of_the_locks_name_that_is_no_lock_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        for other in ["mine", "proc", "process"] {
            fs::write(&path, other).unwrap();
            assert_eq!(FolderLock::take(folder.path()).is_ok(), other == "process", "{other}");
        }
        assert!(fs::read_to_string(&path).unwrap().starts_with("process "));
        fs::write(&path, "mine").unwrap();
        assert_eq!(FolderLock::take(folder.path()).unwrap_err().exit_code(), 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        for left_by_a_power_cut in ["", "\0\0\0\0\0\0\0\0\0"] {
            fs::write(&path, left_by_a_power_cut).unwrap();
            FolderLock::take(folder.path()).unwrap();
        }
    }

    #[test]
    fn those_who_only_read_share_a_folder_that_nobody_works_in() {
        let folder = tempfile::tempdir().unwrap();
        assert!(FolderLock::share(folder.path()).unwrap().is_none(), "nobody has worked there");
        assert!(!folder.path().join(LOCK_FILE).exists());
        let worker = FolderLock::take_to_read(folder.path()).unwrap().unwrap();
        assert_eq!(FolderLock::share(folder.path()).unwrap_err().exit_code(), 7);
        assert_eq!(FolderLock::take_to_read(folder.path()).unwrap_err().exit_code(), 7);
        drop(worker);
        let readers = [(); 2].map(|()| FolderLock::share(folder.path()).unwrap().unwrap());
        let error = FolderLock::take(folder.path()).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().contains("may only read it")), (7, true), "{error}");
        drop(readers);
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
