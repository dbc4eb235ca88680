//! A folder of data: which files are for training, which to judge on.
//!
//! Known are `train`, `valid` or `validation`, and `test`, in any ending that is read, as one file or in shards
//! (`train-00000-of-00002.parquet`), in the folder itself or in its `data` folder. Test files are found and left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::problem::visible;
use crate::error::{Error, Result};
use crate::formats::data_file::FileKind;

/// Names in a listing of what was found.
const MAX_LISTED: usize = 20;
/// Files of a folder that are looked at.
const MAX_FILES: usize = 100_000;

/// What files are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// To imitate.
    Train,
    /// To judge on.
    Validation,
    /// To be left alone until the end.
    Test,
}

impl Split {
    fn by_name(name: &str) -> Option<Self> {
        match name {
            "train" => Some(Split::Train),
            "valid" | "validation" => Some(Split::Validation),
            "test" => Some(Split::Test),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "valid",
            Split::Test => "test",
        }
    }
}

/// The files of one split: a file itself, or those that a folder has for `split`, in order.
///
/// # Errors
/// As for [`DataFolder::open`], and if there are none.
pub fn files_of(path: &Path, split: Split) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut folder = DataFolder::open(path)?;
    match folder.files.remove(&split) {
        Some(files) => Ok(files),
        None => Err(folder.without(split)),
    }
}

/// The data files of a folder.
#[derive(Debug)]
pub struct DataFolder {
    /// The files of each split, shards in their order.
    pub files: BTreeMap<Split, Vec<PathBuf>>,
    /// Where was looked last.
    path: PathBuf,
    found: Vec<String>,
}

