// dx of the normalisation, and each block of rows' share of dweight. Reference: `rms_norm_backward` in src/ops/composite.rs;
// `sum_rows` adds the shares.
//
// With normal = x scale and scale = 1 / sqrt(mean(x²) + eps):
// dx = scale (g weight - normal mean(g weight normal)), dweight = sum over rows of g normal.
//
// Bindings: x [N, D], weight [D], g [N, D], dx [N, D] written, shares [ceil(N / ROWS), D] written;
// info: grid width, N, D, eps.
// Workgroup: ROWS rows, one after the other; lane t takes the columns t, t + WORKGROUP, ...
// Numerics: f32; sums over columns lane by lane, then in a tree, over rows in order: always in the same order.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;
@group(0) @binding(4) var<storage, read_write> shares: array<f32>;
@group(0) @binding(5) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;
const ROWS: u32 = {{ rows }}u;
var<workgroup> sums: array<vec2<f32>, WORKGROUP>; // x², g weight x

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let block = group.x + group.y * info[0];
    let len = info[2];
    let first = block * ROWS;
    let end = min(first + ROWS, info[1]);
    for (var row = first; row < end; row++) {
        let start = row * len;
        var sum = vec2<f32>(0.0);
        for (var c = t; c < len; c += WORKGROUP) {
            let value = x[start + c];
            sum += vec2<f32>(value, g[start + c] * weight[c]) * value;
        }
        sums[t] = sum;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if (t < half) {
                sums[t] += sums[t + half];
            }
            workgroupBarrier();
        }
        let total = sums[0];
        workgroupBarrier();
        let scale = 1.0 / sqrt(total.x / f32(len) + bitcast<f32>(info[3]));
        let along = total.y * scale / f32(len);
        for (var c = t; c < len; c += WORKGROUP) {
            let normal = x[start + c] * scale;
            dx[start + c] = scale * (g[start + c] * weight[c] - normal * along);
            var share = g[start + c] * normal;
            if (row > first) {
                share += shares[block * len + c];
            }
            shares[block * len + c] = share;
        }
    }
}
