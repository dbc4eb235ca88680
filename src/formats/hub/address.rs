//! What a model or data set of the hub is called: `owner/name`, `owner/name@revision`, `owner/name@revision/path`.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::data_file::FileKind;
use crate::formats::hf_folder::is_plain_name;

/// Hexadecimal digits of a commit.
const COMMIT_LEN: usize = 40;
/// The hub's own limit.
const MAX_WORD_BYTES: usize = 96;

/// A repository of the hub, or a file or folder of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `owner/name`.
    pub repository: String,
    /// A branch, a tag or a commit; `main` is meant if it is not given.
    pub revision: Option<String>,
    /// A file or folder in the repository.
    pub path: Option<String>,
}

impl Address {
    /// Reads an address; `None` for a text that does not look like one. A slash inside a branch's name is written `%2F`;
    /// `refs/pr/3` needs no such care.
    ///
    /// # Errors
    /// [`Error::Usage`] for a revision that cannot be one.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let (before, after) = text.split_once('@').map_or((text, None), |(before, after)| (before, Some(after)));
        let mut parts = before.splitn(3, '/');
        let (owner, name, mut path) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        let is_file = after.is_none() && path.is_none() && is_file_name(name);
        if !is_word(owner) || !is_word(name) || is_file || (after.is_some() && path.is_some()) {
            return Ok(None);
        }
        let mut revision = None;
        if let Some(after) = after {
            let (given, rest) = split_revision(after);
            let given = given.replace("%2F", "/").replace("%2f", "/");
            if !is_revision(&given) {
                return Err(Error::usage(format!("{text}: {given:?} cannot be a revision"))
                    .with_hint("after @ comes a branch, a tag or a commit of 40 hexadecimal digits"));
            }
            (revision, path) = (Some(given), rest);
        }
        if path.is_some_and(|path| !is_safe_path(path)) {
            return Ok(None);
        }
        Ok(Some(Address { repository: format!("{owner}/{name}"), revision, path: path.map(str::to_owned) }))
    }

    /// The revision that is meant.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The commit, if the revision is one: only then the address means the same for ever.
    pub fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// The same place at a commit.
    pub fn at(&self, commit: &str) -> Self {
        Address { revision: Some(commit.to_owned()), ..self.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            let is_reference = revision.starts_with("refs/");
            let written = if is_reference { revision.clone() } else { revision.replace('/', "%2F") };
            write!(f, "@{written}")?;
        }
        self.path.as_ref().map_or(Ok(()), |path| write!(f, "/{path}"))
    }
}

/// A name that ends so is a file that is not there, rather than a repository.
fn is_file_name(name: &str) -> bool {
    let is_other = [".gguf", ".safetensors", ".ron"].iter().any(|ending| name.ends_with(ending));
    is_other || FileKind::by_ending(Path::new(name)).is_some()
}

/// 40 lower-case hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_LEN && is_lower_hex(text)
}

pub(super) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A relative path of plain names: it leads nowhere but into the folder that it is joined to.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.split('/').all(is_plain_name)
}

/// The revision and what follows: `refs/pr/3` has three parts, any other one.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    let num_parts = if text.starts_with("refs/") { 3 } else { 1 };
    match text.match_indices('/').nth(num_parts - 1) {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn is_word(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    starts_well && text.len() <= MAX_WORD_BYTES && text.chars().all(is_allowed) && !text.contains("..")
}

/// It becomes a path below `refs/` of the cache.
fn is_revision(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+/".contains(c);
    text.chars().all(is_allowed) && !text.contains("..") && is_safe_path(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<(String, Option<String>, Option<String>)> {
        Address::parse(text).unwrap().map(|address| (address.repository, address.revision, address.path))
    }

    #[test]
    fn an_address_has_a_repository_and_perhaps_a_revision_and_a_path() {
        let expected = |repository: &str, revision: Option<&str>, path: Option<&str>| {
            Some((repository.to_owned(), revision.map(str::to_owned), path.map(str::to_owned)))
        };
        assert_eq!(parts("owner/name-1.5_B"), expected("owner/name-1.5_B", None, None));
        assert_eq!(parts("o/n@v1.0"), expected("o/n", Some("v1.0"), None));
        assert_eq!(parts("o/n@main/a/b.gguf"), expected("o/n", Some("main"), Some("a/b.gguf")));
        assert_eq!(parts("o/n/b.gguf"), expected("o/n", None, Some("b.gguf")));
        assert_eq!(parts("o/n@refs/pr/3"), expected("o/n", Some("refs/pr/3"), None));
        assert_eq!(parts("o/n@refs/pr/3/x.gguf"), expected("o/n", Some("refs/pr/3"), Some("x.gguf")));
        assert_eq!(parts("o/n@dev%2Fnew/x.gguf"), expected("o/n", Some("dev/new"), Some("x.gguf")));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["o/n", "o/n@v1", "o/n@refs/pr/3/x.gguf", "o/n@dev%2Fnew/a/x.gguf", "o/n/x.gguf"] {
            assert_eq!(Address::parse(text).unwrap().unwrap().to_string(), text);
        }
    }

    #[test]
    fn paths_of_this_machine_do_not_look_like_addresses() {
        for text in [
            "",
            "name",
            "/a/b",
            "./a/b",
            "../b",
            "a/..",
            "a//b",
            "a/b/",
            "~/b",
            "C:\\a\\b",
            "a b/c",
            "a/b.gguf",
            "a/rows.jsonl",
            "a/b/../c",
            "a/b/c\\d",
            "é/b",
            "-a/b",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn an_impossible_revision_is_a_usage_error() {
        for text in
            ["o/n@", "o/n@..", "o/n@%2Fetc", "o/n@a%2F..%2Fb", "o/n@a b", "o/n@refs/../x", "o/n@a\\b", "o/n@x@y"]
        {
            assert_eq!(Address::parse(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn only_a_whole_commit_pins() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let address = Address::parse("o/n/x.gguf").unwrap().unwrap();
        assert_eq!(address.commit(), None);
        assert_eq!(address.at(commit).commit(), Some(commit));
        assert_eq!(address.at(commit).to_string(), format!("o/n@{commit}/x.gguf"));
        assert_eq!(address.at(&commit[1..]).commit(), None);
        assert_eq!(address.at(&commit.to_uppercase()).commit(), None);
    }
}
