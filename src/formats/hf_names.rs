//! Names and layouts of tensors in Hugging Face folders whose architecture differs from Llama's: one view for the rest of
//! the program, undone when a folder is written.
//!
//! | in the file | as the program sees it |
//! |---|---|
//! | Phi-3: `self_attn.qkv_proj`, `mlp.gate_up_proj` | `q_proj`, `k_proj`, `v_proj`; `gate_proj`, `up_proj`: their rows one after the other |
//! | GPT-2: names of its own, with or without `transformer.` | Llama's names, `model.embed_positions` for `wpe` |
//! | GPT-2: projections `[in, out]` (`Conv1D`) | `[out, in]` |
//! | GPT-2: `attn.bias`, `attn.masked_bias`: the causal mask | nothing |

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::architecture::Architecture;
use super::safetensors::TensorToWrite;
use super::{Arrangement, TensorPlace, Weights};
use crate::error::{Error, Result};

/// A module in the file and what the program sees in its place, rows one after the other.
struct Fused {
    file: &'static str,
    seen: &'static [&'static str],
    /// Its weight is `[in, out]` in the file.
    transposed: bool,
}

const fn rows(file: &'static str, seen: &'static [&'static str]) -> Fused {
    Fused { file, seen, transposed: false }
}

const fn conv1d(file: &'static str, seen: &'static [&'static str]) -> Fused {
    Fused { file, seen, transposed: true }
}

const QKV: &[&str] = &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];

/// Modules of a Phi-3 layer that differ from Llama's.
const PHI3_LAYER: [Fused; 2] =
    [rows("self_attn.qkv_proj", QKV), rows("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"])];

/// Modules of a GPT-2 layer.
const GPT2_LAYER: [Fused; 6] = [
    rows("ln_1", &["input_layernorm"]),
    rows("ln_2", &["post_attention_layernorm"]),
    conv1d("attn.c_attn", QKV),
    conv1d("attn.c_proj", &["self_attn.o_proj"]),
    conv1d("mlp.c_fc", &["mlp.up_proj"]),
    conv1d("mlp.c_proj", &["mlp.down_proj"]),
];

/// Modules that GPT-2 has once.
const GPT2_MODEL: [(&str, &str); 3] = [("wte", "embed_tokens"), ("wpe", "embed_positions"), ("ln_f", "norm")];

/// What GPT-2's older files have in each layer although it follows from the architecture.
const GPT2_MASKS: [&str; 2] = ["attn.bias", "attn.masked_bias"];

/// The names of one family.
struct Names {
    architecture: Architecture,
    /// Of layers: what stands before the layer's number in the file.
    prefix: &'static str,
    layer: &'static [Fused],
}

impl Names {
    /// None for families that have Llama's names and layouts.
    fn of(config: &Value) -> Option<Self> {
        let architecture = Architecture::of(config)?;
        match architecture {
            Architecture::Phi3 => Some(Names { architecture, prefix: "model.layers.", layer: &PHI3_LAYER }),
            Architecture::Gpt2 => Some(Names { architecture, prefix: "transformer.h.", layer: &GPT2_LAYER }),
            _ => None,
        }
    }

    /// The entry of a name in the file, and the layer and the last part (`weight`, `bias`) of the name.
    fn fused_in_file<'n>(&self, name: &'n str) -> Option<(&'static Fused, &'n str, &'n str)> {
        let (layer, rest) = name.strip_prefix(self.prefix)?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let fused = self.layer.iter().find(|fused| fused.file == module)?;
        Some((fused, layer, part))
    }

    /// The entry of a name that the program sees, and the layer and the last part of the name.
    fn fused_as_seen<'n>(&self, name: &'n str) -> Option<(&'static Fused, &'n str, &'n str)> {
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let fused = self.layer.iter().find(|fused| fused.seen.contains(&module))?;
        Some((fused, layer, part))
    }

    /// Another name of a tensor that is the same in both.
    fn renamed(&self, name: &str, to_file: bool) -> String {
        let (own, seen) = ("transformer.", "model.");
        let (from, to) = if to_file { (seen, own) } else { (own, seen) };
        let in_model = name.strip_prefix(from).filter(|_| self.architecture == Architecture::Gpt2);
        let Some((module, part)) = in_model.and_then(|rest| rest.rsplit_once('.')) else { return name.to_owned() };
        let pair = |(file, seen): &(&'static str, &'static str)| if to_file { (*seen, *file) } else { (*file, *seen) };
        match GPT2_MODEL.iter().map(pair).find(|(from, _)| *from == module) {
            Some((_, module)) => format!("{to}{module}.{part}"),
            None => name.to_owned(),
        }
    }
}

