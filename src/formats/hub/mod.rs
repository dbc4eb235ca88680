//! Models and data sets of the Hugging Face hub: `owner/name`, `owner/name@revision`, `owner/name@revision/file.gguf`.
//!
//! [`model`] and [`data_set`] turn what a user gave into a path of this machine. What exists as a path is one; what looks
//! like `owner/name`, where `owner` is no folder here, is fetched, unless the cache that all Hugging Face programs share
//! has it. A revision is turned into a commit once, and [`Located::name`] keeps it, so that the same name means the same
//! bytes for ever.
//!
//! Only the files that are needed are fetched, and never a pickle file. A file appears in the cache only after its size and
//! hash were compared with what the hub says. The token goes to the hub alone and into no message.
//!
//! Reading order: `address`, `settings`, `http`, `cache`, `part`, `transfer`, `repository`, `model_files`, `data_files`.

mod address;
#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod data_files;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod model_files;
#[cfg(feature = "hub")]
mod part;
#[cfg(feature = "hub")]
mod repository;
#[cfg(feature = "hub")]
mod settings;
#[cfg(feature = "hub")]
mod transfer;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use self::address::Address;
use crate::error::{Error, Result};
use crate::report::console::Console;

/// Where a model or a data set lies on this machine, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// A folder or a file.
    pub path: PathBuf,
    /// What the user gave; of something from the hub `owner/name@commit`, with the commit that was meant.
    pub name: String,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    DataSet,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::DataSet => "data set",
        }
    }
}

/// The address of something from the hub; `None` for a path of this machine.
///
/// # Errors
/// [`Error::Usage`] for an address with an impossible revision.
pub fn address(given: &str) -> Result<Option<Address>> {
    if Path::new(given).exists() { Ok(None) } else { Address::parse(given) }
}

/// Finds a model: a path as it is, one of the hub after fetching what is missing. With `offline` nothing is fetched.
///
/// # Errors
/// [`Error::Input`] for a path into a folder of this machine that does not have it, if the hub does not have it or does
/// not give it, if it has no weights that are read, or if `offline` and the cache lacks a file; [`Error::Server`] if the
/// hub does not answer; [`Error::Disk`], [`Error::DiskFull`].
pub fn model(given: &str, offline: bool, console: &Console) -> Result<Located> {
    // `runs/x/model` is a folder that is not there: inside a repository only a GGUF file is a model.
    let is_model = |address: &Address| address.path.as_ref().is_none_or(|path| path.ends_with(".gguf"));
    locate(given, address(given)?.filter(is_model), Kind::Model, offline, console)
}

/// Finds a data set: a path as it is; of one of the hub the folder with its data files after fetching what is missing, or
/// the file if there is one alone. With `offline` nothing is fetched.
///
/// # Errors
/// As [`model`].
pub fn data_set(given: &str, offline: bool, console: &Console) -> Result<Located> {
    let address = address(given)?;
    let is_url = given.contains("://"); // which Windows calls no name of a file, where others do not find it
    let is_missing = |path: &Path| path.metadata().is_err_and(|error| is_url || error.kind() == ErrorKind::NotFound);
    if address.is_none() && !Path::new(given).is_absolute() && is_missing(Path::new(given)) {
        // Any other path that is not there is refused by who reads it.
        let error = Error::reading(given)(ErrorKind::NotFound.into());
        let is_path = Path::new(given).extension().is_some() || error.hint().is_some();
        if is_url || !is_path {
            return Err(error.with_hint(match given {
                "-" => "rows from a pipe: /dev/stdin",
                _ => "a data set of the hub is named owner/name (openai/gsm8k)",
            }));
        }
    }
    locate(given, address, Kind::DataSet, offline, console)
}

fn locate(given: &str, address: Option<Address>, kind: Kind, offline: bool, console: &Console) -> Result<Located> {
    match address {
        Some(address) => {
            check_is_no_lost_path(given, &address)?;
            fetched(&address, kind, offline, console)
        }
        None => Ok(Located { path: given.into(), name: given.to_owned() }),
    }
}

/// `runs/nihgt` is a mistyped folder, not a model of somebody called `runs`, where there is a folder `runs`. Who means the
/// hub all the same gives a revision.
fn check_is_no_lost_path(given: &str, address: &Address) -> Result<()> {
    let owner = address.repository.split('/').next().unwrap_or_default();
    if address.revision.is_some() || !Path::new(owner).is_dir() {
        return Ok(());
    }
    let inside = match names_in(Path::new(owner)).as_slice() {
        [] => format!("{owner} is empty"),
        names => format!("in {owner}: {}", names.join(", ")),
    };
    let elsewhere = address.at("main");
    Err(Error::input(given, "no such file or folder")
        .with_hint(format!("{inside}; one of the hub would be {elsewhere}")))
}

/// The first names in a folder, and `..` if there are more. Hidden ones do not count.
fn names_in(folder: &Path) -> Vec<String> {
    const MAX_NAMES: usize = 6;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort_unstable();
    if names.len() > MAX_NAMES {
        names.truncate(MAX_NAMES);
        names.push("..".to_owned());
    }
    names
}

#[cfg(not(feature = "hub"))]
fn fetched(address: &Address, kind: Kind, _: bool, _: &Console) -> Result<Located> {
    Err(Error::usage(format!(
        "{address}: no such file or folder, and this build fetches no {} from the Hugging Face hub",
        kind.noun()
    ))
    .with_hint("build with `--features hub`, or give a folder or file of this machine"))
}

#[cfg(feature = "hub")]
fn fetched(address: &Address, kind: Kind, offline: bool, console: &Console) -> Result<Located> {
    let settings = settings::Settings::from_environment(offline)?;
    repository::Repository::open(address, kind, settings, console).find()
}
