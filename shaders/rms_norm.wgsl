// y = x / sqrt(mean(x²) + eps) * weight, row by row. Reference: `rms_norm` in src/ops/composite.rs.
//
// Bindings: x [N, D], weight [D], y [N, D] written; info: grid width, N, D, eps.
// Workgroup: one row; lane t takes the columns t, t + WORKGROUP, ...
// Numerics: f32; squares are summed lane by lane, then in a tree: always in the same order.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;
var<workgroup> sums: array<f32, WORKGROUP>;

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = group.x + group.y * info[0];
    let len = select(0u, info[2], row < info[1]); // the grid may be larger than the rows; barriers allow no early return
    let start = row * info[2];
    var squares = 0.0;
    for (var c = t; c < len; c += WORKGROUP) {
        let value = x[start + c];
        squares += value * value;
    }
    sums[t] = squares;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if (t < half) {
            sums[t] += sums[t + half];
        }
        workgroupBarrier();
    }
    let scale = 1.0 / sqrt(sums[0] / f32(info[2]) + bitcast<f32>(info[3]));
    for (var c = t; c < len; c += WORKGROUP) {
        y[start + c] = x[start + c] * scale * weight[c];
    }
}
