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
mod tests {
    use clap::Parser;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    /// The error and its hint, if the parser's own is not better.
    fn said(line: &str) -> Option<String> {
        let words = words(line);
        let error = Cli::try_parse_from(std::iter::once("gsil".to_owned()).chain(words.clone())).unwrap_err();
        let advised = advised(&error, &words)?;
        assert_eq!(advised.exit_code(), 2);
        Some(format!("{advised} | {}", advised.hint().unwrap()))
    }

    #[test]
    fn a_setting_given_as_a_flag_is_shown_as_key_and_value() {
        for (flags, setting) in [
            ("--lr 1e-4", "train.lr=1e-4"),
            ("--lr=1e-4", "train.lr=1e-4"),
            ("--lr", "train.lr=.."),
            ("--batch-size 8", "train.batch_size=8"),
            ("--epochs 3 --lr 1", "train.epochs=3"),
            ("--seed 1", "seed=1"),
            ("--rank 8", "lora.rank=8"),
            ("--iterations --dry-run", "iterations=.."),
            ("--max-new-tokens 9", "generation.max_new_tokens=9"),
            ("--bach-size 8", "train.batch_size=8"),
            ("--sft-lr 1e-4", "sft.lr=1e-4"),
            ("--sft.epochs 3", "sft.epochs=3"),
            ("--generation-batch-size 4", "generation.batch_size=4"),
            ("--beta 0.1", "objective.scale=0.1"),
            ("--objective.beta=0.1", "objective.scale=0.1"),
            ("--learning_rate 1e-4", "train.lr=1e-4"),
            ("--save-total-limit 2", "keep_last=2"),
            ("--r 8", "lora.rank=8"),
            ("--warmup_ratio 0.1", "train.warmup_steps=.. (a number of updates, not a share of them)"),
            ("--optim adamw_torch", "train.optimizer=.. (adamw, rmsprop or sgd)"),
            (
                "--gradient-accumulation-steps 4",
                "train.batch_size=.. (pairs per update: those steps times `micro_batch_size`)",
            ),
            ("--loss_type sigmoid", "objective.name=spin (on pairs of `prompt`, `chosen` and `rejected` it is DPO)"),
            ("--objective.name dpo", "objective.name=spin (on pairs of `prompt`, `chosen` and `rejected` it is DPO)"),
        ] {
            let flag = flags.split([' ', '=']).next().unwrap();
            let expected = format!(
                "unexpected argument '{flag}' | settings are written key=value: {setting}; `gsil train --dry-run` prints every key in use"
            );
            assert_eq!(said(&format!("train --model m {flags}")), Some(expected), "{flags}");
        }
    }

    #[test]
    fn a_verb_that_reads_some_settings_is_told_of_those_alone() {
        for (line, setting) in [
            ("eval --model m --data d --answer-marker x", "evaluation.answer_marker=x"),
            ("eval --model m --data d --batch-size 16", "generation.batch_size=16"),
            ("eval --model m --data d --max-rows 50", "evaluation.max_rows=50"),
            ("score --model m --data d --max-rows 50", "max_rows=50"),
            ("score --scale 2", "objective.scale=2"),
            ("score --beta 2", "objective.scale=2"),
            ("inspect data d --model m --max-length 9", "train.max_length=9"),
            ("bench --rank 8", "lora.rank=8"),
            ("bench --generation-batch-size 4", "generation.batch_size=4"),
        ] {
            let said = said(line).unwrap_or_default();
            assert!(said.ends_with(&format!(" | settings are written key=value: {setting}")), "{line}: {said}");
        }
        for line in ["score --lr 1", "score --seed 1", "inspect data d --seed 1", "eval --lr 1", "bench --iterations 2"]
        {
            assert_eq!(said(line), None, "{line}");
        }
    }

    #[test]
    fn a_key_of_a_comparison_given_as_a_flag_is_told_its_place() {
        for (line, key) in
            [("compare c.ron --seeds 0,1", "seeds"), ("compare c.ron --keep-models=false", "keep_models")]
        {
            let said = said(line).unwrap();
            assert!(said.ends_with(&format!(" | `{key}` is set in the comparison's file, beside `base`")), "{said}");
        }
        assert!(said("train --seeds 1").unwrap().contains("key=value: seed=1;"));
    }

