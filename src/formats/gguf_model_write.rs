//! A Hugging Face model as GGUF: metadata, names and the order of rows. The inverse of `gguf_model` and `gguf_config`.
//!
//! Vectors (norms, biases, rotary factors) are always F32, as llama.cpp's own converter writes them and its kernels expect
//! them. A matrix whose rows are not whole blocks of Q8_0 is written as F16.

use std::path::Path;

use super::gguf_config::ROTARY_FACTORS;
use super::gguf_model::{MODEL_TENSORS, layer_tensors};
use super::gguf_write::{GgufTensor, MetadataEntries, MetadataToWrite};
use super::quantize::Precision;
use super::safetensors::{HostTensor, TensorToWrite};
use crate::error::{Error, Result};

/// What GGUF metadata says of an architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufArchitecture {
    /// `llama`, `qwen2` or `qwen3`.
    pub name: &'static str,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub context_length: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Every rotary frequency is divided by it.
    pub linear_factor: Option<f64>,
    /// One divisor for each rotary frequency.
    pub rotary_factors: Option<Vec<f32>>,
}

impl GgufArchitecture {
    /// The entries under `general` and under the architecture's own name. `title` is shown to people.
    pub fn metadata(&self, title: &str, precision: Precision) -> MetadataEntries {
        let string = |text: &str| MetadataToWrite::String(text.to_owned());
        let size = |size: usize| MetadataToWrite::U32(size as u32);
        let number = |number: f64| MetadataToWrite::F32(number as f32);
        let mut entries: MetadataEntries = vec![
            ("general.architecture".into(), string(self.name)),
            ("general.type".into(), string("model")),
            ("general.name".into(), string(title)),
            ("general.file_type".into(), MetadataToWrite::U32(file_type(precision))),
            ("general.quantization_version".into(), MetadataToWrite::U32(2)),
        ];
        let own = [
            ("vocab_size", size(self.vocab_size)),
            ("context_length", size(self.context_length)),
            ("embedding_length", size(self.hidden_size)),
            ("block_count", size(self.num_layers)),
            ("feed_forward_length", size(self.intermediate_size)),
            ("attention.head_count", size(self.num_heads)),
            ("attention.head_count_kv", size(self.num_kv_heads)),
            ("attention.key_length", size(self.head_dim)),
            ("attention.value_length", size(self.head_dim)),
            ("attention.layer_norm_rms_epsilon", number(self.rms_norm_eps)),
            ("rope.dimension_count", size(self.head_dim)),
            ("rope.freq_base", number(self.rope_theta)),
        ];
        entries.extend(own.into_iter().map(|(key, value)| (format!("{}.{key}", self.name), value)));
        if let Some(factor) = self.linear_factor {
            entries.push((format!("{}.rope.scaling.type", self.name), string("linear")));
            entries.push((format!("{}.rope.scaling.factor", self.name), number(factor)));
        }
        entries
    }

    /// The model's tensors under GGUF's names, in its row order, with the types to write them in. `path` is the model that
    /// errors name.
    ///
    /// # Errors
    /// [`Error::Input`] for a tensor that has no name in GGUF.
    pub fn tensors<'a>(
        &self,
        tensors: Vec<TensorToWrite<'a>>,
        precision: Precision,
        path: &Path,
    ) -> Result<Vec<GgufTensor<'a>>> {
        let factors = self.rotary_factors.clone().map(|values| {
            let tensor = HostTensor { name: ROTARY_FACTORS.into(), shape: vec![values.len()], values };
            GgufTensor { tensor: tensor.into(), precision: Precision::F32 }
        });
        let mut translated: Vec<GgufTensor<'a>> = factors.into_iter().collect();
        for tensor in tensors {
            let Some(name) = gguf_name(tensor.name(), self.name) else {
                return Err(Error::input(path, "has no place in a GGUF file of this architecture")
                    .at(format!("tensor `{}`", tensor.name())));
            };
            let precision = precision_of(tensor.shape(), precision);
            let shape = tensor.shape().to_vec();
            let num_heads = self.interleaved_heads(tensor.name());
            let values = move || {
                let HostTensor { shape, values, .. } = tensor.into_host()?;
                Ok(match num_heads {
                    Some(num_heads) => interleave_rows(&values, shape[0], num_heads),
                    None => values,
                })
            };
            translated.push(GgufTensor { tensor: TensorToWrite::new(name, &shape, values), precision });
        }
        Ok(translated)
    }

    /// The heads of a tensor whose rows `llama` files keep interleaved: see `gguf_model`.
    fn interleaved_heads(&self, name: &str) -> Option<usize> {
        match () {
            _ if self.name != "llama" => None,
            _ if name.contains(".q_proj.") => Some(self.num_heads),
            _ if name.contains(".k_proj.") => Some(self.num_kv_heads),
            _ => None,
        }
    }
}