/// Makes a folder's tensors those that the program sees.
///
/// # Errors
/// [`Error::Input`] for a fused tensor that does not divide as `config.json` says.
pub(super) fn as_seen(weights: &mut Weights, config: &Value) -> Result<()> {
    let Some(names) = Names::of(config) else { return Ok(()) };
    let mut seen = BTreeMap::new();
    for (stored_name, place) in std::mem::take(&mut weights.tensors) {
        let name = match names.architecture {
            Architecture::Gpt2 => with_prefix(&stored_name),
            _ => stored_name.clone(),
        };
        let layer_part = name.strip_prefix(names.prefix).and_then(|rest| rest.split_once('.')).map(|(_, part)| part);
        if names.architecture == Architecture::Gpt2 && layer_part.is_some_and(|part| GPT2_MASKS.contains(&part)) {
            continue;
        }
        let Some((fused, layer, part)) = names.fused_in_file(&name) else {
            insert(&mut seen, names.renamed(&name, false), place, &weights.path)?;
            continue;
        };
        for (module, place) in fused.seen.iter().zip(split(fused, &place, config, &weights.path)?) {
            insert(&mut seen, format!("model.layers.{layer}.{module}.{part}"), place, &weights.path)?;
        }
    }
    weights.tensors = seen;
    Ok(())
}

/// The places of what a fused tensor is made of.
fn split(fused: &Fused, place: &TensorPlace, config: &Value, path: &Path) -> Result<Vec<TensorPlace>> {
    let transposed = fused.transposed && place.shape.len() == 2;
    let num_rows = if transposed { place.shape[1] } else { place.shape.first().copied().unwrap_or(0) };
    let parts = parts(fused, num_rows, config, path, &place.name_in_file)?;
    let part = |rows: Range<usize>| TensorPlace {
        file: place.file,
        name_in_file: place.name_in_file.clone(),
        shape: match place.shape[..] {
            [inputs, _] if transposed => vec![rows.len(), inputs],
            _ => [&[rows.len()], place.shape.get(1..).unwrap_or_default()].concat(),
        },
        arrangement: Arrangement::Part { rows, transposed },
    };
    Ok(parts.into_iter().map(part).collect())
}

fn insert(seen: &mut BTreeMap<String, TensorPlace>, name: String, place: TensorPlace, path: &Path) -> Result<()> {
    let stored = place.name_in_file.clone();
    match seen.insert(name, place) {
        None => Ok(()),
        Some(_) => Err(Error::input(path, "is there under two names").at(format!("tensor `{stored}`"))),
    }
}

/// GPT-2's names with `transformer.` before all but the head's.
fn with_prefix(name: &str) -> String {
    if name.starts_with("transformer.") || name.starts_with("lm_head.") {
        return name.to_owned();
    }
    format!("transformer.{name}")
}

/// The rows of each part of a fused tensor: of queries, keys and values by their heads; else equal parts.
fn parts(fused: &Fused, num_rows: usize, config: &Value, path: &Path, name: &str) -> Result<Vec<Range<usize>>> {
    let heads = |field: &str| config.get(field).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let shares = match (fused.seen, heads("num_attention_heads")) {
        (QKV, Some(queries)) => {
            let keys = heads("num_key_value_heads").unwrap_or(queries);
            vec![queries, keys, keys]
        }
        _ => vec![1; fused.seen.len()],
    };
    let total = shares.iter().try_fold(0usize, |sum, share| sum.checked_add(*share)).filter(|total| *total > 0);
    let Some(size) = total.filter(|total| num_rows.is_multiple_of(*total)).map(|total| num_rows / total) else {
        let message = format!("its {num_rows} rows do not divide into {}", fused.seen.join(", "));
        return Err(Error::input(path, message).at(format!("tensor `{name}`")));
    };
    let mut end = 0;
    Ok(shares
        .into_iter()
        .map(|share| {
            let start = end;
            end += share * size;
            start..end
        })
        .collect())
}