    #[test]
    fn a_flag_to_go_on_is_told_how_the_verb_goes_on() {
        for (line, run) in [
            ("train --resume", "RUN"),
            ("train --resume runs/x", "runs/x"),
            ("train --model m --resume=runs/x", "runs/x"),
            ("train --resume_from_checkpoint true --data d", "RUN"),
            ("train --continue --output runs/y", "runs/y"),
            ("--resume runs/x", "runs/x"),
        ] {
            let said = said(line).unwrap_or_default();
            let hint = format!(" | a stopped run is continued with: gsil resume {run}");
            assert!(said.starts_with("unexpected argument '--") && said.ends_with(&hint), "{line}: {said}");
        }
        let of_comparison = said("compare c.ron --resume").unwrap();
        assert!(
            of_comparison.ends_with("the same command goes on with a comparison that was stopped"),
            "{of_comparison}"
        );
        let of_key = said("train --continued-sft-lr 1e-5").unwrap();
        assert!(of_key.contains(": continued_sft_lr=1e-5;"), "{of_key}");
        assert_eq!(said("export runs/x --resume"), None);
    }

    #[test]
    fn every_verb_with_settings_takes_all_or_has_its_part() {
        for line in ["eval", "score", "inspect data", "bench"] {
            let settings = settings_of(&words(line));
            assert!(matches!(settings, Some(Settings::Part(keys)) if keys.verb == line), "{line}");
        }
        let mut with_all = Vec::new();
        let mut verbs = vec![(String::new(), Cli::command())];
        while let Some((name, verb)) = verbs.pop() {
            let inner = verb.get_subcommands().map(|inner| (format!("{name} {}", inner.get_name()), inner.clone()));
            verbs.extend(inner);
            if matches!(settings_of(&words(name.trim_start())), Some(Settings::All)) {
                with_all.push(name);
            }
        }
        with_all.sort_unstable();
        assert_eq!(with_all, [" compare", " estimate", " resume", " train"]);
    }

    #[test]
    fn a_model_or_data_with_or_without_its_flag_is_told_how_the_verb_takes_it() {
        for (line, hint) in [
            ("chat runs/night", "it is given with a flag: --model runs/night"),
            ("generate runs/night --prompt Hello", "it is given with a flag: --model runs/night"),
            ("init --model m rows.jsonl", "it is given with a flag: --data rows.jsonl"),
            ("init rows.jsonl", "it is given with a flag: --data rows.jsonl"),
            ("generate model.Q4_1.gguf --prompt Hello", "it is given with a flag: --model model.Q4_1.gguf"),
            ("export --model runs/night --format hf", "it is given without a flag: gsil export runs/night"),
            ("inspect data --data d --model m", "it is given without a flag: gsil inspect data d"),
        ] {
            let said = said(line).unwrap_or_default();
            assert!(said.ends_with(&format!(" | {hint}")), "{line}: {said}");
        }
        for word in ["there", "v1.5"] {
            let said = said(&format!("generate --model m --prompt Hello {word}")).unwrap();
            assert!(said.ends_with("with --prompt, in quotes if it has spaces"), "{said}");
        }
        for line in [
            "devices x",
            "chat --model m Hello",
            "chat rows.jsonl",
            "chat --model=m runs/night",
            "init --data d rows.jsonl",
            "init gsil.ron",
            "generate --model m --prompt Hello generation.temperature=0",
            "init --model m train.lr=1e-4",
        ] {
            assert_eq!(said(line), None, "{line}");
        }
    }

    #[test]
    fn runs_to_report_side_by_side_are_told_to_go_behind_compare() {
        for (line, command) in [
            ("a b", "a --compare b"),
            ("runs/a runs/b runs/c runs/d", "runs/a --compare runs/b runs/c runs/d"),
            ("runs/a runs/b runs/c runs/d runs/e", "runs/a --compare runs/b runs/c runs/d .."),
            ("a --output p.html b", "a --compare b --output p.html"),
            ("a b --output=p.html", "a --compare b --output p.html"),
            ("a b --compare c", "a --compare b c"),
        ] {
            let hint = format!(" | others go behind --compare: gsil report {command}");
            let said = said(&format!("report {line}")).unwrap_or_default();
            assert!(said.starts_with("unexpected argument '") && said.ends_with(&hint), "{line}: {said}");
        }
        let hint = hint_of("report runs/a", "my run").unwrap();
        assert!(hint.ends_with(&format!("gsil report runs/a --compare {}", shell_word("my run"))), "{hint}");
        assert_eq!(said("report a seed=1"), None);
    }

