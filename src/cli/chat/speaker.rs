//! One model in a conversation: its history and its answers.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use signal_hook::consts::SIGINT;

use super::input::Interrupts;
use crate::cli::generate::cut;
use crate::cli::print_text;
use crate::config::WeightFormat;
use crate::data::rows::{Message, Prompt};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Event, Generator, Request};
use crate::policy::Policy;
use crate::report::console::Console;

/// How answers are written.
pub struct Manner<'a> {
    pub temperature: f64,
    pub max_new_tokens: usize,
    pub seed: u64,
    pub interrupts: &'a Interrupts,
}

pub struct Speaker {
    /// What the user called the model.
    pub name: String,
    policy: Policy,
    generator: Generator,
    messages: Vec<Message>,
    num_answers: usize,
    /// Of them, those that Ctrl-C or a limit ended.
    num_cut: usize,
}

impl Speaker {
    /// The model in `path`, under the name that was given for it.
    ///
    /// # Errors
    /// Whatever is wrong with the model; [`Error::Input`] if it has no chat template.
    pub fn open(name: &Path, path: &Path, device: &Device, console: &Console) -> Result<Self> {
        let policy = Policy::open(path)?;
        if !policy.tokenizer.as_ref().is_some_and(Tokenizer::has_chat_template) {
            return Err(Error::input(name, "has no chat template")
                .with_hint("chat needs an instruction-tuned model; `gsil generate --prompt` continues plain text"));
        }
        let generator = Generator::new(&policy.load(device, console)?.valid(), WeightFormat::F32)?;
        Ok(Speaker {
            name: name.display().to_string(),
            policy,
            generator,
            messages: Vec::new(),
            num_answers: 0,
            num_cut: 0,
        })
    }

    pub fn forget(&mut self) {
        self.messages.clear();
        self.num_answers = 0;
        self.num_cut = 0;
    }

    /// Answers of this conversation that do not end where the model would have ended them.
    pub fn num_cut(&self) -> usize {
        self.num_cut
    }

    /// What was said so far, the system message first.
    pub fn conversation(&self, system: Option<&str>) -> Vec<Message> {
        let system = system.map(|text| message("system", text));
        system.into_iter().chain(self.messages.iter().cloned()).collect()
    }

    /// Prints the answer as it is written, and remembers it. Ctrl-C ends it early; what was written stays.
    pub fn answer(&mut self, text: &str, system: Option<&str>, manner: &Manner<'_>, console: &Console) -> Result<()> {
        self.messages.push(message("user", text));
        let Some(tokenizer) = &self.policy.tokenizer else { return Ok(()) }; // `open` saw one
        let prompt = Prompt::Messages(self.conversation(system));
        let prompt_ids = match tokenizer.encode_prompt(&prompt) {
            Ok(ids) => ids,
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        };
        if prompt_ids.len() >= self.policy.config.max_position_embeddings {
            self.messages.pop();
            console.warn(self.too_long(prompt_ids.len(), system));
            return Ok(());
        }
        self.num_answers += 1;
        let seed = answer_seed(manner.seed, self.num_answers, 0, 0);
        let request = Request { prompt_ids, seed, max_new_tokens: None };
        let decoding = Decoding {
            sampling: Sampling { temperature: manner.temperature, top_k: 0, top_p: 1.0 },
            max_new_tokens: manner.max_new_tokens,
            batch_size: 1,
            eos_token_ids: self.policy.eos_token_ids.clone(),
        };
        let mut stream = Stream { tokenizer, token_ids: Vec::new(), shown: String::new() };
        let generator = &mut self.generator;
        let mut finished = false;
        let ended = manner.interrupts.during(|| {
            generator.answer(&[request], &decoding, &mut |event| match event {
                Event::Token(..) if manner.interrupts.came() => Err(Error::Stopped { signal: SIGINT, hint: None }),
                Event::Token(_, id) => print_text(&stream.take(id)?),
                Event::Done(_, response) => {
                    finished = response.finished;
                    Ok(())
                }
            })
        });
        let answer = tokenizer.decode(&stream.token_ids)?;
        print_text(&format!("{}\n", stream.unshown(&answer)))?;
        match ended {
            Ok(()) if !finished => console.say(cut(stream.token_ids.len(), manner.max_new_tokens)),
            Ok(()) | Err(Error::Stopped { .. }) => {}
            Err(error) => return Err(error),
        }
        self.num_cut += usize::from(!finished);
        self.messages.push(message("assistant", &answer));
        Ok(())
    }

    /// Why a message that makes a prompt of so many tokens is not answered, and what helps.
    fn too_long(&self, num_tokens: usize, system: Option<&str>) -> String {
        if !self.messages.is_empty() {
            return "the conversation has filled the model's context: start over with /reset".to_owned();
        }
        let (what, which) = match system {
            None => ("this message alone has", "it"),
            Some(_) => ("this message and the system message have", "them"),
        };
        let context = self.policy.config.max_position_embeddings;
        format!("{what} {num_tokens} tokens, the model's context is {context}: shorten {which}")
    }
}

fn message(role: &str, text: &str) -> Message {
    Message { role: role.to_owned(), content: text.to_owned() }
}

/// An answer as far as it is written.
struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    token_ids: Vec<u32>,
    shown: String,
}

impl Stream<'_> {
    /// What one more token gives to show. A character may take several tokens: only whole ones are shown.
    fn take(&mut self, id: u32) -> Result<String> {
        self.token_ids.push(id);
        let text = self.tokenizer.decode(&self.token_ids)?;
        Ok(if text.ends_with('\u{fffd}') { String::new() } else { self.unshown(&text).to_owned() })
    }

    /// The part of `text` that is not shown yet; from now on it is. A bad byte changes how the bytes before it are read:
    /// what is shown already stays, and what is new follows it.
    fn unshown<'t>(&mut self, text: &'t str) -> &'t str {
        let same = self.shown.chars().zip(text.chars()).take_while(|(a, b)| a == b);
        let num_same_bytes: usize = same.map(|(a, _)| a.len_utf8()).sum();
        text.clone_into(&mut self.shown);
        &text[num_same_bytes..]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::formats::TokenizerFiles;

    #[test]
    fn an_answer_goes_on_behind_a_bad_byte_and_is_shown_to_its_end() {
        let [line_break, bad, a, b] = [0, 1, 2, 3];
        let tokenizer_json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                "vocab": {"<0x0A>": line_break, "<0xF0>": bad, "a": a, "b": b, "</s>": 4}, "merges": [],
            },
        });
        let tokenizer_json = serde_json::to_vec(&tokenizer_json).unwrap();
        let files = TokenizerFiles { tokenizer_json, tokenizer_config: json!({}), chat_template: None };
        let tokenizer = Tokenizer::new(&files, Path::new("model"), &[4]).unwrap();
        let mut stream = Stream { tokenizer: &tokenizer, token_ids: Vec::new(), shown: String::new() };
        let shown = [line_break, bad, a, b, bad].map(|id| stream.take(id).unwrap());
        assert_eq!(shown, ["\n", "", "\u{fffd}\u{fffd}a", "b", ""]);
        let answer = tokenizer.decode(&stream.token_ids).unwrap();
        assert_eq!(stream.unshown(&answer), "\u{fffd}");
        assert_eq!(stream.unshown(&answer), "");
    }
}
