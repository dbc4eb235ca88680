//! Self-generation by a server: the same pairs as here, through every trouble that servers have, and never of another
//! policy.
#![cfg(all(unix, feature = "server"))]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gsil::data::tokenizer::Tokenizer;
use gsil::data::word_problems::{make_word_problems, model_config, tokenizer_files, write_rows};
use gsil::formats::hf_folder::write_model_folder;
use gsil::formats::safetensors::TensorToWrite;
use gsil::model::{ModelConfig, weights};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::support::binary::{Outcome, command, gsil, read, read_json_lines, text, wait};
use crate::support::flex;
use crate::support::mock_server::{MockServer, Reply, ServedPolicy};
use crate::support::recipe::wait_until;

const NUM_ROWS: usize = 20;
/// Of the models.
const WIDTH: usize = 32;
const KEY: &str = "sk-do-not-tell-9f31";

/// A folder with two tiny models of words, `model` and `other`, and problems for them.
pub struct Workplace(TempDir);

impl Workplace {
    pub fn new() -> Self {
        let folder = tempdir().unwrap();
        for (name, seed) in [("model", 1), ("other", 2)] {
            word_model(&folder.path().join(name), seed);
        }
        write_rows(folder.path().join("rows.jsonl"), &make_word_problems(3, NUM_ROWS, 1, 0.0).train).unwrap();
        Workplace(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, run: &str, more: &[&str]) -> std::process::Command {
        let settings = [
            "generation.max_new_tokens=8",
            "generation.unfinished=mask",
            "generation.temperature=0",
            "evaluation.generate_rows=0",
            "train.lr=1e-3",
            "train.batch_size=4",
        ];
        let own = ["train", "--model", "model", "--data", "rows.jsonl", "--device", "flex", "--output", run];
        command(self.0.path(), &[&own[..], &settings, more].concat())
    }

    pub fn train(&self, run: &str, more: &[&str]) -> Outcome {
        wait(self.command(run, more).spawn().unwrap())
    }

    pub fn ask(&self, run: &str, server: &MockServer, more: &[&str]) -> Outcome {
        let url = format!("server.url={}", server.url);
        self.train(run, &[&[url.as_str(), "server.ready_timeout_s=1"], more].concat())
    }

    /// Token ids and whether they ended, by row.
    pub fn responses(&self, run: &str, iteration: &str) -> Vec<(u64, Value, Value)> {
        let rows = read_json_lines(&self.path(run).join(iteration).join("self_generated.jsonl"));
        let mut responses: Vec<_> = rows
            .iter()
            .map(|row| (row["index"].as_u64().unwrap(), row["token_ids"].clone(), row["finished"].clone()))
            .collect();
        responses.sort_by_key(|response| response.0);
        responses
    }

    pub fn losses(&self, run: &str) -> Vec<f64> {
        read_json_lines(&self.path(run).join("metrics.jsonl")).iter().map(|row| row["loss"].as_f64().unwrap()).collect()
    }

    /// A command for `on_policy_ready` that writes down which folder it was given.
    pub fn hook(&self, script: &str) -> String {
        let path = self.path("serve.sh");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        format!("server.on_policy_ready=[\"{}\"]", text(path))
    }
}

/// Random weights, wide enough apart that a greedy answer is no coin toss. Special tokens but the end token are never the
/// likeliest: a text does not show them.
fn word_model(folder: &Path, seed: u64) {
    let files = tokenizer_files();
    let vocab_size = Tokenizer::new(&files, folder, &[]).unwrap().vocab_size();
    let mut json = model_config(vocab_size, WIDTH, 2, 4, 64);
    json["initializer_range"] = 0.3.into();
    let config = ModelConfig::from_json(&json, None, folder).unwrap();
    let model = weights::initialize(&config, seed, &flex()).unwrap();
    let without_specials = weights::tensors_to_write(&model).into_iter().map(|tensor| {
        let mut tensor = tensor.into_host().unwrap();
        if tensor.name.contains("embed_tokens") {
            [0, 1, 3].iter().for_each(|id| tensor.values[id * WIDTH..][..WIDTH].fill(0.0));
        }
        TensorToWrite::from(tensor)
    });
    write_model_folder(folder, &json, None, Some(&files), without_specials.collect()).unwrap();
}

#[track_caller]
pub fn assert_all_near(actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert!((actual - expected).abs() <= tolerance, "{actual}, expected {expected}");
    }
}