/// The tensors as a folder of this architecture has them. Those that the program sees apart are fused again.
///
/// # Panics
/// If a part of a fused tensor is missing: a bug of the caller, who has a whole model.
pub(super) fn as_in_file<'a>(tensors: Vec<TensorToWrite<'a>>, config: &Value) -> Vec<TensorToWrite<'a>> {
    let Some(names) = Names::of(config) else { return tensors };
    let mut result = Vec::new();
    let mut waiting: BTreeMap<String, (&'static Fused, BTreeMap<usize, TensorToWrite<'a>>)> = BTreeMap::new();
    for tensor in tensors {
        let Some((fused, layer, part)) = names.fused_as_seen(tensor.name()) else {
            let name = names.renamed(tensor.name(), true);
            result.push(tensor.renamed(name));
            continue;
        };
        let module = tensor.name().strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let module = module.and_then(|(_, rest)| rest.rsplit_once('.')).map_or("", |(module, _)| module);
        let index = fused.seen.iter().position(|seen| *seen == module).expect("the entry was found by this name");
        let name = format!("{}{layer}.{}.{part}", names.prefix, fused.file);
        waiting.entry(name).or_insert_with(|| (fused, BTreeMap::new())).1.insert(index, tensor);
    }
    result.extend(waiting.into_iter().map(|(name, (fused, parts))| {
        assert_eq!(parts.len(), fused.seen.len(), "`{name}`: a part is missing");
        joined(name, parts.into_values().collect(), fused.transposed)
    }));
    result
}

