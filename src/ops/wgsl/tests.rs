//! Each shader through Burn's fusion against its composite body on flex, at sizes that are no multiple of anything, on views
//! that are not contiguous. Without a graphics adapter (software Vulkan will do) these tests are skipped and say so.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::launch::COMPOSITES_ONLY;
use crate::device;
use crate::ops::launches::{self, Launches};
use crate::ops::{
    AdamW, AttentionLayout, AttentionPlan, Heads, LogProbOptions, ModelOps, RmsProp, Span, composite,
    composite_attention,
};

/// The adapter, for one test at a time: launches are counted for the whole process.
struct Adapter {
    device: Device,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Adapter {
    fn open() -> Option<Adapter> {
        let wanted = std::env::var("GSIL_TEST_DEVICE").ok();
        let name = match &wanted {
            Some(names) => match names.split(',').find(|name| name.split(':').next() == Some("wgpu")) {
                Some(name) => name,
                None => {
                    say_skipped(&format!("GSIL_TEST_DEVICE={names} leaves it out"));
                    return None;
                }
            },
            None => "wgpu",
        };
        match device::open(name) {
            Ok(device) => Some(Adapter { device, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) }),
            Err(error) if wanted.is_none() => {
                say_skipped(&error.to_string());
                None
            }
            Err(error) => panic!("device `{name}` does not open: {error}"),
        }
    }

    /// The same numbers here, stored by columns.
    fn view(&self, x: &Tensor<2>) -> DispatchTensor {
        let by_columns = x.clone().transpose().into_data();
        Tensor::<2>::from_data(by_columns, &self.device).transpose().into_dispatch()
    }

    /// The same numbers here, contiguous.
    fn copy<const D: usize>(&self, x: &Tensor<D>) -> DispatchTensor {
        Tensor::<D>::from_data(x.to_data(), &self.device).into_dispatch()
    }

    /// What `work` gives, once it has launched so many shaders and nothing else but what makes views contiguous.
    fn launching<T>(&self, num_shaders: usize, work: impl FnOnce() -> T) -> T {
        let mut result = None;
        let launches = launches::count(&self.device, || result = Some(work())).unwrap();
        assert_eq!(launches.shaders, num_shaders, "{launches:?}");
        result.unwrap()
    }
}

/// Written to stderr itself, once: the test harness hides what a passing test prints.
fn say_skipped(reason: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let line = "=".repeat(80);
        let text = format!("\n{line}\nwgpu tests are SKIPPED: {reason}\n{line}\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    });
}

/// Numbers from -2 to 2 on flex; a different seed gives others.
fn random<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let len = shape.iter().product::<usize>();
    let numbers: Vec<f32> = (0..len).map(|_| (random.next_u32() >> 8) as f32 / (1u32 << 22) as f32 - 2.0).collect();
    Tensor::from_data(TensorData::new(numbers, shape), &device::open("flex").unwrap())
}

fn plain<const D: usize>(x: &Tensor<D>) -> DispatchTensor {
    x.clone().into_dispatch()
}

#[track_caller]
fn assert_near<const D: usize>(name: &str, fused: DispatchTensor, composite: DispatchTensor) {
    let [fused, composite] = [fused, composite].map(|tensor| Tensor::<D>::from_dispatch(tensor).into_data());
    assert_eq!(fused.shape(), composite.shape(), "{name}");
    let [fused, composite] = [fused, composite].map(|data| data.try_into_vec::<f32>().unwrap());
    assert_eq!(fused.len(), composite.len(), "{name}");
    let scale = composite.iter().fold(1.0f32, |max, value| max.max(value.abs()));
    for (i, (a, b)) in fused.iter().zip(&composite).enumerate() {
        assert!((a - b).abs() <= 2e-5 * scale, "{name}, value {i}: {a} against {b}");
    }
}

