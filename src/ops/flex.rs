//! Fused kernels of the flex backend: matrix products stay Burn's, everything between them is one pass over rows, on all
//! cores. Rows are handed to threads in fixed groups and sums run in fixed order: results do not depend on the number of
//! threads. Other number formats than f32 take the composite bodies.

use burn::backend::{
    Flex, TensorMetadata,
    flex::FlexTensor,
    ops::FloatTensorOps,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Shape, TensorData};
use rayon::prelude::*;

use super::{AdamW, ModelOps, RmsProp, composite, simd};

/// Numbers that one task works on: enough to outweigh handing it out, few enough to share among cores.
const NUMBERS_PER_TASK: usize = 1 << 15;

fn is_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The values of a contiguous tensor. Call [`FlexTensor::to_contiguous`] first.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("the tensor was made contiguous")
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// A tensor's values to write into: its own memory if nobody else holds it, else a copy.
fn owned(tensor: FlexTensor) -> (Vec<f32>, Shape) {
    let shape = tensor.shape();
    let values = tensor.into_data().try_into_vec::<f32>().expect("the tensor is f32");
    (values, shape)
}

/// Numbers of whole rows in a task.
fn task_len(row_len: usize) -> usize {
    (NUMBERS_PER_TASK / row_len.max(1)).max(1) * row_len.max(1)
}

