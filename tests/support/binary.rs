//! The real `gsil` binary, run as a person's shell runs it, and the small files that it is given.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gsil::formats::safetensors::{HostTensor, open_safetensors, write_safetensors};
use serde_json::{Value, json};

/// Exit codes, as `Error::exit_code` has them.
pub const USAGE: i32 = 2;
pub const INPUT: i32 = 3;
/// Also of a server.
pub const DEVICE: i32 = 4;
pub const DISK: i32 = 6;
pub const LOCKED: i32 = 7;

/// The end tokens of [`ending_model`]: about 4 in 10 of the vocabulary's 515, so that responses end after a few tokens.
const END_TOKENS: std::ops::Range<u32> = 2..210;

/// A chat template whose prompts, in that year, are longer than the context of [`text_model`].
pub const LONG_IN_2001: &str = "{% for m in messages %}{{ m.content }}{% endfor %}{% if strftime_now('%Y') == '2001' %}\
    {% for i in range(300) %}one two three {% endfor %}{% endif %}";

/// Says that a test did nothing, past the test runner, which keeps what passing tests print to itself.
pub fn say_skipped(what: &str, why: &str) {
    // A test must not fail because nobody listens.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

/// What a finished process left.
#[derive(Debug)]
pub struct Outcome {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The process ended well.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The process ended with this exit code and said nothing on stdout; what it said on stderr.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "an error leaves no data behind");
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }

    /// Every line of stdout as JSON.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// The device that these tests run on: the first of `GSIL_TEST_DEVICE`, else the CPU.
pub fn device() -> String {
    let names = std::env::var("GSIL_TEST_DEVICE").unwrap_or_default();
    names.split(',').next().filter(|name| !name.is_empty()).unwrap_or("flex").to_owned()
}

/// `gsil` with arguments, not started yet. It runs in a folder of its own where nothing else is.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gsil"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `gsil` to its end.
pub fn gsil(folder: &Path, arguments: &[&str]) -> Outcome {
    wait(command(folder, arguments).spawn().unwrap())
}

/// What a folder or a file lets whom do.
#[cfg(unix)]
#[track_caller]
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs `gsil` to its end as someone whom permissions bind: as `nobody` if these tests run as root. None, and said to be
/// skipped, if it cannot be started so.
#[cfg(unix)]
pub fn gsil_as_another(what: &str, folder: &Path, arguments: &[&str]) -> Option<Outcome> {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let mut command = command(folder, arguments);
    if fs::metadata(folder).unwrap().uid() == 0 {
        // A umask may hide from others what the run has written.
        assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(folder).status().unwrap().success());
        command.uid(NOBODY).gid(NOBODY).env("HOME", folder);
    }
    match command.spawn() {
        Ok(child) => Some(wait(child)),
        Err(error) => {
            say_skipped(what, &format!("root cannot start gsil as nobody: {error}"));
            None
        }
    }
}

/// Runs the command that a hint ends in, as it stands there: its words have no spaces.
pub fn follow(folder: &Path, said: &str) -> Outcome {
    let command = said.rsplit_once("gsil ").unwrap_or_else(|| panic!("no command in: {said}")).1;
    gsil(folder, &command.split_whitespace().collect::<Vec<_>>())
}

/// `gsil export` of a run or a model.
pub fn export(folder: &Path, source: &Path, format: &str, output: &Path, options: &[&str]) -> Outcome {
    let (source, output) = (text(source), text(output));
    let arguments = ["export", &source, "--format", format, "--output", &output];
    gsil(folder, &[&arguments[..], options].concat())
}

