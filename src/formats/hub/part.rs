//! The part of a file that has come: on disk under a name that nobody takes for the file, and its hash so far.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::formats::atomic_write::{folder_of, sync_folder};
use crate::formats::file_system::{Disk, FileSystem};

pub(super) const BUFFER_BYTES: usize = 1 << 20;
pub(super) const SHA1_DIGITS: usize = 40;
pub(super) const SHA256_DIGITS: usize = 64;

/// A file of a repository at a commit, as the hub describes it.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub name: String,
    /// Its hash: git's SHA-1 of a blob (40 digits), or SHA-256 (64 digits).
    pub etag: String,
    pub num_bytes: u64,
}

/// What has come of a file.
pub(super) struct Part<'a> {
    pub remote: &'a RemoteFile,
    pub num_bytes: u64,
    path: PathBuf,
    file: File,
    hash: Hash,
}

impl<'a> Part<'a> {
    /// Opens what an earlier download left, or begins.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Input`] if what is left does not read.
    pub fn open(path: PathBuf, remote: &'a RemoteFile) -> Result<Self> {
        // Not for appending: Windows does not shorten such a file.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(Error::writing("create", &path))?;
        let mut part = Part { remote, num_bytes: 0, path, file, hash: Hash::new(remote) };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match part.file.read(&mut buffer).map_err(Error::reading(&part.path))? {
                0 => break,
                count => {
                    part.hash.update(&buffer[..count]);
                    part.num_bytes += count as u64;
                }
            }
        }
        if part.num_bytes > remote.num_bytes {
            part.restart()?;
        }
        Ok(part)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn num_missing(&self) -> u64 {
        self.remote.num_bytes.saturating_sub(self.num_bytes)
    }

    /// All of it, and nothing else.
    pub fn is_right(&self) -> bool {
        self.num_bytes == self.remote.num_bytes && self.hash.digits() == self.remote.etag
    }

    /// Throws away what has come.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(Error::writing("write", &self.path))?;
        (self.num_bytes, self.hash) = (0, Hash::new(self.remote));
        Ok(())
    }

    /// Appends what came.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Disk`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.disk_error(error))?;
        self.hash.update(bytes);
        self.num_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives the whole file its name, for good.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn put_in_place(self, path: &Path) -> Result<()> {
        self.file.sync_all().map_err(|error| self.disk_error(error))?;
        drop(self.file);
        Disk.rename(&self.path, path).map_err(Error::writing("put in place", path))?;
        sync_folder(&Disk, folder_of(path))
    }

    /// Removes what came; on its way to another error.
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn disk_error(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull {
                path: folder_of(&self.path).to_owned(),
                needed_bytes: self.num_missing(),
                free_bytes: Disk.free_bytes(folder_of(&self.path)),
                hint: None,
            },
            _ => Error::writing("write", &self.path)(error),
        }
    }
}

enum Hash {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hash {
    /// Git hashes a header and the content, the hub's file storage the content alone.
    fn new(file: &RemoteFile) -> Self {
        match file.etag.len() {
            SHA1_DIGITS => Hash::Sha1(Sha1::new_with_prefix(format!("blob {}\0", file.num_bytes))),
            _ => Hash::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha1(hash) => hash.update(bytes),
            Hash::Sha256(hash) => hash.update(bytes),
        }
    }

    fn digits(&self) -> String {
        let bytes = match self {
            Hash::Sha1(hash) => hash.clone().finalize().to_vec(),
            Hash::Sha256(hash) => hash.clone().finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(etag: &str, num_bytes: u64) -> RemoteFile {
        RemoteFile { name: "file".into(), etag: etag.into(), num_bytes }
    }

    /// `printf 'hello\n' | git hash-object --stdin`, `printf 'hello\n' | sha256sum`.
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[test]
    fn a_file_is_right_if_its_bytes_have_the_hash_that_git_or_sha256_gives_them() {
        let folder = tempfile::tempdir().unwrap();
        for etag in [GIT, SHA256] {
            let remote = remote(etag, 6);
            let mut part = Part::open(folder.path().join(etag), &remote).unwrap();
            part.write(b"hel").unwrap();
            assert!(!part.is_right());
            part.write(b"lo\n").unwrap();
            assert!(part.is_right());
            part.put_in_place(&folder.path().join("file")).unwrap();
            assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"hello\n");
        }
    }

    #[test]
    fn what_an_earlier_download_left_is_continued_unless_it_is_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let (path, remote) = (folder.path().join("part"), remote(SHA256, 6));
        fs::write(&path, "hell").unwrap();
        let mut part = Part::open(path.clone(), &remote).unwrap();
        assert_eq!((part.num_bytes, part.num_missing()), (4, 2));
        part.write(b"o\n").unwrap();
        assert!(part.is_right());
        fs::write(&path, "hello, and more").unwrap();
        let mut part = Part::open(path, &remote).unwrap();
        assert_eq!(part.num_bytes, 0);
        part.write(b"hello\n").unwrap();
        assert!(part.is_right());
    }
}
