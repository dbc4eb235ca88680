//! What a person meets at the terminal: conversations, completions, manual pages.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use gsil::config::RunConfig;
#[cfg(target_os = "linux")]
use gsil::report::shell::shell_word;
use serde_json::json;
use tempfile::tempdir;

use crate::support::binary::{
    Outcome, command, ending_model, follow, gsil, read, read_json_lines, say_skipped, text, text_model, verbs, wait,
    write_rows,
};

/// A conversation with these lines typed.
fn chat(folder: &Path, options: &[&str], lines: &str) -> Outcome {
    let fixed = ["chat", "--device", "flex", "--max-new-tokens", "6", "--temperature", "1"];
    let mut child = command(folder, &[&fixed[..], options].concat()).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    wait(child)
}

#[test]
fn a_conversation_is_remembered_until_it_is_reset() {
    let folder = tempdir().unwrap();
    let model = text(text_model(folder.path()));
    let said = |lines: &str| chat(folder.path(), &["--model", &model], lines).succeeded().stdout;
    let first = said("Hello.\n");
    assert!(!first.trim().is_empty());
    let twice = said("Hello.\nHello.\n");
    assert!(twice.starts_with(&first), "the same seed gives the same answer");
    assert_ne!(twice, format!("{first}{first}"), "the second answer has seen the first");
    assert_eq!(said("Hello.\n/reset\nHello.\n"), format!("{first}{first}"));
    assert_ne!(said("/system Speak like a pirate.\nHello.\n"), first);
}

