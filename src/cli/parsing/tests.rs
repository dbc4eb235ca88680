//! Mistakes on the command line, and the advice for each.

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
    for line in ["score --lr 1", "score --seed 1", "inspect data d --seed 1", "eval --lr 1", "bench --iterations 2"] {
        assert_eq!(said(line), None, "{line}");
    }
}

#[test]
fn a_key_of_a_comparison_given_as_a_flag_is_told_its_place() {
    for (line, key) in [("compare c.ron --seeds 0,1", "seeds"), ("compare c.ron --keep-models=false", "keep_models")] {
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
    assert!(of_comparison.ends_with("the same command goes on with a comparison that was stopped"), "{of_comparison}");
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
    for line in ["train --modle m", "generate --lr 1", "eval gsm8k --lr 1", "train --zzzz", "trian", "inspect dat"] {
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