#[test]
fn a_server_that_answers_as_the_policy_does_gives_the_same_pairs_and_the_same_training() {
    let place = Workplace::new();
    place.train("here", &[]).succeeded();
    let server = MockServer::of_policy(&place.path("model"));
    let said = place.ask("there", &server, &[]).succeeded().stderr;
    assert_eq!(place.responses("there", "iteration-000"), place.responses("here", "iteration-000"));
    // Log-probs of decoding here, of a forward pass there.
    assert_all_near(&place.losses("there"), &place.losses("here"), 1e-4);
    assert!(said.contains("the server continues 7 of 7 prompts as the policy does"), "{said}");

    let asked = server.asked();
    let seeds: HashMap<u64, usize> = asked.iter().fold(HashMap::new(), |mut seeds, asked| {
        *seeds.entry(asked.body["seed"].as_u64().unwrap()).or_default() += 1;
        seeds
    });
    assert_eq!(seeds.len(), 1 + NUM_ROWS, "0 for probes, and a seed of its own for each response");
    for (key, expected) in [("min_p", 0.0), ("top_k", 0.0), ("top_p", 1.0), ("repeat_penalty", 1.0)] {
        assert!(asked.iter().all(|asked| asked.body[key] == expected), "{key}");
    }
    assert!(asked.iter().all(|asked| asked.authorization.is_none()));
}

#[test]
fn every_passing_trouble_of_a_server_is_waited_out() {
    let place = Workplace::new();
    let served = ServedPolicy::open(&place.path("model"));
    let num_asked = AtomicUsize::new(0);
    let server = MockServer::start(
        || vec!["policy".to_owned()],
        move |body, _| {
            if body["seed"] == 0 {
                return served.answer(body);
            }
            match num_asked.fetch_add(1, Ordering::SeqCst) {
                2 => Reply::Status(429, Some("1"), "too many".to_owned()),
                4 => Reply::Status(500, None, "oops".to_owned()),
                6 => Reply::Torn,
                8 => Reply::Late(Duration::from_secs(3), Box::new(served.answer(body))),
                10 => Reply::Body("<html>loading</html>".to_owned()),
                12 => Reply::Body(String::new()),
                14 => Reply::Status(503, Some("0"), "loading".to_owned()),
                _ => served.answer(body),
            }
        },
    );
    let settings = ["server.timeout_s=2", "server.max_in_flight=1", "server.max_retries=2"];
    place.ask("run", &server, &settings).succeeded();
    let asked = server.asked_for_responses();
    assert_eq!(asked.len(), NUM_ROWS + 7, "each failure is asked again once");
    assert_eq!(asked[3].body, asked[2].body);
    assert!(asked[3].at - asked[2].at >= Duration::from_secs(1), "Retry-After is honoured");
    place.train("here", &[]).succeeded();
    assert_eq!(place.responses("run", "iteration-000"), place.responses("here", "iteration-000"));
}

