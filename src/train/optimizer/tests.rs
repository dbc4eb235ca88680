//! Five updates against PyTorch, and what a resume needs.
//!
//! Literals: torch 2.15.0, float32, CPU, with these lines and `opt` as each test says:
//! ```python
//! w = torch.tensor([[0.5, -1.0, 0.25], [2.0, 0.1, -0.3]], requires_grad=True)
//! b = torch.tensor([0.05, -0.2], requires_grad=True)
//! for _ in range(5):
//!     opt.zero_grad()
//!     y = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.5, 3.0]]) @ w.T + b
//!     (y * y).sum().backward()
//!     opt.step()
//! ```

use super::*;
use crate::device::test_device;

#[derive(Module, Debug)]
struct Affine {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

/// One level more, so that paths have two parts.
#[derive(Module, Debug)]
struct Model {
    layers: Vec<Affine>,
}

impl Model {
    fn new(device: &Device) -> Self {
        let weight = Tensor::from_floats([[0.5, -1.0, 0.25], [2.0, 0.1, -0.3]], device);
        let bias = Tensor::from_floats([0.05, -0.2], device);
        Model { layers: vec![Affine { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) }] }
    }

    fn gradients(&self, device: &Device) -> GradientsParams {
        let x = Tensor::<2>::from_floats([[1.0, 2.0, -1.0], [0.5, -0.5, 3.0]], device);
        let layer = &self.layers[0];
        let y = x.matmul(layer.weight.val().transpose()) + layer.bias.val().unsqueeze();
        GradientsParams::from_grads(y.square().sum().backward(), self)
    }

    fn update(self, optimizer: &mut Optimizer, device: &Device) -> Self {
        let gradients = self.gradients(device);
        optimizer.step(self, gradients, 0.01)
    }

    /// Weight, then bias.
    fn values(&self) -> Vec<f32> {
        let layer = &self.layers[0];
        let mut values: Vec<f32> = layer.weight.val().into_data().try_to_vec().unwrap();
        values.extend(layer.bias.val().into_data().try_to_vec::<f32>().unwrap());
        values
    }
}

fn config(optimizer: OptimizerName) -> TrainConfig {
    let (betas, alpha, momentum) = ((0.9, 0.98), 0.9, 0.9);
    TrainConfig { optimizer, betas, alpha, momentum, weight_decay: 0.1, ..TrainConfig::default() }
}

fn assert_five_updates(optimizer: OptimizerName, expected: [f32; 8]) {
    let device = test_device().autodiff();
    let mut optimizer = Optimizer::new(&config(optimizer));
    let mut model = Model::new(&device);
    for _ in 0..5 {
        model = model.update(&mut optimizer, &device);
    }
    assert_eq!(optimizer.num_updates, 5);
    for (actual, expected) in model.values().into_iter().zip(expected) {
        assert!((actual - expected).abs() < 2e-6, "{actual}, not {expected}");
    }
}

#[test]
fn adamw_makes_the_updates_of_pytorch() {
    // torch.optim.AdamW([w, b], lr=0.01, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)
    let weight = [0.5471924, -0.9452274, 0.19892661, 1.940197, 0.04970438, -0.24879727];
    let [w0, w1, w2, w3, w4, w5] = weight;
    assert_five_updates(OptimizerName::Adamw, [w0, w1, w2, w3, w4, w5, 0.0969943, -0.2488432]);
}

#[test]
fn rmsprop_makes_the_updates_of_pytorch() {
    // torch.optim.RMSprop([w, b], lr=0.01, alpha=0.9, eps=1e-8, weight_decay=0.1)
    let expected = [0.59814, -0.8986284, 0.14734516, 1.8970642, -0.0016114805, -0.20229122, 0.08698107, -0.3035646];
    assert_five_updates(OptimizerName::Rmsprop, expected);
}

#[test]
fn sgd_with_momentum_makes_the_updates_of_pytorch() {
    // torch.optim.SGD([w, b], lr=0.01, momentum=0.9, weight_decay=0.1)
    let expected = [0.6739796, -0.32616618, -0.6329943, 1.5354396, -0.73408, 0.03983504, 0.12999761, -0.650345];
    assert_five_updates(OptimizerName::Sgd, expected);
}

#[test]
fn the_norm_of_all_gradients_is_that_of_pytorch() {
    // torch.nn.utils.clip_grad_norm_([w, b], 1.0), before the first update, and w.grad and b.grad after it
    use crate::train::clipping::{clip_factor, global_norm, scale};
    let device = test_device().autodiff();
    let model = Model::new(&device);
    let gradients = model.gradients(&device);
    let norm = global_norm(&model, &gradients).unwrap();
    assert!((norm - 19.760818).abs() < 1e-5, "{norm}");
    let clipped = scale(&model, gradients, clip_factor(norm, 1.0));
    let weight: Tensor<2> = clipped.get(model.layers[0].weight.id).unwrap();
    let expected = [-0.0936196, -0.42255333, 0.6426858, 0.22519307, 0.47315845, -0.2783285];
    for (actual, expected) in weight.into_data().try_to_vec::<f32>().unwrap().into_iter().zip(expected) {
        assert!((actual - expected).abs() < 1e-6, "{actual}, not {expected}");
    }
}

