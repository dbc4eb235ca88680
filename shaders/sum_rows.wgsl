// The sum of a matrix's rows: dweight of the normalisation from the shares of `rms_norm_backward`. Reference: `float_sum_dim`.
//
// Bindings: matrix [N, D], sum [D] written; info: grid width, N, D.
// Workgroup: one column a lane.
// Numerics: f32, rows in order.

@group(0) @binding(0) var<storage, read_write> matrix: array<f32>;
@group(0) @binding(1) var<storage, read_write> sum: array<f32>;
@group(0) @binding(2) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let column = (group.x + group.y * info[0]) * WORKGROUP + t;
    if (column < info[2]) {
        var total = 0.0;
        for (var row = 0u; row < info[1]; row++) {
            total += matrix[row * info[2] + column];
        }
        sum[column] = total;
    }
}