#[test]
fn what_a_server_refuses_for_good_ends_the_run_and_names_the_row() {
    let place = Workplace::new();
    let cases = [
        (400, "no such parameter", "HTTP 400: no such parameter (1 try)"),
        (200, "{\"choices\": []}", "(2 tries)"),
        (500, "out of memory", "HTTP 500: out of memory (2 tries)"),
    ];
    for (i, (status, body, said)) in cases.into_iter().enumerate() {
        let served = ServedPolicy::open(&place.path("model"));
        let seed_of_a_row = Mutex::new(None);
        let server = MockServer::start(
            || vec!["policy".to_owned()],
            move |asked, _| {
                let mut chosen = seed_of_a_row.lock().unwrap();
                match asked["seed"] != 0 && *chosen.get_or_insert_with(|| asked["seed"].clone()) == asked["seed"] {
                    true => Reply::Status(status, None, body.to_owned()),
                    false => served.answer(asked),
                }
            },
        );
        let run = format!("run-{i}");
        let stderr = place.ask(&run, &server, &["server.max_retries=1", "server.max_in_flight=1"]).failed(4);
        assert!(stderr.contains(&format!("server {}: row 0: ", server.url)) && stderr.contains(said), "{stderr}");
        let way_on =
            format!("hint: answers so far are kept: see to the server, then continue with `gsil resume {run}`");
        assert!(stderr.contains(&way_on), "{stderr}");
    }
}

#[test]
fn a_server_of_another_policy_is_refused() {
    let place = Workplace::new();
    let server = MockServer::of_policy(&place.path("other"));
    let stderr = place.ask("run", &server, &[]).failed(4);
    assert!(stderr.contains("serves another model than the policy"), "{stderr}");
    assert!(stderr.contains("hint: serve the model that the iteration begins with"), "{stderr}");
    assert!(server.asked_for_responses().is_empty(), "nothing is asked of it");
}

#[test]
fn a_server_that_changes_the_prompt_is_refused_and_one_that_begins_it_is_given_the_rest() {
    let place = Workplace::new();
    let rows = read(&place.path("rows.jsonl")).replace("{\"prompt\":\"", "{\"prompt\":\"<bos> ");
    fs::write(place.path("rows.jsonl"), rows).unwrap();
    place.train("here", &[]).succeeded();

    let served = ServedPolicy::open(&place.path("model"));
    let bos = 1; // of the built-in tokenizer
    let begins = MockServer::start(|| vec!["policy".to_owned()], move |body, _| served.answer_after(bos, body));
    place.ask("there", &begins, &[]).succeeded();
    assert_eq!(place.responses("there", "iteration-000"), place.responses("here", "iteration-000"));
    assert!(begins.asked_for_responses().iter().all(|asked| !asked.body["prompt"].as_str().unwrap().contains("<bos>")));

    // One prompt lacks the beginning token: its own first token must not be taken for it.
    let rows = read(&place.path("rows.jsonl")).replacen("<bos> ", "", 1);
    fs::write(place.path("rows.jsonl"), rows).unwrap();
    let stderr = place.ask("mixed", &begins, &[]).failed(4);
    assert!(stderr.contains("where the prompt of row 0 has") && stderr.contains("it adds to the prompt"), "{stderr}");

    let served = ServedPolicy::open(&place.path("model"));
    let template = MockServer::start(
        || vec!["policy".to_owned()],
        move |body, _| match served.answer(body) {
            Reply::Text { text, finish_reason, num_prompt_tokens } => {
                Reply::Text { text, finish_reason, num_prompt_tokens: num_prompt_tokens.map(|count| count + 5) }
            }
            other => other,
        },
    );
    let stderr = place.ask("run", &template, &[]).failed(4);
    assert!(stderr.contains("it adds to the prompt") && stderr.contains("TEMPLATE"), "{stderr}");
}