#[test]
fn a_state_that_went_through_the_host_makes_the_same_next_update_bit_for_bit() {
    let device = test_device().autodiff();
    for name in [OptimizerName::Adamw, OptimizerName::Rmsprop, OptimizerName::Sgd] {
        let mut optimizer = Optimizer::new(&config(name));
        let model = Model::new(&device).update(&mut optimizer, &device).update(&mut optimizer, &device);
        let mut resumed = Optimizer::new(&config(name));
        let written = optimizer.tensors_to_write().into_iter().map(|tensor| tensor.into_host().unwrap()).collect();
        resumed.load_host(optimizer.num_updates, written, &device).unwrap();
        let before = model.values();
        let uninterrupted = model.clone().update(&mut optimizer, &device).values();
        assert_eq!(model.update(&mut resumed, &device).values(), uninterrupted);
        assert_ne!(before, uninterrupted);
        assert_eq!(resumed.num_updates, 3);
    }
}

#[test]
fn the_state_is_named_by_parameter_path_and_pytorchs_names() {
    let device = test_device().autodiff();
    let names_and_shapes = |name, momentum| -> Vec<(String, Vec<usize>)> {
        let mut optimizer = Optimizer::new(&TrainConfig { momentum, ..config(name) });
        Model::new(&device).update(&mut optimizer, &device);
        let tensors = optimizer.tensors_to_write();
        tensors.iter().map(|tensor| (tensor.name().to_owned(), tensor.shape().to_vec())).collect()
    };
    let expected = [
        ("layers.0.bias.exp_avg", vec![2]),
        ("layers.0.bias.exp_avg_sq", vec![2]),
        ("layers.0.weight.exp_avg", vec![2, 3]),
        ("layers.0.weight.exp_avg_sq", vec![2, 3]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape));
    assert_eq!(names_and_shapes(OptimizerName::Adamw, 0.9), expected);
    assert_eq!(names_and_shapes(OptimizerName::Sgd, 0.0), []);
}

#[test]
fn frozen_parameters_keep_their_value_and_have_no_state() {
    let device = test_device().autodiff();
    let mut model = Model::new(&device);
    let layer = model.layers.remove(0);
    let weight = layer.weight.set_require_grad(false);
    model.layers.push(Affine { weight, ..layer });
    let before = model.values();
    let mut optimizer = Optimizer::new(&config(OptimizerName::Adamw));
    let after = model.update(&mut optimizer, &device).values();
    assert_eq!(after[..6], before[..6]);
    assert_ne!(after[6..], before[6..]);
    assert_eq!(optimizer.tensors_to_write().len(), 2);
}

#[test]
fn an_update_keeps_identifiers_gradients_and_the_checkpointing_strategy() {
    for device in [test_device().autodiff(), test_device().autodiff().gradient_checkpointing()] {
        let model = Model::new(&device);
        let before = model.layers[0].weight.clone();
        let model = model.update(&mut Optimizer::new(&config(OptimizerName::Adamw)), &device);
        let after = &model.layers[0].weight;
        assert_eq!(after.id, before.id);
        assert!(after.is_require_grad());
        let strategy = after.val().gradient_checkpointing_strategy();
        assert_eq!(strategy, before.val().gradient_checkpointing_strategy());
        // The updated parameters are leaves of a new graph.
        assert_eq!(model.gradients(&device).len(), 2);
    }
}

#[test]
fn a_state_that_does_not_fit_is_an_error_that_names_the_tensor_and_changes_nothing() {
    let device = test_device();
    let tensor = |name: &str, shape: &[usize], length| {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        HostTensor { name, shape, values: vec![0.0; length] }
    };
    let cases = [
        ("w.square_avg", vec![tensor("w.square_avg", &[2], 2)]),
        ("exp_avg", vec![tensor("exp_avg", &[2], 2)]),
        ("w.exp_avg", vec![tensor("w.exp_avg", &[2, 2], 3)]),
        ("w", vec![tensor("w.exp_avg", &[2], 2)]),
        ("w.exp_avg_sq", vec![tensor("w.exp_avg_sq", &[2], 2)]),
        ("w.exp_avg_sq", vec![tensor("w.exp_avg", &[2], 2), tensor("w.exp_avg_sq", &[1], 1)]),
        ("w.exp_avg", vec![tensor("w.exp_avg", &[2], 2), tensor("w.exp_avg", &[2], 2)]),
    ];
    for (name, tensors) in cases {
        let mut optimizer = Optimizer::new(&config(OptimizerName::Adamw));
        let error = optimizer.load_host(7, tensors, &device).unwrap_err();
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        assert_eq!((optimizer.num_updates, optimizer.tensors_to_write().len()), (0, 0));
    }
}
