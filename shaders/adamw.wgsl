// m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g², p <- decay p - step_size m / (sqrt(v) / root_correction + eps), in place.
// Reference: `adamw` in src/ops/composite.rs.
//
// Bindings: p, g, m, v, all [len]; p, m and v read and written;
// info: grid width, len, b1, 1 - b1, b2, 1 - b2, eps, decay, step_size, root_correction.
// Workgroup: one Number a lane; len counts them.
// Numerics: f32; 1 - b was rounded once, from f64.

alias Number = {{ number }}; // f32 or, where the length allows it, vec4<f32>

@group(0) @binding(0) var<storage, read_write> p: array<Number>;
@group(0) @binding(1) var<storage, read_write> g: array<Number>;
@group(0) @binding(2) var<storage, read_write> m: array<Number>;
@group(0) @binding(3) var<storage, read_write> v: array<Number>;
@group(0) @binding(4) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

fn number(i: u32) -> f32 {
    return bitcast<f32>(info[i]);
}

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let i = (group.x + group.y * info[0]) * WORKGROUP + t;
    if (i < info[1]) {
        let gradient = g[i];
        let mean = m[i] * number(2u) + gradient * number(3u);
        let mean_square = v[i] * number(4u) + gradient * gradient * number(5u);
        let step = mean / (sqrt(mean_square) / number(9u) + number(6u));
        p[i] = p[i] * number(7u) - step * number(8u);
        m[i] = mean;
        v[i] = mean_square;
    }
}
