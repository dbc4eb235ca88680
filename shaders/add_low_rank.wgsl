// y <- y + scale h b, in place. Reference: `add_low_rank` in src/ops/composite.rs.
//
// Bindings: y [N, D] read and written, h [N, r], b [r, D]; info: grid width, N, D in Numbers, r, scale.
// Workgroup: one Number of y a lane; neighbours read neighbouring columns of b.
// Numerics: f32, the rank in order.

alias Number = {{ number }}; // f32 or, where D allows it, vec4<f32>

@group(0) @binding(0) var<storage, read_write> y: array<Number>;
@group(0) @binding(1) var<storage, read_write> h: array<f32>;
@group(0) @binding(2) var<storage, read_write> b: array<Number>;
@group(0) @binding(3) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let i = (group.x + group.y * info[0]) * WORKGROUP + t;
    let len = info[2];
    let rank = info[3];
    if (i < info[1] * len) {
        let row = i / len;
        let column = i % len;
        var sum = Number(0.0);
        for (var r = 0u; r < rank; r++) {
            sum += h[row * rank + r] * b[r * len + column];
        }
        y[i] += bitcast<f32>(info[4]) * sum;
    }
}
