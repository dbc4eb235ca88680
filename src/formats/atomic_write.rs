//! Writing files and folders that are never seen half-written: a temporary name beside the target, fsync, rename, fsync of
//! the folder.
//!
//! After a crash at any moment the target is the old one or the new one; of a folder that is replaced, the old one may have
//! the hidden name `.NAME.old-PID`. Next: [`super::safetensors`].

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// Writes the file at `path` through `write`, then puts it in place. On an error the old file, if any, is untouched.
///
/// The file has the permissions that the user's umask gives to new files.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let temporary = sibling(path, "tmp")?;
    let result = write_synced(&temporary, write)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::writing("put in place", path)));
    if result.is_err() {
        // The first error is the one to report; a leftover temporary file is only untidy.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    sync_folder(folder_of(path))
}

fn write_synced(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(path).map_err(Error::writing("create", path))?);
    write(&mut writer)?;
    writer.flush().and_then(|()| writer.get_ref().sync_all()).map_err(Error::writing("write", path))
}

/// Writes the files of a folder through `write`, which gets a temporary folder, then puts it in place of what is at
/// `folder`. On an error that is untouched.
pub fn replace_folder(folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = sibling(folder, "tmp")?;
    remove_folder(&temporary)?;
    fs::create_dir_all(&temporary).map_err(Error::writing("create", &temporary))?;
    let result = write(&temporary).and_then(|()| put_in_place(&temporary, folder));
    if result.is_err() {
        // The first error is the one to report; a leftover temporary folder is only untidy.
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

/// Renames `temporary` to `folder`; what was there moves aside first and comes back if the rename fails.
fn put_in_place(temporary: &Path, folder: &Path) -> Result<()> {
    let place = |from: &Path, to: &Path| fs::rename(from, to).map_err(Error::writing("put in place", folder));
    if folder.exists() {
        let old = sibling(folder, "old")?;
        remove_folder(&old)?;
        place(folder, &old)?;
        if let Err(error) = place(temporary, folder) {
            place(&old, folder)?;
            return Err(error);
        }
        sync_folder(folder_of(folder))?;
        return remove_folder(&old);
    }
    place(temporary, folder)?;
    sync_folder(folder_of(folder))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::writing("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Writes a small file whole or not at all.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, |file| file.write_all(bytes).map_err(Error::writing("write", path)))
}

/// Writes a JSON file, indented.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_bytes(path, format!("{value:#}\n").as_bytes())
}

/// Makes the names in a folder survive a power cut. Does nothing where folders cannot be opened (Windows).
pub fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::writing("sync", folder))?;
    }
    Ok(())
}

/// The folder that holds `path`; `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A hidden name beside `path` that no other process uses: `.NAME.KIND-PID`.
pub fn sibling(path: &Path, kind: &str) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::usage(format!("{}: cannot be written to", path.display())))?;
    Ok(path.with_file_name(format!(".{}.{kind}-{}", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "old").unwrap();
        let error = replace_file(&path, |_| Err(Error::training("stopped half-way"))).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writing_into_a_missing_folder_is_a_disk_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace_file(&folder.path().join("none/state"), |_| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 6);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_is_written() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        replace_file(&ours, |_| Ok(())).unwrap();
        fs::write(&plain, "").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain), "the umask decides, as for every file the user makes");
    }
}