impl ModelOps for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        if !is_f32(&[&x, &weight]) {
            return composite::rms_norm::<Self>(x, weight, eps);
        }
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let (shape, len) = (x.shape(), weight.shape()[0]);
        let mut out = vec![0.0; values(&x).len()];
        let task = task_len(len);
        out.par_chunks_mut(task).zip(values(&x).par_chunks(task)).for_each(|(out, x)| {
            simd::run(simd::RmsNorm { x, weight: values(&weight), eps, out });
        });
        tensor(out, shape)
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        g: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&x, &weight, &g]) {
            return composite::rms_norm_backward::<Self>(x, weight, g, eps);
        }
        let (x, weight, g) = (x.to_contiguous(), weight.to_contiguous(), g.to_contiguous());
        let (shape, len) = (x.shape(), weight.shape()[0]);
        let mut dx = vec![0.0; values(&x).len()];
        let task = task_len(len);
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(task)
            .zip(values(&x).par_chunks(task))
            .zip(values(&g).par_chunks(task))
            .map(|((dx, x), g)| {
                let mut dweight = vec![0.0; len];
                let weight = values(&weight);
                simd::run(simd::RmsNormBackward { x, weight, g, eps, dx, dweight: &mut dweight });
                dweight
            })
            .collect();
        let mut dweight = vec![0.0; len];
        for part in partial {
            dweight.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        (tensor(dx, shape), tensor(dweight, [len]))
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&gate, &up]) {
            return composite::swiglu::<Self>(gate, up);
        }
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let mut out = vec![0.0; values(&gate).len()];
        out.par_chunks_mut(NUMBERS_PER_TASK)
            .zip(values(&gate).par_chunks(NUMBERS_PER_TASK))
            .zip(values(&up).par_chunks(NUMBERS_PER_TASK))
            .for_each(|((out, gate), up)| simd::run(simd::Swiglu { gate, up, out }));
        tensor(out, gate.shape())
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        g: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&gate, &up, &g]) {
            return composite::swiglu_backward::<Self>(gate, up, g);
        }
        let (gate, up, g) = (gate.to_contiguous(), up.to_contiguous(), g.to_contiguous());
        let size = values(&gate).len();
        let (mut dgate, mut dup) = (vec![0.0; size], vec![0.0; size]);
        dgate
            .par_chunks_mut(NUMBERS_PER_TASK)
            .zip(dup.par_chunks_mut(NUMBERS_PER_TASK))
            .zip(values(&gate).par_chunks(NUMBERS_PER_TASK))
            .zip(values(&up).par_chunks(NUMBERS_PER_TASK))
            .zip(values(&g).par_chunks(NUMBERS_PER_TASK))
            .for_each(|((((dgate, dup), gate), up), g)| {
                simd::run(simd::SwigluBackward { gate, up, g, dgate, dup });
            });
        (tensor(dgate, gate.shape()), tensor(dup, gate.shape()))
    }

    fn causal_softmax(scores: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
        if !is_f32(&[&scores]) {
            return composite::causal_softmax::<Self>(scores, scale);
        }
        let (mut p, shape) = owned(scores);
        let len = shape[2];
        let task = task_len(len);
        p.par_chunks_mut(task).enumerate().for_each(|(number, rows)| {
            simd::run(simd::CausalSoftmax { x: rows, len, first_query: number * (task / len) % len, scale });
        });
        tensor(p, shape)
    }

    fn causal_softmax_backward(p: FloatTensor<Self>, g: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
        if !is_f32(&[&p, &g]) {
            return composite::causal_softmax_backward::<Self>(p, g, scale);
        }
        let p = p.to_contiguous();
        let (mut dscores, shape) = owned(g);
        let len = shape[2];
        let task = task_len(len);
        dscores.par_chunks_mut(task).zip(values(&p).par_chunks(task)).for_each(|(g, p)| {
            simd::run(simd::SoftmaxBackward { p, g, len, scale });
        });
        tensor(dscores, shape)
    }

    fn selected_log_probs(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        chunk: usize,
    ) -> FloatTensor<Self> {
        if !is_f32(&[&h, &w]) {
            return composite::selected_log_probs::<Self>(h, w, targets, chunk);
        }
        let (num_rows, vocab_size) = (h.shape()[0], w.shape()[0]);
        let targets = indices(targets);
        let mut running = vec![(f32::NEG_INFINITY, 0.0); num_rows];
        let mut picked = vec![0.0; num_rows];
        for start in (0..vocab_size).step_by(chunk) {
            let end = (start + chunk).min(vocab_size);
            let logits = composite::chunk_logits::<Self>(&h, &w, start, end).to_contiguous();
            running
                .par_iter_mut()
                .zip(&mut picked)
                .zip(values(&logits).par_chunks(end - start))
                .zip(&targets)
                .for_each(|(((running, picked), logits), target)| {
                    simd::run(simd::LogSum { logits, running });
                    if (start..end).contains(target) {
                        *picked = logits[target - start];
                    }
                });
        }
        let both = running.iter().zip(&picked).flat_map(|((max, sum), picked)| {
            let log_sum = max + sum.ln();
            [picked - log_sum, log_sum]
        });
        tensor(both.collect(), [num_rows, 2])
    }

    fn selected_log_probs_backward(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        forward: FloatTensor<Self>,
        g: FloatTensor<Self>,
        chunk: usize,
        need_dw: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&h, &w, &forward, &g]) {
            return composite::selected_log_probs_backward::<Self>(h, w, targets, forward, g, chunk, need_dw);
        }
        let (vocab_size, size) = (w.shape()[0], w.shape()[1]);
        let targets = indices(targets);
        let (forward, g) = (forward.to_contiguous(), g.to_contiguous());
        let mut dh: Option<FlexTensor> = None;
        let mut dw = Vec::with_capacity(if need_dw { vocab_size * size } else { 1 });
        for start in (0..vocab_size).step_by(chunk) {
            let end = (start + chunk).min(vocab_size);
            let (mut dlogits, shape) = owned(composite::chunk_logits::<Self>(&h, &w, start, end));
            dlogits
                .par_chunks_mut(end - start)
                .zip(values(&forward).par_chunks(2))
                .zip(values(&g))
                .zip(&targets)
                .for_each(|(((dlogits, forward), g), target)| {
                    simd::run(simd::MinusProbability { logits: dlogits, log_sum: forward[1], g: *g });
                    if (start..end).contains(target) {
                        dlogits[target - start] += g;
                    }
                });
            let dlogits = tensor(dlogits, shape);
            let w_chunk = composite::rows::<Self>(&w, start, end);
            let part = Self::float_matmul(dlogits.clone(), w_chunk);
            dh = Some(match dh {
                Some(sum) => Self::float_add(sum, part),
                None => part,
            });
            if need_dw {
                let part = Self::float_matmul(Self::float_transpose(dlogits), h.clone()).to_contiguous();
                dw.extend_from_slice(values(&part));
            }
        }
        if !need_dw {
            dw.push(0.0);
        }
        let dw_shape = if need_dw { Shape::new([vocab_size, size]) } else { Shape::new([1]) };
        (dh.expect("a vocabulary has at least one token"), tensor(dw, dw_shape))
    }

    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&parameter, &gradient, &mean, &mean_square]) {
            return composite::adamw::<Self>(parameter, gradient, mean, mean_square, numbers);
        }
        let gradient = gradient.to_contiguous();
        let (mut parameter, shape) = owned(parameter);
        let ((mut mean, _), (mut mean_square, _)) = (owned(mean), owned(mean_square));
        parameter
            .par_chunks_mut(NUMBERS_PER_TASK)
            .zip(values(&gradient).par_chunks(NUMBERS_PER_TASK))
            .zip(mean.par_chunks_mut(NUMBERS_PER_TASK))
            .zip(mean_square.par_chunks_mut(NUMBERS_PER_TASK))
            .for_each(|(((parameter, gradient), mean), mean_square)| {
                simd::run(simd::AdamWUpdate { parameter, gradient, mean, mean_square, numbers });
            });
        (tensor(parameter, shape.clone()), tensor(mean, shape.clone()), tensor(mean_square, shape))
    }

    fn rmsprop(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: RmsProp,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&parameter, &gradient, &mean_square]) {
            return composite::rmsprop::<Self>(parameter, gradient, mean_square, numbers);
        }
        let gradient = gradient.to_contiguous();
        let ((mut parameter, shape), (mut mean_square, _)) = (owned(parameter), owned(mean_square));
        parameter
            .par_chunks_mut(NUMBERS_PER_TASK)
            .zip(values(&gradient).par_chunks(NUMBERS_PER_TASK))
            .zip(mean_square.par_chunks_mut(NUMBERS_PER_TASK))
            .for_each(|((parameter, gradient), mean_square)| {
                simd::run(simd::RmsPropUpdate { parameter, gradient, mean_square, numbers });
            });
        (tensor(parameter, shape.clone()), tensor(mean_square, shape))
    }
}