#[test]
fn rms_norm_equals_its_composite() {
    let Some(adapter) = Adapter::open() else { return };
    for (rows, len) in [(1, 1), (3, 5), (37, 300), (70_001, 3)] {
        let (x, g, weight) = (random(1, [rows, len]), random(2, [rows, len]), random(3, [len]));
        let expected = composite::rms_norm::<Dispatch>(plain(&x), plain(&weight), 1e-5);
        let (x_there, g_there, weight_there) = (adapter.view(&x), adapter.view(&g), adapter.copy(&weight));
        let y = adapter.launching(1, || Dispatch::rms_norm(x_there.clone(), weight_there.clone(), 1e-5));
        assert_near::<2>("rms_norm", y, expected);
        let (dx, dw) = adapter.launching(2, || Dispatch::rms_norm_backward(x_there, weight_there, g_there, 1e-5));
        let expected = composite::rms_norm_backward::<Dispatch>(plain(&x), plain(&weight), plain(&g), 1e-5);
        assert_near::<2>("rms_norm dx", dx, expected.0);
        assert_near::<1>("rms_norm dweight", dw, expected.1);
    }
}

#[test]
fn swiglu_equals_its_composite_and_survives_large_inputs() {
    let Some(adapter) = Adapter::open() else { return };
    for (rows, len) in [(1, 1), (37, 161), (37, 164), (70_001, 2)] {
        let [gate, up, g] = [1, 2, 3].map(|seed| random(seed, [rows, len]));
        let [gate_there, up_there, g_there] = [&gate, &up, &g].map(|x| adapter.view(x));
        let y = adapter.launching(1, || Dispatch::swiglu(gate_there.clone(), up_there.clone()));
        assert_near::<2>("swiglu", y, composite::swiglu::<Dispatch>(plain(&gate), plain(&up)));
        let (dgate, dup) = adapter.launching(1, || Dispatch::swiglu_backward(gate_there, up_there, g_there));
        let expected = composite::swiglu_backward::<Dispatch>(plain(&gate), plain(&up), plain(&g));
        assert_near::<2>("swiglu dgate", dgate, expected.0);
        assert_near::<2>("swiglu dup", dup, expected.1);
    }
    let gate = Tensor::<2>::from_floats([[-1e4, 1e4]], &adapter.device);
    let y = Dispatch::swiglu(gate.clone().into_dispatch(), gate.ones_like().into_dispatch());
    let y: Vec<f32> = Tensor::<2>::from_dispatch(y).into_data().try_into_vec().unwrap();
    assert!(y[0].abs() < 1e-30 && y[1] == 1e4, "{y:?}");
}

#[test]
fn rotary_equals_its_composite_and_turns_back() {
    let Some(adapter) = Adapter::open() else { return };
    for (rows, heads, half) in [(1, 1, 1), (37, 3, 5), (70_001, 1, 2)] {
        let (x, angles) = (random(1, [rows, heads * 2 * half]), random(2, [rows, half]));
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let [x_there, cos_there, sin_there] = [&x, &cos, &sin].map(|x| adapter.view(x));
        let turned = adapter.launching(1, || Dispatch::rotary(x_there, cos_there.clone(), sin_there.clone()));
        let expected = composite::rotary::<Dispatch>(plain(&x), plain(&cos), plain(&sin));
        assert_near::<2>("rotary", turned.clone(), expected);
        let sin_back = (-Tensor::<2>::from_dispatch(sin_there)).into_dispatch();
        assert_near::<2>("turned back", Dispatch::rotary(turned, cos_there, sin_back), plain(&x));
    }
}

#[test]
fn add_low_rank_equals_its_composite_and_leaves_a_tensor_that_others_hold() {
    let Some(adapter) = Adapter::open() else { return };
    for (rows, rank, out) in [(1, 1, 1), (37, 8, 101), (37, 3, 100), (70_001, 2, 3)] {
        let (y, h, b) = (random(1, [rows, out]), random(2, [rows, rank]), random(3, [rank, out]));
        let expected = composite::add_low_rank::<Dispatch>(plain(&y), plain(&h), plain(&b), 0.7);
        let [h_there, b_there] = [&h, &b].map(|x| adapter.view(x));
        let held = adapter.copy(&y);
        for y_there in [adapter.view(&y), adapter.copy(&y), held.clone()] {
            let (h, b) = (h_there.clone(), b_there.clone());
            let sum = adapter.launching(1, || Dispatch::add_low_rank(y_there, h, b, 0.7));
            assert_near::<2>("add_low_rank", sum, expected.clone());
        }
        assert_near::<2>("the one that is held", held, plain(&y));
    }
}