impl DataFolder {
    /// Looks for files of known names in `path`, and in its `data` folder if there are none. There may be none at all.
    ///
    /// # Errors
    /// [`Error::Input`] that lists what was found, if there are two that could be meant, or a shard is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let own = Self::read(path)?;
        let inner = path.join("data");
        if own.files.is_empty() && inner.is_dir() { Self::read(&inner) } else { Ok(own) }
    }

    fn read(path: &Path) -> Result<Self> {
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(path).map_err(Error::reading(path))?.take(MAX_FILES) {
            names.push(entry.map_err(Error::reading(path))?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        // For each split the different ways in which its files are named, each with its files.
        let mut ways: BTreeMap<Split, BTreeMap<String, Vec<Named>>> = BTreeMap::new();
        for named in names.iter().filter_map(|name| Named::parse(name)) {
            ways.entry(named.split).or_default().entry(named.way.clone()).or_default().push(named);
        }
        let mut folder = DataFolder { files: BTreeMap::new(), path: path.to_owned(), found: names };
        for (split, ways) in ways {
            let mut ways = ways.into_values();
            let (Some(mut files), None) = (ways.next(), ways.next()) else {
                let message = format!("several files could be the {} data", split.name());
                return Err(folder.error(message).with_hint("move away all but one, or pass the file itself"));
            };
            // By number: names without leading zeros sort otherwise.
            files.sort_by_key(|named| named.shard);
            if let Some(problem) = missing_shard(&files) {
                return Err(folder
                    .error(problem)
                    .with_hint("download it again, or pass the files that are there as one"));
            }
            folder.files.insert(split, files.into_iter().map(|named| path.join(named.name)).collect());
        }
        Ok(folder)
    }

    fn error(&self, message: String) -> Error {
        let mut names: Vec<String> = self.found.iter().take(MAX_LISTED).map(|name| visible(name)).collect();
        if self.found.len() > MAX_LISTED {
            names.push(format!("and {} more", self.found.len() - MAX_LISTED));
        }
        let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        Error::input(&self.path, format!("{message}; found: {found}"))
    }

    fn without(&self, split: Split) -> Error {
        self.error(format!("no {} file in this folder", split.name()))
            .with_hint(format!(
                "name it {0}.jsonl, {0}.csv or {0}.parquet, or pass the file itself; of a data set of the hub owner/name/FILE \
                 is one file, and shards under another name are joined first",
                split.name()
            ))
    }
}

/// A file whose name says what it is for.
struct Named {
    name: String,
    split: Split,
    /// The same for the shards of one data set.
    way: String,
    /// Its number and how many there are.
    shard: Option<(usize, usize)>,
}

impl Named {
    /// `train.jsonl`, `train-00000-of-00002.parquet`, and with a hash behind it as older data sets have it.
    fn parse(name: &str) -> Option<Self> {
        let path = Path::new(name);
        FileKind::by_ending(path)?;
        let (stem, ending) = (path.file_stem()?.to_str()?, path.extension()?.to_str()?);
        let mut parts = stem.split('-');
        let first = parts.next()?;
        let split = Split::by_name(first)?;
        let rest: Vec<&str> = parts.collect();
        let shard: Option<(usize, usize)> = match rest.as_slice() {
            [] => None,
            [number, "of", total] | [number, "of", total, _] => Some((number.parse().ok()?, total.parse().ok()?)),
            _ => return None,
        };
        let total = shard.map_or(String::new(), |(_, total)| total.to_string());
        Some(Named { name: name.to_owned(), split, way: format!("{first}.{ending}.{total}"), shard })
    }
}

/// What is wrong with the shards of a split, which are sorted by number.
fn missing_shard(files: &[Named]) -> Option<String> {
    let total = files.first()?.shard?.1;
    let number = |i: usize| files.get(i).and_then(|file| file.shard).map(|(number, _)| number);
    let missing = (0..total.max(files.len())).find(|i| number(*i) != Some(*i))?;
    Some(format!("shard {missing} of {total} of the {} data is missing or there twice", files[0].split.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    /// The names of the files of each split, or the error.
    fn open(names: &[&str]) -> std::result::Result<Vec<(Split, Vec<String>)>, String> {
        let folder = folder_of(names);
        let name = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().to_string_lossy().replace('\\', "/");
        let opened = DataFolder::open(folder.path()).map_err(|error| error.to_string())?;
        Ok(opened.files.iter().map(|(split, files)| (*split, files.iter().map(name).collect())).collect())
    }

    #[test]
    fn files_are_found_by_their_names_in_the_folder_or_its_data_folder() {
        let train = |name: &str| (Split::Train, vec![name.to_owned()]);
        let valid = |name: &str| (Split::Validation, vec![name.to_owned()]);
        let found = open(&["train.jsonl", "valid.csv", "test.jsonl", "README.md", "data/train.jsonl"]).unwrap();
        assert_eq!(found[..2], [train("train.jsonl"), valid("valid.csv")]);
        assert_eq!(found[2].0, Split::Test);
        let found = open(&["README.md", "data/train.parquet", "data/validation.parquet"]).unwrap();
        assert_eq!(found, [train("data/train.parquet"), valid("data/validation.parquet")]);
    }

    #[test]
    fn shards_are_read_in_their_order_and_none_may_be_missing() {
        let shards = ["train-00001-of-00002.parquet", "train-00000-of-00002.parquet"];
        assert_eq!(open(&shards).unwrap()[0].1, ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]);
        assert_eq!(open(&["train-00000-of-00001-a1b2.parquet"]).unwrap()[0].1.len(), 1);
        let unpadded: Vec<String> = (0..11).map(|i| format!("train-{i}-of-11.jsonl")).collect();
        let names: Vec<&str> = unpadded.iter().map(String::as_str).collect();
        assert_eq!(open(&names).unwrap()[0].1, names);
        let error = open(&shards[..1]).unwrap_err();
        assert!(error.contains("shard 0 of 2 of the train data is missing"), "{error}");
    }

    #[test]
    fn a_split_without_files_is_called_by_its_name_with_a_list_of_what_is_there() {
        let refused = |names: &[&str], split: Split| {
            let folder = folder_of(names);
            let error = files_of(folder.path(), split).unwrap_err();
            (error.to_string(), error.hint().unwrap().to_owned())
        };
        for (split, name) in [(Split::Train, "train"), (Split::Validation, "valid")] {
            let (message, hint) = refused(&["a.jsonl", "notes.txt"], split);
            assert!(
                message.ends_with(&format!("no {name} file in this folder; found: a.jsonl, notes.txt")),
                "{message}"
            );
            assert!(hint.starts_with(&format!("name it {name}.jsonl, ")), "{hint}");
            assert!(refused(&[], split).0.ends_with("found: nothing"));
        }
        let (message, _) = refused(&["README.md", "data/train.jsonl"], Split::Validation);
        let expected = "data: no valid file in this folder; found: train.jsonl";
        assert!(message.ends_with(expected), "the folder is the one whose files are listed: {message}");
        assert_eq!(files_of(folder_of(&["valid.jsonl"]).path(), Split::Validation).unwrap().len(), 1);
    }

    #[test]
    fn what_could_mean_two_things_is_refused_with_a_list() {
        for names in [["train.jsonl", "train.csv"], ["valid.jsonl", "validation.jsonl"]] {
            let error = open(&names).unwrap_err();
            assert!(error.contains("several files could be the") && error.contains(names[1]), "{error}");
        }
    }
}
