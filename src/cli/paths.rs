//! A path where `KEY=VALUE` is wanted: how the verb takes what it is likely that of.

use std::path::Path;

use clap::{ArgMatches, CommandFactory};

use super::Cli;
use super::parsing::{Settings, in_place_of_others, is_given, settings_of, verb_of};
use crate::error::Error;
use crate::records::run_folder::holds_run;
use crate::report::shell::shell_word;

/// A file or a folder where `KEY=VALUE` is wanted, in `words` that the parser accepts, and what it made of them.
pub(super) fn path_among_settings(matches: &ArgMatches, words: &[String]) -> Option<Error> {
    let (mut verb, mut names) = (matches, Vec::new());
    while let Some((name, inner)) = verb.subcommand() {
        names.push(name);
        verb = inner;
    }
    let settings = verb.try_get_many::<String>("overrides").ok()??;
    let name = names.join(" ");
    // These verbs say more themselves: of runs in place of a comparison's settings, of an evaluation in the wrong place.
    if name == "compare" && words.get(1).is_some_and(|word| holds_run(Path::new(word))) {
        return None;
    }
    let is_path = |word: &&String| !word.contains('=') && (name != "eval" || word.contains(['.', '/']));
    let (word, kind) = settings.filter(is_path).find_map(|word| Some((word, kind_of(word)?)))?;
    Some(Error::config(word, "expected key=value").with_hint(kind.hint(word, words)))
}

/// What a path is most likely that of.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Config,
    Data,
    Model,
}

/// What a word that may be text as well is the path of: one with spaces is text, unless such a path is there.
pub(super) fn kind_unless_text(word: &str) -> Option<Kind> {
    let is_text = word.contains(' ') && !Path::new(word).exists();
    if is_text { None } else { kind_of(word) }
}

/// None: the word is no path.
fn kind_of(word: &str) -> Option<Kind> {
    let path = Path::new(word);
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "ron" => Some(Kind::Config),
        "jsonl" | "ndjson" | "json" | "csv" | "tsv" | "parquet" => Some(Kind::Data),
        "gguf" | "safetensors" => Some(Kind::Model),
        _ if path.is_file() => Some(Kind::Data),
        _ => (path.is_dir() || word.contains('/')).then_some(Kind::Model),
    }
}

impl Kind {
    /// The flag of such a path, and its key in a configuration.
    pub(super) fn key(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Data => "data",
            Kind::Model => "model",
        }
    }

    /// How the verb of these words is given `word`, if it takes anything of this kind.
    fn hint(self, word: &str, words: &[String]) -> String {
        let cli = Cli::command();
        let (verb, name) = verb_of(&cli, words);
        if name == "resume" && holds_run(Path::new(word)) {
            return format!("one run is continued at a time: gsil resume {}", shell_word(word));
        }
        let key = self.key();
        let (article, noun) = match self {
            Kind::Config => ("a ", "configuration"),
            Kind::Data => ("", "data"),
            Kind::Model => ("a ", "model"),
        };
        // A shell makes several words of `--data rows-*.jsonl`.
        let whole = match self {
            Kind::Data => ": one file, or a folder with train-00000-of-00002.parquet and so on",
            Kind::Config | Kind::Model => "",
        };
        let is_setting = !matches!(self, Kind::Config) && matches!(settings_of(words), Some(Settings::All));
        let given = match verb.get_arguments().find(|argument| argument.get_id() == key) {
            Some(argument) if argument.is_positional() => format!("once, as the first word after `gsil {name}`"),
            Some(argument) if is_given(argument, words) => format!("once, with --{key}"),
            Some(argument) => {
                format!("with --{key} {}{}", shell_word(word), in_place_of_others(argument, verb, words))
            }
            None if is_setting => format!("as {}", shell_word(&format!("{key}={word}"))),
            None => return format!("`gsil {name}` takes no {noun}: leave it out"),
        };
        format!("{article}{noun} is given {given}{whole}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn told(words: &[String]) -> Option<Error> {
        let line = ["gsil"].into_iter().chain(words.iter().map(String::as_str));
        path_among_settings(&Cli::command().try_get_matches_from(line).unwrap(), words)
    }

    #[test]
    fn a_path_among_the_settings_is_told_how_the_verb_takes_it() {
        const WHOLE: &str = ": one file, or a folder with train-00000-of-00002.parquet and so on";
        for (line, hint) in [
            ("train gsil.ron", "a configuration is given with --config gsil.ron"),
            ("train model.Q4_1.gguf", "a model is given with --model model.Q4_1.gguf"),
            ("train owner/name", "a model is given with --model owner/name"),
            ("train src", "a model is given with --model src"),
            ("estimate Cargo.toml", &format!("data is given with --data Cargo.toml{WHOLE}")),
            ("train --model m rows.JSONL", &format!("data is given with --data rows.JSONL{WHOLE}")),
            ("eval --model m --data d x/y.parquet", &format!("data is given once, with --data{WHOLE}")),
            ("train --config=a.ron b.ron", "a configuration is given once, with --config"),
            ("bench --layers 2 runs/a", "a model is given with --model runs/a in place of --layers"),
            (
                "inspect data a.jsonl b.jsonl --model m",
                &format!("data is given once, as the first word after `gsil inspect data`{WHOLE}"),
            ),
            ("compare a.ron b.ron", "a configuration is given once, as the first word after `gsil compare`"),
            ("compare a.ron rows.jsonl", &format!("data is given as data=rows.jsonl{WHOLE}")),
            ("resume runs/a rows.jsonl", &format!("data is given as data=rows.jsonl{WHOLE}")),
            ("resume runs/a owner/name", "a model is given as model=owner/name"),
            ("resume runs/a gsil.ron", "`gsil resume` takes no configuration: leave it out"),
            ("bench rows.jsonl", "`gsil bench` takes no data: leave it out"),
        ] {
            let error = told(&words(line)).unwrap_or_else(|| panic!("{line}"));
            assert!(error.to_string().ends_with(": expected key=value"), "{line}: {error}");
            assert_eq!((error.hint(), error.exit_code()), (Some(hint), 2), "{line}");
        }
        for line in ["train", "train lr", "train model=a/b", "eval gsm9k --model m --data d", "devices"] {
            assert!(told(&words(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn a_second_run_to_resume_is_told_to_go_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.ron"), "()").unwrap();
        let second = folder.path().to_str().unwrap();
        let error = told(&["resume", "runs/a", second].map(str::to_owned)).unwrap();
        let hint = format!("one run is continued at a time: gsil resume {}", shell_word(second));
        assert_eq!(error.hint(), Some(hint.as_str()));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_in_advice_is_quoted_as_a_shell_needs_it() {
        let words = ["train", "my rows (1).jsonl"].map(str::to_owned);
        let error = told(&words).unwrap();
        assert!(error.hint().unwrap().contains("--data 'my rows (1).jsonl': "), "{error:?}");
    }
}
