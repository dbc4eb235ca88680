//! Low-rank adapters (LoRA, Hu et al. 2021): a frozen matrix plus a small trained one.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::{ChaCha8Rng, rand_core::Rng};

use crate::ops;

/// `s (x Aᵀ) Bᵀ` with `s = alpha / rank`, computed as two thin products: the dense matrix `s B A` is never built while
/// training. B starts at zero, so a fresh adapter changes nothing.
#[derive(Module, Debug)]
pub struct Lora {
    pub a: Param<Tensor<2>>, // [rank, in]
    pub b: Param<Tensor<2>>, // [out, rank]
    scaling: f64,
}

impl Lora {
    /// A fresh adapter for a `[out, in]` weight. A is uniform in ±1/sqrt(in), PEFT's default (Kaiming with a = sqrt(5)).
    pub fn new(out: usize, r#in: usize, rank: usize, alpha: f64, random: &mut ChaCha8Rng, device: &Device) -> Self {
        let bound = (r#in as f32).sqrt().recip();
        let uniform = |word: u32| (word >> 8) as f32 / (1u32 << 24) as f32; // 24 bits: every value exact in f32
        let a = (0..rank * r#in).map(|_| bound * (2.0 * uniform(random.next_u32()) - 1.0)).collect::<Vec<f32>>();
        Lora {
            a: Param::from_tensor(Tensor::from_data(TensorData::new(a, [rank, r#in]), device)),
            b: Param::from_tensor(Tensor::zeros([out, rank], device)),
            scaling: alpha / rank as f64,
        }
    }

    /// `x weightᵀ` with the update: `[N, in]` -> `[N, out]`.
    pub fn forward(&self, x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
        ops::lora_linear(x, weight, self.a.val(), self.b.val(), self.scaling)
    }

    /// The dense update `s B A`, `[out, in]`, for merging into the weight at export.
    pub fn dense_update(&self) -> Tensor<2> {
        self.b.val().matmul(self.a.val()) * self.scaling
    }
}