#[test]
fn a_saved_conversation_is_a_demonstration() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let model = "text"; // a path that no shell needs quoted
    let lines =
        "/save talk.jsonl\nHello.\n/save talk.jsonl\n/reset\nOne.\nTwo.\n/save talk.jsonl\n/exit\nNever said.\n";
    let begun = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    fs::write(folder.path().join("talk.jsonl"), begun).unwrap(); // as some editors leave it: without a last line end
    let outcome = chat(folder.path(), &["--model", model, "--system", "Be brief."], lines).succeeded();
    for said in ["warning: nothing has been answered yet", "; one answer was cut", "; 2 answers were cut"] {
        assert_eq!(outcome.stderr.matches(said).count(), 1, "{said}: {}", outcome.stderr);
    }
    assert_eq!(outcome.stderr.matches("(cut after 6 tokens: --max-new-tokens)").count(), 3, "{}", outcome.stderr);
    let command = "and `gsil train --model text --data talk.jsonl` learns it";
    for said in [
        format!("edit the answer, {command}; one"),
        format!("edit the last answer, {command}, after the turns before; 2"),
    ] {
        assert_eq!(outcome.stderr.matches(&said).count(), 1, "{said}: {}", outcome.stderr);
    }
    let rows = read_json_lines(&folder.path().join("talk.jsonl"));
    let roles = |i: usize| -> Vec<String> {
        let messages = rows[i]["messages"].as_array().unwrap();
        messages.iter().map(|message| message["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(rows.len(), 3);
    assert_eq!(roles(1), ["system", "user", "assistant"]);
    assert_eq!(roles(2), ["system", "user", "assistant", "user", "assistant"]);
    let scored = gsil(folder.path(), &["score", "--model", model, "--data", "talk.jsonl", "--device", "flex"]);
    assert_eq!(scored.succeeded().json_lines().len(), 3);
    fs::write(folder.path().join("rows.csv"), "prompt,response\n").unwrap();
    let table = chat(folder.path(), &["--model", model], "Hello.\n/save rows.csv\n").succeeded().stderr;
    assert!(table.contains("rows.csv: a conversation is saved as a line of JSON"), "{table}");
    assert!(table.contains("ends in .jsonl"), "{table}");
    assert_eq!(read(&folder.path().join("rows.csv")), "prompt,response\n");
    fs::write(folder.path().join("run.ron"), "(iterations: 1)\n").unwrap();
    let settings = chat(folder.path(), &["--model", model], "Hello.\n/save run.ron\n").succeeded().stderr;
    assert!(settings.contains("run.ron: holds something else than rows: give another name"), "{settings}");
    assert_eq!(read(&folder.path().join("run.ron")), "(iterations: 1)\n");
    let spaced = chat(folder.path(), &["--model", model], "Hello.\n/save my talk.jsonl\n").succeeded().stderr;
    let quoted = if cfg!(windows) { "\"my talk.jsonl\"" } else { "'my talk.jsonl'" };
    assert!(spaced.contains(&format!("--data {quoted}` learns it")), "{spaced}");
}

#[test]
fn two_models_answer_side_by_side_each_with_its_own_history() {
    let folder = tempdir().unwrap();
    let model = text(text_model(folder.path()));
    let alone = chat(folder.path(), &["--model", &model], "Hello.\nAgain.\n").succeeded().stdout;
    let both = chat(folder.path(), &["--model", &model, "--compare", &model], "Hello.\nAgain.\n").succeeded().stdout;
    let label = format!("[{model}]\n");
    let answers: Vec<&str> = both.split(&label).skip(1).collect();
    assert_eq!(answers.len(), 4, "{both}");
    assert_eq!([answers[0], answers[2]].concat(), alone);
    assert_eq!([answers[1], answers[3]].concat(), alone);
}

#[test]
fn a_system_message_that_a_template_refuses_can_be_taken_away_and_keeps_no_other_model_from_answering() {
    let folder = tempdir().unwrap();
    let (strict, lenient) = (text_model(&folder.path().join("strict")), text(text_model(folder.path())));
    let template = strict.join("chat_template.jinja");
    let refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}";
    fs::write(&template, format!("{refusal}{}", read(&template))).unwrap();
    let strict = text(strict);
    let said = |models: &[&str], lines: &str| {
        chat(folder.path(), &[models, &["--system", "Speak like a pirate."]].concat(), lines).succeeded()
    };
    let with = said(&["--model", &lenient], "Hello.\n").stdout;
    let without = said(&["--model", &lenient], "/system\nHello.\n").stdout;
    assert_ne!(with, without);
    let lines = "Hello.\n/reset\nHello.\n/system\nHello.\n";
    let both = said(&["--model", &strict, "--compare", &lenient], lines);
    let refused = format!("[{strict}]\n[{lenient}]\n{with}");
    assert_eq!(both.stdout, format!("{refused}{refused}[{strict}]\n{without}[{lenient}]\n{without}"));
    assert_eq!(both.stderr.matches("no system role").count(), 2, "{}", both.stderr);
    assert!(both.stderr.contains("a new conversation, with nothing said before"), "{}", both.stderr);
}

#[test]
fn a_message_that_is_too_long_is_told_what_helps() {
    let folder = tempdir().unwrap();
    let model = text(text_model(folder.path()));
    let long = "one two three ".repeat(300);
    let lines = format!("{long}\nHello.\n{long}\n/system {long}\nHello.\n");
    let stderr = chat(folder.path(), &["--model", &model], &lines).succeeded().stderr;
    for (warning, help) in [
        ("this message alone has ", "tokens, the model's context is 256: shorten it\n"),
        ("the conversation has filled the model's context", "start over with /reset\n"),
        ("this message and the system message have ", "tokens, the model's context is 256: shorten them\n"),
    ] {
        let said: Vec<&str> = stderr.split_inclusive('\n').filter(|line| line.contains(warning)).collect();
        assert!(said.len() == 1 && said[0].ends_with(help), "{warning}: {stderr}");
    }
}

#[test]
fn a_response_that_is_cut_says_so_and_one_that_ends_does_not() {
    let folder = tempdir().unwrap();
    let (cut, ends) = (text(text_model(folder.path())), folder.path().join("ends"));
    fs::create_dir_all(&ends).unwrap();
    for file in fs::read_dir(&cut).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), ends.join(file.file_name())).unwrap();
    }
    let every_token = json!({"eos_token_id": (0..515).collect::<Vec<u32>>()});
    fs::write(ends.join("generation_config.json"), every_token.to_string()).unwrap();
    let said = |model: &str| {
        let limit = ["--max-new-tokens", "6", "--device", "flex"];
        gsil(folder.path(), &[&["generate", "--prompt", "Hello.", "--model", model], &limit[..]].concat())
            .succeeded()
            .stderr
    };
    assert!(said(&cut).contains("(cut after 6 tokens: --max-new-tokens)"));
    assert!(!said("ends").contains("cut"));
}