/// Token ids on the host; flex keeps integers as i32 or i64.
fn indices(ids: IntTensor<Flex>) -> Vec<usize> {
    let ids = ids.to_contiguous();
    match ids.dtype() {
        DType::I32 => ids.as_slice::<i32>().map(|ids| ids.iter().map(|id| *id as usize).collect()),
        _ => ids.as_slice::<i64>().map(|ids| ids.iter().map(|id| *id as usize).collect()),
    }
    .expect("the tensor was made contiguous")
}

#[cfg(test)]
mod tests {
    //! Each kernel against its composite body, at sizes that are no multiple of anything, on views that are not contiguous.

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    /// Numbers from -2 to 2; a different seed gives others.
    fn random(seed: u64, shape: [usize; 2]) -> FlexTensor {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let numbers = (0..shape[0] * shape[1]).map(|_| (random.next_u32() >> 8) as f32 / (1u32 << 22) as f32 - 2.0);
        tensor(numbers.collect(), shape)
    }

    /// The same numbers, stored by columns.
    fn view(x: &FlexTensor) -> FlexTensor {
        Flex::float_transpose(Flex::float_transpose(x.clone()).to_contiguous())
    }

    fn vector(seed: u64, len: usize) -> FlexTensor {
        Flex::float_reshape(random(seed, [1, len]), Shape::new([len]))
    }

    fn assert_near(name: &str, fused: &FlexTensor, composite: &FlexTensor) {
        assert_eq!(fused.shape(), composite.shape(), "{name}");
        let (fused, composite) = (fused.to_contiguous(), composite.to_contiguous());
        let scale = values(&composite).iter().fold(1.0f32, |max, value| max.max(value.abs()));
        for (i, (a, b)) in values(&fused).iter().zip(values(&composite)).enumerate() {
            assert!((a - b).abs() <= 2e-5 * scale, "{name}, value {i}: {a} against {b}");
        }
    }

    #[test]
    fn rms_norm_equals_its_composite() {
        for (rows, len) in [(1, 1), (3, 5), (37, 96), (70_001, 3)] {
            let (x, g, weight) = (random(1, [rows, len]), random(2, [rows, len]), vector(3, len));
            let expected = composite::rms_norm::<Flex>(x.clone(), weight.clone(), 1e-5);
            assert_near("rms_norm", &Flex::rms_norm(view(&x), weight.clone(), 1e-5), &expected);
            let (dx, dw) = Flex::rms_norm_backward(view(&x), weight.clone(), view(&g), 1e-5);
            let expected = composite::rms_norm_backward::<Flex>(x, weight, g, 1e-5);
            assert_near("rms_norm dx", &dx, &expected.0);
            assert_near("rms_norm dweight", &dw, &expected.1);
        }
    }

