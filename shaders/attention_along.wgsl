// What the backward pass of attention needs of a query besides its rows: the logarithm of its softmax's sum, and
// along = sum(g result). Reference: `attention_backward` in src/ops/composite_attention.rs.
//
// Bindings: result, g [N, H d], log_sums [N, H], stats [N, H, 2] (log of the sum, along) written;
// info: grid width, N H, d.
// Workgroup: one query of one head a lane.
// Numerics: f32, columns in order.

@group(0) @binding(0) var<storage, read_write> result: array<f32>;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> log_sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;
@group(0) @binding(4) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let query = (group.x + group.y * info[0]) * WORKGROUP + t;
    if (query < info[1]) {
        var along = 0.0;
        for (var c = query * info[2]; c < (query + 1u) * info[2]; c++) {
            along += g[c] * result[c];
        }
        stats[query * 2u] = log_sums[query];
        stats[query * 2u + 1u] = along;
    }
}
