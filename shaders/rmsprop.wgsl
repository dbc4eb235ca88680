// g' = g + weight_decay p, v <- alpha v + (1 - alpha) g'², p <- p - lr g' / (sqrt(v) + eps), in place. Reference: `rmsprop` in
// src/ops/composite.rs.
//
// Bindings: p, g, v, all [len]; p and v read and written; info: grid width, len, alpha, 1 - alpha, eps, weight_decay, lr.
// Workgroup: one Number a lane; len counts them.
// Numerics: f32; 1 - alpha was rounded once, from f64.

alias Number = {{ number }}; // f32 or, where the length allows it, vec4<f32>

@group(0) @binding(0) var<storage, read_write> p: array<Number>;
@group(0) @binding(1) var<storage, read_write> g: array<Number>;
@group(0) @binding(2) var<storage, read_write> v: array<Number>;
@group(0) @binding(3) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

fn number(i: u32) -> f32 {
    return bitcast<f32>(info[i]);
}

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let i = (group.x + group.y * info[0]) * WORKGROUP + t;
    if (i < info[1]) {
        let gradient = g[i] + p[i] * number(5u);
        let mean_square = v[i] * number(2u) + gradient * gradient * number(3u);
        p[i] -= gradient / (sqrt(mean_square) + number(4u)) * number(6u);
        v[i] = mean_square;
    }
}
