//! The cache that all Hugging Face programs share: where things lie, and how they appear there whole or not at all.
//!
//! ```text
//! HF_HUB_CACHE/.locks/models--owner--name/ETAG.lock     held while the file is downloaded
//! HF_HUB_CACHE/models--owner--name/
//!   blobs/ETAG                  a file's content, named by its hash
//!   blobs/ETAG.incomplete       a part of one
//!   refs/main                   the commit that a branch had when it was last asked for
//!   snapshots/COMMIT/NAME       a link to the content
//!   .no_exist/COMMIT/NAME       known not to be in the repository
//!   .gsil/COMMIT/..             the list of files that were fetched for one purpose
//! ```
//! The last is ours; the other programs pass it by.

use std::fs;
use std::path::{Path, PathBuf};

use super::Kind;
use super::address::{Address, is_commit};
use crate::error::{Error, Result};
use crate::formats::atomic_write::{folder_of, replace_text, sibling};
use crate::formats::file_system::{Disk, FileSystem};

/// One repository in the cache.
pub(super) struct RepositoryCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepositoryCache {
    pub fn new(cache: &Path, address: &Address, kind: Kind) -> Self {
        let kind = match kind {
            Kind::Model => "models",
            Kind::DataSet => "datasets",
        };
        // What huggingface_hub calls it.
        let name = format!("{kind}--{}", address.repository.replace('/', "--"));
        RepositoryCache { locks: cache.join(".locks").join(&name), folder: cache.join(name) }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.incomplete"))
    }

    pub fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// The commit that a revision stands for as far as the cache knows.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers what a branch or tag stands for.
    pub fn set_commit(&self, revision: &str, commit: &str) {
        if !is_commit(revision) && self.commit(revision).as_deref() != Some(commit) {
            note(&self.folder.join("refs").join(revision), commit);
        }
    }

    /// A file of a snapshot, if it is there.
    pub fn file(&self, commit: &str, name: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(name)).filter(|path| path.is_file())
    }

    /// True if the repository is known not to have the file.
    pub fn is_absent(&self, commit: &str, name: &str) -> bool {
        self.no_exist(commit, name).is_file()
    }

    /// Remembers that the repository does not have a file.
    pub fn set_absent(&self, commit: &str, name: &str) {
        if !self.is_absent(commit, name) {
            note(&self.no_exist(commit, name), "");
        }
    }

    fn no_exist(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(name)
    }

    /// The files that were fetched for a purpose; `None` if they never all were.
    pub fn fetched(&self, commit: &str, purpose: &str) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.purpose(commit, purpose)).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }

    /// Remembers the files that were fetched for a purpose.
    pub fn set_fetched(&self, commit: &str, purpose: &str, names: &[String]) {
        note(&self.purpose(commit, purpose), &names.join("\n"));
    }

    fn purpose(&self, commit: &str, purpose: &str) -> PathBuf {
        self.folder.join(".gsil").join(commit).join(purpose)
    }

    /// Lets a file of a snapshot lead to its content. A link of that name is replaced.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        create_folder(folder_of(&path))?;
        let up = "../".repeat(2 + name.matches('/').count());
        let temporary = sibling(&path, "link")?;
        let link = make_link(&PathBuf::from(format!("{up}blobs/{etag}")), &self.blob(etag), &temporary);
        link.and_then(|()| Disk.rename(&temporary, &path)).map_err(Error::writing("link", &path))
    }
}

#[cfg(unix)]
fn make_link(relative: &Path, _: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, link)
}

/// Symbolic links need a permission there that few users have.
#[cfg(not(unix))]
fn make_link(_: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()))
}

pub(super) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::writing("create", folder))
}

/// Writes down what the hub would be asked again for. A cache that others own may take no notes, and its files are good all the
/// same.
fn note(path: &Path, text: &str) {
    let _ = write(path, text);
}

fn write(path: &Path, text: &str) -> Result<()> {
    create_folder(folder_of(path))?;
    replace_text(&Disk, path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache(folder: &Path) -> RepositoryCache {
        RepositoryCache::new(folder, &Address::parse("o/n").unwrap().unwrap(), Kind::Model)
    }

    #[test]
    fn the_layout_is_the_one_of_the_hub_library() {
        let cache = cache(Path::new("/hub"));
        assert_eq!(cache.blob("e"), Path::new("/hub/models--o--n/blobs/e"));
        assert_eq!(cache.snapshot("c"), Path::new("/hub/models--o--n/snapshots/c"));
        assert_eq!(cache.lock("e"), Path::new("/hub/.locks/models--o--n/e.lock"));
    }

    #[test]
    fn a_link_in_a_folder_of_the_snapshot_leads_to_the_blob_and_replaces_a_broken_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        create_folder(&folder.path().join("models--o--n/blobs")).unwrap();
        fs::write(cache.blob("e"), "content").unwrap();
        cache.link(COMMIT, "a/b/file", "gone").unwrap_or_default();
        assert_eq!(cache.file(COMMIT, "a/b/file"), None);
        cache.link(COMMIT, "a/b/file", "e").unwrap();
        assert_eq!(fs::read_to_string(cache.file(COMMIT, "a/b/file").unwrap()).unwrap(), "content");
        assert_eq!(fs::read_dir(cache.snapshot(COMMIT).join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_cache_that_takes_no_notes_is_read_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        for notes in ["refs", ".no_exist", ".gsil"] {
            write(&folder.path().join("models--o--n").join(notes), "no folder").unwrap();
        }
        cache.set_commit("main", COMMIT);
        cache.set_absent(COMMIT, "chat_template.jinja");
        cache.set_fetched(COMMIT, "data", &[]);
        assert_eq!((cache.commit("main"), cache.fetched(COMMIT, "data")), (None, None));
    }

    #[test]
    fn a_reference_that_holds_no_commit_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        assert_eq!(cache.commit("main"), None);
        cache.set_commit("main", COMMIT);
        assert_eq!(cache.commit("main").as_deref(), Some(COMMIT));
        write(&folder.path().join("models--o--n/refs/main"), "../../elsewhere").unwrap();
        assert_eq!(cache.commit("main"), None);
        cache.set_commit(COMMIT, COMMIT);
        assert!(!folder.path().join("models--o--n/refs").join(COMMIT).exists(), "a commit needs no reference");
    }
}
