//! Parameters and gradients by Hugging Face name, and comparisons that say what differs.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use gsil::model::{CausalLm, weights};

/// Row-major values by name, as `model.layers.0.self_attn.q_proj.weight`.
pub type Named = BTreeMap<String, Vec<f32>>;

/// The gradients of a model. A parameter without one is absent.
pub fn named_gradients(model: &CausalLm, gradients: &GradientsParams) -> Named {
    collect(model, Some(gradients))
}

/// The parameters of a model, adapters included.
pub fn named_parameters(model: &CausalLm) -> Named {
    collect(model, None)
}

fn collect(model: &CausalLm, gradients: Option<&GradientsParams>) -> Named {
    let mut collector = Collector { path: weights::Path::default(), gradients, found: Named::new() };
    model.visit(&mut collector);
    collector.found
}

struct Collector<'a> {
    path: weights::Path,
    /// None: collect the parameters themselves.
    gradients: Option<&'a GradientsParams>,
    found: Named,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = match self.path.name() {
            name if name.starts_with("lm_head.") => name,
            name => format!("model.{name}"),
        };
        let tensor = match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id),
            None => Some(param.val().inner()),
        };
        if let Some(tensor) = tensor {
            self.found.insert(name, tensor.into_data().try_into_vec().unwrap());
        }
    }
}

/// Every value within `tolerance` of the expected one.
#[track_caller]
pub fn assert_near(what: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: number of values");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let difference = f64::from((a - e).abs());
        assert!(difference <= tolerance, "{what}, value {i}: {a}, expected {e} within {tolerance:e}");
    }
}

/// The difference is at most `tolerance` times as long as the expected vector.
#[track_caller]
pub fn assert_near_by_norm(what: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: number of values");
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let size = norm(&mut expected.iter().copied());
    let difference = norm(&mut actual.iter().zip(expected).map(|(a, e)| a - e));
    assert!(difference <= tolerance * size, "{what}: off by {difference:e} of {size:e}, more than {tolerance:e}");
}
