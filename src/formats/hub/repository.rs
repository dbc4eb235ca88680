//! One repository of the hub as this program sees it: which commit a revision is, which files it has, and its cache.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::address::{Address, is_commit};
use super::cache::RepositoryCache;
use super::http::{Client, Failure};
use super::model_files::{Completeness, listed};
use super::part::RemoteFile;
use super::settings::Settings;
use super::transfer::with_retries;
use super::{Kind, Located};
use crate::error::{Error, Result};
use crate::report::console::{Console, Unit};

/// The largest data sets have about so many.
const MAX_FILES: usize = 200_000;
/// Less is fetched without a word.
const SMALL_BYTES: u64 = 1_000_000;

/// A repository, the cache of it, and a way to ask for more.
pub(super) struct Repository<'a> {
    pub address: &'a Address,
    pub kind: Kind,
    pub cache: RepositoryCache,
    /// `None`: nothing may be fetched.
    pub client: Option<Client>,
    pub console: &'a Console,
}

/// What the hub says a repository is at a revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    /// Paths inside the repository, as the hub gives them: strangers chose them.
    pub files: BTreeSet<String>,
}

/// The part of the hub's answer that is read.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl<'a> Repository<'a> {
    pub fn open(address: &'a Address, kind: Kind, settings: Settings, console: &'a Console) -> Self {
        let cache = RepositoryCache::new(&settings.cache, address, kind);
        let client = if settings.offline { None } else { Some(Client::new(settings)) };
        Repository { address, kind, cache, client, console }
    }

    /// Finds what the address names; fetches what the cache lacks of it.
    ///
    /// # Errors
    /// See [`super::model`].
    pub fn find(&self) -> Result<Located> {
        if let Some(commit) = self.address.commit()
            && let Ok(path) = self.cached(commit, Completeness::Certain)
        {
            return Ok(self.located(commit, path)); // a commit does not change: nothing to ask
        }
        let Some(client) = &self.client else { return self.find_in_cache() };
        let listing = match self.listing(client) {
            Ok(listing) => listing,
            Err(error @ Error::Server { .. }) => return self.find_in_cache_for_want_of(error),
            Err(error) => return Err(error),
        };
        let path = match (self.cached(&listing.commit, Completeness::Certain), self.kind) {
            (Ok(path), _) => path,
            (Err(_), Kind::Model) => self.fetch_model(client, &listing)?,
            (Err(_), Kind::DataSet) => self.fetch_data(client, &listing)?,
        };
        self.cache.set_commit(self.address.revision(), &listing.commit);
        Ok(self.located(&listing.commit, path))
    }

    fn located(&self, commit: &str, path: PathBuf) -> Located {
        Located { path, name: self.address.at(commit).to_string() }
    }

    fn cached(&self, commit: &str, wanted: Completeness) -> std::result::Result<PathBuf, Vec<String>> {
        match self.kind {
            Kind::Model => self.cached_model(commit, wanted),
            Kind::DataSet => self.cached_data(commit, wanted == Completeness::Usable),
        }
    }

    fn find_in_cache(&self) -> Result<Located> {
        let hint = "without --offline (and `offline: true` in the settings, HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE) it \
                    is fetched";
        let Some(commit) = self.cache.commit(self.address.revision()) else {
            let message =
                format!("no such file or folder, and the cache has no revision `{}`", self.address.revision());
            return Err(self.refused(message).with_hint(hint));
        };
        match self.cached(&commit, Completeness::Usable) {
            Ok(path) => Ok(self.located(&commit, path)),
            Err(missing) => {
                let message = format!("the cache lacks {} of commit {commit}", listed(&missing));
                Err(self.refused(message).with_hint(hint))
            }
        }
    }

    /// The hub does not answer: what was fetched before may do.
    fn find_in_cache_for_want_of(&self, error: Error) -> Result<Located> {
        let Ok(found) = self.find_in_cache() else { return Err(error) };
        self.console.warn(format!("{error}; taken from the cache: {}", found.name));
        Ok(found)
    }

    /// Fetches the files that the snapshot lacks, with a bar if they are large.
    ///
    /// # Errors
    /// As [`Repository::describe`] and [`Repository::fetch`].
    pub fn fetch_all(&self, client: &Client, commit: &str, names: &[String]) -> Result<()> {
        let missing = names.iter().filter(|name| self.cache.file(commit, name).is_none());
        let files = missing.map(|name| self.describe(client, commit, name)).collect::<Result<Vec<RemoteFile>>>()?;
        let num_bytes: u64 = files.iter().filter(|file| !self.has_content(file)).map(|file| file.num_bytes).sum();
        let mut bar = (num_bytes > SMALL_BYTES).then(|| {
            self.console.say(format!("fetching {} from {}", self.address.at(commit), client.shown_endpoint()));
            self.console.bar("fetching", num_bytes, Unit::Bytes)
        });
        files.iter().try_for_each(|file| self.fetch(client, commit, file, &mut bar))
    }

    /// Asks for the commit of the revision and its files.
    ///
    /// # Errors
    /// [`Error::Input`] if the hub has no such repository or does not give it, [`Error::Server`] if it does not answer.
    pub fn listing(&self, client: &Client) -> Result<Listing> {
        let folder = match self.kind {
            Kind::DataSet => "datasets",
            Kind::Model => "models",
        };
        let (repository, revision) = (&self.address.repository, encoded(self.address.revision()));
        let path = format!("/api/{folder}/{repository}/revision/{revision}");
        let answer = with_retries(|| client.document(&path)).map_err(|failure| self.error(client, failure, None))?;
        let nonsense = |what: &str| self.error(client, Failure::NoAnswer(what.into()), None);
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|_| nonsense("its answer is not that of a hub"))?;
        if !is_commit(&answer.sha) {
            return Err(nonsense("it names no commit"));
        }
        if self.address.commit().is_some_and(|commit| commit != answer.sha) {
            return Err(nonsense("it names another commit than was asked for"));
        }
        if answer.siblings.len() > MAX_FILES {
            return Err(nonsense("it names more files than any repository has"));
        }
        Ok(Listing { commit: answer.sha, files: answer.siblings.into_iter().map(|file| file.rfilename).collect() })
    }

    /// Where the hub has a file.
    pub fn file_path(&self, commit: &str, name: &str) -> String {
        let name: Vec<String> = name.split('/').map(encoded).collect();
        format!("/{}/resolve/{commit}/{}", self.page(), name.join("/"))
    }

    /// The repository as it cannot be used, and why.
    pub fn refused(&self, why: impl Into<String>) -> Error {
        Error::input(self.address.to_string(), why)
    }

    /// What went wrong, for a person. `file` is what was asked for, if not the repository itself.
    pub fn error(&self, client: &Client, failure: Failure, file: Option<&str>) -> Error {
        let (noun, hub) = (self.kind.noun(), client.shown_endpoint());
        let input = |message: String| {
            let error = self.refused(message);
            if let Some(file) = file { error.at(file) } else { error }
        };
        let asked = file.map_or(self.address.to_string(), |file| format!("{}, {file}", self.address));
        let server = |message: String| Error::server(&hub, format!("{asked}: {message}"));
        // Where the repository itself was asked for, this is said only once the cache was tried: see `Repository::find`.
        let cache = if file.is_some() { "; --offline uses what is in the cache" } else { "" };
        let again = format!("what has come so far is kept: try again later{cache}");
        match failure {
            Failure::BrokenOff(why) if file.is_some() => server(why).with_hint(again),
            Failure::NoAnswer(why) | Failure::BrokenOff(why) => server(why).with_hint(format!(
                "look at the network and at HF_ENDPOINT, and at the spelling if a path of this machine was meant{cache}"
            )),
            Failure::Status { code: 429, .. } => {
                server("too many requests (429)".into()).with_hint(if client.has_token() {
                    again.as_str()
                } else {
                    "with a token in HF_TOKEN the hub allows more; or try again later"
                })
            }
            Failure::Status { code, reason } => match (code, reason.as_deref()) {
                (_, Some("GatedRepo")) | (403, _) => input(format!("the hub does not give it to you ({code})"))
                    .with_hint(format!(
                        "accept its licence at {hub}/{}, then set HF_TOKEN to a token of that account",
                        self.page()
                    )),
                (_, Some("RevisionNotFound")) => {
                    input(format!("the {noun} has no revision `{}`", self.address.revision()))
                        .with_hint("give a branch, a tag or a commit that its page shows")
                }
                (_, Some("RepoNotFound")) | (404, _) if file.is_none() => {
                    input(format!("there is no such file or folder here, and no such {noun} on {hub} ({code})"))
                        .with_hint("look at the spelling; a private one also needs HF_TOKEN")
                }
                (404, _) => input("the hub lists this file but does not have it (404)".into()),
                (401, _) => input("the hub asks who you are (401)".into()).with_hint(match client.has_token() {
                    true => "it does not exist, or the token in HF_TOKEN or the token file is wrong or may not see it",
                    false => "it does not exist, or is private or gated: accept its licence and set HF_TOKEN",
                }),
                (500.., _) => server(format!("it is in trouble ({code})")).with_hint(again),
                _ => server(format!("it refuses the request ({code})")).with_hint("is HF_ENDPOINT a hub?"),
            },
        }
    }

    /// The page of the repository, below the hub's address.
    fn page(&self) -> String {
        match self.kind {
            Kind::DataSet => format!("datasets/{}", self.address.repository),
            Kind::Model => self.address.repository.clone(),
        }
    }
}

/// One part of a path as an address has it.
fn encoded(part: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encode = |byte: u8| if is_plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") };
    part.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_so_that_they_stay_one_part_of_an_address() {
        assert_eq!(encoded("refs/pr/3"), "refs%2Fpr%2F3");
        assert_eq!(encoded("a b#?é.json"), "a%20b%23%3F%C3%A9.json");
    }
}
