// One chunk of dlogits = g (1[target] - exp(logits - log_sum)), in place of the logits. Reference:
// `selected_log_probs_backward` in src/ops/composite.rs.
//
// Bindings: logits [R, C] of this chunk, read and written, targets [R], forward [R, 2] (log-prob, log of the sum), g [R];
// info: grid width, R, C, the chunk's first token.
// Workgroup: one logit a lane.
// Numerics: f32.

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> forward: array<f32>;
@group(0) @binding(3) var<storage, read_write> g: array<f32>;
@group(0) @binding(4) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let i = (group.x + group.y * info[0]) * WORKGROUP + t;
    if (i < info[1] * info[2]) {
        let row = i / info[2];
        let token = info[3] + i % info[2];
        let chosen = select(0.0, 1.0, token == u32(targets[row]));
        logits[i] = g[row] * (chosen - exp(logits[i] - forward[row * 2u + 1u]));
    }
}