    #[test]
    fn swiglu_equals_its_composite_and_survives_large_inputs() {
        for (rows, len) in [(1, 1), (37, 161), (70_001, 2)] {
            let (gate, up, g) = (random(1, [rows, len]), random(2, [rows, len]), random(3, [rows, len]));
            let expected = composite::swiglu::<Flex>(gate.clone(), up.clone());
            assert_near("swiglu", &Flex::swiglu(view(&gate), view(&up)), &expected);
            let (dgate, dup) = Flex::swiglu_backward(view(&gate), view(&up), view(&g));
            let expected = composite::swiglu_backward::<Flex>(gate, up, g);
            assert_near("swiglu dgate", &dgate, &expected.0);
            assert_near("swiglu dup", &dup, &expected.1);
        }
        let ones = tensor(vec![1.0, 1.0], [1, 2]);
        let large = Flex::swiglu(tensor(vec![-1e4, 1e4], [1, 2]), ones);
        assert!(values(&large)[0].abs() < 1e-30 && values(&large)[1] == 1e4, "{:?}", values(&large));
    }

    #[test]
    fn causal_softmax_equals_its_composite() {
        for (heads, len) in [(1, 1), (3, 17), (5, 130)] {
            let shape = Shape::new([heads, len, len]);
            let scores = Flex::float_reshape(random(1, [heads * len, len]), shape.clone());
            let g = Flex::float_reshape(random(2, [heads * len, len]), shape);
            let expected = composite::causal_softmax::<Flex>(scores.clone(), 0.3);
            let p = Flex::causal_softmax(scores, 0.3);
            assert_near("causal_softmax", &p, &expected);
            let expected = composite::causal_softmax_backward::<Flex>(expected, g.clone(), 0.3);
            assert_near("causal_softmax dscores", &Flex::causal_softmax_backward(p, g, 0.3), &expected);
        }
    }

    #[test]
    fn selected_log_probs_equal_their_composite_whatever_the_chunk() {
        let (rows, size, vocab_size) = (37, 24, 103);
        let (h, w, g) = (random(1, [rows, size]), random(2, [vocab_size, size]), vector(3, rows));
        let ids: Vec<i64> = (0..rows as i64).map(|i| i * i % vocab_size as i64).collect(); // some ids twice
        let targets = FlexTensor::from_data(TensorData::new(ids, [rows]));
        let expected = composite::selected_log_probs::<Flex>(h.clone(), w.clone(), targets.clone(), 1000);
        let gradients = |need_dw| {
            let (h, w, targets, g) = (h.clone(), w.clone(), targets.clone(), g.clone());
            composite::selected_log_probs_backward::<Flex>(h, w, targets, expected.clone(), g, 1000, need_dw)
        };
        let expected_gradients = gradients(true);
        for chunk in [7, 103, 4096] {
            let both = Flex::selected_log_probs(view(&h), view(&w), targets.clone(), chunk);
            assert_near("selected_log_probs", &both, &expected);
            for need_dw in [true, false] {
                let (h, w, targets, g) = (view(&h), view(&w), targets.clone(), g.clone());
                let (dh, dw) = Flex::selected_log_probs_backward(h, w, targets, both.clone(), g, chunk, need_dw);
                assert_near("selected_log_probs dh", &dh, &expected_gradients.0);
                if need_dw {
                    assert_near("selected_log_probs dw", &dw, &expected_gradients.1);
                }
            }
        }
    }

    #[test]
    fn updates_equal_their_composites_and_happen_in_place() {
        let len = 100_003; // more than one task
        let (parameter, gradient, mean) = (vector(1, len), vector(2, len), vector(3, len));
        let mean_square = Flex::float_mul(mean.clone(), mean.clone());
        let adamw = AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, decay: 0.99, step_size: 0.1, root_correction: 0.5 };
        let expected =
            composite::adamw::<Flex>(parameter.clone(), gradient.clone(), mean.clone(), mean_square.clone(), adamw);
        let own = tensor(values(&parameter).to_vec(), [len]);
        let place = values(&own).as_ptr();
        let updated = Flex::adamw(own, gradient.clone(), mean.clone(), mean_square.clone(), adamw);
        assert_eq!(values(&updated.0).as_ptr(), place, "a parameter that nobody else holds keeps its memory");
        assert_near("adamw parameter", &updated.0, &expected.0);
        assert_near("adamw mean", &updated.1, &expected.1);
        assert_near("adamw mean square", &updated.2, &expected.2);

        let rmsprop = RmsProp { alpha: 0.99, epsilon: 1e-8, weight_decay: 0.1, lr: 0.01 };
        let expected = composite::rmsprop::<Flex>(parameter.clone(), gradient.clone(), mean_square.clone(), rmsprop);
        let updated = Flex::rmsprop(parameter.clone(), gradient, mean_square, rmsprop);
        assert_near("rmsprop parameter", &updated.0, &expected.0);
        assert_near("rmsprop mean square", &updated.1, &expected.1);
    }
}