/// Rows one after the other, and transposed where the file wants it.
fn joined(name: String, parts: Vec<TensorToWrite<'_>>, transposed: bool) -> TensorToWrite<'_> {
    let num_rows: usize = parts.iter().map(|part| part.shape().first().copied().unwrap_or(1)).sum();
    let row_shape = parts[0].shape().get(1..).unwrap_or_default().to_vec();
    let transposed = transposed && row_shape.len() == 1;
    let shape = match row_shape[..] {
        [inputs] if transposed => vec![inputs, num_rows],
        _ => [&[num_rows], &row_shape[..]].concat(),
    };
    TensorToWrite::new(name, &shape, move || {
        let mut values = Vec::new();
        for part in parts {
            values.extend(part.into_host()?.values);
        }
        Ok(if transposed { transpose(&values, num_rows) } else { values })
    })
}

/// `[num_rows, n]` -> `[n, num_rows]`.
pub(super) fn transpose(values: &[f32], num_rows: usize) -> Vec<f32> {
    let row_len = values.len() / num_rows.max(1);
    (0..row_len).flat_map(|column| values.iter().skip(column).step_by(row_len.max(1))).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::hf_folder::open_model_folder;
    use crate::formats::hf_write::write_model_folder;
    use crate::formats::safetensors::{HostTensor, open_safetensors, write_safetensors};
    use serde_json::json;

    fn tensor(name: &str, shape: &[usize]) -> TensorToWrite<'static> {
        let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        HostTensor { name: name.into(), shape: shape.into(), values }.into()
    }

    fn refused(config: &Value, tensors: Vec<TensorToWrite<'_>>) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        write_safetensors(&folder.path().join("model.safetensors"), tensors, &BTreeMap::new()).unwrap();
        let error = open_model_folder(folder.path()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        error.to_string()
    }

    #[test]
    fn fused_rows_of_phi3_are_queries_then_keys_then_values_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"model_type": "phi3", "num_attention_heads": 2, "num_key_value_heads": 1});
        let path = folder.path().join("model.safetensors");
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let stored = [tensor("model.layers.3.self_attn.qkv_proj.weight", &[4, 2]), tensor("model.norm.weight", &[2])];
        write_safetensors(&path, stored.into(), &BTreeMap::new()).unwrap();
        let model = open_model_folder(folder.path()).unwrap();
        let read = |part: &str| model.weights.read_f32(&format!("model.layers.3.self_attn.{part}.weight")).unwrap();
        assert_eq!(read("q_proj"), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!((read("k_proj"), read("v_proj")), (vec![4.0, 5.0], vec![6.0, 7.0]));
        assert_eq!(model.weights.shape("model.layers.3.self_attn.q_proj.weight"), Some(&[2, 2][..]));
        assert_eq!(model.weights.num_bytes(), 4 * (8 + 2));

        let seen = model
            .weights
            .names()
            .map(|name| TensorToWrite::new(name, model.weights.shape(name).unwrap(), || model.weights.read_f32(name)));
        let again = folder.path().join("again");
        write_model_folder(&again, &config, None, None, seen.collect()).unwrap();
        assert_eq!(std::fs::read(again.join("model.safetensors")).unwrap(), std::fs::read(path).unwrap());
    }

    /// `c_attn.weight` of a model with two dimensions and one head is `[2, 6]`; its columns 0 and 1 are the query's.
    #[test]
    fn gpt2_is_read_with_and_without_prefix_and_written_with_it() {
        let config = json!({"model_type": "gpt2", "n_head": 1});
        for prefix in ["", "transformer."] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let stored = [
                ("wte.weight", &[5, 2][..]),
                ("wpe.weight", &[4, 2]),
                ("ln_f.bias", &[2]),
                ("h.0.attn.c_attn.weight", &[2, 6]),
                ("h.0.attn.c_attn.bias", &[6]),
                ("h.0.attn.bias", &[1, 1, 4, 4]),
                ("h.0.attn.masked_bias", &[]),
            ];
            let stored = stored.map(|(name, shape)| tensor(&format!("{prefix}{name}"), shape));
            write_safetensors(&folder.path().join("model.safetensors"), stored.into(), &BTreeMap::new()).unwrap();
            let model = open_model_folder(folder.path()).unwrap();
            let qkv = |part: &str| format!("model.layers.0.self_attn.{part}");
            assert_eq!(model.weights.read_f32(&qkv("q_proj.weight")).unwrap(), [0.0, 6.0, 1.0, 7.0]);
            assert_eq!(model.weights.read_f32(&qkv("v_proj.weight")).unwrap(), [4.0, 10.0, 5.0, 11.0]);
            assert_eq!(model.weights.read_f32(&qkv("k_proj.bias")).unwrap(), [2.0, 3.0]);
            let others: Vec<&str> = model.weights.names().filter(|name| !name.contains("self_attn")).collect();
            assert_eq!(others, ["model.embed_positions.weight", "model.embed_tokens.weight", "model.norm.bias"]);

            let seen = model.weights.names().map(|name| {
                TensorToWrite::new(name, model.weights.shape(name).unwrap(), || model.weights.read_f32(name))
            });
            let again = folder.path().join("again");
            write_model_folder(&again, &config, None, None, seen.collect()).unwrap();
            let written = open_safetensors(&again.join("model.safetensors")).unwrap();
            assert_eq!(
                written.names().collect::<Vec<_>>(),
                [
                    "transformer.h.0.attn.c_attn.bias",
                    "transformer.h.0.attn.c_attn.weight",
                    "transformer.ln_f.bias",
                    "transformer.wpe.weight",
                    "transformer.wte.weight"
                ]
            );
            let weight = written.read_f32("transformer.h.0.attn.c_attn.weight").unwrap();
            assert_eq!(weight, (0..12).map(|i| i as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_fused_tensor_that_does_not_divide_is_refused_by_name() {
        let name = "model.layers.0.self_attn.qkv_proj.weight";
        for heads in [json!(3), json!(u64::MAX), json!(0)] {
            let config = json!({"model_type": "phi3", "num_attention_heads": heads, "num_key_value_heads": heads});
            let error = refused(&config, vec![tensor(name, &[4, 2])]);
            assert!(error.contains(name) && error.contains("4 rows do not divide into self_attn.q_proj"), "{error}");
        }
    }
}