/// Sequences with and without a shared prompt, at lengths that fill no tile; the first prompt ends in padding.
fn layouts() -> Vec<AttentionLayout> {
    let span = |rows, prefix| Span { rows, prefix };
    let shared = vec![
        span(0..9, 0..0),
        span(9..14, 0..7),
        span(14..51, 0..7),
        span(51..84, 0..0),
        span(84..85, 51..84),
        span(85..100, 51..70),
    ];
    [
        (AttentionPlan::separate(&[1]), Heads { num_heads: 1, num_key_value_heads: 1, head_dim: 2 }),
        (AttentionPlan::separate(&[37, 1, 100]), Heads { num_heads: 6, num_key_value_heads: 2, head_dim: 16 }),
        (AttentionPlan::new(shared.clone()), Heads { num_heads: 3, num_key_value_heads: 1, head_dim: 40 }),
        (AttentionPlan::new(shared), Heads { num_heads: 2, num_key_value_heads: 2, head_dim: 65 }),
    ]
    .map(|(plan, heads)| AttentionLayout::new(plan.into(), heads, None))
    .into()
}

#[test]
fn attention_equals_its_composite_in_value_and_gradients() {
    let Some(adapter) = Adapter::open() else { return };
    for layout in layouts() {
        check_attention(&adapter, layout);
    }
}

// A tile for each row.
#[test]
fn attention_spreads_more_than_65535_workgroups_over_a_second_direction() {
    let Some(adapter) = Adapter::open() else { return };
    let heads = Heads { num_heads: 1, num_key_value_heads: 1, head_dim: 2 };
    let plan = AttentionPlan::separate(&[1; 70_001]);
    check_values_of_lonely_rows(&adapter, AttentionLayout::new(plan.into(), heads, None));
}

fn check_attention(adapter: &Adapter, layout: AttentionLayout) {
    let num_rows = layout.plan.num_rows();
    let matrix = |seed, heads| random(seed, [num_rows, heads * layout.heads.head_dim]);
    let (q, g) = (matrix(1, layout.heads.num_heads), matrix(2, layout.heads.num_heads));
    let (k, v) = (matrix(3, layout.heads.num_key_value_heads), matrix(4, layout.heads.num_key_value_heads));
    let inputs = [&q, &k, &v].map(plain::<2>);
    let expected = {
        let [q, k, v] = inputs.clone();
        composite_attention::attention::<Dispatch>(q, k, v, layout.clone())
    };
    let [q_there, k_there, v_there, g_there] = [&q, &k, &v, &g].map(|x| adapter.view(x));
    let (out, log_sum) = adapter
        .launching(1, || Dispatch::packed_attention(q_there.clone(), k_there.clone(), v_there.clone(), layout.clone()));
    assert_near::<2>("attention", out.clone(), expected.0.clone());
    assert_near::<2>("attention log_sum", log_sum.clone(), expected.1.clone());
    let backward = || {
        let (q, k, v, g) = (q_there.clone(), k_there.clone(), v_there.clone(), g_there.clone());
        Dispatch::packed_attention_backward(q, k, v, out.clone(), log_sum.clone(), g, layout.clone())
    };
    let (dq, dk, dv) = adapter.launching(3, backward);
    let kept = [expected.0, expected.1];
    let expected = composite_attention::attention_backward::<Dispatch>(inputs, kept, plain(&g), layout.clone());
    assert_near::<2>("attention dq", dq, expected.0);
    assert_near::<2>("attention dk", dk.clone(), expected.1);
    assert_near::<2>("attention dv", dv, expected.2);
    let again = Tensor::<2>::from_dispatch(backward().1).into_data();
    assert_eq!(again, Tensor::<2>::from_dispatch(dk).into_data(), "the same bits every time");
}

