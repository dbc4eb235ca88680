//! Operations that Burn does not have in the form that a language model wants, with their gradients.
//!
//! Each operation is one method of [`ModelOps`]: its body is the composite reference, built from Burn's own primitives, and
//! a device may replace it by a fused kernel. This is the only folder that sees backend internals. The rest of the program
//! calls the plain functions at the end of this file. Next: [`crate::model`].

#![allow(deprecated)] // Burn deprecates ndarray in favour of flex; here it is the independent check of flex.

mod autodiff;

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// The operations, for every backend that is compiled in.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "wgpu")
)]
pub trait ModelOps: Backend {
    /// See [`linear`].
    fn linear_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(x, Self::float_transpose(weight))
    }
}

#[cfg(feature = "flex")]
impl ModelOps for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl ModelOps for burn::backend::NdArray {}

#[cfg(feature = "wgpu")]
impl ModelOps for burn::backend::Cube {}

/// `y = x weightᵀ`, with the weight as Hugging Face stores it.
///
/// Rank 2 on purpose: Burn's rank-3 matmul may build a weight gradient for each sequence and sum them afterwards. And the
/// weight's gradient comes out as `gᵀ x`, in the weight's own layout, so that the optimizer reads both in order.
///
/// # Shapes
/// `x` `[N, in]`, `weight` `[out, in]`, result `[N, out]`.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let [_, in_features] = x.dims();
    assert_eq!(in_features, weight.dims()[1], "linear: x is {:?}, weight is {:?}", x.dims(), weight.dims());
    Tensor::from_dispatch(<Dispatch as ModelOps>::linear_rows(x.into_dispatch(), weight.into_dispatch()))
}