/// Waits for a started process.
pub fn wait(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The verbs that `gsil --help` lists, each followed by its own verbs: `eval`, `eval gsm8k`, ..
pub fn verbs() -> Vec<String> {
    let with_own = |verb: String| {
        let own = verbs_in(&help(&verb));
        let own: Vec<String> = own.into_iter().map(|name| format!("{verb} {name}")).collect();
        std::iter::once(verb).chain(own).collect::<Vec<_>>()
    };
    verbs_in(&help("")).into_iter().flat_map(with_own).collect()
}

fn verbs_in(help: &str) -> Vec<String> {
    let Some((_, commands)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = commands.lines().take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  "));
    // A wrapped description goes on further to the right.
    let names = names.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The help of a verb on a terminal of 80 columns.
pub fn help(verb: &str) -> String {
    let words: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
    let mut command = command(Path::new("."), &words);
    wait(command.env("COLUMNS", "80").spawn().unwrap()).succeeded().stdout
}

/// A file of `tests/fixtures/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

/// A path as an argument.
pub fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// A copy of the golden tiny Llama (2 layers, 515 tokens, no tokenizer) with other keys in its `config.json`.
pub fn tiny_model_with(folder: &Path, changes: &[(&str, Value)]) -> PathBuf {
    let copy = folder.join("tiny");
    fs::create_dir_all(&copy).unwrap();
    fs::copy(golden("tiny_llama/model.safetensors"), copy.join("model.safetensors")).unwrap();
    let mut config = read_json(&golden("tiny_llama/config.json"));
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    copy
}

/// The model in a folder with one value of a tensor replaced.
pub fn spoil(model: &Path, tensor: &str, value: f32) {
    let path = model.join("model.safetensors");
    let file = open_safetensors(&path).unwrap();
    let read = |name: &str| {
        let mut values = file.read_f32(name).unwrap();
        if name == tensor {
            values[7] = value;
        }
        HostTensor { name: name.to_owned(), shape: file.shape(name).unwrap().to_vec(), values }.into()
    };
    let tensors = file.names().map(read).collect();
    write_safetensors(&path, tensors, &Default::default()).unwrap();
}

/// The tiny Llama with so many end tokens that its random responses end by themselves.
pub fn ending_model(folder: &Path) -> PathBuf {
    tiny_model_with(folder, &[("eos_token_id", json!(END_TOKENS.collect::<Vec<_>>()))])
}

/// The tiny Llama with the tokenizer and the ChatML template of the fixtures: 400 of its 515 tokens have a text.
pub fn text_model(folder: &Path) -> PathBuf {
    let (copy, fixtures) =
        (folder.join("text"), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer"));
    fs::create_dir_all(&copy).unwrap();
    for name in ["model.safetensors", "config.json", "generation_config.json"] {
        fs::copy(golden("tiny_llama").join(name), copy.join(name)).unwrap();
    }
    fs::copy(fixtures.join("tokenizer.json"), copy.join("tokenizer.json")).unwrap();
    fs::copy(fixtures.join("templates/chatml.jinja"), copy.join("chat_template.jinja")).unwrap();
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|im_end|>"});
    fs::write(copy.join("tokenizer_config.json"), config.to_string()).unwrap();
    copy
}

/// True for the end tokens of [`ending_model`].
pub fn is_end_token(id: u64) -> bool {
    END_TOKENS.contains(&(id as u32))
}

/// Demonstrations for [`ending_model`] as token ids, the same ones for the same number: prompts of 3 to 7 tokens, responses
/// of 2 to 6 tokens and an end token.
pub fn write_rows(path: &Path, num_rows: usize) {
    let mut random = Random(7);
    let rows = (0..num_rows).map(|_| {
        let ids =
            |random: &mut Random, len: usize| -> Vec<usize> { (0..len).map(|_| 210 + random.below(305)).collect() };
        let prompt_len = 3 + random.below(5);
        let prompt_ids = ids(&mut random, prompt_len);
        let response_len = 2 + random.below(5);
        let mut response_ids = ids(&mut random, response_len);
        response_ids.push(2);
        json!({"prompt_ids": prompt_ids, "response_ids": response_ids}).to_string() + "\n"
    });
    fs::write(path, rows.collect::<String>()).unwrap();
}

/// The content of a JSON file.
#[track_caller]
pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

/// The lines of a JSON Lines file.
#[track_caller]
pub fn read_json_lines(path: &Path) -> Vec<Value> {
    read(path).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A text file.
#[track_caller]
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a text file, sorted.
#[track_caller]
pub fn sorted_lines(path: &Path) -> Vec<String> {
    let mut lines: Vec<String> = read(path).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// The keys of a JSON object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Every one of these words is in what was said.
#[track_caller]
pub fn assert_says(stderr: &str, words: &[&str]) {
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not said in: {stderr}");
    }
}

/// Equal to within `tolerance`, absolute.
#[track_caller]
pub fn assert_close(actual: &Value, expected: f64, tolerance: f64, what: &str) {
    let actual = actual.as_f64().unwrap_or_else(|| panic!("{what}: not a number: {actual}"));
    assert!((actual - expected).abs() <= tolerance, "{what}: {actual}, expected {expected} to within {tolerance}");
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a few lines of seeded random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Uniform in [0, 1).
    #[cfg(unix)]
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