/// `llama_ftype`: the type of most tensors.
fn file_type(precision: Precision) -> u32 {
    match precision {
        Precision::F32 => 0,
        Precision::F16 => 1,
        Precision::Q8_0 => 7,
        Precision::BF16 => 32,
    }
}

fn precision_of(shape: &[usize], precision: Precision) -> Precision {
    match shape {
        [_] => Precision::F32,
        [.., row_len] if !row_len.is_multiple_of(precision.storage().block_len()) => Precision::F16,
        _ => precision,
    }
}

fn gguf_name(hugging_face: &str, architecture: &str) -> Option<String> {
    if let Some((gguf, _)) = MODEL_TENSORS.iter().find(|(_, name)| *name == hugging_face) {
        return Some((*gguf).to_owned());
    }
    let (layer, rest) = hugging_face.strip_prefix("model.layers.")?.split_once('.')?;
    let (gguf, _) = layer_tensors(architecture).find(|(_, name)| *name == rest)?;
    Some(format!("blk.{layer}.{gguf}"))
}

/// Hugging Face row `s n/2 + j` of a head of `n` rows becomes row `2j + s`, for `s` in 0..2.
fn interleave_rows(values: &[f32], num_rows: usize, num_heads: usize) -> Vec<f32> {
    let row_len = values.len() / num_rows;
    let half = num_rows / num_heads / 2;
    let rows = (0..num_heads)
        .flat_map(|head| (0..half).flat_map(move |j| (0..2).map(move |s| 2 * head * half + s * half + j)));
    rows.flat_map(|row| &values[row * row_len..][..row_len]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf_model::deinterleave_rows;

    #[test]
    fn rows_of_two_heads_are_interleaved_as_worked_by_hand_and_come_back() {
        // Two heads of four rows of one value: the halves 0 1 | 2 3 become pairs (0, 2), (1, 3).
        let rows: Vec<f32> = (0..8).map(|row| row as f32).collect();
        let interleaved = interleave_rows(&rows, 8, 2);
        assert_eq!(interleaved, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(deinterleave_rows(&interleaved, 8, 2), rows);
        let wide: Vec<f32> = (0..48).map(|value| value as f32).collect();
        assert_eq!(deinterleave_rows(&interleave_rows(&wide, 12, 2), 12, 2), wide);
    }

    #[test]
    fn every_tensor_of_the_tables_has_a_name_in_both_worlds() {
        for (gguf, hugging_face) in MODEL_TENSORS {
            assert_eq!(gguf_name(hugging_face, "llama").as_deref(), Some(gguf));
        }
        assert_eq!(layer_tensors("qwen3").count(), layer_tensors("llama").count() + 2);
        for (gguf, hugging_face) in layer_tensors("qwen3") {
            assert_eq!(gguf_name(&format!("model.layers.11.{hugging_face}"), "qwen3"), Some(format!("blk.11.{gguf}")));
        }
        assert_eq!(gguf_name("model.layers.0.self_attn.q_norm.weight", "llama"), None);
    }

    #[test]
    fn vectors_stay_f32_and_odd_rows_fall_back_to_f16() {
        assert_eq!(precision_of(&[576], Precision::Q8_0), Precision::F32);
        assert_eq!(precision_of(&[4, 64], Precision::Q8_0), Precision::Q8_0);
        assert_eq!(precision_of(&[4, 48], Precision::Q8_0), Precision::F16);
        assert_eq!(precision_of(&[4, 48], Precision::BF16), Precision::BF16);
    }
}
