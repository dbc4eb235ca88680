//! Each kernel against its composite body, at sizes that are no multiple of anything, on views that are not contiguous.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::ops::{AttentionPlan, Heads, Span};

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
fn add_low_rank_equals_its_composite() {
    for (rows, rank, out) in [(1, 1, 1), (37, 8, 101), (70_001, 2, 3)] {
        let (y, h, b) = (random(1, [rows, out]), random(2, [rows, rank]), random(3, [rank, out]));
        let expected = composite::add_low_rank::<Flex>(y.clone(), h.clone(), b.clone(), 0.7);
        assert_near("add_low_rank", &Flex::add_low_rank(view(&y), view(&h), view(&b), 0.7), &expected);
    }
}

#[test]
fn large_products_leave_the_backends_and_equal_them_in_every_layout() {
    let (left, right) = (random(1, [300, 301]), random(2, [301, 302]));
    let expected = Flex::float_matmul(left.clone(), right.clone());
    let is_taken = flex_matmul::pays(&matrix(&left).unwrap(), &matrix(&right).unwrap());
    assert_eq!(is_taken, super::super::lanes::InstructionSet::best().is_avx512());
    for left in [left.clone(), view(&left)] {
        for right in [right.clone(), view(&right)] {
            assert_near("product", &Flex::product(left.clone(), right), &expected);
        }
    }
    let chunk = composite::rows::<Flex>(&right, 100, 250);
    let columns = composite::rows::<Flex>(&Flex::float_transpose(left), 100, 250);
    let expected = Flex::float_matmul(Flex::float_transpose(columns.clone()), chunk.clone());
    assert_near("product of views", &Flex::product(Flex::float_transpose(columns), chunk), &expected);
}

#[test]
fn sum_of_squares_equals_the_sum_in_double_precision() {
    for shape in [[1, 1], [37, 96], [70_001, 3]] {
        let x = random(1, shape);
        let expected: f64 = values(&x).iter().map(|v| f64::from(*v).powi(2)).sum();
        let sum = f64::from(values(&Flex::sum_of_squares(view(&x)))[0]);
        assert!((sum / expected - 1.0).abs() < 1e-6, "{sum} against {expected}");
    }
}

#[test]
fn rotary_equals_its_composite_and_turns_back() {
    for (rows, heads, half) in [(1, 1, 1), (37, 3, 5), (70_001, 1, 2)] {
        let x = random(1, [rows, heads * 2 * half]);
        let angles = random(2, [rows, half]);
        let (cos, sin) = (Flex::float_cos(angles.clone()), Flex::float_sin(angles));
        let turned = Flex::rotary(view(&x), cos.clone(), sin.clone());
        assert_near("rotary", &turned, &composite::rotary::<Flex>(x.clone(), cos.clone(), sin.clone()));
        assert_near("turned back", &Flex::rotary(turned, cos, Flex::float_neg(sin)), &x);
    }
}

/// Sequences with and without a shared prompt, at lengths that fill no tile; the first prompt ends in padding.
fn layouts() -> Vec<AttentionLayout> {
    let span = |rows, prefix| Span { rows, prefix };
    let shared =
        vec![span(0..9, 0..7), span(9..14, 0..7), span(14..51, 0..7), span(51..84, 0..0), span(84..85, 51..84)];
    let shared = shared.into_iter().enumerate().map(|(i, s)| if i == 0 { span(s.rows, 0..0) } else { s }).collect();
    [
        (AttentionPlan::separate(&[1]), Heads { num_heads: 1, num_key_value_heads: 1, head_dim: 2 }),
        (AttentionPlan::separate(&[37, 1, 100]), Heads { num_heads: 6, num_key_value_heads: 2, head_dim: 16 }),
        (AttentionPlan::new(shared), Heads { num_heads: 3, num_key_value_heads: 1, head_dim: 40 }),
    ]
    .map(|(plan, heads)| AttentionLayout::new(plan.into(), heads, None))
    .into()
}

#[test]
fn attention_equals_its_composite_in_value_and_gradients() {
    for layout in layouts() {
        let num_rows = layout.plan.num_rows();
        let matrix = |seed, heads| random(seed, [num_rows, heads * layout.heads.head_dim]);
        let (q, g) = (matrix(1, layout.heads.num_heads), matrix(2, layout.heads.num_heads));
        let (k, v) = (matrix(3, layout.heads.num_key_value_heads), matrix(4, layout.heads.num_key_value_heads));
        let expected = composite_attention::attention::<Flex>(q.clone(), k.clone(), v.clone(), layout.clone());
        let (out, log_sum) = Flex::packed_attention(view(&q), view(&k), view(&v), layout.clone());
        assert_near("attention", &out, &expected.0);
        assert_near("attention log_sum", &log_sum, &expected.1);
        let kept = [expected.0.clone(), expected.1.clone()];
        let expected = composite_attention::attention_backward::<Flex>(
            [q.clone(), k.clone(), v.clone()],
            kept,
            g.clone(),
            layout.clone(),
        );
        let (dq, dk, dv) =
            Flex::packed_attention_backward(view(&q), view(&k), view(&v), out, log_sum, view(&g), layout);
        assert_near("attention dq", &dq, &expected.0);
        assert_near("attention dk", &dk, &expected.1);
        assert_near("attention dv", &dv, &expected.2);
    }
}