#[test]
fn a_wrong_command_is_not_said_to_the_model() {
    let folder = tempdir().unwrap();
    let model = text(text_model(folder.path()));
    let outcome = chat(folder.path(), &["--model", &model], "/rest\n/help\n").succeeded();
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("warning: no command /rest; /help lists the commands"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/save FILE"), "{}", outcome.stderr);
}

#[test]
fn a_run_folder_stands_for_its_aligned_model() {
    let folder = tempdir().unwrap();
    let model = text(ending_model(folder.path()));
    write_rows(&folder.path().join("rows.jsonl"), 6);
    let small = ["generation.max_new_tokens=6", "generation.unfinished=mask", "train.lr=1e-2", "--device", "flex"];
    let train = ["train", "--model", &model, "--data", "rows.jsonl", "--output", "run"];
    gsil(folder.path(), &[&train[..], &small].concat()).succeeded();
    let score = |model: &str| {
        gsil(folder.path(), &["score", "--model", model, "--data", "rows.jsonl", "--device", "flex"]).succeeded().stdout
    };
    assert_eq!(score("run"), score("run/model"));
    assert_ne!(score("run"), score(&model));
    fs::remove_dir_all(folder.path().join("run/model")).unwrap();
    let refused = || gsil(folder.path(), &["score", "--model", "run", "--data", "rows.jsonl"]).failed(3);
    let stderr = refused();
    let way_on = "hint: make one of its last checkpoint: gsil export run --checkpoint step-";
    assert!(stderr.contains("finished run whose aligned model was removed") && stderr.contains(way_on), "{stderr}");
    follow(folder.path(), &stderr).succeeded();
    score("NEW_FOLDER");
    // As it is in a run that was stopped.
    fs::write(folder.path().join("run/latest"), "step-000000-iteration-0").unwrap();
    let stderr = refused();
    assert!(
        stderr.contains("has no aligned model yet") && stderr.contains("hint: finish it: gsil resume run"),
        "{stderr}"
    );
}

/// What a terminal of this kind shows of `gsil` with these words; `script` is such a terminal, where it is installed.
#[cfg(target_os = "linux")]
fn shown_in_terminal(folder: &Path, kind: &str, words: &[&str]) -> Option<String> {
    let line =
        [&[env!("CARGO_BIN_EXE_gsil")], words].concat().into_iter().map(shell_word).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(folder);
    match script.env("TERM", kind).env_remove("NO_COLOR").stdin(Stdio::null()).output() {
        Ok(output) => {
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{shown}");
            Some(shown)
        }
        Err(error) => {
            say_skipped("a command in a terminal", &error.to_string());
            None
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_knows_no_colours_is_given_none() {
    let folder = tempdir().unwrap();
    let model = text(text_model(folder.path()));
    fs::write(folder.path().join("rows.jsonl"), r#"{"prompt":"Hello","response":"Hi there"}"#).unwrap();
    let inspect = ["inspect", "data", "rows.jsonl", "--model", &model];
    let shown = |kind: &str| shown_in_terminal(folder.path(), kind, &inspect);
    if let (Some(coloured), Some(plain)) = (shown("xterm"), shown("dumb")) {
        assert!(coloured.contains("\u{1b}[32m"), "{coloured}"); // what is trained on is green
        assert!(!plain.contains('\u{1b}') && plain.contains("rows.jsonl"), "{plain}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_person_is_told_how_to_stop_a_run_and_a_log_is_not() {
    const TOLD: &str = "to stop    Ctrl-C: ";
    let folder = tempdir().unwrap();
    let model = text(ending_model(folder.path()));
    write_rows(&folder.path().join("rows.jsonl"), 6);
    let small = ["generation.max_new_tokens=6", "generation.unfinished=mask", "--device", "flex", "--output"];
    let train = [&["train", "--model", &model, "--data", "rows.jsonl"], &small[..]].concat();
    let log = gsil(folder.path(), &[&train[..], &["log"]].concat()).succeeded().stderr;
    assert!(!log.contains(TOLD), "{log}");
    let shown = shown_in_terminal(folder.path(), "xterm", &[&train[..], &["seen"]].concat());
    assert!(shown.as_ref().is_none_or(|shown| shown.contains(TOLD)), "{shown:?}");
}

#[test]
fn completions_are_what_each_shell_reads() {
    let folder = tempdir().unwrap();
    for (shell, says) in [
        ("bash", "complete -F _gsil"),
        ("zsh", "#compdef gsil"),
        ("fish", "complete -c gsil"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
    ] {
        let script = gsil(folder.path(), &["completions", shell]).succeeded().stdout;
        assert!(script.contains(says) && script.contains("allow-changes"), "{shell}");
        assert!(script.contains("version") && !script.contains("__sandbox"), "{shell}: as in --help");
        fs::write(folder.path().join(shell), script).unwrap();
    }
    let read = Command::new("bash").args(["-n", "bash"]).current_dir(folder.path()).output();
    match read {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => say_skipped("bash reading its completions", &error.to_string()),
    }
}

#[test]
fn there_is_a_manual_page_for_every_verb() {
    let folder = tempdir().unwrap();
    let written = gsil(folder.path(), &["man", "--output", "man"]).succeeded().stdout;
    let names: Vec<String> = verbs().iter().map(|verb| format!("gsil-{}", verb.replace(' ', "-"))).collect();
    assert!(names.len() > 16 && names.contains(&"gsil-inspect-data".to_owned()), "{names:?}");
    assert_eq!(written.lines().count(), 1 + names.len(), "and one of gsil itself: {written}");
    for name in names.iter().map(String::as_str).chain(["gsil"]) {
        let page = read(&folder.path().join(format!("man/{name}.1")));
        assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
        assert!(written.contains(&format!("{name}.1")), "{written}");
    }
    assert!(read(&folder.path().join("man/gsil-train.1")).contains("evaluation.data=test.jsonl"), "with its examples");
}

#[test]
fn every_manual_page_is_written_though_nobody_reads_their_names() {
    let folder = tempdir().unwrap();
    let mut child = command(folder.path(), &["man", "--output", "man"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(child).code, Some(0));
    let all = folder.path().join("all");
    gsil(folder.path(), &["man", "--output", "all"]).succeeded();
    let num_pages = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!(num_pages(&folder.path().join("man")), num_pages(&all));
}

#[test]
fn init_writes_a_configuration_that_trains_and_never_overwrites() {
    let folder = tempdir().unwrap();
    let model = text(ending_model(folder.path()));
    write_rows(&folder.path().join("rows.jsonl"), 40);
    let init = ["init", "--model", &model, "--data", "rows.jsonl", "--output", "first.ron"];
    assert_eq!(gsil(folder.path(), &init).succeeded().stdout, "first.ron\n");
    let written = read(&folder.path().join("first.ron"));
    let config = RunConfig::from_ron(&written, "first.ron").unwrap();
    // 40 rows of up to 7 + 7 tokens: by 8 they make batches of 5.
    assert_eq!((config.train.max_length, config.train.batch_size, config.generation.max_new_tokens), (96, 5, 64));
    assert_eq!((config.model, config.data), (Some(model.clone()), Some("rows.jsonl".to_owned())));
    let stderr = gsil(folder.path(), &init).failed(2);
    assert!(stderr.contains("first.ron exists already"), "{stderr}");
    assert_eq!(read(&folder.path().join("first.ron")), written);
    // The better beginning, as the file describes it: the same batches, and nothing that is said for nothing.
    let supervised = written.replace("// sft: (", "sft: (").replace("iterations: 1,", "iterations: 0,");
    fs::write(folder.path().join("supervised.ron"), &supervised).unwrap();
    let dry = gsil(folder.path(), &["train", "--config", "supervised.ron", "--dry-run"]).succeeded();
    assert!(!dry.stderr.contains("warning"), "{}", dry.stderr);
    let config = RunConfig::from_ron(&dry.stdout, "printed").unwrap();
    let sft = config.sft.unwrap();
    assert_eq!((config.iterations, sft.epochs, sft.batch_size, sft.micro_batch_size), (0, 3, 5, 2), "{supervised}");
    let changes = ["--device", "flex", "--output", "run", "generation.unfinished=mask"];
    gsil(folder.path(), &[&["train", "--config", "first.ron"], &changes[..]].concat()).succeeded();
    assert!(folder.path().join("run/model/model.safetensors").exists());
}

#[test]
fn init_gives_every_row_room_with_its_longer_response() {
    let folder = tempdir().unwrap();
    ending_model(folder.path());
    let row = |given: usize| {
        json!({"prompt_ids": [3], "response_ids": [4], "self_generated_ids": vec![5; given]}).to_string() + "\n"
    };
    // The long row stands last: the first ones alone would not tell of it.
    fs::write(folder.path().join("rows.jsonl"), row(1).repeat(3000) + &row(150)).unwrap();
    let said = gsil(folder.path(), &["init", "--model", "tiny", "--data", "rows.jsonl"]).succeeded().stderr;
    assert!(said.contains("tokenizing 3001 of 3001 rows in "), "{said}");
    let written = read(&folder.path().join("gsil.ron"));
    // 1 + 150 tokens, up to a multiple of 32; an answer of 64 needs less.
    assert!(written.contains("max_length: 160, // tokens; the longest row has 151, "), "{written}");
}

#[test]
fn init_looks_for_held_out_rows_and_marked_answers() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let row = |i: usize, answer: &str| json!({"prompt": format!("{i} and 1?"), "response": answer}).to_string() + "\n";
    let init = |output: &str| {
        gsil(folder.path(), &["init", "--model", "text", "--data", "data", "--output", output]).succeeded();
        RunConfig::from_ron(&read(&folder.path().join(output)), output).unwrap()
    };
    let rows: Vec<String> = (0..3).map(|i| row(i, if i == 0 { "one" } else { "it is #### 1" })).collect();
    fs::write(data.join("train.jsonl"), rows.concat()).unwrap();
    let config = init("marked.ron");
    assert_eq!((config.keep_best, config.evaluation.answer_marker.as_deref()), (0, Some("####")));
    fs::write(data.join("train.jsonl"), [rows[0].clone(), rows[1].clone()].concat()).unwrap();
    fs::write(data.join("valid.jsonl"), &rows[2]).unwrap();
    let config = init("held_out.ron");
    assert_eq!((config.keep_best, config.evaluation.answer_marker), (1, None));
}

#[test]
fn init_without_model_and_data_leaves_them_to_be_filled_in() {
    let folder = tempdir().unwrap();
    gsil(folder.path(), &["init"]).succeeded();
    let written = read(&folder.path().join("gsil.ron"));
    assert!(written.contains("// model: ") && written.contains("// data: "), "{written}");
    let config = RunConfig::from_ron(&written, "gsil.ron").unwrap();
    assert_eq!((&config.model, config.keep_best), (&None, 0));
    assert!(written.contains("// keep_best: 1") && written.contains("// answer_marker: \"####\""), "{written}");
    assert_eq!(config.train.max_length, RunConfig::default().train.max_length);
    assert!(written.contains("add --dry-run to see every key in use, lora.rank=8 --dry-run"), "{written}");
}
