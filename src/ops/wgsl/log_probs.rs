//! Log-probs of given tokens, vocabulary chunk by chunk: one matrix product and one shader a chunk.
//!
//! The logits of a chunk are one buffer, and chunks are made as narrow as the device's largest buffer asks for. Hidden states
//! and head weights are not split: each has to fit a buffer anyway.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{IntDType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Buffer, Shader, empty, max_buffer_bytes};
use crate::ops::{LogProbOptions, composite};

static LOG_SUM: Shader = Shader::new("log_sum", include_str!("../../../shaders/log_sum.wgsl"));
static LOGITS_GRADIENT: Shader = Shader::new("logits_gradient", include_str!("../../../shaders/logits_gradient.wgsl"));

/// The chunk, or what one buffer holds of it.
pub fn chunk_within(chunk: usize, num_rows: usize, max_buffer_bytes: u64) -> usize {
    let max_columns = max_buffer_bytes / (size_of::<f32>() * num_rows.max(1)) as u64;
    chunk.min(usize::try_from(max_columns).unwrap_or(chunk)).max(1)
}

/// `[R, 2]`: log-prob, logarithm of the sum of exponentials.
pub fn forward(h: CubeTensor, w: CubeTensor, targets: CubeTensor, chunk: usize) -> CubeTensor {
    let (num_rows, vocab_size) = (h.meta.shape()[0], w.meta.shape()[0]);
    let targets = as_i32(targets);
    let (running, result) = (empty(&h, [num_rows, 3]), empty(&h, [num_rows, 2]));
    let chunk = chunk_within(chunk, num_rows, max_buffer_bytes(&h.client));
    for start in (0..vocab_size).step_by(chunk) {
        let end = (start + chunk).min(vocab_size);
        let logits = into_contiguous(composite::chunk_logits::<CubeBackend>(&h, &w, start, end));
        let is_edge = [start == 0, end == vocab_size].map(u32::from);
        LOG_SUM.launch(
            &[],
            num_rows,
            &[Buffer::Read(&logits), Buffer::Read(&targets), Buffer::Update(&running), Buffer::Update(&result)],
            &[num_rows as u32, (end - start) as u32, start as u32, is_edge[0], is_edge[1]],
        );
    }
    result
}

/// Gradients of h and w; that of w is `[1]` and meaningless unless `options.need_dw`. `g` `[R]`, contiguous.
pub fn backward(
    [h, w, targets]: [CubeTensor; 3],
    [forward, g]: [CubeTensor; 2],
    options: LogProbOptions,
) -> (CubeTensor, CubeTensor) {
    let LogProbOptions { chunk, need_dw, .. } = options;
    let (num_rows, vocab_size, size) = (h.meta.shape()[0], w.meta.shape()[0], w.meta.shape()[1]);
    let targets = as_i32(targets);
    let chunk = chunk_within(chunk, num_rows, max_buffer_bytes(&h.client));
    let mut dh: Option<CubeTensor> = None;
    let mut dw = empty(&w, if need_dw { Shape::new([vocab_size, size]) } else { Shape::new([1]) });
    for start in (0..vocab_size).step_by(chunk) {
        let end = (start + chunk).min(vocab_size);
        let dlogits = into_contiguous(composite::chunk_logits::<CubeBackend>(&h, &w, start, end));
        LOGITS_GRADIENT.launch(
            &[],
            LOGITS_GRADIENT.num_workgroups(num_rows * (end - start)),
            &[Buffer::Update(&dlogits), Buffer::Read(&targets), Buffer::Read(&forward), Buffer::Read(&g)],
            &[num_rows as u32, (end - start) as u32, start as u32],
        );
        let part = CubeBackend::float_matmul(dlogits.clone(), composite::rows::<CubeBackend>(&w, start, end));
        dh = Some(match dh {
            Some(sum) => CubeBackend::float_add(sum, part),
            None => part,
        });
        if need_dw {
            let part = CubeBackend::float_matmul(CubeBackend::float_transpose(dlogits), h.clone());
            dw = match end - start == vocab_size {
                true => part,
                false => CubeBackend::float_slice_assign(dw, &[Slice::from(start..end), Slice::full()], part),
            };
        }
    }
    (dh.expect("a vocabulary has at least one token"), dw)
}

fn as_i32(ids: CubeTensor) -> CubeTensor {
    into_contiguous(CubeBackend::int_cast(ids, IntDType::I32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_of_logits_fits_the_largest_buffer() {
        assert_eq!(chunk_within(8192, 1000, 128 << 20), 8192);
        assert_eq!(chunk_within(8192, 10_000, 128 << 20), 3355); // 134,200,000 bytes; one token more: 134,240,000
        assert_eq!(chunk_within(8192, 1 << 30, 128 << 20), 1);
    }
}
