//! `gsil chat`: a conversation on the terminal, with one model or with two side by side.

mod command;
mod input;
mod speaker;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::generate::{check_at_least_one, check_temperature};
use super::{ModelArgs, print_text};
use crate::data::rows::Message;
use crate::device;
use crate::error::{Error, Result};
use crate::formats::data_file::FileKind;
use crate::report::console::Console;
use crate::report::shell::{shell_path, shell_word};
use command::{COMMANDS, Command};
use input::{Input, Interrupts};
use speaker::{Manner, Speaker};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil chat --model SmolLM2
  gsil chat --model runs/night --compare SmolLM2   # after, and before
  echo 'Say hello.' | gsil chat --model SmolLM2 --temperature 0")]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A second model that answers every message too, with a history of its own.
    #[arg(long, value_name = "MODEL")]
    compare: Option<PathBuf>,
    /// What the models are told before the conversation, where their template has room for it.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    /// 0 is greedy, 1 the model's own distribution.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.7)]
    temperature: f64,
    /// The same seed gives the same answers to the same messages.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) fn chat(args: ChatArgs) -> Result<()> {
    check_temperature(args.temperature)?;
    check_at_least_one("--max-new-tokens", args.max_new_tokens)?;
    let console = Console::stderr();
    let device = device::open(&args.model.device)?;
    let models = std::iter::once(&args.model.model).chain(&args.compare);
    let open = |given| Speaker::open(given, &args.model.hub.model(given)?, &device, &console);
    let speakers = models.map(|given: &PathBuf| open(given)).collect::<Result<Vec<_>>>()?;
    let interrupts = Interrupts::listen()?;
    let manner = Manner {
        temperature: args.temperature,
        max_new_tokens: args.max_new_tokens,
        seed: args.seed,
        interrupts: &interrupts,
    };
    console.say("Type a message, or /help. Ctrl-C stops an answer, Ctrl-D ends.");
    Chat { speakers, system: args.system, manner, console }.converse(&mut Input::open()?)
}

/// The conversation as it stands.
struct Chat<'a> {
    speakers: Vec<Speaker>,
    system: Option<String>,
    manner: Manner<'a>,
    console: Console,
}

impl Chat<'_> {
    fn converse(&mut self, input: &mut Input) -> Result<()> {
        while let Some(line) = input.read_line()? {
            match Command::parse(&line) {
                Command::Nothing => {}
                Command::Say(text) => self.answer(&text)?,
                Command::Reset => {
                    self.reset();
                    self.console.say("a new conversation");
                }
                Command::System(text) => {
                    self.reset();
                    let said_before = if text.is_some() { "this" } else { "nothing" };
                    self.console.say(format!("a new conversation, with {said_before} said before"));
                    self.system = text;
                }
                Command::Save(path) => match self.save(&path) {
                    Ok(said) => self.console.say(said),
                    Err(error) => self.console.warn(error.to_string()), // the conversation goes on
                },
                Command::Help => self.console.say(COMMANDS),
                Command::Wrong(why) => self.console.warn(format!("{why}; /help lists the commands")),
                Command::Exit => break,
            }
        }
        Ok(())
    }

    fn answer(&mut self, text: &str) -> Result<()> {
        let is_comparison = self.speakers.len() > 1;
        for speaker in &mut self.speakers {
            if is_comparison {
                print_text(&format!("[{}]\n", speaker.name))?;
            }
            match speaker.answer(text, self.system.as_deref(), &self.manner, &self.console) {
                Err(error @ Error::Input { .. }) => self.console.warn(error.to_string()), // a template refuses this turn
                ended => ended?,
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.speakers.iter_mut().for_each(Speaker::forget);
    }

    /// Appends the first model's conversation as a row of demonstrations. What was done, in words.
    fn save(&self, path: &Path) -> Result<String> {
        if FileKind::of(path) != FileKind::JsonLines {
            let message = "a conversation is saved as a line of JSON: give a name that ends in .jsonl";
            return Err(Error::usage(format!("{}: {message}", path.display())));
        }
        if !holds_json_lines(path) {
            return Err(Error::usage(format!("{}: holds something else than rows: give another name", path.display())));
        }
        let speaker = &self.speakers[0];
        let messages = speaker.conversation(self.system.as_deref());
        if !messages.iter().any(|message| message.role == "assistant") {
            return Err(Error::usage("nothing has been answered yet"));
        }
        let object = |message: &Message| json!({"role": message.role, "content": message.content});
        let row = json!({"messages": messages.iter().map(object).collect::<Vec<_>>()});
        let line_end = if ends_inside_a_line(path) { "\n" } else { "" };
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::writing("open", path))?;
        file.write_all(format!("{line_end}{row}\n").as_bytes()).map_err(Error::writing("write", path))?;
        let command = format!("gsil train --model {} --data {}", shell_word(&speaker.name), shell_path(path));
        let path = path.display();
        let whose =
            if self.speakers.len() > 1 { format!("the conversation with {} ", speaker.name) } else { String::new() };
        let cut = match speaker.num_cut() {
            0 => String::new(),
            1 => "; one answer was cut: end it there".to_owned(),
            num_cut => format!("; {num_cut} answers were cut: end them there"),
        };
        let num_answers = messages.iter().filter(|message| message.role == "assistant").count();
        let (answer, it) = match num_answers {
            1 => ("answer", "it"),
            _ => ("last answer", "it, after the turns before"),
        };
        Ok(format!("{whose}saved as one more row of {path}; edit the {answer}, and `{command}` learns {it}{cut}"))
    }
}

/// Whether a file is not there, is empty or begins as a row does, be it after a byte order mark.
fn holds_json_lines(path: &Path) -> bool {
    if !path.is_file() {
        return true; // a pipe is only written to
    }
    let mut start = [0; 256];
    let read = File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let start = start[..read].trim_ascii_start();
    let start = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start);
    start.is_empty() || start.starts_with(b"{")
}

/// True of a file whose last line has no line end: what is appended would stand on it.
fn ends_inside_a_line(path: &Path) -> bool {
    let last_byte = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last).map(|()| last[0])
    };
    path.is_file() && last_byte().is_ok_and(|byte| byte != b'\n')
}
