//! Where the hub is, where its cache lies, and the token: from the environment variables that all Hugging Face programs
//! share.
//!
//! | variable | default |
//! |---|---|
//! | `HF_ENDPOINT` | `https://huggingface.co` |
//! | `HF_HOME` | `huggingface` in `XDG_CACHE_HOME`, else in `~/.cache` |
//! | `HF_HUB_CACHE` | `hub` in `HF_HOME` |
//! | `HF_TOKEN` | the file `HF_TOKEN_PATH`, else `token` in `HF_HOME` |
//! | `HF_HUB_OFFLINE` | off |

use std::env;
use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";

/// How the hub is reached.
#[derive(Debug)]
pub(super) struct Settings {
    /// Without a slash at its end.
    pub endpoint: String,
    /// The folder with `models--owner--name` folders, absolute.
    pub cache: PathBuf,
    pub token: Option<Token>,
    pub offline: bool,
}

/// The user's secret. It has no text form: only [`Token::header`] gives it away, to a request.
pub(super) struct Token(String);

impl Token {
    /// The value of the header `Authorization`.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Settings {
    /// Reads the environment; `offline` adds to it.
    ///
    /// # Errors
    /// [`Error::Usage`] for an endpoint that is no address of a web server, for a token that no header can carry, and if
    /// there is no place for a cache.
    pub fn from_environment(offline: bool) -> Result<Self> {
        let home = match set("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => user_cache()?.join("huggingface"),
        };
        let cache = set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let cache = std::path::absolute(&cache).map_err(Error::reading(&cache))?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::usage("HF_ENDPOINT must begin with https:// or http://"));
        }
        let token_file = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = set("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let offline = offline || set("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value));
        Ok(Settings { endpoint: endpoint.trim_end_matches('/').to_owned(), cache, token: checked(token)?, offline })
    }
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn user_cache() -> Result<PathBuf> {
    // Not `dirs::cache_dir`: the Hugging Face libraries use ~/.cache on macOS and Windows, too.
    let folder = set("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| dirs::home_dir().map(|home| home.join(".cache")));
    folder.ok_or_else(|| Error::usage("there is no home folder to keep downloads in").with_hint("set HF_HOME"))
}

/// What huggingface_hub takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_ascii_uppercase().as_str())
}

fn checked(token: Option<String>) -> Result<Option<Token>> {
    let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    match token {
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Error::usage("the Hugging Face token has characters that no token has")
                .with_hint("look at HF_TOKEN, or at the token file"))
        }
        token => Ok(token.map(Token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_itself_to_requests_alone() {
        let token = checked(Some(" hf_secret\n".into())).unwrap().unwrap();
        assert_eq!(token.header(), "Bearer hf_secret");
        let settings =
            Settings { endpoint: ENDPOINT.into(), cache: PathBuf::new(), token: Some(token), offline: false };
        assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused_without_being_shown() {
        let error = checked(Some("hf_secret\r\nHost: elsewhere".into())).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        assert!(checked(Some(" \n".into())).unwrap().is_none());
    }

    #[test]
    fn offline_is_said_as_the_hub_library_reads_it() {
        assert!(["1", "on", "Yes", "true"].iter().all(|value| is_true(value)));
        assert!(!["0", "off", "no", "false"].iter().any(|value| is_true(value)));
    }
}
