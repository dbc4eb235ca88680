//! The list of a checkpoint's files with their sizes and hashes: what tells a whole set from a damaged one.
//!
//! `MANIFEST` is written last. A set without one, or one whose files are not those of the list, byte for byte, is not loaded.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::formats::atomic_write::write_synced;
use crate::formats::file_system::FileSystem;

const MANIFEST: &str = "MANIFEST";

/// One file of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    num_bytes: u64,
    blake3: String,
}

/// A set of files being written into a folder.
pub struct SetWriter<'a> {
    files: &'a dyn FileSystem,
    folder: &'a Path,
    entries: Vec<Entry>,
}

impl<'a> SetWriter<'a> {
    pub fn new(files: &'a dyn FileSystem, folder: &'a Path) -> Self {
        SetWriter { files, folder, entries: Vec::new() }
    }

    /// Writes one file through `write`, which also gets the file's path, for its errors.
    ///
    /// # Errors
    /// [`Error::Disk`], and whatever `write` says.
    pub fn write(&mut self, name: &str, write: impl FnOnce(&mut dyn Write, &Path) -> Result<()>) -> Result<()> {
        let path = self.folder.join(name);
        let mut entry = None;
        write_synced(self.files, &path, |file| {
            let mut hashing = Hashing { file, hasher: blake3::Hasher::new(), num_bytes: 0 };
            write(&mut hashing, &path)?;
            entry = Some(hashing.entry(name));
            Ok(())
        })?;
        self.entries.extend(entry);
        Ok(())
    }

    /// Writes the manifest and makes all names durable.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn finish(self) -> Result<()> {
        let path = self.folder.join(MANIFEST);
        write_synced(self.files, &path, |file| {
            serde_json::to_writer_pretty(file, &self.entries)
                .map_err(io::Error::from)
                .map_err(Error::writing("write", &path))
        })?;
        self.files.sync_folder(self.folder).map_err(Error::writing("sync", self.folder))
    }
}

/// Reads every file of a set again and compares it with the manifest.
///
/// # Errors
/// [`Error::Input`] naming the first file that is missing, short, long or changed.
pub fn verify(folder: &Path) -> Result<()> {
    let path = folder.join(MANIFEST);
    let text = std::fs::read(&path).map_err(Error::reading(&path))?;
    let entries: Vec<Entry> =
        serde_json::from_slice(&text).map_err(|error| Error::input(&path, format!("is damaged: {error}")))?;
    entries.iter().try_for_each(|expected| {
        let name = Path::new(&expected.name);
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::input(&path, format!("names `{}`, which lies elsewhere", expected.name)));
        }
        let path = folder.join(name);
        let found = hash_file(&path, &expected.name).map_err(Error::reading(&path))?;
        match found == *expected {
            true => Ok(()),
            false => Err(Error::input(
                &path,
                format!(
                    "is damaged: {} bytes with another content than the {} that were written",
                    found.num_bytes, expected.num_bytes
                ),
            )),
        }
    })
}

/// Writes through and hashes what passes.
struct Hashing<'a> {
    file: &'a mut dyn Write,
    hasher: blake3::Hasher,
    num_bytes: u64,
}

impl Hashing<'_> {
    fn entry(&self, name: &str) -> Entry {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        Entry { name: name.to_owned(), num_bytes: self.num_bytes, blake3 }
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.num_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hash_file(path: &Path, name: &str) -> io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hashing = Hashing { file: &mut io::sink(), hasher: blake3::Hasher::new(), num_bytes: 0 };
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hashing.entry(name)),
            count => hashing.write_all(&buffer[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file_system::Disk;
    use std::fs;

    fn written(folder: &Path) {
        let mut set = SetWriter::new(&Disk, folder);
        for (name, content) in [("a", "first"), ("b", "")] {
            set.write(name, |file, path| file.write_all(content.as_bytes()).map_err(Error::writing("write", path)))
                .unwrap();
        }
        set.finish().unwrap();
    }

    #[test]
    fn a_set_verifies_and_the_hash_is_that_of_the_official_tool() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        verify(folder.path()).unwrap();
        let manifest = fs::read_to_string(folder.path().join(MANIFEST)).unwrap();
        // The hash of nothing, from the BLAKE3 paper's test vectors (input length 0).
        assert!(manifest.contains("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"), "{manifest}");
    }

    #[test]
    fn every_damage_is_found_and_named() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 6] = [
            ("a", |folder| fs::write(folder.join("a"), "fIrst").unwrap()),
            ("a", |folder| fs::write(folder.join("a"), "firs").unwrap()),
            ("b", |folder| fs::write(folder.join("b"), "more").unwrap()),
            ("b", |folder| fs::remove_file(folder.join("b")).unwrap()),
            ("MANIFEST", |folder| fs::write(folder.join(MANIFEST), "[{\"name\"").unwrap()),
            ("MANIFEST", |folder| {
                let text = fs::read_to_string(folder.join(MANIFEST)).unwrap();
                fs::write(folder.join(MANIFEST), text.replace("\"a\"", "\"../a\"")).unwrap();
            }),
        ];
        for (named, damage) in damages {
            let folder = tempfile::tempdir().unwrap();
            written(folder.path());
            damage(folder.path());
            let error = verify(folder.path()).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains(&*folder.path().join(named).to_string_lossy()), "{error}");
        }
    }
}
