//! Writing files and folders that are never seen half-written: a temporary name beside the target, fsync, rename, fsync of
//! the folder.
//!
//! After a crash at any moment the target is the old one or the new one; of a folder that is replaced, the old one may have
//! the hidden name `.NAME.old-PID`. Next: [`super::safetensors`].

use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file_system::FileSystem;
use crate::error::{Error, Result};

/// Writes the file at `path` through `write`, then puts it in place. On an error the old file, if any, is untouched.
///
/// The file has the permissions that the user's umask gives to new files.
pub fn replace_file(
    files: &dyn FileSystem,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let temporary = sibling(path, "tmp")?;
    let result = write_synced(files, &temporary, write)
        .and_then(|()| files.rename(&temporary, path).map_err(Error::writing("put in place", path)));
    if result.is_err() {
        // The first error is the one to report; a leftover temporary file is only untidy.
        let _ = files.remove(&temporary);
        return result;
    }
    sync_folder(files, folder_of(path))
}

/// Puts a file of this text in place of what is at `path`: see [`replace_file`].
pub fn replace_text(files: &dyn FileSystem, path: &Path, text: &str) -> Result<()> {
    replace_file(files, path, |file| file.write_all(text.as_bytes()).map_err(Error::writing("write", path)))
}

/// Writes a new file through `write` and makes its content durable; its name is not yet.
pub fn write_synced(
    files: &dyn FileSystem,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let file = files.create_file(path).map_err(Error::writing("create", path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    writer.flush().and_then(|()| writer.get_mut().sync()).map_err(Error::writing("write", path))
}

/// Writes the files of a folder through `write`, which gets a temporary folder, then puts it in place of what is at
/// `folder`. On an error that is untouched.
pub fn replace_folder(files: &dyn FileSystem, folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    write_folder(files, folder, write, put_in_place)
}

/// Writes the files of a folder through `write`, which gets a temporary folder, then puts it at `folder`, where nothing or an
/// empty folder is. What has appeared there meanwhile is untouched.
///
/// # Errors
/// [`Error::Usage`] if something else is there; [`Error::Disk`]; any error of `write`.
pub fn write_new_folder(files: &dyn FileSystem, folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    write_folder(files, folder, write, put_in_free_place)
}

fn write_folder(
    files: &dyn FileSystem,
    folder: &Path,
    write: impl FnOnce(&Path) -> Result<()>,
    put: impl FnOnce(&dyn FileSystem, &Path, &Path) -> Result<()>,
) -> Result<()> {
    let temporary = sibling(folder, "tmp")?;
    remove(files, &temporary)?;
    let result = create_folder(files, &temporary)
        .and_then(|()| write(&temporary))
        .and_then(|()| sync_folder(files, &temporary))
        .and_then(|()| put(files, &temporary, folder));
    if result.is_err() {
        // The first error is the one to report; a leftover temporary folder is only untidy.
        let _ = remove(files, &temporary);
    }
    result
}

/// Renames `temporary` to `folder`; what was there moves aside first and comes back if the rename fails.
fn put_in_place(files: &dyn FileSystem, temporary: &Path, folder: &Path) -> Result<()> {
    let place = |from: &Path, to: &Path| files.rename(from, to).map_err(Error::writing("put in place", folder));
    if folder.exists() {
        let old = sibling(folder, "old")?;
        remove(files, &old)?;
        place(folder, &old)?;
        if let Err(error) = place(temporary, folder) {
            place(&old, folder)?;
            return Err(error);
        }
        sync_folder(files, folder_of(folder))?;
        return remove(files, &old);
    }
    place(temporary, folder)?;
    sync_folder(files, folder_of(folder))
}

/// Renames `temporary` to `folder`; no system puts a folder in place of anything but an empty one.
fn put_in_free_place(files: &dyn FileSystem, temporary: &Path, folder: &Path) -> Result<()> {
    files.rename(temporary, folder).map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory => {
            Error::usage(format!("{} already exists, and nothing is overwritten", folder.display()))
                .with_hint("choose another output folder, or remove it first")
        }
        _ => Error::writing("put in place", folder)(source),
    })?;
    sync_folder(files, folder_of(folder))
}

/// Writes a new file of these bytes, synced.
pub fn write_bytes(files: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<()> {
    write_synced(files, path, |file| file.write_all(bytes).map_err(Error::writing("write", path)))
}

/// Writes a new JSON file, indented, synced.
pub fn write_json(files: &dyn FileSystem, path: &Path, value: &Value) -> Result<()> {
    write_bytes(files, path, format!("{value:#}\n").as_bytes())
}

/// Makes the names in a folder survive a power cut.
pub fn sync_folder(files: &dyn FileSystem, folder: &Path) -> Result<()> {
    files.sync_folder(folder).map_err(Error::writing("sync", folder))
}

/// Makes a folder, and its own name durable; one that exists is left as it is.
pub fn create_folder(files: &dyn FileSystem, folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    files.create_folder(folder).map_err(Error::writing("create", folder))?;
    sync_folder(files, folder_of(folder))
}

/// Removes a file or a folder with everything in it; nothing happens if there is none.
pub fn remove(files: &dyn FileSystem, path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    files.remove(path).map_err(Error::writing("remove", path))
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
    use super::super::file_system::Disk;
    use super::*;
    use std::fs;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "old").unwrap();
        let error = replace_file(&Disk, &path, |_| Err(Error::training("stopped half-way"))).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_folder_takes_a_free_or_empty_place_and_leaves_what_appears_there_meanwhile() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("out");
        let write = |meanwhile: &dyn Fn()| {
            write_new_folder(&Disk, &folder, |temporary| {
                meanwhile();
                write_bytes(&Disk, &temporary.join("state"), b"new")
            })
        };
        write(&|| fs::create_dir(&folder).unwrap()).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        write(&|| ()).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let full = || {
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("state"), "of another").unwrap();
        };
        assert_eq!(write(&full).unwrap_err().exit_code(), 2);
        assert_eq!(fs::read_to_string(folder.join("state")).unwrap(), "of another");
        fs::remove_dir_all(&folder).unwrap();
        let error = write(&|| fs::write(&folder, "a file").unwrap()).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("choose another")), "{error}");
        assert_eq!(fs::read_to_string(&folder).unwrap(), "a file");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "no temporary folder is left");
    }

    #[test]
    fn writing_into_a_missing_folder_is_a_disk_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace_file(&Disk, &folder.path().join("none/state"), |_| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 6);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_is_written() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        replace_file(&Disk, &ours, |_| Ok(())).unwrap();
        fs::write(&plain, "").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain), "the umask decides, as for every file the user makes");
    }
}
