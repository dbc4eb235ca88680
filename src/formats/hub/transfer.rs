//! One file, from the hub into the cache: continued where it broke off, one process at a time, compared with what the hub
//! said it is before anybody can see it.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::time::Duration;

use super::address::is_lower_hex;
use super::cache::create_folder;
use super::http::{Client, Failure};
use super::part::{BUFFER_BYTES, Part, RemoteFile, SHA1_DIGITS, SHA256_DIGITS};
use super::repository::Repository;
use crate::error::{Error, Result};
use crate::formats::atomic_write::folder_of;
use crate::formats::file_system::{Disk, FileSystem};
use crate::report::console::Bar;

/// Tries of one request, or of one file without progress.
const NUM_TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Repeats a request that failed for a reason that may pass.
pub(super) fn with_retries<T>(
    mut request: impl FnMut() -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    for attempt in 1..NUM_TRIES {
        match request() {
            Err(failure) if failure.is_passing() => wait(attempt),
            result => return result,
        }
    }
    request()
}

/// Each time twice as long.
fn wait(attempt: u32) {
    std::thread::sleep(FIRST_WAIT * 2_u32.pow(attempt - 1));
}

impl Repository<'_> {
    /// What the hub says of a file.
    ///
    /// # Errors
    /// As [`Repository::listing`]; [`Error::Server`] if it does not say enough to check the file.
    pub fn describe(&self, client: &Client, commit: &str, name: &str) -> Result<RemoteFile> {
        let error = |failure| self.error(client, failure, Some(name));
        let facts = with_retries(|| client.facts(&self.file_path(commit, name))).map_err(error)?;
        let nonsense = |what: &str| Err(error(Failure::NoAnswer(what.into())));
        if facts.commit.is_some_and(|other| other != commit) {
            return nonsense("it offers another commit than was asked for");
        }
        // The hash becomes a file's name, too.
        let etag = facts.etag.filter(|etag| [SHA1_DIGITS, SHA256_DIGITS].contains(&etag.len()) && is_lower_hex(etag));
        match (etag, facts.num_bytes) {
            (Some(etag), Some(num_bytes)) => Ok(RemoteFile { name: name.to_owned(), etag, num_bytes }),
            (None, _) => nonsense("it does not say the file's hash (ETag), so the file could not be checked"),
            (_, None) => nonsense("it does not say the file's size, so the file could not be checked"),
        }
    }

    /// True if the cache has the content already.
    pub fn has_content(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.cache.blob(&file.etag)).is_ok_and(|found| found.is_file() && found.len() == file.num_bytes)
    }

    /// Puts a file into the snapshot of a commit; its content is downloaded unless the cache has it.
    ///
    /// # Errors
    /// [`Error::Server`] if the transfer breaks off again and again, [`Error::Input`] if what came is not what the hub said,
    /// [`Error::DiskFull`], [`Error::Disk`].
    pub fn fetch(&self, client: &Client, commit: &str, file: &RemoteFile, bar: &mut Option<Bar>) -> Result<()> {
        let lock = self.locked(file)?;
        // Another process may have been faster.
        if !self.has_content(file) {
            self.download(client, commit, file, bar)?;
        }
        drop(lock);
        self.cache.link(commit, &file.name, &file.etag)
    }

    /// Waits until no other process downloads the same content. The lock ends with the file.
    fn locked(&self, file: &RemoteFile) -> Result<File> {
        let path = self.cache.lock(&file.etag);
        create_folder(folder_of(&path))?;
        let lock = File::create(&path).map_err(Error::writing("create", &path))?;
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {
                self.console.say(format!("waiting for another program that downloads {}", file.name));
            }
            Err(TryLockError::Error(error)) => return Err(Error::writing("lock", &path)(error)),
        }
        lock.lock().map_err(Error::writing("lock", &path))?;
        Ok(lock)
    }

    fn download(&self, client: &Client, commit: &str, file: &RemoteFile, bar: &mut Option<Bar>) -> Result<()> {
        let blob = self.cache.blob(&file.etag);
        create_folder(folder_of(&blob))?;
        let mut part = Part::open(self.cache.incomplete(&file.etag), file)?;
        check_space(&part)?;
        if let Some(bar) = bar {
            bar.skip(part.num_bytes);
        }
        let is_continued = part.num_bytes > 0;
        self.complete(client, commit, &mut part, bar)?;
        if is_continued && !part.is_right() {
            // The beginning came from an earlier download, perhaps of another program: once more, from nothing.
            part.restart()?;
            self.complete(client, commit, &mut part, bar)?;
        }
        if !part.is_right() {
            return Err(self.damaged(&part));
        }
        part.put_in_place(&blob)
    }

    /// Appends what is missing, in as many tries as bring something.
    fn complete(&self, client: &Client, commit: &str, part: &mut Part, bar: &mut Option<Bar>) -> Result<()> {
        let mut attempt = 1;
        loop {
            let before = part.num_bytes;
            let Err(failure) = self.append(client, commit, part, bar)? else { return Ok(()) };
            attempt = if part.num_bytes > before { 1 } else { attempt + 1 };
            if !failure.is_passing() || attempt > NUM_TRIES {
                return Err(self.error(client, failure, Some(&part.remote.name)));
            }
            wait(attempt);
        }
    }

    /// One try. The outer error is the disk's.
    fn append(
        &self,
        client: &Client,
        commit: &str,
        part: &mut Part,
        bar: &mut Option<Bar>,
    ) -> Result<std::result::Result<(), Failure>> {
        if part.num_missing() == 0 {
            return Ok(Ok(()));
        }
        let mut content = match client.content(&self.file_path(commit, &part.remote.name), part.num_bytes) {
            Ok(content) => content,
            Err(failure) => return Ok(Err(failure)),
        };
        if content.start != part.num_bytes {
            part.restart()?;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        // A byte more than was promised is damage, however many more would come.
        while part.num_bytes <= part.remote.num_bytes {
            match content.body.read(&mut buffer) {
                Ok(0) if part.num_missing() > 0 => return Ok(Err(torn(part, "the connection was closed"))),
                Ok(0) => break,
                Ok(count) => {
                    part.write(&buffer[..count])?;
                    if let Some(bar) = bar {
                        bar.advance(count as u64);
                    }
                }
                Err(error) => return Ok(Err(torn(part, &error.to_string()))),
            }
        }
        Ok(Ok(()))
    }

    fn damaged(&self, part: &Part) -> Error {
        part.remove();
        let expected = part.remote.num_bytes;
        let message = match part.num_bytes == expected {
            true => "what came has another hash than the hub said; it was removed".to_owned(),
            false => format!("more came than the {expected} bytes that the hub said; it was removed"),
        };
        self.refused(message)
            .at(&part.remote.name)
            .with_hint("try again; if it stays so, something between you and the hub changes files")
    }
}

fn torn(part: &Part, why: &str) -> Failure {
    let (num_bytes, expected) = (part.num_bytes, part.remote.num_bytes);
    Failure::BrokenOff(format!("the transfer ended after {num_bytes} of {expected} bytes: {why}"))
}

fn check_space(part: &Part) -> Result<()> {
    let (folder, needed_bytes) = (folder_of(part.path()), part.num_missing());
    match Disk.free_bytes(folder) {
        Some(free_bytes) if free_bytes < needed_bytes => {
            Err(Error::DiskFull { path: folder.to_owned(), needed_bytes, free_bytes: Some(free_bytes), hint: None })
        }
        _ => Ok(()),
    }
}
