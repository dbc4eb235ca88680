//! Where the hub is, where its cache lies, and the token: from the environment variables that all Hugging Face programs
//! share.
//!
//! | variable | default |
//! |---|---|
//! | `HF_ENDPOINT` | `https://huggingface.co` |
//! | `HF_HOME` | `huggingface` in `XDG_CACHE_HOME`, else in `~/.cache` |
//! | `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE` | `hub` in `HF_HOME` |
//! | `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN` | the file `HF_TOKEN_PATH`, else `token` in `HF_HOME` |
//! | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | off: the token is sent |
//! | `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE` | off |
//!
//! In paths `~`, `$NAME` and `${NAME}` are what a shell would make of them.
//! Source: `huggingface_hub/constants.py` and `utils/_auth.py`.

use std::env;
use std::fmt;
use std::path::{PathBuf, is_separator};

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
        Self::read(&|name| env::var(name).ok(), offline)
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>, offline: bool) -> Result<Self> {
        let set =
            |names: &[&str]| names.iter().filter_map(|name| variable(name)).find(|value| !value.trim().is_empty());
        let is_on = |names: &[&str]| set(names).is_some_and(|value| is_true(&value));
        let place = |names: &[&str]| set(names).map(|path| PathBuf::from(expanded(&path, variable)));
        let home = match place(&["HF_HOME"]) {
            Some(home) => home,
            None => place(&["XDG_CACHE_HOME"]).map_or_else(user_cache, Ok)?.join("huggingface"),
        };
        let cache = place(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).unwrap_or_else(|| home.join("hub"));
        let cache = std::path::absolute(&cache).map_err(Error::reading(&cache))?;
        let endpoint = set(&["HF_ENDPOINT"]).unwrap_or_else(|| ENDPOINT.to_owned());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::usage("HF_ENDPOINT must begin with https:// or http://"));
        }
        let token_file = place(&["HF_TOKEN_PATH"]).unwrap_or_else(|| home.join("token"));
        let token = match is_on(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            true => None,
            false => set(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(|| std::fs::read_to_string(token_file).ok()),
        };
        let offline = offline || is_on(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]);
        Ok(Settings { endpoint: endpoint.trim_end_matches('/').to_owned(), cache, token: checked(token)?, offline })
    }
}

fn user_cache() -> Result<PathBuf> {
    // Not `dirs::cache_dir`: the Hugging Face libraries use ~/.cache on macOS and Windows, too.
    let folder = dirs::home_dir().map(|home| home.join(".cache"));
    folder.ok_or_else(|| Error::usage("there is no home folder to keep downloads in").with_hint("set HF_HOME"))
}

/// A path with `~` at its beginning and variables replaced. A variable that is not set stays as it is written.
fn expanded(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let below_home = path.strip_prefix('~').filter(|below| below.is_empty() || below.starts_with(is_separator));
    let (mut done, mut rest) = match below_home.zip(dirs::home_dir()) {
        Some((below, home)) => (home.to_string_lossy().into_owned(), below),
        None => (String::new(), path),
    };
    while let Some((before, after)) = rest.split_once('$') {
        let name_end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let in_braces = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, tail) = in_braces.unwrap_or_else(|| after.split_at(name_end));
        let as_written = &rest[before.len()..rest.len() - tail.len()];
        done += before;
        done += variable(name).as_deref().unwrap_or(as_written);
        rest = tail;
    }
    done + rest
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

    /// Settings under these variables.
    fn read(variables: &[(&str, &str)]) -> Settings {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::read(&value, false).unwrap()
    }

    #[test]
    fn paths_are_expanded_as_the_hub_library_expands_them() {
        let value = |name: &str| (name == "SCRATCH_1").then(|| "/scratch/$HOME".to_owned());
        let home = dirs::home_dir().unwrap().to_string_lossy().into_owned();
        for (path, expected) in [
            ("~", home.clone()),
            ("~/hf", format!("{home}/hf")),
            ("~other/hf", "~other/hf".to_owned()),
            ("$SCRATCH_1/hf", "/scratch/$HOME/hf".to_owned()),
            ("${SCRATCH_1}hf/${SCRATCH_1}", "/scratch/$HOMEhf//scratch/$HOME".to_owned()),
            ("/a/$NONE/${NONE}/$/${SCRATCH_1", "/a/$NONE/${NONE}/$/${SCRATCH_1".to_owned()),
        ] {
            assert_eq!(expanded(path, &value), expected, "{path}");
        }
        let cache = |variables: &[(&str, &str)]| read(variables).cache;
        assert!(cache(&[("HF_HOME", "$D/hf"), ("D", "/d")]).ends_with("d/hf/hub"));
        assert!(cache(&[("XDG_CACHE_HOME", "${D}/x"), ("D", "/d")]).ends_with("d/x/huggingface/hub"));
    }

    #[test]
    fn older_names_of_variables_are_second() {
        let old =
            [("HUGGINGFACE_HUB_CACHE", "/old"), ("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("TRANSFORMERS_OFFLINE", "1")];
        let settings = read(&old);
        assert!(settings.cache.ends_with("old") && settings.offline, "{settings:?}");
        assert_eq!(settings.token.unwrap().header(), "Bearer hf_old");
        let new = [("HF_HUB_CACHE", "/new"), ("HF_TOKEN", "hf_new"), ("HF_HUB_OFFLINE", "0")];
        let settings = read(&[&new[..], &old].concat());
        assert!(settings.cache.ends_with("new") && !settings.offline, "{settings:?}");
        assert_eq!(settings.token.unwrap().header(), "Bearer hf_new");
    }

    #[test]
    fn a_token_may_be_there_and_stay_unsent() {
        let variables = [("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert!(read(&variables).token.is_none());
    }

    #[test]
    fn offline_is_said_as_the_hub_library_reads_it() {
        assert!(["1", "on", "Yes", "true"].iter().all(|value| is_true(value)));
        assert!(!["0", "off", "no", "false"].iter().any(|value| is_true(value)));
    }
}
