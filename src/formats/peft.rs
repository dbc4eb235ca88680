//! Adapter folders as the Python library `peft` has them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A module's factors are `base_model.model.MODULE.lora_A.weight` `[r, in]` and `.lora_B.weight` `[out, r]`; the update of
//! its weight is `(lora_alpha / r) B A`. Written only. Source: <https://huggingface.co/docs/peft/developer_guides/checkpoint>.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::atomic_write::{write_bytes, write_json, write_new_folder, write_synced};
use super::file_system::FileSystem;
use super::hf_write::MODEL_CARD;
use super::quantize::Precision;
use super::safetensors::{TensorToWrite, write_tensors_as};
use crate::error::Result;

/// What an adapter's folder is recognised by.
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What an adapter folder says besides its tensors.
#[derive(Clone, Debug)]
pub struct PeftAdapter<'a> {
    pub rank: usize,
    pub alpha: usize,
    /// Last parts of module names: `q_proj`.
    pub target_modules: &'a [String],
    /// What the adapter belongs on: a path or a name on the Hugging Face hub.
    pub base_model: &'a str,
    /// The commit, if it is a name on the hub.
    pub revision: Option<&'a str>,
    /// The text of `README.md`.
    pub model_card: &'a str,
    /// The type of the tensors: not Q8_0, which these folders do not have.
    pub precision: Precision,
}

impl PeftAdapter<'_> {
    /// Writes the folder. It appears only once it is complete and on disk.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if anything but an empty folder is there; [`crate::Error::Disk`] if writing fails; any error of
    /// a tensor's values.
    pub fn write(&self, files: &dyn FileSystem, folder: &Path, tensors: Vec<TensorToWrite>) -> Result<()> {
        write_new_folder(files, folder, |temporary| {
            write_json(files, &temporary.join(ADAPTER_CONFIG), &self.config())?;
            write_bytes(files, &temporary.join(MODEL_CARD), self.model_card.as_bytes())?;
            let weights = temporary.join(WEIGHTS);
            write_synced(files, &weights, |file| {
                write_tensors_as(file, &weights, tensors, &BTreeMap::new(), self.precision)
            })
        })
    }

    /// What is not named here has the default of `peft`.
    fn config(&self) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model,
            "revision": self.revision,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": self.target_modules,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "use_dora": false,
            "use_rslora": false,
        })
    }
}

/// The name of an adapter's tensor in these files: `layers.0.self_attn.q_proj.lora.a`, as checkpoints call it, becomes
/// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`. `None` for anything else.
pub fn peft_name(parameter: &str) -> Option<String> {
    let (module, factor) = parameter.rsplit_once(".lora.")?;
    let factor = match factor {
        "a" => "A",
        "b" => "B",
        _ => return None,
    };
    Some(format!("base_model.model.model.{module}.lora_{factor}.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file_system::Disk;
    use crate::formats::safetensors::{HostTensor, open_safetensors};

    #[test]
    fn an_adapter_folder_has_the_names_and_the_metadata_of_peft() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("adapter");
        let adapter = PeftAdapter {
            rank: 2,
            alpha: 4,
            target_modules: &["q_proj".to_owned()],
            base_model: "owner/name",
            revision: None,
            model_card: "card",
            precision: Precision::F32,
        };
        let name = peft_name("layers.3.self_attn.q_proj.lora.a").unwrap();
        let tensor = HostTensor { name, shape: vec![2, 3], values: vec![0.5; 6] };
        adapter.write(&Disk, &folder, vec![tensor.into()]).unwrap();
        assert_eq!(adapter.write(&Disk, &folder, Vec::new()).unwrap_err().exit_code(), 2, "nothing is replaced");
        let file = open_safetensors(&folder.join("adapter_model.safetensors")).unwrap();
        assert_eq!(
            file.names().collect::<Vec<_>>(),
            ["base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"]
        );
        assert_eq!(file.metadata()["format"], "pt");
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join(ADAPTER_CONFIG)).unwrap()).unwrap();
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(2), &json!(4)));
        assert_eq!(config["target_modules"], json!(["q_proj"]));
        assert_eq!(std::fs::read(folder.join("README.md")).unwrap(), b"card");
    }

    #[test]
    fn only_factors_of_adapters_have_a_name() {
        assert_eq!(peft_name("layers.0.self_attn.q_proj.weight"), None);
        assert_eq!(peft_name("layers.0.mlp.up_proj.lora.c"), None);
    }
}
