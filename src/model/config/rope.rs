//! Rotary settings: their old and new spellings, and how frequencies are stretched.

use serde_json::Value;

use super::fields::Fields;
use crate::error::Result;
use crate::formats::architecture::Architecture;

/// How rotary frequencies are stretched for contexts longer than in pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
    /// One divisor for each frequency, as GGUF files of Llama 3 carry them.
    Factors(Vec<f64>),
}

pub(super) struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
    /// The base of sliding layers (Gemma 3).
    pub local_theta: Option<f64>,
    /// The part of each head that turns.
    pub partial_rotary_factor: f64,
}

impl Rope {
    /// Older files have `rope_theta` and `rope_scaling`, newer ones (transformers 5) one object `rope_parameters`, for Gemma 3
    /// one object for each type of layer inside.
    pub fn read(fields: &Fields<'_>, max_position_embeddings: usize) -> Result<Self> {
        let is_gemma = fields.architecture == Architecture::Gemma3;
        let default_theta = if is_gemma { 1_000_000.0 } else { 10_000.0 };
        let object = |name: &str| fields.config.get(name).filter(|value| value.is_object());
        let by_layer = |name: &str| object("rope_parameters").filter(|_| is_gemma).and_then(|all| all.get(name));
        let local_theta = match (is_gemma, by_layer("sliding_attention")) {
            (false, _) => None,
            (true, Some(local)) => Some(local_base(&fields.inside(local))?),
            (true, None) => Some(fields.number("rope_local_base_freq", 10_000.0)?),
        };
        let (name, own) = match (by_layer("full_attention").or(object("rope_parameters")), object("rope_scaling")) {
            (Some(value), _) => ("rope_parameters", value),
            (None, Some(value)) => ("rope_scaling", value),
            (None, None) => ("rope_scaling", &Value::Null),
        };
        let inner = fields.inside(own);
        let either = |field: &str| match inner.optional_number(field)? {
            None => fields.optional_number(field),
            found => Ok(found),
        };
        Ok(Rope {
            theta: either("rope_theta")?.unwrap_or(default_theta),
            scaling: RopeScaling::read(fields, name, own, max_position_embeddings)?,
            local_theta,
            partial_rotary_factor: match fields.architecture {
                Architecture::Phi3 => either("partial_rotary_factor")?.unwrap_or(1.0),
                _ => 1.0,
            },
        })
    }
}

/// The base of sliding layers, which are not stretched.
fn local_base(fields: &Fields<'_>) -> Result<f64> {
    match kind_of(fields.config) {
        "default" => fields.number("rope_theta", 10_000.0),
        other => Err(fields.error("rope_parameters", format!("`{other}` is not supported for sliding_attention"))),
    }
}

fn kind_of(scaling: &Value) -> &str {
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
    kind.unwrap_or("default")
}

impl RopeScaling {
    /// `scaling` is the object called `name`.
    fn read(fields: &Fields<'_>, name: &str, scaling: &Value, max_position_embeddings: usize) -> Result<Self> {
        let inner = Fields { config: scaling, path: fields.path, architecture: fields.architecture };
        Ok(match kind_of(scaling) {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: inner.number("factor", 1.0)? },
            "llama3" => RopeScaling::Llama3 {
                factor: inner.number("factor", 8.0)?,
                low_freq_factor: inner.number("low_freq_factor", 1.0)?,
                high_freq_factor: inner.number("high_freq_factor", 4.0)?,
                original_max_position_embeddings: inner
                    .number("original_max_position_embeddings", max_position_embeddings as f64)?,
            },
            "factors" => {
                let values = scaling.get("factors").and_then(Value::as_array);
                let factors: Option<Vec<f64>> = values.and_then(|list| list.iter().map(Value::as_f64).collect());
                RopeScaling::Factors(factors.ok_or_else(|| fields.error(name, "`factors` must be a list of numbers"))?)
            }
            other => {
                return Err(fields
                    .error(name, format!("rotary scaling `{other}` is not supported"))
                    .with_hint("supported: default, linear, llama3"));
            }
        })
    }
}
