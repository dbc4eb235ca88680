//! The update rules as PyTorch computes them, on one flat parameter.
//!
//! Names, shapes and storage of the state are the business of [`super::Optimizer`].

use burn::tensor::Tensor;

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
                mean.inplace(|mean| mean * beta1 + gradient.clone() * (1.0 - beta1));
                mean_square.inplace(|square| square * beta2 + gradient.square() * (1.0 - beta2));
                let mean_correction = 1.0 - beta1.powf(update_number as f64);
                let root_correction = (1.0 - beta2.powf(update_number as f64)).sqrt();
                let root = mean_square.clone().sqrt() / root_correction + epsilon;
                let decayed = if weight_decay == 0.0 { parameter } else { parameter * (1.0 - lr * weight_decay) };
                decayed - mean.clone() / root * (lr / mean_correction)
            }
            (Rule::RmsProp { alpha, epsilon, weight_decay }, [mean_square]) => {
                let gradient = with_weight_decay(gradient, &parameter, weight_decay);
                mean_square.inplace(|square| square * alpha + gradient.clone().square() * (1.0 - alpha));
                parameter - gradient / (mean_square.clone().sqrt() + epsilon) * lr
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
