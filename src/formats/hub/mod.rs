//! Models and data sets of the Hugging Face hub: `owner/name`, `owner/name@revision`, `owner/name@revision/file.gguf`.
//!
//! [`model`] and [`data_set`] turn what a user gave into a path of this machine. What exists as a path is one; what looks
//! like `owner/name` is fetched, unless the cache that all Hugging Face programs share has it. A revision is turned into a
//! commit once, and [`Located::name`] keeps it, so that the same name means the same bytes for ever.
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

use std::path::{Path, PathBuf};

pub use self::address::Address;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
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
/// [`Error::Input`] if the hub does not have it or does not give it, if it has no weights that are read, or if `offline` and
/// the cache lacks a file; [`Error::Server`] if the hub does not answer; [`Error::Disk`], [`Error::DiskFull`].
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
    locate(given, address(given)?, Kind::DataSet, offline, console)
}

fn locate(given: &str, address: Option<Address>, kind: Kind, offline: bool, console: &Console) -> Result<Located> {
    match address {
        Some(address) => fetched(&address, kind, offline, console),
        None => Ok(Located { path: given.into(), name: given.to_owned() }),
    }
}

#[cfg(not(feature = "hub"))]
fn fetched(address: &Address, kind: Kind, _: bool, _: &Console) -> Result<Located> {
    use crate::error::Error;

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
