use super::*;

#[test]
fn the_likeliest_tokens_come_in_the_order_of_their_ids() {
    let logits = [0.0, 2.0, -1.0, 2.0, 1.0];
    let log_sum = logits.iter().map(|z: &f32| z.exp()).sum::<f32>().ln();
    let (log_prob, candidates) = likeliest(&logits, 2, 3);
    assert!((log_prob - (-1.0 - log_sum)).abs() < 1e-6);
    assert_eq!(candidates.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 4]);
    assert!((candidates[0].1 - (2.0 - log_sum)).abs() < 1e-6);
    assert_eq!(likeliest(&logits, 0, 5).1.len(), 5);
    // Of two equally likely ones the smaller id is taken.
    assert_eq!(likeliest(&logits, 0, 1).1[0].0, 1);
}

/// A model of sequences of three tokens of a vocabulary of four, small enough to go through all 64: its logits depend on the
/// last two tokens. Everything in f64.
mod enumerable {
    const V: usize = 4;
    const T: usize = 3;
    const SCALE: f64 = 0.7;
    const SHIFT: f64 = 0.3;
    /// Logits for each of the first token, the second after one token, the third after two.
    const NUM_CONTEXTS: usize = 1 + V + V * V;

    type Function = fn(f64) -> f64;
    type Parameters = Vec<[f64; V]>;

