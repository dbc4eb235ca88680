//! The families of models that this program knows, as `config.json` names them.

use serde_json::Value;

/// A family: its own names of settings and tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM2, TinyLlama.
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    /// Phi-3-mini-4k; those with longer contexts have `longrope`, which is refused.
    Phi3,
    /// The models of text alone.
    Gemma3,
    Gpt2,
}

impl Architecture {
    /// All of them with `model_type` and class of transformers.
    const ALL: [(Architecture, &'static str, &'static str); 7] = [
        (Architecture::Llama, "llama", "LlamaForCausalLM"),
        (Architecture::Mistral, "mistral", "MistralForCausalLM"),
        (Architecture::Qwen2, "qwen2", "Qwen2ForCausalLM"),
        (Architecture::Qwen3, "qwen3", "Qwen3ForCausalLM"),
        (Architecture::Phi3, "phi3", "Phi3ForCausalLM"),
        (Architecture::Gemma3, "gemma3_text", "Gemma3ForCausalLM"),
        (Architecture::Gpt2, "gpt2", "GPT2LMHeadModel"),
    ];

    /// The family of a `config.json`; `None` if it is another one.
    pub fn of(config: &Value) -> Option<Self> {
        let name = Self::name_in(config);
        Self::ALL.iter().find(|(_, model_type, class)| [*model_type, *class].contains(&name)).map(|known| known.0)
    }

    /// The first of `architectures`, else `model_type`: what decides.
    pub fn name_in(config: &Value) -> &str {
        let listed = config.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
        listed.or_else(|| config.get("model_type").and_then(Value::as_str)).unwrap_or("(none)")
    }

    /// `model_type` of transformers.
    pub fn model_type(self) -> &'static str {
        Self::ALL.iter().find(|known| known.0 == self).map_or("", |known| known.1)
    }

    /// The classes of all families, for hints.
    pub fn classes() -> String {
        Self::ALL.map(|known| known.2).join(", ")
    }
}