    #[test]
    fn a_flag_that_the_verb_refuses_beside_another_is_advised_in_its_place() {
        for (line, hint) in [
            ("generate --prompt Hi rows.jsonl", "it is given with a flag in place of --prompt: --data rows.jsonl"),
            ("generate rows.jsonl --prompt=Hi", "it is given with a flag in place of --prompt: --data rows.jsonl"),
            (
                "generate --data rows.jsonl Hello",
                "a prompt is given with --prompt in place of --data, in quotes if it has spaces",
            ),
            (
                "eval humaneval --data d --samples s.jsonl runs/night",
                "it is given with a flag in place of --samples: --model runs/night",
            ),
        ] {
            let said = said(line).unwrap_or_default();
            assert!(said.ends_with(&format!(" | {hint}")), "{line}: {said}");
        }
    }

    /// What is advised of one word, which may hold spaces, behind others.
    fn hint_of(line: &str, word: &str) -> Option<String> {
        let words: Vec<String> = line.split(' ').chain([word]).map(str::to_owned).collect();
        let error = Cli::try_parse_from(std::iter::once("gsil".to_owned()).chain(words.clone())).unwrap_err();
        advised(&error, &words)?.hint().map(str::to_owned)
    }

    #[test]
    fn a_path_that_is_there_is_one_though_it_looks_like_a_setting_or_like_text() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["lr=1", "my run"] {
            let run = folder.path().join(name);
            std::fs::create_dir(&run).unwrap();
            let run = run.to_str().unwrap();
            let hint = format!("it is given with a flag: --model {}", shell_word(run));
            assert_eq!(hint_of("chat", run), Some(hint));
        }
    }

    #[test]
    fn words_with_spaces_are_a_prompt_whatever_stands_in_them() {
        for prompt in ["What is 3/4 of 12?", "Solve x + 2 = 5.", "Summarize data.csv"] {
            for line in ["generate", "generate --model m"] {
                let hint = hint_of(line, prompt).unwrap_or_default();
                assert_eq!(hint, "a prompt is given with --prompt, in quotes if it has spaces", "{prompt}");
            }
            assert_eq!(hint_of("chat", prompt), None, "{prompt}");
        }
    }

    #[test]
    fn a_misspelt_flag_and_verbs_without_settings_are_left_to_the_parser() {
        for line in ["train --modle m", "generate --lr 1", "eval gsm8k --lr 1", "train --zzzz", "trian", "inspect dat"]
        {
            assert_eq!(said(line), None, "{line}");
        }
    }

    #[test]
    fn a_file_to_inspect_is_told_where_the_word_data_goes() {
        let said = said("inspect rows.jsonl --model m").unwrap();
        let hint = "data is inspected with: gsil inspect data rows.jsonl --model m";
        assert_eq!(said, format!("`rows.jsonl` is nothing that inspect knows | {hint}"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_advised_is_quoted_as_a_shell_needs_it() {
        for (words, quoted) in [
            (&["train", "--variance-reduction", "top_k(16)"][..], ": 'objective.variance_reduction=top_k(16)'; "),
            (&["export", "--model", "my run", "--format", "hf"][..], "gsil export 'my run'"),
            (&["inspect", "rows(1).jsonl", "--model", "my model"][..], "data 'rows(1).jsonl' --model 'my model'"),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let error = Cli::try_parse_from(std::iter::once("gsil".to_owned()).chain(words.clone())).unwrap_err();
            let hint = advised(&error, &words).and_then(|advised| advised.hint().map(str::to_owned));
            assert!(hint.as_ref().is_some_and(|hint| hint.contains(quoted)), "{words:?}: {hint:?}");
        }
    }

    #[test]
    fn tips_never_name_a_hidden_verb_nor_pass_a_flag_as_a_value() {
        for line in ["and", "sandbox", "__sandbo", "train --zzzz", "export --zzzz", "bench --zzzz"] {
            let words = std::iter::once("gsil".to_owned()).chain(words(line));
            let mut error = Cli::try_parse_from(words).unwrap_err();
            let before = error.render().to_string();
            assert!(before.contains("tip: "), "this line no longer tests anything: {line}: {before}");
            drop_wrong_tips(&mut error);
            assert!(!error.render().to_string().contains("tip: "), "{line}: {}", error.render());
        }
        let mut error = Cli::try_parse_from(["gsil", "trian"]).unwrap_err();
        drop_wrong_tips(&mut error);
        assert!(error.render().to_string().contains("'train'"), "good tips stay: {}", error.render());
    }
}
