//! `gsil chat`: a conversation on the terminal.

use std::io::BufRead;

use burn::module::Module;
use clap::Args;

use super::{ModelArgs, generate::check_temperature, print_text};
use crate::config::WeightFormat;
use crate::data::rows::{Message, Prompt};
use crate::device;
use crate::error::{Error, Result};
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Event, Generator, Request};
use crate::report::console::{Console, talk};

#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    /// 0 is greedy, 1 the model's own distribution.
    #[arg(long, default_value_t = 0.7)]
    temperature: f64,
}

pub(super) fn chat(args: ChatArgs) -> Result<()> {
    check_temperature(args.temperature)?;
    let console = Console::stderr();
    let policy = args.model.open()?;
    let Some(tokenizer) = policy.tokenizer.as_ref().filter(|tokenizer| tokenizer.has_chat_template()) else {
        return Err(Error::input(&args.model.model, "has no chat template")
            .with_hint("chat needs an instruction-tuned model; `gsil generate --prompt` continues plain text"));
    };
    let device = device::open(device::resolve_name(&args.model.device))?;
    let model = policy.load(&device, &console)?.valid();
    let decoding = Decoding {
        sampling: Sampling { temperature: args.temperature, top_k: 0, top_p: 1.0 },
        max_new_tokens: args.max_new_tokens,
        batch_size: 1,
        eos_token_ids: policy.eos_token_ids.clone(),
    };
    let mut generator = Generator::new(&model, WeightFormat::F32)?;
    console.say("Type a message. /new starts over, /exit ends (so does Ctrl-D).");
    let mut messages: Vec<Message> = Vec::new();
    let mut turn = 0;
    while let Some(line) = read_line()? {
        match line.trim() {
            "" => continue,
            "/exit" => break,
            "/new" => {
                messages.clear();
                continue;
            }
            text => messages.push(Message { role: "user".into(), content: text.into() }),
        }
        let prompt_ids = tokenizer.encode_prompt(&Prompt::Messages(messages.clone()))?;
        if prompt_ids.len() >= policy.config.max_position_embeddings {
            messages.pop();
            console.warn("the conversation has filled the model's context: start over with /new");
            continue;
        }
        turn += 1;
        let request = Request { prompt_ids, seed: answer_seed(0, turn, 0, 0), max_new_tokens: None };
        let (mut token_ids, mut shown) = (Vec::new(), String::new());
        generator.answer(&[request], &decoding, &mut |event| {
            if let Event::Token(_, id) = event {
                token_ids.push(id);
                let text = tokenizer.decode(&token_ids)?;
                // A character may take several tokens: wait for whole ones.
                if let Some(new) = text.strip_prefix(&shown).filter(|new| !new.ends_with('\u{fffd}')) {
                    print_text(new)?;
                    shown = text;
                }
            }
            Ok(())
        })?;
        print_text("\n")?;
        messages.push(Message { role: "assistant".into(), content: tokenizer.decode(&token_ids)? });
    }
    Ok(())
}

fn read_line() -> Result<Option<String>> {
    talk("> ");
    let mut line = String::new();
    let num_bytes = std::io::stdin().lock().read_line(&mut line).map_err(Error::reading("standard input"))?;
    Ok((num_bytes > 0).then_some(line))
}
