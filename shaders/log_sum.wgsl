// One chunk of the vocabulary in log softmax(logits)[target]: moves a row's running maximum and sum of exponentials on and
// picks the target's logit; the last chunk writes the result. Reference: `selected_log_probs` in src/ops/composite.rs.
//
// Bindings: logits [R, C] of this chunk, targets [R], running [R, 3] (maximum, sum, picked) read and written,
// result [R, 2] (log-prob, log of the sum) written by the last chunk;
// info: grid width, R, C, the chunk's first token, 1 for the first chunk, 1 for the last.
// Workgroup: one row; lane t takes the columns t, t + WORKGROUP, ...
// Numerics: f32; every exponential's argument is never positive; sums lane by lane, then in a tree: always in the same order.

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> running: array<f32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;
@group(0) @binding(4) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;
const LOWEST: f32 = -3.0e38;
var<workgroup> partial: array<f32, WORKGROUP>;

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = group.x + group.y * info[0];
    let len = select(0u, info[2], row < info[1]);
    let start = row * info[2];
    var largest = LOWEST;
    for (var c = t; c < len; c += WORKGROUP) {
        largest = max(largest, logits[start + c]);
    }
    partial[t] = largest;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if (t < half) {
            partial[t] = max(partial[t], partial[t + half]);
        }
        workgroupBarrier();
    }
    largest = partial[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var c = t; c < len; c += WORKGROUP) {
        sum += exp(logits[start + c] - largest);
    }
    partial[t] = sum;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if (t < half) {
            partial[t] += partial[t + half];
        }
        workgroupBarrier();
    }
    if (t == 0u && row < info[1]) {
        var old_largest = LOWEST;
        var old_sum = 0.0;
        var picked = 0.0;
        if (info[4] == 0u) {
            old_largest = running[row * 3u];
            old_sum = running[row * 3u + 1u];
            picked = running[row * 3u + 2u];
        }
        let new_largest = max(old_largest, largest);
        let new_sum = old_sum * exp(old_largest - new_largest) + partial[0] * exp(largest - new_largest);
        let target_token = u32(targets[row]);
        if (target_token >= info[3] && target_token < info[3] + len) {
            picked = logits[start + target_token - info[3]];
        }
        running[row * 3u] = new_largest;
        running[row * 3u + 1u] = new_sum;
        running[row * 3u + 2u] = picked;
        if (info[5] == 1u) {
            let log_sum = new_largest + log(new_sum);
            result[row * 2u] = picked - log_sum;
            result[row * 2u + 1u] = log_sum;
        }
    }
}