#[test]
fn a_run_killed_in_the_middle_asks_only_for_the_rest() {
    let place = Workplace::new();
    let served = ServedPolicy::open(&place.path("model"));
    let server = MockServer::start(
        || vec!["policy".to_owned()],
        move |body, _| {
            let wait = Duration::from_millis(if body["seed"] == 0 { 0 } else { 40 });
            Reply::Late(wait, Box::new(served.answer(body)))
        },
    );
    let url = format!("server.url={}", server.url);
    let mut child = place.command("run", &[&url, "server.max_in_flight=2"]).spawn().unwrap();
    let written = place.path("run/iteration-000/self_generated.jsonl");
    let num_lines = || fs::read_to_string(&written).unwrap_or_default().matches('\n').count();
    wait_until(&mut child, "five responses", || num_lines() >= 5);
    child.kill().unwrap();
    child.wait().unwrap();
    let (num_kept, num_asked) = (num_lines(), server.asked_for_responses().len());
    assert!(num_kept < NUM_ROWS, "the program was faster than the signal");
    wait(command(place.0.path(), &["resume", "run"]).spawn().unwrap()).succeeded();
    assert_eq!(server.asked_for_responses().len() - num_asked, NUM_ROWS - num_kept);
    place.train("here", &[]).succeeded();
    assert_eq!(place.responses("run", "iteration-000"), place.responses("here", "iteration-000"));
}

#[test]
fn the_key_goes_to_the_server_and_nowhere_else() {
    let place = Workplace::new();
    let served = ServedPolicy::open(&place.path("model"));
    let server = MockServer::start(
        || vec!["policy".to_owned()],
        move |body, _| match body["seed"] == 0 {
            true => served.answer(body),
            false => Reply::Status(401, None, format!("the key {KEY} has no credit")),
        },
    );
    let url = format!("server.url={}", server.url);
    let outcome = wait(place.command("run", &[&url]).env("GSIL_API_KEY", KEY).spawn().unwrap());
    let stderr = outcome.failed(4);
    assert!(stderr.contains("the key (key) has no credit"), "{stderr}");
    let expected = format!("Bearer {KEY}");
    assert!(server.asked().iter().all(|asked| asked.authorization.as_deref() == Some(&expected)));
    for file in files_below(&place.path("run")) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()), "{}", file.display());
    }
}

#[test]
fn a_server_that_asks_for_a_key_is_not_waited_for() {
    let place = Workplace::new();
    let url = format!("server.url=http://{}/v1", answering(|_| ("401 Unauthorized", "no key")));
    let stderr = place.train("run", &[&url, "server.ready_timeout_s=1"]).failed(4);
    assert!(stderr.contains("HTTP 401: no key") && stderr.contains("hint: it asks for a key"), "{stderr}");
    assert!(stderr.contains("GSIL_API_KEY") && !stderr.contains("waiting for the server"), "{stderr}");
}

