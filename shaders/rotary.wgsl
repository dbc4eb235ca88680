// (a, b) -> (a cos - b sin, b cos + a sin) for the halves a and b of every head. Reference: `rotary` in
// src/ops/composite.rs.
//
// Bindings: x [N, heads * 2 * half], cos [N, half], sin [N, half], y like x, written;
// info: grid width, N, columns of x, half.
// Workgroup: one pair (a, b) a lane.
// Numerics: f32.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> cosines: array<f32>;
@group(0) @binding(2) var<storage, read_write> sines: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> info: array<u32>;

const WORKGROUP: u32 = {{ workgroup }}u;

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let pair = (group.x + group.y * info[0]) * WORKGROUP + t;
    let half = info[3];
    let pairs_of_row = info[2] / 2u;
    if (pair < info[1] * pairs_of_row) {
        let row = pair / pairs_of_row;
        let head = (pair % pairs_of_row) / half;
        let angle = pair % half; // half divides the pairs of a row
        let a = row * info[2] + head * 2u * half + angle;
        let b = a + half;
        let cosine = cosines[row * half + angle];
        let sine = sines[row * half + angle];
        let first = x[a];
        let second = x[b];
        y[a] = first * cosine - second * sine;
        y[b] = second * cosine + first * sine;
    }
}