    fn parameters(seed: u64) -> Parameters {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 31) * 2.0 - 1.0
        };
        (0..NUM_CONTEXTS).map(|_| std::array::from_fn(|_| 1.5 * next())).collect()
    }

    fn moved(parameters: &Parameters, by: f64) -> Parameters {
        let direction = self::parameters(99);
        let add = |(row, step): (&[f64; V], &[f64; V])| std::array::from_fn(|v| row[v] + by * step[v]);
        parameters.iter().zip(&direction).map(add).collect()
    }

    fn context(tokens: &[usize]) -> usize {
        match *tokens {
            [] => 0,
            [a] => 1 + a,
            [a, b] => 1 + V + V * a + b,
            _ => unreachable!("contexts have at most two tokens"),
        }
    }

    fn log_probs(parameters: &Parameters, context: usize) -> [f64; V] {
        let sum: f64 = parameters[context].iter().map(|z| z.exp()).sum();
        parameters[context].map(|z| z - sum.ln())
    }

    fn sequences() -> impl Iterator<Item = [usize; T]> {
        (0..V * V * V).map(|i| [i / (V * V), i / V % V, i % V])
    }

    fn probability(parameters: &Parameters, tokens: [usize; T]) -> f64 {
        (0..T).map(|i| log_probs(parameters, context(&tokens[..i]))[tokens[i]]).sum::<f64>().exp()
    }

    /// Each with its slope.
    const LOSSES: [(&str, Function, Function); 5] = [
        ("bernoulli", |u| (1.0 + u.exp()).ln(), sigmoid),
        ("brier", |u| sigmoid(u).powi(2), |u| 2.0 * sigmoid(u).powi(2) * (1.0 - sigmoid(u))),
        ("hinge", |u| (1.0 + u).max(0.0), |u| if u > -1.0 { 1.0 } else { 0.0 }),
        ("kliep", f64::exp, f64::exp),
        ("lsif", |u| (2.0 * u).exp() / 2.0, |u| (2.0 * u).exp()),
    ];

    fn sigmoid(u: f64) -> f64 {
        1.0 / (1.0 + (-u).exp())
    }

    /// The reference's `count` likeliest tokens after a context.
    fn candidates(reference: &[f64; V], count: usize) -> Vec<usize> {
        let mut ids: Vec<usize> = (0..V).collect();
        ids.sort_by(|a, b| reference[*b].total_cmp(&reference[*a]));
        ids.truncate(count);
        ids
    }

    /// `r_i + KL_i` with the `count` likeliest tokens and one bucket, and its gradient by the logits of its context.
    fn bracket(policy: &[f64; V], reference: &[f64; V], token: usize, count: usize) -> (f64, [f64; V]) {
        let own = candidates(reference, count);
        let (p, q) = (reference.map(f64::exp), policy.map(f64::exp));
        let rest = |probabilities: &[f64; V]| 1.0 - own.iter().map(|id| probabilities[*id]).sum::<f64>();
        // Of log q(bucket) by the logits.
        let of_token = |id: usize| -> [f64; V] { std::array::from_fn(|v| f64::from(u8::from(v == id)) - q[v]) };
        let of_rest = || -> [f64; V] {
            let in_rest = |v: usize| if own.contains(&v) { 0.0 } else { q[v] };
            std::array::from_fn(|v| in_rest(v) / rest(&q) - q[v])
        };
        let mut value = 0.0;
        let mut gradient = [0.0; V];
        let mut add = |weight: f64, log_ratio: f64, slope: [f64; V]| {
            value += weight * log_ratio;
            (0..V).for_each(|v| gradient[v] += weight * slope[v]);
        };
        let rest_log_ratio = || (rest(&q) / rest(&p)).ln();
        match own.contains(&token) {
            true => add(1.0, policy[token] - reference[token], of_token(token)),
            false => add(1.0, rest_log_ratio(), of_rest()),
        }
        own.iter().for_each(|id| add(-p[*id], policy[*id] - reference[*id], of_token(*id)));
        if count < V {
            add(-rest(&p), rest_log_ratio(), of_rest());
        }
        (value, gradient)
    }

    /// The loss of one response and its gradient by all logits, plain (`count` None) or with its noise taken out.
    fn loss(
        policy: &Parameters,
        reference: &Parameters,
        tokens: [usize; T],
        (l0, slope): (Function, Function),
        count: Option<usize>,
    ) -> (f64, Parameters) {
        let at = |parameters: &Parameters, i: usize| log_probs(parameters, context(&tokens[..i]));
        let ratio = |i: usize| at(policy, i)[tokens[i]] - at(reference, i)[tokens[i]];
        let u = |end: usize| SCALE * (0..end).map(ratio).sum::<f64>() + SHIFT;
        let mut value = l0(u(T));
        let mut gradient = vec![[0.0; V]; NUM_CONTEXTS];
        for i in 0..T {
            let q = at(policy, i).map(f64::exp);
            let row = &mut gradient[context(&tokens[..i])];
            for v in 0..V {
                row[v] += slope(u(T)) * SCALE * (f64::from(u8::from(v == tokens[i])) - q[v]);
            }
            if let Some(count) = count {
                let weight = SCALE * slope(u(i));
                let (noise, by_logits) = bracket(&at(policy, i), &at(reference, i), tokens[i], count);
                value -= weight * noise;
                (0..V).for_each(|v| row[v] -= weight * by_logits[v]);
            }
        }
        (value, gradient)
    }

    /// Mean over the reference's responses of the loss, of its gradient, and the total variance of the gradient.
    fn moments(
        policy: &Parameters,
        reference: &Parameters,
        functions: (Function, Function),
        count: Option<usize>,
    ) -> (f64, Parameters, f64) {
        let (mut mean, mut mean_gradient, mut square) = (0.0, vec![[0.0; V]; NUM_CONTEXTS], 0.0);
        for tokens in sequences() {
            let p = probability(reference, tokens);
            let (value, gradient) = loss(policy, reference, tokens, functions, count);
            mean += p * value;
            for (sum, row) in mean_gradient.iter_mut().zip(&gradient) {
                for v in 0..V {
                    sum[v] += p * row[v];
                    square += p * row[v] * row[v];
                }
            }
        }
        let of_mean: f64 = mean_gradient.iter().flatten().map(|g| g * g).sum();
        (mean, mean_gradient, square - of_mean)
    }

    #[test]
    fn expectation_and_expected_gradient_stay_the_same() {
        let reference = parameters(1);
        let policy = moved(&reference, 0.4);
        for (name, l0, slope) in LOSSES {
            let (plain, plain_gradient, _) = moments(&policy, &reference, (l0, slope), None);
            for count in 1..=V {
                let (mean, gradient, _) = moments(&policy, &reference, (l0, slope), Some(count));
                assert!((mean - plain).abs() < 1e-12, "{name}, {count} tokens: {mean}, plain {plain}");
                for (a, b) in gradient.iter().flatten().zip(plain_gradient.iter().flatten()) {
                    assert!((a - b).abs() < 1e-12, "{name}, {count} tokens: {a}, plain {b}");
                }
            }
        }
    }

    #[test]
    fn at_the_reference_nothing_is_left_of_the_noise() {
        let reference = parameters(2);
        for (name, l0, slope) in LOSSES {
            let plain = moments(&reference, &reference, (l0, slope), None).2;
            let exact = moments(&reference, &reference, (l0, slope), Some(V)).2;
            let bucketed = moments(&reference, &reference, (l0, slope), Some(2)).2;
            assert!(exact.abs() < 1e-24 && plain > 0.01, "{name}: {exact}, plain {plain}");
            assert!(bucketed < 0.6 * plain, "{name}: {bucketed} with two tokens, plain {plain}");
        }
    }

    #[test]
    fn some_way_off_there_is_still_less_of_it() {
        let reference = parameters(3);
        let policy = moved(&reference, 0.2);
        for (name, l0, slope) in LOSSES {
            let plain = moments(&policy, &reference, (l0, slope), None).2;
            let exact = moments(&policy, &reference, (l0, slope), Some(V)).2;
            assert!(exact < 0.7 * plain, "{name}: {exact}, plain {plain}");
        }
    }
}