#[test]
fn composite_attention_is_a_softmax_over_the_rows_that_a_row_sees() {
    let windows = [None, Some(1), Some(5), Some(36)];
    for (layout, window) in layouts().into_iter().flat_map(|layout| windows.map(|window| (layout.clone(), window))) {
        let layout = AttentionLayout::new(layout.plan, layout.heads, window);
        let Heads { num_heads, num_key_value_heads, head_dim } = layout.heads;
        let num_rows = layout.plan.num_rows();
        let q = random(1, [num_rows, num_heads * head_dim]);
        let (k, v) = (
            random(2, [num_rows, num_key_value_heads * head_dim]),
            random(3, [num_rows, num_key_value_heads * head_dim]),
        );
        let (out, _) = composite_attention::attention::<Flex>(q.clone(), k.clone(), v.clone(), layout.clone());
        let out = out.to_contiguous();
        let row_of = |x: &FlexTensor, heads: usize, row: usize, head: usize| {
            values(x)[(row * heads + head) * head_dim..][..head_dim].to_vec()
        };
        for span in layout.plan.spans() {
            for (row, head) in span.rows.clone().flat_map(|row| (0..num_heads).map(move |head| (row, head))) {
                let own_head = head / (num_heads / num_key_value_heads);
                let seen: Vec<usize> = span.prefix.clone().chain(span.rows.start..=row).collect();
                let seen = &seen[seen.len() - seen.len().min(window.unwrap_or(usize::MAX))..];
                let query = row_of(&q, num_heads, row, head);
                let dot = |key: Vec<f32>| query.iter().zip(key).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                let e: Vec<f64> = seen
                    .iter()
                    .map(|j| (dot(row_of(&k, num_key_value_heads, *j, own_head)) / (head_dim as f64).sqrt()).exp())
                    .collect();
                let sum: f64 = e.iter().sum();
                for (c, value) in row_of(&out, num_heads, row, head).into_iter().enumerate() {
                    let mixed = seen
                        .iter()
                        .zip(&e)
                        .map(|(j, e)| e / sum * f64::from(row_of(&v, num_key_value_heads, *j, own_head)[c]));
                    assert!((f64::from(value) - mixed.sum::<f64>()).abs() < 1e-5, "row {row}, head {head}, column {c}");
                }
            }
        }
    }
}

#[test]
fn selected_log_probs_equal_their_composite_whatever_the_chunk_and_whether_logits_are_kept() {
    // The second size is large enough for the products of `flex_matmul`.
    for (rows, size, vocab_size) in [(37, 24, 103), (131, 130, 1031)] {
        let (h, w, g) = (random(1, [rows, size]), random(2, [vocab_size, size]), vector(3, rows));
        let ids: Vec<i64> = (0..rows as i64).map(|i| i * i % vocab_size as i64).collect(); // some ids twice
        let targets = FlexTensor::from_data(TensorData::new(ids, [rows]));
        let whole = LogProbOptions { chunk: vocab_size, keep_logits: false, need_dw: true };
        let (expected, _) = composite::selected_log_probs::<Flex>(h.clone(), w.clone(), targets.clone(), whole);
        let (expected_dh, expected_dw) = composite::selected_log_probs_backward::<Flex>(
            h.clone(),
            w.clone(),
            targets.clone(),
            expected.clone(),
            g.clone(),
            whole,
        );
        for (chunk, keep_logits) in [7, 103, 4096].into_iter().flat_map(|chunk| [(chunk, true), (chunk, false)]) {
            for need_dw in [true, false] {
                let options = LogProbOptions { chunk, keep_logits, need_dw };
                let (both, logits) = Flex::selected_log_probs(view(&h), view(&w), targets.clone(), options);
                assert_near("selected_log_probs", &both, &expected);
                assert_eq!(logits.shape()[0], if keep_logits { rows * vocab_size } else { 1 });
                let (h, w, targets, g) = (view(&h), view(&w), targets.clone(), g.clone());
                let (dh, dw) = Flex::selected_log_probs_backward(h, w, targets, both, logits, g, options);
                assert_near("selected_log_probs dh", &dh, &expected_dh);
                if need_dw {
                    assert_near("selected_log_probs dw", &dw, &expected_dw);
                }
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