/// A row that sees itself only: its value comes out, and its gradient is the result's.
fn check_values_of_lonely_rows(adapter: &Adapter, layout: AttentionLayout) {
    let shape = [layout.plan.num_rows(), layout.heads.head_dim];
    let [q, k, v, g] = [1, 2, 3, 4].map(|seed| random(seed, shape));
    let [q_there, k_there, v_there, g_there] = [&q, &k, &v, &g].map(|x| adapter.copy(x));
    let (out, log_sum) = Dispatch::packed_attention(q_there.clone(), k_there.clone(), v_there.clone(), layout.clone());
    assert_near::<2>("out", out.clone(), plain(&v));
    let (dq, dk, dv) = Dispatch::packed_attention_backward(q_there, k_there, v_there, out, log_sum, g_there, layout);
    assert_near::<2>("dv", dv, plain(&g));
    assert_near::<2>("dq", dq, plain(&q.zeros_like()));
    assert_near::<2>("dk", dk, plain(&k.zeros_like()));
}

/// Targets on flex and on the adapter; some ids twice.
fn targets(adapter: &Adapter, rows: usize, vocab_size: usize) -> [DispatchTensor; 2] {
    let ids: Vec<i32> = (0..rows).map(|i| (i * i % vocab_size) as i32).collect();
    [&device::open("flex").unwrap(), &adapter.device]
        .map(|device| Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [rows]), device).into_dispatch())
}

#[test]
fn selected_log_probs_equal_their_composite_whatever_the_chunk() {
    let Some(adapter) = Adapter::open() else { return };
    let (rows, size, vocab_size) = (37, 24, 103);
    let (h, w, g) = (random(1, [rows, size]), random(2, [vocab_size, size]), random(3, [rows]));
    let [ids, ids_there] = targets(&adapter, rows, vocab_size);
    let whole = LogProbOptions { chunk: 1000, keep_logits: false, need_dw: true };
    let (expected, _) = composite::selected_log_probs::<Dispatch>(plain(&h), plain(&w), ids.clone(), whole);
    let expected_gradients = composite::selected_log_probs_backward::<Dispatch>(
        plain(&h),
        plain(&w),
        ids,
        expected.clone(),
        plain(&g),
        whole,
    );
    let (h, w, g) = (adapter.copy(&h), adapter.copy(&w), adapter.copy(&g));
    for (chunk, num_chunks) in [(64, 2), (4096, 1)] {
        // Logits are asked for, but a card keeps none.
        let options = LogProbOptions { chunk, keep_logits: true, need_dw: true };
        let (both, logits) = adapter
            .launching(num_chunks, || Dispatch::selected_log_probs(h.clone(), w.clone(), ids_there.clone(), options));
        assert_eq!(Tensor::<1>::from_dispatch(logits.clone()).dims(), [1]);
        assert_near::<2>("selected_log_probs", both.clone(), expected.clone());
        for need_dw in [true, false] {
            let (dh, dw) = adapter.launching(num_chunks, || {
                let (h, w, ids) = (h.clone(), w.clone(), ids_there.clone());
                let (both, logits, g) = (both.clone(), logits.clone(), g.clone());
                let options = LogProbOptions { need_dw, ..options };
                Dispatch::selected_log_probs_backward(h, w, ids, both, logits, g, options)
            });
            assert_near::<2>("selected_log_probs dh", dh, expected_gradients.0.clone());
            if need_dw {
                assert_near::<2>("selected_log_probs dw", dw, expected_gradients.1.clone());
            }
        }
    }
}

