//! Weights into and out of the modules, under Hugging Face's names.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::causal_lm::CausalLm;
use super::config::{ModelConfig, NormKind};
use crate::device::error_of_report;
use crate::error::{Error, Result};
use crate::formats::ModelFiles;
use crate::formats::safetensors::TensorToWrite;

/// Answers a tensor's name and shape with its values.
type Answer<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Gives each module its weights: the modules ask by name and shape, a reader or a random generator answers.
pub(super) struct WeightSource<'a> {
    answer: &'a mut Answer<'a>,
    device: &'a Device,
}

impl WeightSource<'_> {
    pub(super) fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>> {
        self.parameter(name, shape)
    }

    pub(super) fn vector(&mut self, name: &str, size: usize) -> Result<Param<Tensor<1>>> {
        self.parameter(name, [size])
    }

    fn parameter<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>> {
        let values = (self.answer)(name, &shape)?;
        Ok(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device)))
    }
}

/// Reads a whole model. `on_bytes` is told the size of each tensor as it is read, for a progress bar.
///
/// # Errors
/// A missing, misshapen or unused tensor, by its name; anything that reading the file can say.
pub fn load(
    files: &ModelFiles,
    config: &ModelConfig,
    device: &Device,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<CausalLm> {
    let mut used = BTreeSet::new();
    let mut read = |name: &str, expected: &[usize]| {
        let Some(shape) = files.weights.shape(name) else {
            return Err(Error::input(&files.path, "is missing").at(format!("tensor `{name}`")));
        };
        if shape != expected {
            return Err(Error::input(&files.path, format!("has shape {shape:?}, config.json asks for {expected:?}"))
                .at(format!("tensor `{name}`")));
        }
        used.insert(name.to_owned());
        let values = files.weights.read_f32(name)?;
        on_bytes(4 * values.len() as u64);
        Ok(values)
    };
    let model = CausalLm::build(config, &mut WeightSource { answer: &mut read, device })?;
    match files.weights.names().find(|name| !used.contains(*name) && !is_redundant(name, config)) {
        Some(unused) => Err(Error::input(&files.path, "is not used by this architecture")
            .at(format!("tensor `{unused}`"))
            .with_hint("the file holds more than config.json describes; training would ignore it silently")),
        None => Ok(model),
    }
}

/// Tensors that some files carry although they follow from others.
fn is_redundant(name: &str, config: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// The tensors of a model on disk, each to be read when it is written elsewhere: no model is built, nothing is in memory.
///
/// # Errors
/// [`Error::Input`] if the files do not hold as many numbers as the configuration describes.
pub fn stored_tensors_to_write<'a>(files: &'a ModelFiles, config: &ModelConfig) -> Result<Vec<TensorToWrite<'a>>> {
    let names = files.weights.names().filter(|name| !is_redundant(name, config));
    let tensors: Vec<TensorToWrite<'a>> = names
        .map(|name| {
            let shape = files.weights.shape(name).unwrap_or_default();
            TensorToWrite::new(name, shape, move || files.weights.read_f32(name))
        })
        .collect();
    let found: usize = tensors.iter().map(TensorToWrite::num_values).sum();
    let expected = config.num_parameters();
    match found == expected {
        true => Ok(tensors),
        false => Err(Error::input(&files.path, format!("has {found} numbers, config.json describes {expected}"))
            .with_hint("the configuration and the weights belong to different models, or a file is missing")),
    }
}

/// A fresh model: matrices normal with standard deviation `initializer_range`, factors of norms 1, biases 0. The same seed
/// gives the same weights on every device.
pub fn initialize(config: &ModelConfig, seed: u64, device: &Device) -> Result<CausalLm> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let norm_weight = if config.norm == NormKind::RmsOnePlus { 0.0 } else { 1.0 };
    let mut answer = |name: &str, shape: &[usize]| {
        let size = shape.iter().product();
        Ok(match shape {
            [_] if name.ends_with("bias") => vec![0.0; size],
            [_] => vec![norm_weight; size],
            _ => normal(&mut random, size, config.initializer_range),
        })
    };
    CausalLm::build(config, &mut WeightSource { answer: &mut answer, device })
}

