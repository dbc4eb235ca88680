//! The built-in task inside a run's folder: word problems and a model with random weights, for runs that name neither model
//! nor data.

use burn::tensor::Device;

use super::run_dir::RunDir;
use crate::config::{RunConfig, WordProblemsConfig};
use crate::data::tokenizer::Tokenizer;
use crate::data::word_problems::{self, make_word_problems};
use crate::error::Result;
use crate::formats::hf_folder::ModelFolder;
use crate::formats::quantize::Precision;
use crate::model::{ModelConfig, weights};

/// The folder of the built-in task in that of a run, and its files.
pub const TASK_FOLDER: &str = "task";
pub const TASK_TRAIN_FILE: &str = "train.jsonl";
pub const TASK_TEST_FILE: &str = "test.jsonl";
const TASK_MODEL_FOLDER: &str = "model";

/// The built-in word problems lie inside the run folder.
pub fn with_task_paths(config: &RunConfig, dir: &RunDir) -> RunConfig {
    let mut config = config.clone();
    if config.word_problems.is_some() {
        let path = |name: &str| Some(dir.join(TASK_FOLDER).join(name).to_string_lossy().into_owned());
        config.model = path(TASK_MODEL_FOLDER);
        config.data = path(TASK_TRAIN_FILE);
        config.evaluation.data = path(TASK_TEST_FILE);
    }
    config
}

/// Makes the word problems and a model with random weights.
pub(crate) fn make_task(config: &RunConfig, dir: &RunDir, device: &Device) -> Result<()> {
    let Some(task) = &config.word_problems else { return Ok(()) };
    let folder = dir.join(TASK_FOLDER);
    dir.create_folder(TASK_FOLDER)?;
    let problems = make_word_problems(config.seed, task.num_train, task.num_test, task.slip_probability);
    word_problems::write_rows(folder.join(TASK_TRAIN_FILE), &problems.train)?;
    word_problems::write_rows(folder.join(TASK_TEST_FILE), &problems.test)?;
    let model_folder = folder.join(TASK_MODEL_FOLDER);
    let tokenizer = word_problems::tokenizer_files();
    let vocab_size = Tokenizer::new(&tokenizer, &model_folder, &[])?.vocab_size();
    let WordProblemsConfig { hidden_size, num_layers, num_heads, intermediate_size, .. } = *task;
    let json = word_problems::model_config(vocab_size, hidden_size, num_layers, num_heads, intermediate_size);
    let model_config = ModelConfig::from_json(&json, None, &model_folder)?;
    let model = weights::initialize(&model_config, config.seed, device)?;
    let beside_weights = ModelFolder {
        config: &json,
        generation_config: None,
        tokenizer: Some(&tokenizer),
        model_card: None,
        precision: Precision::F32,
    };
    beside_weights.write(dir.files(), &model_folder, weights::tensors_to_write(&model))
}