#[test]
fn selected_log_probs_take_more_than_65535_rows() {
    let Some(adapter) = Adapter::open() else { return };
    let (h, w) = (random(1, [70_001, 2]), random(2, [3, 2]));
    let [ids, ids_there] = targets(&adapter, 70_001, 3);
    let options = LogProbOptions { chunk: 1000, keep_logits: false, need_dw: false };
    let (expected, _) = composite::selected_log_probs::<Dispatch>(plain(&h), plain(&w), ids, options);
    let (both, _) = Dispatch::selected_log_probs(adapter.view(&h), adapter.view(&w), ids_there, options);
    assert_near::<2>("selected_log_probs", both, expected);
}

// 8,400,001 numbers are 131,251 workgroups: no multiple of four, so a lane has one.
#[test]
fn updates_equal_their_composites_and_are_one_launch_in_place() {
    let Some(adapter) = Adapter::open() else { return };
    let adamw = AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, decay: 0.99, step_size: 0.1, root_correction: 0.5 };
    let rmsprop = RmsProp { alpha: 0.99, epsilon: 1e-8, weight_decay: 0.1, lr: 0.01 };
    for len in [1, 1003, 1004, 8_400_001] {
        let [parameter, gradient, mean] = [1, 2, 3].map(|seed| random(seed, [len]));
        let mean_square = mean.clone() * mean.clone();
        let all = [&parameter, &gradient, &mean, &mean_square];
        let [p, g, m, v] = all.map(plain::<1>);
        let expected = composite::adamw::<Dispatch>(p, g, m, v, adamw);
        let there = all.map(|x| adapter.copy(x));
        let (updated, launches) = counted(&adapter, || {
            let [p, g, m, v] = there;
            Dispatch::adamw(p, g, m, v, adamw)
        });
        assert_eq!(launches, Launches { total: 1, shaders: 1 }, "a copy or a second pass");
        assert_near::<1>("adamw parameter", updated.0, expected.0);
        assert_near::<1>("adamw mean", updated.1, expected.1);
        assert_near::<1>("adamw mean square", updated.2, expected.2);

        let [p, g, _, v] = all.map(plain::<1>);
        let expected = composite::rmsprop::<Dispatch>(p, g, v, rmsprop);
        let there = all.map(|x| adapter.copy(x));
        let (updated, launches) = counted(&adapter, || {
            let [p, g, _, v] = there;
            Dispatch::rmsprop(p, g, v, rmsprop)
        });
        assert_eq!(launches, Launches { total: 1, shaders: 1 }, "a copy or a second pass");
        assert_near::<1>("rmsprop parameter", updated.0, expected.0);
        assert_near::<1>("rmsprop mean square", updated.1, expected.1);
    }
}

fn counted<T>(adapter: &Adapter, work: impl FnOnce() -> T) -> (T, Launches) {
    let mut result = None;
    let launches = launches::count(&adapter.device, || result = Some(work())).unwrap();
    (result.unwrap(), launches)
}

#[test]
fn where_shaders_do_not_run_the_composite_bodies_do() {
    let Some(adapter) = Adapter::open() else { return };
    let (x, g, weight) = (random(1, [37, 12]), random(2, [37, 12]), random(3, [12]));
    let expected = composite::rms_norm_backward::<Dispatch>(plain(&x), plain(&weight), plain(&g), 1e-5);
    COMPOSITES_ONLY.store(true, Ordering::SeqCst);
    let ((dx, dweight), launches) = counted(&adapter, || {
        Dispatch::rms_norm_backward(adapter.view(&x), adapter.copy(&weight), adapter.view(&g), 1e-5)
    });
    let swiglu = Dispatch::swiglu(adapter.view(&x), adapter.view(&g));
    let swiglu = Tensor::<2>::from_dispatch(swiglu).into_data();
    COMPOSITES_ONLY.store(false, Ordering::SeqCst);
    assert!(launches.shaders == 0 && launches.total > 2, "{launches:?}");
    assert_near::<2>("rms_norm dx", dx, expected.0);
    assert_near::<1>("rms_norm dweight", dweight, expected.1);
    let swiglu = Tensor::<2>::from_data(swiglu, &device::open("flex").unwrap()).into_dispatch();
    assert_near::<2>("swiglu", swiglu, composite::swiglu::<Dispatch>(plain(&x), plain(&g)));
}
