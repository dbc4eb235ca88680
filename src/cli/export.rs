//! `gsil export`: a run, one of its checkpoints, or a model in the form that another program takes.
//!
//! | format | written | read by |
//! |---|---|---|
//! | `hf` | a Hugging Face folder | transformers, vLLM, converters |
//! | `mlx` | the same, in BF16, with every setting spelled out whose default differs in mlx-lm | mlx-lm |
//! | `gguf` | `model.gguf` and a `Modelfile` | llama.cpp, Ollama |
//! | `peft` | the adapter alone | peft, vLLM |
//! | `pairs` | a JSONL file of prompts and both responses with reference log-probs | TRL |
//!
//! The weights are read from the run's `model/` folder one tensor at a time: no model is built, no device is needed. Of a
//! checkpoint the model is built on the CPU, for its adapter is merged with weights that lie elsewhere; an adapter alone
//! (`peft`) is read as it is.

mod gguf;
mod model_card;
mod pairs;
mod source;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::model_card::ModelCard;
use self::source::{Run, Source};
use super::hub::HubArgs;
use crate::config::LoraConfig;
use crate::error::{Error, Result};
use crate::formats::architecture::Architecture;
use crate::formats::file_system::Disk;
use crate::formats::hf_folder::ModelFolder;
use crate::formats::hub;
use crate::formats::peft::{PeftAdapter, peft_name};
use crate::formats::quantize::Precision;
use crate::formats::safetensors::{TensorToWrite, open_safetensors};
use crate::model::ModelConfig;
use crate::model::config::RopeScaling;
use crate::policy::{Policy, aligned_model};
use crate::report::console::Console;
use crate::report::shell::shell_word;
use crate::train::kept;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil export runs/night --format hf --dtype bf16 --output night
  gsil export runs/night --format gguf --output night-gguf
  gsil export runs/night --checkpoint best --format hf --output night-best
  gsil export runs/night --format pairs --output pairs-of-night.jsonl")]
pub(super) struct ExportArgs {
    /// A run folder, a Hugging Face folder, a .gguf file, or a model of the hub (owner/name).
    #[arg(value_name = "RUN_OR_MODEL")]
    source: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    #[arg(long)]
    format: Format,
    /// The folder to make, for `pairs` the file. Nothing is overwritten.
    #[arg(long)]
    output: PathBuf,
    /// Number format of the tensors. f32 if not given; f16 for gguf, bf16 for mlx.
    #[arg(long)]
    dtype: Option<Dtype>,
    /// A checkpoint of the run, finished or not, in place of its result: a folder's name in its checkpoints/, or `best`
    /// for the one, of those kept, with the highest log-prob on held-out rows, or on training rows if the run had no
    /// others. A wrong name lists them.
    #[arg(long, value_name = "NAME")]
    checkpoint: Option<String>,
    /// The iteration whose pairs are written; the last if not given.
    #[arg(long)]
    iteration: Option<usize>,
    /// Where the data of the run lie now, if they were moved; for `pairs`.
    #[arg(long, value_name = "PATH")]
    data: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Format {
    /// A Hugging Face folder.
    Hf,
    /// The adapter of a run with `lora`.
    Peft,
    /// A GGUF file with tokenizer and chat template, and a Modelfile for Ollama.
    Gguf,
    /// A folder for mlx-lm.
    Mlx,
    /// Prompts with both responses and their reference log-probs, as JSONL for TRL.
    Pairs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 values with 8 bits each: gguf alone.
    #[value(name = "q8_0")]
    Q8_0,
}

impl Dtype {
    fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::F16 => Precision::F16,
            Self::Bf16 => Precision::BF16,
            Self::Q8_0 => Precision::Q8_0,
        }
    }
}

/// Where an export goes and how.
struct Target {
    output: PathBuf,
    precision: Precision,
    /// What people will call it: the last part of the output's path.
    title: String,
}

pub(super) fn export(args: ExportArgs) -> Result<()> {
    check_combination(&args)?;
    check_output(&args.output, args.format)?;
    let console = Console::stderr();
    let source = Source::open(&args.source, args.checkpoint.as_deref(), args.hub.offline, &console)?;
    let target = Target::of(&args);
    let written = match args.format {
        Format::Hf | Format::Mlx => model_folder(&source, &target, args.format, &console),
        Format::Gguf => gguf::write(&source, &target, &console),
        Format::Peft => adapter_folder(&source, &target, &console),
        Format::Pairs => pairs::write(&source, args.iteration, args.data.as_deref(), &target.output, &console),
    };
    written.map_err(|error| error.with_way_on("nothing was left behind; the same command begins anew"))?;
    console.say(format!("written: {}", target.output.display()));
    Ok(())
}