/// As llama-server answers beside `/v1`: paths of the same names, another interface.
#[test]
fn an_address_without_v1_is_told_of_the_usual_one_whether_it_answers_or_not() {
    let place = Workplace::new();
    let other = answering(|request| match request.starts_with("GET") {
        true => ("200 OK", r#"{"data": [{"id": "policy"}]}"#),
        false => ("200 OK", r#"{"content": "x"}"#),
    });
    let nobody = answering(|_| ("404 Not Found", "no such path"));
    for (address, run, way) in [
        (&format!("{nobody}/v1/completions"), "pasted", format!("Most servers answer at http://{nobody}/v1\n")),
        (&nobody, "nobody", format!("Most servers answer at http://{nobody}/v1\n")),
        (
            &other,
            "beside-v1",
            format!(
                "hint: most servers answer at http://{other}/v1: `gsil resume beside-v1 --allow-changes` (in a comparison: the same `gsil compare` command) with server.url=http://{other}/v1\n"
            ),
        ),
    ] {
        let url = format!("server.url=http://{address}");
        let stderr = place.train(run, &[&url, "server.ready_timeout_s=1", "server.max_retries=0"]).failed(4);
        assert!(stderr.contains(&way), "{way}: {stderr}");
    }
}

/// The address of a server that answers every request by its first line: the status and the body.
fn answering(reply_to: impl Fn(&str) -> (&'static str, &'static str) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let head = (&mut reader).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let head: Vec<String> = head.collect();
            let len = |line: &String| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
            let len = head.iter().find_map(len).unwrap_or(0);
            std::io::copy(&mut reader.take(len), &mut std::io::sink()).unwrap();
            let (status, body) = reply_to(head.first().map_or("", String::as_str));
            let len = body.len();
            let reply = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}");
            (&stream).write_all(reply.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn no_more_requests_are_on_their_way_than_allowed() {
    let place = Workplace::new();
    let served = ServedPolicy::open(&place.path("model"));
    let server = MockServer::start(
        || vec!["policy".to_owned()],
        move |body, _| Reply::Late(Duration::from_millis(30), Box::new(served.answer(body))),
    );
    place.ask("run", &server, &["server.max_in_flight=3"]).succeeded();
    assert_eq!(server.most_in_flight(), 3);
}

#[test]
fn the_end_token_is_added_when_a_text_ended_and_not_when_it_was_cut() {
    let place = Workplace::new();
    let served = ServedPolicy::open(&place.path("model"));
    let num_asked = AtomicUsize::new(0);
    let server = MockServer::start(
        || vec!["policy".to_owned()],
        move |body, _| match body["seed"] == 0 {
            true => served.answer(body),
            false => match num_asked.fetch_add(1, Ordering::SeqCst) % 3 {
                0 => Reply::text(" 1 2 3"),
                1 => Reply::Text { text: " 1 2 3".to_owned(), finish_reason: "length", num_prompt_tokens: None },
                _ => Reply::text(""),
            },
        },
    );
    place.ask("run", &server, &["server.max_in_flight=1"]).succeeded();
    let responses = place.responses("run", "iteration-000");
    let digits = |more: &[u32]| -> Vec<u32> { [&[5, 6, 7], more].concat() }; // "0" is 4, after four special tokens
    for (i, (_, token_ids, finished)) in responses.iter().enumerate() {
        let (expected, ended) = match i % 3 {
            0 => (digits(&[2]), true),
            1 => (digits(&[]), false),
            _ => (vec![2], true),
        };
        assert_eq!((token_ids, finished), (&serde_json::json!(expected), &serde_json::json!(ended)), "row {i}");
    }
}

#[test]
fn settings_that_a_server_would_not_follow_are_refused_before_anything_is_made() {
    let place = Workplace::new();
    let url = "server.url=http://127.0.0.1:9/v1";
    for (settings, code, said) in [
        (&["objective.name=sft"][..], 2, "this objective trains on demonstrations alone"),
        (&["generation.weights=bf16"], 2, "not by a server"),
        (&["iterations=2"], 2, "server.on_policy_ready: must say how"),
    ] {
        let stderr = place.train("run", &[&[url][..], settings].concat()).failed(code);
        assert!(stderr.contains(said), "{stderr}");
        assert!(!place.path("run").exists());
    }
}

#[test]
fn an_estimate_says_that_the_servers_part_is_not_in_its_time() {
    let place = Workplace::new();
    let own =
        ["estimate", "--model", "model", "--data", "rows.jsonl", "--device", "flex", "evaluation.generate_rows=0"];
    let server = "server.url=http://127.0.0.1:9/v1";
    let estimate = |more: &[&str]| gsil(&place.path(""), &[&own[..], more].concat()).succeeded();
    let said = |more: &[&str]| estimate(more).stdout.contains(" without the server's part: ");
    assert!(said(&[server]) && !said(&[]));
    let time = |more: &[&str]| estimate(&[&["--json"], more].concat()).json_lines().remove(0)["time"].take();
    let (with, without) = (time(&[server]), time(&[]));
    assert_eq!((&with["without_server"], &without["without_server"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(with["seconds_per_decoded_token"], 0.0, "nothing is decoded here: {with}");
    let speed = |key: &str| without[key].as_f64().unwrap();
    assert!(speed("seconds_per_decoded_token") >= speed("seconds_per_prompt_token"), "{without}");
    assert!(speed("seconds_per_prompt_token") > 0.0, "{without}");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