/// Box-Muller, two values at a time.
fn normal(random: &mut ChaCha8Rng, size: usize, deviation: f64) -> Vec<f32> {
    let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut values = Vec::with_capacity(size + 1);
    while values.len() < size {
        let radius = deviation * (-2.0 * (1.0 - uniform()).ln()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * uniform();
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(size);
    values
}

/// All tensors of a model as a file holds them, adapters merged. Values leave the device when they are written, and an
/// adapted weight is merged only then: there is never a second model in memory.
pub fn tensors_to_write(model: &CausalLm) -> Vec<TensorToWrite<'static>> {
    let adapters = model.adapters();
    let plain = collect(model, |path, _| {
        let is_own = !path.is_adapter() && !adapters.iter().any(|(name, ..)| *name == path.name());
        is_own.then(|| path.hugging_face_name())
    });
    let merged = adapters.into_iter().map(|(name, weight, lora)| {
        let (name, shape) = (format!("model.{name}"), weight.dims());
        TensorToWrite::new(name, &shape, move || to_host(weight.inner() + lora.valid().dense_update()))
    });
    plain.into_iter().chain(merged).collect()
}

/// The tensors that training changes, by parameter path: what a checkpoint holds.
pub fn trained_tensors_to_write(model: &CausalLm) -> Vec<TensorToWrite<'static>> {
    collect(model, |path, is_trained| is_trained.then(|| path.name()))
}

/// The tensors that training leaves as they are, by parameter path; none where all weights are trained.
pub fn frozen_tensors(model: &CausalLm) -> Vec<TensorToWrite<'static>> {
    collect(model, |path, is_trained| (!is_trained).then(|| path.name()))
}

/// Every parameter as it is in memory, adapters apart, by parameter path: what tells one policy from another.
pub fn all_tensors(model: &CausalLm) -> Vec<TensorToWrite<'static>> {
    collect(model, |path, _| Some(path.name()))
}

/// Trainable numbers, adapters included.
pub fn num_trained_parameters(model: &CausalLm) -> usize {
    trained_tensors_to_write(model).iter().map(TensorToWrite::num_values).sum()
}

/// Visits every parameter; `name` gets its path and whether it is trained, and decides what to call it, if anything.
fn collect(model: &CausalLm, name: impl Fn(&Path, bool) -> Option<String>) -> Vec<TensorToWrite<'static>> {
    struct Collector<F>(Path, F, Vec<TensorToWrite<'static>>);
    impl<F: Fn(&Path, bool) -> Option<String>> ModuleVisitor for Collector<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            if let Some(name) = (self.1)(&self.0, tensor.is_require_grad()) {
                let shape = tensor.dims();
                self.2.push(TensorToWrite::new(name, &shape, move || to_host(tensor)));
            }
        }
    }
    let mut collector = Collector(Path::default(), name, Vec::new());
    model.visit(&mut collector);
    collector.2
}

/// Copies a tensor's values to the host, row-major.
///
/// # Errors
/// [`Error::Device`] if the device fails.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.inner().try_into_data().map_err(|error| error_of_report(&error.to_string()))?;
    data.try_into_vec::<f32>().map_err(|error| Error::device("current", format!("{error:?}")))
}

/// Where a visitor stands: field names joined by dots.
#[derive(Default, Debug, Clone)]
pub struct Path(Vec<String>);

impl Path {
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// `layers.0.self_attn.q_proj.weight`.
    pub fn name(&self) -> String {
        self.0.join(".")
    }

    /// `model.layers.0.self_attn.q_proj.weight`: Hugging Face puts all but the head under `model`.
    fn hugging_face_name(&self) -> String {
        let name = self.name();
        if name.starts_with("lm_head.") { name } else { format!("model.{name}") }
    }

    fn is_adapter(&self) -> bool {
        self.0.iter().any(|part| part == "lora")
    }
}
