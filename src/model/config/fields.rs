//! Access to `config.json` with errors that name the field, and what needs more than one of them.

use std::path::Path;

use serde_json::Value;

use super::rope::RopeScaling;
use super::{Activation, LayerType, MAX_COUNT, MAX_WIDTH, ModelConfig};
use crate::error::{Error, Result};
use crate::formats::architecture::Architecture;

/// GPT-2's own names of what others have, too.
const GPT2_NAMES: [(&str, &str); 7] = [
    ("hidden_size", "n_embd"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
    ("max_position_embeddings", "n_positions"),
    ("intermediate_size", "n_inner"),
    ("rms_norm_eps", "layer_norm_epsilon"),
    ("hidden_act", "activation_function"),
];

/// Flags that would change the computation, with the value that changes nothing.
const KNOWN_FLAGS: [(&str, bool); 4] = [
    ("use_bidirectional_attention", false),
    ("scale_attn_weights", true),
    ("scale_attn_by_inverse_layer_idx", false),
    ("add_cross_attention", false),
];

/// Settings that would change the computation if they were there.
const MUST_BE_ABSENT: [&str; 2] = ["final_logit_softcapping", "attn_logit_softcapping"];

/// What transformers takes where a file does not speak of a window at all; null means none.
const DEFAULT_WINDOW: usize = 4096;

/// The fields of one `config.json`.
pub(super) struct Fields<'a> {
    pub config: &'a Value,
    pub path: &'a Path,
    pub architecture: Architecture,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// An architecture that is not supported.
    pub fn new(config: &'a Value, path: &'a Path) -> Result<Self> {
        let Some(architecture) = Architecture::of(config) else {
            let message = format!("architecture `{}` is not supported", Architecture::name_in(config));
            return Err(Error::input(path, message)
                .at("config.json, field `architectures`")
                .with_hint(format!("supported: {}", Architecture::classes())));
        };
        Ok(Fields { config, path, architecture })
    }

    /// The fields of an object inside.
    pub fn inside(&self, config: &'a Value) -> Fields<'a> {
        Fields { config, ..*self }
    }

    /// What this architecture calls a setting.
    fn own_name<'n>(&self, field: &'n str) -> &'n str {
        let of_gpt2 = || GPT2_NAMES.iter().find(|(name, _)| *name == field).map_or(field, |(_, own)| own);
        if self.architecture == Architecture::Gpt2 { of_gpt2() } else { field }
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.config.get(self.own_name(field)).filter(|value| !value.is_null())
    }

    pub fn error(&self, field: &str, message: impl Into<String>) -> Error {
        Error::input(self.path, message).at(format!("config.json, field `{}`", self.own_name(field)))
    }

    pub fn optional_size(&self, field: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (1..=most).contains(&size) => Ok(Some(size)),
            _ => Err(self.error(field, format!("expected a whole number from 1 to {most}, got {}", shown(value)))),
        }
    }

    pub fn size(&self, field: &str, most: usize) -> Result<usize> {
        self.optional_size(field, most)?.ok_or_else(|| self.error(field, "is missing"))
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        self.get(field).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| self.error(field, format!("expected true or false, got {}", shown(value))))
        })
    }

    pub fn optional_number(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.error(field, format!("expected a positive number, got {}", shown(value)))),
        }
    }

    pub fn number(&self, field: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(field)?.unwrap_or(default))
    }

    /// Gemma 3's default stands in transformers, not in every file.
    pub fn head_dim(&self, hidden_size: usize, num_attention_heads: usize) -> Result<usize> {
        let default = if self.architecture == Architecture::Gemma3 { 256 } else { hidden_size / num_attention_heads };
        Ok(self.optional_size("head_dim", MAX_WIDTH)?.unwrap_or(default))
    }

    pub fn intermediate_size(&self, hidden_size: usize) -> Result<usize> {
        match (self.optional_size("intermediate_size", MAX_WIDTH)?, self.architecture) {
            (Some(size), _) => Ok(size),
            (None, Architecture::Gpt2) if 4 * hidden_size <= MAX_WIDTH => Ok(4 * hidden_size),
            (None, _) => Err(self.error("intermediate_size", "is missing")),
        }
    }

    pub fn activation(&self) -> Result<Activation> {
        let (field, default) = match self.architecture {
            Architecture::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
            Architecture::Gpt2 => ("hidden_act", "gelu_new"),
            _ => ("hidden_act", "silu"),
        };
        let expected = match self.architecture {
            Architecture::Gemma3 | Architecture::Gpt2 => ["gelu_pytorch_tanh", "gelu_new"].as_slice(),
            _ => &["silu"],
        };
        let name = self.get(field).and_then(Value::as_str).unwrap_or(default);
        match expected.contains(&name) {
            false => Err(self.error(field, format!("`{name}` is not supported; expected {}", expected.join(" or ")))),
            true if name == "silu" => Ok(Activation::Silu),
            true => Ok(Activation::GeluTanh),
        }
    }

    /// The window of the sliding layers: where the file names one that is in use.
    pub fn sliding_window(&self) -> Result<Option<usize>> {
        let is_used = match self.architecture {
            Architecture::Qwen2 | Architecture::Qwen3 => false,
            Architecture::Llama | Architecture::Gpt2 => return self.no_window(),
            Architecture::Mistral | Architecture::Phi3 | Architecture::Gemma3 => true,
        };
        let is_absent = self.config.get("sliding_window").is_none();
        match self.flag("use_sliding_window", is_used)? {
            true if is_absent && self.architecture != Architecture::Phi3 => Ok(Some(DEFAULT_WINDOW)),
            true => self.optional_size("sliding_window", MAX_COUNT),
            false => Ok(None),
        }
    }

    /// transformers has no window for these, so what a file means by one is not known.
    fn no_window(&self) -> Result<Option<usize>> {
        match (self.optional_size("sliding_window", MAX_COUNT)?, self.get("max_position_embeddings")) {
            (Some(window), Some(context)) if context.as_u64().is_some_and(|context| (window as u64) < context) => {
                Err(self
                    .error(
                        "sliding_window",
                        format!("a window of {window} tokens is not supported for this architecture"),
                    )
                    .with_hint("transformers ignores it; if the model is a Mistral, `architectures` must say so"))
            }
            _ => Ok(None),
        }
    }

    /// `layer_types` of newer files; else what transformers makes of the older settings.
    pub fn layer_types(&self, num_layers: usize) -> Result<Vec<LayerType>> {
        let sliding = |is_sliding: bool| if is_sliding { LayerType::Sliding } else { LayerType::Full };
        if let Some(listed) = self.get("layer_types").filter(|_| self.has_layer_types()) {
            let types: Option<Vec<LayerType>> = listed.as_array().and_then(|names| {
                names
                    .iter()
                    .map(|name| match name.as_str() {
                        Some("full_attention") => Some(LayerType::Full),
                        Some("sliding_attention") => Some(LayerType::Sliding),
                        _ => None,
                    })
                    .collect()
            });
            return types.filter(|types| types.len() == num_layers).ok_or_else(|| {
                let expected = "`full_attention` or `sliding_attention` for each layer";
                self.error("layer_types", format!("expected {expected}, got {}", shown(listed)))
            });
        }
        Ok(match self.architecture {
            Architecture::Gemma3 => {
                let every = self.optional_size("sliding_window_pattern", MAX_COUNT)?.unwrap_or(6);
                (0..num_layers).map(|i| sliding((i + 1) % every != 0)).collect()
            }
            Architecture::Mistral | Architecture::Phi3 => vec![sliding(self.sliding_window()?.is_some()); num_layers],
            Architecture::Qwen2 | Architecture::Qwen3 => {
                let first = self.optional_size("max_window_layers", MAX_COUNT)?.unwrap_or(28);
                let is_used = self.sliding_window()?.is_some();
                (0..num_layers).map(|i| sliding(is_used && i >= first)).collect()
            }
            Architecture::Llama | Architecture::Gpt2 => vec![LayerType::Full; num_layers],
        })
    }

    fn has_layer_types(&self) -> bool {
        matches!(self.architecture, Architecture::Gemma3 | Architecture::Qwen2 | Architecture::Qwen3)
    }
}

