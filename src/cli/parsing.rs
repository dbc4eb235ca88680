//! From words to a [`Cli`], and better advice than the parser's own where that would mislead.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, FromArgMatches};

use super::keys::Keys;
use super::paths::{Kind, kind_unless_text, path_among_settings};
use super::shells::left_by_the_shell;
use super::{Cli, bench, eval, inspect, score};
use crate::config::{is_named, key_named, other_name, place_of_own_key, setting_here};
use crate::error::{Error, Result};
use crate::report::shell::shell_word;

/// Reads the command line. Help, the version and most mistakes are printed by the parser, which ends the program.
///
/// # Errors
/// [`Error::Usage`] for mistakes whose mending the parser does not know, and for what a shell should have replaced;
/// [`Error::Config`] for a file or folder among the settings.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli> {
    let words: Vec<OsString> = words.into_iter().collect();
    let given: Vec<String> = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(error) = left_by_the_shell(&given) {
        return Err(error);
    }
    let parsed = Cli::command().try_get_matches_from(&words).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut Cli::command()))?;
        Ok((cli, matches))
    });
    match parsed {
        Ok((cli, matches)) => path_among_settings(&matches, &given).map_or(Ok(cli), Err),
        Err(mut error) => Err(advised(&error, &given).unwrap_or_else(|| {
            drop_wrong_tips(&mut error);
            error.exit()
        })),
    }
}

/// What the parser does not know how to mend.
fn advised(error: &clap::Error, words: &[String]) -> Option<Error> {
    match error.kind() {
        ErrorKind::UnknownArgument => flag_to_go_on(error, words)
            .or_else(|| unknown_flag(error, words))
            .or_else(|| without_or_with_its_flag(error, words)),
        ErrorKind::InvalidSubcommand if words.first().is_some_and(|verb| verb == "inspect") => {
            let file = text(error, ContextKind::InvalidSubcommand)?;
            let others: Vec<String> = words[1..].iter().map(|word| shell_word(word)).collect();
            kind_unless_text(file).map(|_| {
                Error::usage(format!("`{file}` is nothing that inspect knows"))
                    .with_hint(format!("data is inspected with: gsil inspect data {}", others.join(" ")))
            })
        }
        _ => None,
    }
}

/// `--resume`, as other programs have it, where going on is a verb of its own or needs no word.
fn flag_to_go_on(error: &clap::Error, words: &[String]) -> Option<Error> {
    let flag = text(error, ContextKind::InvalidArg)?.split('=').next()?;
    (flag.starts_with("--resume") || flag == "--continue").then_some(())?;
    let cli = Cli::command();
    let (_, name) = verb_of(&cli, words);
    let hint = match name.as_str() {
        "train" | "" => {
            let given = value_of(flag, words).filter(|value| kind_unless_text(value).is_some());
            let run = given.or_else(|| value_of("--output", words)).unwrap_or("RUN");
            format!("a stopped run is continued with: gsil resume {}", shell_word(run))
        }
        "compare" => "leave it out: the same command goes on with a comparison that was stopped".to_owned(),
        _ => return None,
    };
    Some(Error::usage(format!("unexpected argument '{flag}'")).with_hint(hint))
}

/// `--lr 1e-4` where `train.lr=1e-4` is meant.
fn unknown_flag(error: &clap::Error, words: &[String]) -> Option<Error> {
    let given = text(error, ContextKind::InvalidArg)?;
    let flag = given.split('=').next()?;
    let name = flag.strip_prefix("--")?.replace('-', "_");
    let settings = settings_of(words)?;
    let unexpected = Error::usage(format!("unexpected argument '{flag}'"));
    if let Some(place) = place_of_own_key(&name).filter(|_| words[0] == "compare") {
        return Some(unexpected.with_hint(place));
    }
    let key = match settings {
        Settings::All => key_named(&name)?,
        Settings::Part(keys) => keys.named(&name)?,
    };
    let is_certain = is_named(&key, &name) || other_name(&name).is_some();
    if !is_certain && error.get(ContextKind::SuggestedArg).is_some() {
        return None; // a flag is nearer than a key
    }
    let here = setting_here(&name, &key, value_of(flag, words));
    let more = match settings {
        Settings::All => "; `gsil train --dry-run` prints every key in use",
        Settings::Part(_) => "",
    };
    let setting = shell_word(&here.setting);
    Some(unexpected.with_hint(format!("settings are written key=value: {setting}{}{more}", here.note)))
}

/// A path as a word of its own where a flag is wanted, or with a flag where a word is.
fn without_or_with_its_flag(error: &clap::Error, words: &[String]) -> Option<Error> {
    let given = text(error, ContextKind::InvalidArg)?;
    let cli = Cli::command();
    let (verb, name) = verb_of(&cli, words);
    let hint = match given.split('=').next()? {
        flag @ ("--model" | "--data") => {
            verb.get_positionals().find(|argument| argument.is_required_set())?;
            format!("it is given without a flag: gsil {name} {}", shell_word(value_of(flag, words).unwrap_or("..")))
        }
        _ if given.starts_with('-') => return None,
        _ => flag_for(given, verb, words)?,
    };
    Some(Error::usage(format!("unexpected argument '{given}'")).with_hint(hint))
}

