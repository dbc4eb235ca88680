//! AdamW, RMSprop and SGD with PyTorch's numbers, and with a state that has names.
//!
//! Burn's own optimizers have other defaults and key their state by identifiers that a weight file does not hold. Here
//! the state is keyed by parameter path, so that a checkpoint is plain named tensors. Neither the learning rate
//! ([`super::schedule`]) nor clipping ([`super::clipping`]) is decided here.

mod rules;

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

use crate::config::{OptimizerName, TrainConfig};
use crate::error::{Error, Result};
use crate::formats::safetensors::{HostTensor, TensorToWrite};
use crate::model::weights::{Path, to_host};
use rules::Rule;

/// Updates the parameters of a module. Parameters, gradients and state are f32.
pub struct Optimizer {
    rule: Rule,
    num_updates: u64,
    state: BTreeMap<String, State>,
}

/// What is kept for one parameter.
struct State {
    /// The parameter's shape.
    shape: Vec<usize>,
    /// Flat, in the order of [`Rule::average_names`], without autodiff.
    averages: Vec<Tensor<1>>,
}

impl Optimizer {
    /// An optimizer without state, as at the start of an iteration.
    pub fn new(config: &TrainConfig) -> Self {
        let (beta1, beta2) = config.betas;
        let TrainConfig { alpha, momentum, epsilon, weight_decay, .. } = *config;
        let rule = match config.optimizer {
            OptimizerName::Adamw => Rule::AdamW { beta1, beta2, epsilon, weight_decay },
            OptimizerName::Rmsprop => Rule::RmsProp { alpha, epsilon, weight_decay },
            OptimizerName::Sgd => Rule::Sgd { momentum, weight_decay },
        };
        Optimizer { rule, num_updates: 0, state: BTreeMap::new() }
    }

    /// How many numbers are kept for each trained one.
    pub fn num_averages(&self) -> u64 {
        self.rule.average_names().len() as u64
    }

    /// One update with learning rate `lr`.
    ///
    /// Parameters without a gradient are left alone; the others keep their identifier and their training flags.
    /// Gradients are dropped one by one as they are used. Nothing else should hold the parameters meanwhile (a copy
    /// for generation, say): the update would need memory for both.
    ///
    /// # Panics
    /// If a parameter's state has another shape: the state of another model was loaded.
    pub fn step<M: Module>(&mut self, module: M, gradients: GradientsParams, lr: f64) -> M {
        self.num_updates += 1;
        module.map(&mut Update { optimizer: self, gradients, lr, path: Path::default() })
    }

    /// The state for a checkpoint: `<parameter path>.<average>`, averages by their PyTorch names, sorted by path. Values leave
    /// the device when they are written.
    pub fn tensors_to_write(&self) -> Vec<TensorToWrite<'_>> {
        let of_parameter = |(path, state): (&String, &'_ State)| -> Vec<TensorToWrite<'_>> {
            let averages = self.rule.average_names().iter().zip(state.averages.clone());
            let shape = &state.shape;
            averages
                .map(|(name, tensor)| TensorToWrite::new(format!("{path}.{name}"), shape, move || to_host(tensor)))
                .collect()
        };
        self.state.iter().flat_map(of_parameter).collect()
    }

    /// Continues from what [`Self::tensors_to_write`] gave after `num_updates` updates: the next update is the same, bit for
    /// bit. Replaces whatever state there is; on an error nothing changes.
    ///
    /// # Errors
    /// [`Error::Input`] naming the tensor, if it belongs to another optimizer, does not fill its shape, or lacks its
    /// companion.
    pub fn load_host(&mut self, num_updates: u64, tensors: Vec<HostTensor>, device: &Device) -> Result<()> {
        let wanted = self.rule.average_names();
        let device = device.clone().without_autodiff();
        let mut state: BTreeMap<String, State> = BTreeMap::new();
        // Sorted as `average_names` is, so that averages arrive in their order.
        let mut tensors = tensors;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for HostTensor { name, shape, values } in tensors {
            let Some((path, average)) = name.rsplit_once('.').filter(|(_, average)| wanted.contains(average)) else {
                return Err(invalid_state(&name, format!("this optimizer keeps {wanted:?}"))
                    .with_hint("resume with the optimizer that the run began with"));
            };
            if shape.iter().product::<usize>() != values.len() {
                return Err(invalid_state(&name, format!("{} values do not fill the shape {shape:?}", values.len())));
            }
            let empty = || State { shape: shape.clone(), averages: Vec::new() };
            let state = state.entry(path.to_owned()).or_insert_with(empty);
            if state.shape != shape || wanted.get(state.averages.len()) != Some(&average) {
                return Err(invalid_state(&name, format!("it, or one of {wanted:?}, is missing, double or misshapen")));
            }
            state.averages.push(Tensor::from_floats(values.as_slice(), &device));
        }
        if let Some((path, _)) = state.iter().find(|(_, state)| state.averages.len() != wanted.len()) {
            return Err(invalid_state(path, format!("one of {wanted:?} is missing")));
        }
        self.state = state;
        self.num_updates = num_updates;
        Ok(())
    }

    /// The new value of the parameter at `path`. Both tensors are flat and without autodiff.
    fn update(&mut self, path: &str, shape: &[usize], parameter: Tensor<1>, gradient: Tensor<1>, lr: f64) -> Tensor<1> {
        let mut state = self.state.remove(path).unwrap_or_else(|| State {
            shape: shape.to_vec(),
            averages: vec![gradient.zeros_like(); self.rule.average_names().len()],
        });
        assert_eq!(state.shape, shape, "the optimizer's state of `{path}` is for another shape");
        let updated = self.rule.apply(parameter, gradient, &mut state.averages, lr, self.num_updates);
        if !state.averages.is_empty() {
            self.state.insert(path.to_owned(), state);
        }
        updated
    }
}

fn invalid_state(name: &str, message: String) -> Error {
    Error::input("optimizer state", message).at(format!("`{name}`"))
}

/// One walk over the parameters of a module.
struct Update<'a> {
    optimizer: &'a mut Optimizer,
    gradients: GradientsParams,
    lr: f64,
    path: Path,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let (id, parameter, mapper) = param.consume();
        // The update leaves the tape; the result must come back to it as the parameter was, checkpointing strategy
        // included, or the next forward pass meets two kinds of parameters.
        let (is_autodiff, requires_grad) = (parameter.is_autodiff(), parameter.is_require_grad());
        let checkpointing = parameter.gradient_checkpointing_strategy();
        let shape = parameter.dims();
        let length = [shape.iter().product::<usize>()];
        let (flat, gradient) = (parameter.inner().reshape(length), gradient.inner().reshape(length));
        let mut updated = self.optimizer.update(&self.path.name(), &shape, flat, gradient, self.lr).reshape(shape);
        if is_autodiff {
            updated = updated.autodiff();
            if let Some(strategy) = checkpointing {
                updated = updated.with_gradient_checkpointing_strategy(strategy);
            }
            updated = updated.set_require_grad(requires_grad);
        }
        Param::from_mapped_value(id, updated, mapper)
    }
}

#[cfg(test)]
mod tests;
