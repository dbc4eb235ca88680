// y = gate sigmoid(gate) up. Reference: `swiglu` in src/ops/composite.rs.
//
// Bindings: gate, up, y written, all [len]; info: grid width, len.
// Workgroup: one Number a lane; len counts them.
// Numerics: f32; the exponential's argument is never positive, so nothing overflows.

alias Number = {{ number }}; // f32 or, where the length allows it, vec4<f32>

@group(0) @binding(0) var<storage, read_write> gate: array<Number>;
@group(0) @binding(1) var<storage, read_write> up: array<Number>;
@group(0) @binding(2) var<storage, read_write> y: array<Number>;
@group(0) @binding(3) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

fn sigmoid(x: Number) -> Number {
    let e = exp(-abs(x));
    return select(e, Number(1.0), x >= Number(0.0)) / (1.0 + e);
}

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let i = (group.x + group.y * info[0]) * WORKGROUP + t;
    if (i < info[1]) {
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
}
