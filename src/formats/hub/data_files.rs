//! Which files of a repository make a data set: tables of text, in one folder.
//!
//! The folder is the one that the address names; else the top, where files lie there; else `data`; else the only one that
//! has any. Nothing else of the repository is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::address::is_safe_path;
use super::http::Client;
use super::model_files::listed;
use super::repository::{Listing, Repository};
use crate::error::Result;
use crate::formats::data_file::FileKind;

/// Descriptions of data sets that libraries write beside them.
const NO_DATA: [&str; 5] =
    ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "metadata.json"];
/// Folders in folders of a snapshot that are looked into.
const MAX_DEPTH: usize = 4;

impl Repository<'_> {
    /// The data as the cache has them at a commit, or the names of what is missing. What another program fetched counts if
    /// `may_guess`: the cache does not tell whether it is all.
    pub fn cached_data(&self, commit: &str, may_guess: bool) -> std::result::Result<PathBuf, Vec<String>> {
        let snapshot = self.cache.snapshot(commit);
        let names = match self.cache.fetched(commit, &self.purpose()) {
            Some(names) => names,
            None if may_guess => {
                let mut files = BTreeSet::new();
                collect(&snapshot, "", MAX_DEPTH, &mut files);
                let listing = Listing { commit: commit.to_owned(), files };
                self.data_files(&listing).map_err(|_| vec!["its data files".to_owned()])?
            }
            None => return Err(Vec::new()),
        };
        let missing: Vec<String> =
            names.iter().filter(|name| self.cache.file(commit, name).is_none()).cloned().collect();
        if missing.is_empty() { Ok(self.data_path(&snapshot, &names)) } else { Err(missing) }
    }

    /// Fetches what the cache lacks of a data set.
    ///
    /// # Errors
    /// [`crate::Error::Input`] if it has no files that are read, or several folders with some; as
    /// [`Repository::fetch_all`].
    pub fn fetch_data(&self, client: &Client, listing: &Listing) -> Result<PathBuf> {
        let names = self.data_files(listing)?;
        self.fetch_all(client, &listing.commit, &names)?;
        self.cache.set_fetched(&listing.commit, &self.purpose(), &names);
        Ok(self.data_path(&self.cache.snapshot(&listing.commit), &names))
    }

    /// What this data set is called in the cache.
    fn purpose(&self) -> String {
        self.address.path.as_ref().map_or("data".to_owned(), |path| format!("data--{}", path.replace('/', "--")))
    }

    /// A file that is alone, else the folder.
    fn data_path(&self, snapshot: &Path, names: &[String]) -> PathBuf {
        match names {
            [name] => snapshot.join(name),
            _ => snapshot.join(names.first().map_or("", |name| folder_of(name))),
        }
    }

    fn data_files(&self, listing: &Listing) -> Result<Vec<String>> {
        if let Some(path) = &self.address.path
            && listing.files.contains(path)
        {
            return Ok(vec![path.clone()]);
        }
        let mut folders: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for name in listing.files.iter().filter(|name| is_data(name)) {
            if !is_safe_path(name) {
                return Err(self.refused(format!("{name:?} is no name of a file that could be written here")));
            }
            folders.entry(folder_of(name)).or_default().push(name.clone());
        }
        let wanted = match &self.address.path {
            Some(path) => Some(path.as_str()),
            None if folders.len() == 1 => folders.keys().next().copied(),
            None => ["", "data"].into_iter().find(|folder| folders.contains_key(folder)),
        };
        if let Some(names) = wanted.and_then(|folder| folders.remove(folder)) {
            return Ok(names);
        }
        if folders.is_empty() {
            let endings = FileKind::ENDINGS.map(|(ending, _)| format!(".{ending}")).join(", ");
            return Err(self.refused("the repository has no files of data that are read").with_hint(format!(
                "known endings are {endings}; the hub has a copy of most data sets as Parquet: {}@refs/convert/parquet",
                self.address.repository
            )));
        }
        if let Some(path) = &self.address.path {
            return Err(self.has_no_file(listing, path));
        }
        let addresses: Vec<String> = folders.keys().map(|folder| format!("{}/{folder}", self.address)).collect();
        Err(self
            .refused("the repository has data in several folders")
            .with_hint(format!("name the one that you want: {}", listed(&addresses))))
    }
}

fn is_data(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    FileKind::by_ending(Path::new(file)).is_some() && !NO_DATA.contains(&file)
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The files of a snapshot, as the hub would list them.
fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path() {
            path if path.is_file() => drop(files.insert(name)),
            path if path.is_dir() && depth > 0 => collect(&path, &format!("{name}/"), depth - 1, files),
            _ => {}
        }
    }
}