/// How a verb that takes no such word is given it, if it can be.
fn flag_for(word: &str, verb: &Command, words: &[String]) -> Option<String> {
    if word.contains('=') && !word.contains(' ') && !Path::new(word).exists() {
        return None; // a setting, and the verb has none
    }
    if verb.get_name() == "report" {
        return Some(runs_side_by_side(words));
    }
    let kind = kind_unless_text(word);
    let flag = kind.map_or("prompt", Kind::key);
    let argument = verb.get_arguments().find(|argument| argument.get_long() == Some(flag))?;
    let instead = in_place_of_others(argument, verb, words);
    match kind {
        None => Some(format!("a prompt is given with --prompt{instead}, in quotes if it has spaces")),
        Some(_) if is_given(argument, words) => None,
        Some(_) => Some(format!("it is given with a flag{instead}: --{flag} {}", shell_word(word))),
    }
}

/// `gsil report runs/*`: the command for these runs, of which the first few are spelt out.
fn runs_side_by_side(words: &[String]) -> String {
    const MAX_OTHERS: usize = 3;
    let is_value = |i: usize| words[i - 1] == "--output";
    let runs = (1..words.len()).filter(|i| !words[*i].starts_with('-') && !is_value(*i));
    let runs: Vec<String> = runs.map(|i| shell_word(&words[i])).collect();
    let others = &runs[1..];
    let more = if others.len() > MAX_OTHERS { " .." } else { "" };
    let others = others[..others.len().min(MAX_OTHERS)].join(" ");
    let output = value_of("--output", words).map_or_else(String::new, |path| format!(" --output {}", shell_word(path)));
    format!("others go behind --compare: gsil report {} --compare {others}{more}{output}", runs[0])
}

/// Whether these words have the argument's flag.
pub(super) fn is_given(argument: &Arg, words: &[String]) -> bool {
    let flag = argument.get_long().map(|long| format!("--{long}"));
    words.iter().any(|word| word.split('=').next() == flag.as_deref())
}

/// ` in place of --prompt`: what has to go from these words for the verb to take the argument. Empty if nothing has to.
pub(super) fn in_place_of_others(argument: &Arg, verb: &Command, words: &[String]) -> String {
    let excludes = |one: &Arg, other: &Arg| verb.get_arg_conflicts_with(one).contains(&other);
    let share_a_group = |other: &Arg| {
        let mut groups = verb.get_groups().filter(|group| !(*group).clone().is_multiple());
        groups.any(|group| [argument, other].iter().all(|one| group.get_args().any(|id| id == one.get_id())))
    };
    let given = verb.get_arguments().filter(|other| *other != argument && is_given(other, words));
    let excluded = given.filter(|other| excludes(argument, other) || excludes(other, argument) || share_a_group(other));
    let flags: Vec<String> = excluded.filter_map(|other| Some(format!("--{}", other.get_long()?))).collect();
    if flags.is_empty() { String::new() } else { format!(" in place of {}", flags.join(" and ")) }
}

/// What follows a flag, after `=` or as the next word.
fn value_of<'a>(flag: &str, words: &'a [String]) -> Option<&'a str> {
    let i = words.iter().position(|word| word.split('=').next() == Some(flag))?;
    match words[i].split_once('=') {
        Some((_, value)) => Some(value),
        None => words.get(i + 1).map(String::as_str).filter(|next| !next.starts_with("--") && !next.contains('=')),
    }
}

/// Which KEY=VALUE a verb takes.
#[derive(Clone, Copy)]
pub(super) enum Settings {
    All,
    Part(&'static Keys),
}

/// The settings of the verb that these words name, if it takes any.
pub(super) fn settings_of(words: &[String]) -> Option<Settings> {
    const PARTS: [&Keys; 4] = [&eval::KEYS, &score::KEYS, &inspect::KEYS, &bench::KEYS];
    let cli = Cli::command();
    let (verb, name) = verb_of(&cli, words);
    let is_setting = |names: &[clap::builder::Str]| names.iter().any(|name| name.as_str() == "KEY=VALUE");
    let takes_any = verb.get_positionals().any(|argument| argument.get_value_names().is_some_and(is_setting));
    let settings = || PARTS.into_iter().find(|keys| keys.verb == name).map_or(Settings::All, Settings::Part);
    takes_any.then(settings)
}

/// The verb that these words begin with, and its name: `eval gsm8k`.
pub(super) fn verb_of<'a>(cli: &'a Command, words: &[String]) -> (&'a Command, String) {
    let (mut verb, mut names): (&Command, Vec<&str>) = (cli, Vec::new());
    while let Some(inner) = words.get(names.len()).and_then(|word| verb.find_subcommand(word)) {
        names.push(inner.get_name());
        verb = inner;
    }
    (verb, names.join(" "))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// A flag that is not known is no value, and hidden verbs are not for people.
fn drop_wrong_tips(error: &mut clap::Error) {
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().starts_with("to pass "));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
    if let Some(ContextValue::Strings(mut verbs)) = error.remove(ContextKind::SuggestedSubcommand) {
        verbs.retain(|verb| !verb.starts_with("__"));
        if !verbs.is_empty() {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(verbs));
        }
    }
}

#[cfg(test)]
mod tests;