impl Target {
    fn of(args: &ExportArgs) -> Self {
        let default = match args.format {
            Format::Gguf => Precision::F16,
            Format::Mlx => Precision::BF16,
            Format::Hf | Format::Peft | Format::Pairs => Precision::F32,
        };
        let title = args.output.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        Target { output: args.output.clone(), precision: args.dtype.map_or(default, Dtype::precision), title }
    }
}

fn check_combination(args: &ExportArgs) -> Result<()> {
    if args.format == Format::Pairs && args.checkpoint.is_some() {
        return Err(Error::usage("--checkpoint does not go with --format pairs: pairs are those of an iteration")
            .with_hint("choose one with --iteration"));
    }
    if args.format != Format::Pairs && args.data.is_some() {
        return Err(Error::usage("--data goes with --format pairs; the other formats read no rows"));
    }
    match (args.format, args.dtype, args.iteration) {
        (Format::Pairs, Some(_), _) => {
            Err(Error::usage("--dtype has no meaning for --format pairs: it holds no tensors"))
        }
        (Format::Hf | Format::Mlx | Format::Peft, Some(Dtype::Q8_0), _) => {
            Err(Error::usage("q8_0 is a type of GGUF files alone")
                .with_hint("use --format gguf, or --dtype f16, bf16 or f32"))
        }
        (format, _, Some(_)) if format != Format::Pairs => {
            Err(Error::usage("--iteration goes with --format pairs; the other formats export the run's result"))
        }
        _ => Ok(()),
    }
}

/// Only a free path or an empty folder (for `pairs` an empty file): asked before anything is read. A link is neither, wherever
/// it leads: what is written is put in its own place.
fn check_output(output: &Path, format: Format) -> Result<()> {
    let is_free = match std::fs::symlink_metadata(output) {
        Err(_) => true,
        Ok(found) if found.is_dir() => {
            format != Format::Pairs && std::fs::read_dir(output).map_err(Error::reading(output))?.next().is_none()
        }
        Ok(found) => format == Format::Pairs && found.len() == 0,
    };
    if !is_free {
        return Err(Error::usage(format!("{} already exists, and nothing is overwritten", output.display()))
            .with_hint("choose another --output, or remove it first"));
    }
    if format != Format::Pairs && output.extension().is_some_and(|extension| extension == "gguf") {
        return Err(Error::usage(format!("{}: --output is a folder", output.display()))
            .with_hint("give the folder's name: model.gguf and its Modelfile are written inside"));
    }
    Ok(())
}

fn model_folder(source: &Source, target: &Target, format: Format, console: &Console) -> Result<()> {
    let policy = source.policy(console)?;
    if matches!(policy.config.rope_scaling, RopeScaling::Factors(_)) {
        let message = "its rotary factors follow no rule that config.json can name";
        return Err(Error::input(&policy.files.path, message).with_hint("use --format gguf, which lists them"));
    }
    let (config, library) = match format {
        Format::Mlx => (explicit_config(&policy)?, "mlx"),
        _ => (policy.files.config.clone(), "transformers"),
    };
    let generation_config = policy.files.generation_config_ending_at(&policy.eos_token_ids);
    let card = ModelCard { source, target, library }.text(&policy.config)?;
    let folder = ModelFolder {
        config: &config,
        generation_config: generation_config.as_ref(),
        tokenizer: policy.files.tokenizer.as_ref(),
        model_card: Some(&card),
        precision: target.precision,
    };
    folder.write_new(&Disk, &target.output, source.tensors(&policy, console)?)
}

