//! The size of a whole gradient, and its limit.
//!
//! Burn's own clipping works on each parameter by itself; training recipes mean the norm over all of them. To sum
//! gradients over micro-batches use [`burn::optim::GradientsAccumulator`], which adds in place. Next:
//! [`super::optimizer`].

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::model::weights::to_host;
use crate::ops;

/// The square root of the sum of squares of every gradient of `module`: what `torch.nn.utils.clip_grad_norm_` returns.
///
/// Squares are summed in f32 on the device for each parameter, and in f64 over parameters. Waits for the device once. 0
/// without gradients; NaN or infinite if any gradient is.
///
/// # Errors
/// [`Error::Device`] if the device fails.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> Result<f64> {
    let mut squares = SumSquares { gradients, sums: Vec::new() };
    module.visit(&mut squares);
    if squares.sums.is_empty() {
        return Ok(0.0);
    }
    let sums = to_host(Tensor::cat(squares.sums, 0))?;
    Ok(sums.into_iter().map(f64::from).sum::<f64>().sqrt())
}

/// Multiplies every gradient of `module` by `factor`. Each is taken out, scaled in place where nothing else holds it,
/// and put back.
pub fn scale<M: Module>(module: &M, gradients: GradientsParams, factor: f64) -> GradientsParams {
    let mut scaling = Scaling { gradients, factor };
    module.visit(&mut scaling);
    scaling.gradients
}

/// The factor that brings a gradient of this norm under `max_norm`: `min(1, max_norm / (norm + 1e-6))`, as PyTorch
/// computes it. 1 if `max_norm` is 0: clipping is off. NaN for a norm that is NaN; look at the norm before an update.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    let factor = max_norm / (norm + 1e-6);
    if max_norm == 0.0 || factor > 1.0 { 1.0 } else { factor }
}

struct SumSquares<'a> {
    gradients: &'a GradientsParams,
    /// One `[1]` for each parameter with a gradient.
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for SumSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sums.push(ops::sum_of_squares(gradient));
        }
    }
}

struct Scaling {
    gradients: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scaling {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::test_device;
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Pair {
        matrix: Param<Tensor<2>>,
        vector: Param<Tensor<1>>,
    }

    impl Pair {
        fn new(device: &Device) -> Self {
            Pair {
                matrix: Param::from_tensor(Tensor::from_floats([[1.0, 2.0]], device)),
                vector: Param::from_tensor(Tensor::from_floats([3.0], device)),
            }
        }

        /// Gradients `[[3, 4]]` and `[12]`: the norm is 13.
        fn gradients(&self) -> GradientsParams {
            let device = self.vector.device();
            let slopes = Tensor::from_floats([[3.0, 4.0]], &device);
            let loss = (self.matrix.val() * slopes).sum() + self.vector.val() * 12.0;
            GradientsParams::from_grads(loss.backward(), self)
        }
    }

    #[test]
    fn the_norm_is_over_all_parameters() {
        let module = Pair::new(&test_device().autodiff());
        assert!((global_norm(&module, &module.gradients()).unwrap() - 13.0).abs() < 1e-6);
        assert_eq!(global_norm(&module, &GradientsParams::new()).unwrap(), 0.0);
    }

    #[test]
    fn scaling_by_the_clip_factor_brings_the_norm_to_its_limit() {
        let module = Pair::new(&test_device().autodiff());
        let clipped = scale(&module, module.gradients(), clip_factor(13.0, 1.0));
        assert!((global_norm(&module, &clipped).unwrap() - 1.0).abs() < 1e-6);
        let vector: Tensor<1> = clipped.get(module.vector.id).unwrap();
        assert!((vector.into_scalar::<f32>() - 12.0 / 13.0).abs() < 1e-6);
    }

    #[test]
    fn small_gradients_are_left_as_they_are() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(0.0, 1.0), 1.0);
        assert_eq!(clip_factor(1e6, 0.0), 1.0);
    }

    #[test]
    fn a_broken_gradient_is_not_hidden_by_clipping() {
        assert!(clip_factor(f64::NAN, 1.0).is_nan());
        assert_eq!(clip_factor(f64::INFINITY, 1.0), 0.0);
    }
}