impl ModelConfig {
    /// Refuses sizes that do not fit each other, and options that this decoder does not have.
    pub(super) fn check(&self, fields: &Fields<'_>) -> Result<()> {
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(fields.error(
                "num_key_value_heads",
                format!("{} query heads cannot share {} key heads", self.num_attention_heads, self.num_key_value_heads),
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            let message = format!("{} is not possible; rotary embedding needs pairs", self.head_dim);
            return Err(fields.error("head_dim", message));
        }
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            let message = format!("{} of {} dimensions cannot turn in pairs", self.rotary_dim, self.head_dim);
            return Err(fields.error("partial_rotary_factor", message));
        }
        if self.query_size() > MAX_WIDTH {
            let message = format!("{} heads of {} are too wide", self.num_attention_heads, self.head_dim);
            return Err(fields.error("num_attention_heads", message));
        }
        if fields.architecture == Architecture::Gpt2 && self.query_size() != self.hidden_size {
            let message = format!("{} heads cannot share {} dimensions", self.num_attention_heads, self.hidden_size);
            return Err(fields.error("num_attention_heads", message));
        }
        self.check_factors(fields)?;
        for (name, value) in KNOWN_FLAGS {
            if fields.flag(name, value)? != value {
                return Err(fields.error(name, format!("only {value} is supported")));
            }
        }
        match MUST_BE_ABSENT.iter().find(|name| fields.get(name).is_some()) {
            Some(name) => Err(fields.error(name, "is not supported; expected null")),
            None => Ok(()),
        }
    }

    fn check_factors(&self, fields: &Fields<'_>) -> Result<()> {
        let RopeScaling::Factors(factors) = &self.rope_scaling else { return Ok(()) };
        if factors.len() != self.rotary_dim / 2 {
            let message = format!("expected {} factors, got {}", self.rotary_dim / 2, factors.len());
            return Err(fields.error("rope_scaling.factors", message));
        }
        match factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
            Some(bad) => Err(fields.error("rope_scaling.factors", format!("{bad} is not possible; expected above 0"))),
            None => Ok(()),
        }
    }
}

/// `eos_token_id` may be one number or a list; the generation config usually knows more of them.
pub(super) fn end_tokens(fields: &Fields<'_>, generation_config: Option<&Value>) -> Result<Vec<u32>> {
    let field = "eos_token_id";
    let mut ids = Vec::new();
    for source in [generation_config, Some(fields.config)].into_iter().flatten() {
        let listed = match source.get(field) {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(list)) => list,
            Some(one) => std::slice::from_ref(one),
        };
        for value in listed {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.push(id.ok_or_else(|| fields.error(field, format!("expected a token id, got {}", shown(value))))?);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// A value as an error shows it: short, whatever the file holds.
pub(super) fn shown(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}