/// `config.json` with what mlx-lm reads under one spelling only, or assumes otherwise than transformers does: it takes a
/// model without `tie_word_embeddings` for one with tied embeddings, and does not know `rope_parameters`.
fn explicit_config(policy: &Policy) -> Result<Value> {
    let architecture = policy.family_name("mlx")?; // mlx-lm calls these families so, too
    policy.refuse_window("mlx")?;
    let ModelConfig { rope_theta, tie_word_embeddings, rms_norm_eps, head_dim, num_key_value_heads, .. } =
        policy.config;
    let rope_scaling = match &policy.config.rope_scaling {
        RopeScaling::None | RopeScaling::Factors(_) => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    let mut config = policy.files.config.clone();
    let explicit = json!({
        "rope_theta": rope_theta, "rope_scaling": rope_scaling, "tie_word_embeddings": tie_word_embeddings,
        "rms_norm_eps": rms_norm_eps, "head_dim": head_dim, "num_key_value_heads": num_key_value_heads,
        "attention_bias": policy.config.output_bias, "mlp_bias": policy.config.mlp_bias,
    });
    for (key, value) in explicit.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    if config["model_type"].is_null() {
        config["model_type"] = architecture.into();
    }
    Ok(config)
}

/// peft finds modules by the names that transformers gives them: an adapter beside a part of a fused one has no place.
fn check_peft_names(policy: &Policy, target_modules: &[String]) -> Result<()> {
    let fused: &[&str] = match Architecture::of(&policy.files.config) {
        Some(Architecture::Phi3) => &["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
        Some(Architecture::Gpt2) => &LoraConfig::MODULES,
        Some(
            Architecture::Llama
            | Architecture::Mistral
            | Architecture::Qwen2
            | Architecture::Qwen3
            | Architecture::Gemma3,
        )
        | None => &[],
    };
    let Some(module) = target_modules.iter().find(|module| fused.contains(&module.as_str())) else { return Ok(()) };
    let class = Architecture::name_in(&policy.files.config);
    Err(Error::input(&policy.files.path, format!("{class} has no module `{module}` of its own that peft could adapt"))
        .at("lora.target_modules")
        .with_hint("--format hf exports the whole model with its adapter merged"))
}

fn adapter_folder(source: &Source, target: &Target, console: &Console) -> Result<()> {
    let run = source.run("an adapter is the result of a training with lora.rank")?;
    let Some(lora) = &run.config.lora else {
        return Err(Error::usage(format!("{} trained all weights: it has no adapter", source.path.display()))
            .with_hint("--format hf exports the whole model; `gsil train .. lora.rank=8` trains an adapter"));
    };
    let policy = source.policy(console)?;
    check_peft_names(&policy, &lora.target_modules)?;
    let path = match &run.checkpoint {
        Some(saved) => saved.parameters(),
        None => kept::aligned(&run.dir, &run.config)?.parameters(),
    };
    let file = open_safetensors(&path)?;
    let mut tensors = Vec::new();
    for name in file.names() {
        let Some(peft_name) = peft_name(name) else {
            return Err(Error::input(&path, "is not part of an adapter").at(format!("tensor `{name}`")));
        };
        let shape = file.shape(name).unwrap_or_default();
        let file = &file;
        tensors.push(TensorToWrite::new(peft_name, shape, move || file.read_f32(name)));
    }
    let (base_model, revision) = base_of(run)?;
    let adapter = PeftAdapter {
        rank: lora.rank,
        alpha: lora.alpha,
        target_modules: &lora.target_modules,
        base_model: &base_model,
        revision: revision.as_deref(),
        model_card: &ModelCard { source, target, library: "peft" }.text(&policy.config)?,
        precision: target.precision,
    };
    adapter.write(&Disk, &target.output, tensors)?;
    if let Some(file) = gguf_base(run)? {
        let command = format!("gsil export {} --format hf --output base", shell_word(file));
        console.say(format!(
            "peft cannot open a GGUF base: `{command}` makes a folder of it that peft takes in its place"
        ));
    }
    Ok(())
}

/// The GGUF file that the run began with, if it was one, as a command takes it.
fn gguf_base(run: &Run) -> Result<Option<&str>> {
    let model = run.config.model.as_deref().unwrap_or_default();
    let is_file = hub::address(model)?.map_or_else(|| Path::new(model).is_file(), |base| base.path.is_some());
    Ok(is_file.then_some(model))
}

/// What peft opens the base model by: the hub's name and commit, or a path.
fn base_of(run: &Run) -> Result<(String, Option<String>)> {
    let model = run.config.model.as_deref().unwrap_or_default();
    if let Some(base) = hub::address(model)? {
        let commit = base.commit().map(str::to_owned);
        return Ok((base.repository, commit));
    }
    // A run stands for its aligned model here, not for peft. What is there no more keeps its name.
    let path = aligned_model(Path::new(model)).unwrap_or_else(|_| model.into());
    Ok((path.to_string_lossy().into_owned(), None))
}
