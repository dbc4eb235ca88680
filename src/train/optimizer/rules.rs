//! The update rules as PyTorch computes them, on one flat parameter.
//!
//! Names, shapes and storage of the state are the business of [`super::Optimizer`].

use burn::tensor::Tensor;

use crate::ops;

/// An update rule, with the numbers that do not change during a run.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// `torch.optim.AdamW`.
    AdamW { beta1: f64, beta2: f64, epsilon: f64, weight_decay: f64 },
    /// `torch.optim.RMSprop`, without momentum and not centred.
    RmsProp { alpha: f64, epsilon: f64, weight_decay: f64 },
    /// `torch.optim.SGD`, without dampening.
    Sgd { momentum: f64, weight_decay: f64 },
}

impl Rule {
    /// The averages that are kept for each parameter, by PyTorch's names.
    pub fn average_names(self) -> &'static [&'static str] {
        match self {
            Rule::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
            Rule::RmsProp { .. } => &["square_avg"],
            Rule::Sgd { momentum, .. } if momentum != 0.0 => &["momentum_buffer"],
            Rule::Sgd { .. } => &[],
        }
    }

    /// The parameter after one update; `averages`, in the order of [`Self::average_names`], are moved on.
    ///
    /// `update_number` counts from 1. Every tensor is flat, of the same length.
    pub fn apply(
        self,
        parameter: Tensor<1>,
        gradient: Tensor<1>,
        averages: &mut [Tensor<1>],
        lr: f64,
        update_number: u64,
    ) -> Tensor<1> {
        match (self, averages) {
            (Rule::AdamW { beta1, beta2, epsilon, weight_decay }, [mean, mean_square]) => {
                let numbers = ops::AdamW {
                    beta1,
                    beta2,
                    epsilon: epsilon as f32,
                    decay: (1.0 - lr * weight_decay) as f32,
                    step_size: (lr / (1.0 - beta1.powf(update_number as f64))) as f32,
                    root_correction: (1.0 - beta2.powf(update_number as f64)).sqrt() as f32,
                };
                let updated = ops::adamw(parameter, gradient, mean.extract(), mean_square.extract(), numbers);
                (*mean, *mean_square) = (updated.1, updated.2);
                updated.0
            }
            (Rule::RmsProp { alpha, epsilon, weight_decay }, [mean_square]) => {
                let numbers =
                    ops::RmsProp { alpha, epsilon: epsilon as f32, weight_decay: weight_decay as f32, lr: lr as f32 };
                let updated = ops::rmsprop(parameter, gradient, mean_square.extract(), numbers);
                *mean_square = updated.1;
                updated.0
            }
            (Rule::Sgd { momentum, weight_decay }, [velocity]) => {
                let gradient = with_weight_decay(gradient, &parameter, weight_decay);
                velocity.inplace(|velocity| velocity * momentum + gradient);
                parameter - velocity.clone() * lr
            }
            (Rule::Sgd { weight_decay, .. }, []) => {
                let gradient = with_weight_decay(gradient, &parameter, weight_decay);
                parameter - gradient * lr
            }
            (rule, averages) => unreachable!("{rule:?} keeps {:?}, not {}", rule.average_names(), averages.len()),
        }
    }
}

/// Adds the gradient of `weight_decay / 2 * |parameter|^2`.
fn with_weight_decay(gradient: Tensor<1>, parameter: &Tensor<1>, weight_decay: f64) -> Tensor<1> {
    if weight_decay == 0.0 { gradient } else { gradient + parameter.clone() * weight_decay }
}
