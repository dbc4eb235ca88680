//! Vectors of f32 in the registers of this processor, for the loops whose speed must not hang on the compiler's mood.
//!
//! Loops over arrays usually vectorise by themselves (see [`super::simd`]); the register tile of a matrix product did so
//! for some numbers of rows and became 50 times slower for others. [`Lanes`] names the few instructions that it needs, once
//! for each instruction set; [`InstructionSet`] finds the best at run time. Next: [`super::panels`].

/// A register of f32.
pub trait Lanes: Copy {
    /// Numbers in a register.
    const LEN: usize;
    /// Rows of a register tile that is two registers wide: as many as the registers hold beside the operands.
    const TILE_ROWS: usize;

    fn splat(value: f32) -> Self;

    /// The first [`Self::LEN`] values.
    fn load(values: &[f32]) -> Self;

    fn store(self, out: &mut [f32]);

    /// `self * factor + addend`.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// The sum of a register's numbers, in order.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut values = [0.0; 16];
        self.store(&mut values);
        values[..Self::LEN].iter().sum()
    }

    /// Two registers of bf16 numbers, exactly: from the low and from the high halves of [`Self::LEN`] words.
    fn widen_bf16(pairs: &[u32]) -> [Self; 2];

    /// Asks for the cache line at an address, which need not be mapped.
    #[inline(always)]
    fn prefetch(_address: *const u8) {}
}

/// Work that is written in [`Lanes`]. `run` must be `#[inline(always)]`, so that it is compiled for the instruction set of
/// the function that it is inlined into.
pub trait LaneKernel {
    fn run<L: Lanes>(self);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Plain,
}

/// An instruction set that this processor has: only [`Self::available`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet(Kind);

impl InstructionSet {
    /// The widest one.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// All of them, the widest first.
    pub fn available() -> Vec<Self> {
        let mut kinds = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if has_avx2 && is_x86_feature_detected!("avx512f") {
                kinds.push(Kind::Avx512);
            }
            if has_avx2 {
                kinds.push(Kind::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        kinds.push(Kind::Neon); // every 64-bit Arm has it
        kinds.push(Kind::Plain);
        kinds.into_iter().map(InstructionSet).collect()
    }

    /// Two registers: the columns of a panel.
    pub fn panel_columns(self) -> usize {
        2 * match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => std::arch::x86_64::__m512::LEN,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => std::arch::x86_64::__m256::LEN,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => std::arch::aarch64::float32x4_t::LEN,
            Kind::Plain => Plain::LEN,
        }
    }

    /// Runs a kernel as compiled for this instruction set.
    #[inline]
    pub fn run(self, kernel: impl LaneKernel) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn with_avx512(kernel: impl LaneKernel) {
            kernel.run::<std::arch::x86_64::__m512>();
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2(kernel: impl LaneKernel) {
            kernel.run::<std::arch::x86_64::__m256>();
        }
        match self.0 {
            // SAFETY: `available` has found the features that the function is compiled for.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { with_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { with_avx2(kernel) },
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => kernel.run::<std::arch::aarch64::float32x4_t>(),
            Kind::Plain => kernel.run::<Plain>(),
        }
    }
}

/// SAFETY of all intrinsics below: the methods are inlined into [`InstructionSet::run`]'s functions, which run only where
/// the processor has the instructions; loads and stores go through slices of checked length.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    impl Lanes for __m512 {
        const LEN: usize = 16;
        const TILE_ROWS: usize = 12;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(values: &[f32]) -> Self {
            let values = &values[..Self::LEN];
            unsafe { _mm512_loadu_ps(values.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, out: &mut [f32]) {
            let out = &mut out[..Self::LEN];
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self) }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { _mm512_fmadd_ps(self, factor, addend) }
        }

        #[inline(always)]
        fn widen_bf16(pairs: &[u32]) -> [Self; 2] {
            let pairs = &pairs[..Self::LEN];
            unsafe {
                let pairs = _mm512_loadu_si512(pairs.as_ptr().cast());
                let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(high)]
            }
        }

        #[inline(always)]
        fn prefetch(address: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    }

    impl Lanes for __m256 {
        const LEN: usize = 8;
        const TILE_ROWS: usize = 6;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        fn load(values: &[f32]) -> Self {
            let values = &values[..Self::LEN];
            unsafe { _mm256_loadu_ps(values.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, out: &mut [f32]) {
            let out = &mut out[..Self::LEN];
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self) }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { _mm256_fmadd_ps(self, factor, addend) }
        }

        #[inline(always)]
        fn widen_bf16(pairs: &[u32]) -> [Self; 2] {
            let pairs = &pairs[..Self::LEN];
            unsafe {
                let pairs = _mm256_loadu_si256(pairs.as_ptr().cast());
                let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(high)]
            }
        }

        #[inline(always)]
        fn prefetch(address: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    }
}

/// SAFETY of the intrinsics: NEON is part of every 64-bit Arm; loads and stores go through slices of checked length.
#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::Lanes;

    impl Lanes for float32x4_t {
        const LEN: usize = 4;
        const TILE_ROWS: usize = 12;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            unsafe { vdupq_n_f32(value) }
        }

        #[inline(always)]
        fn load(values: &[f32]) -> Self {
            let values = &values[..Self::LEN];
            unsafe { vld1q_f32(values.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, out: &mut [f32]) {
            let out = &mut out[..Self::LEN];
            unsafe { vst1q_f32(out.as_mut_ptr(), self) }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { vfmaq_f32(addend, self, factor) }
        }

        #[inline(always)]
        fn widen_bf16(pairs: &[u32]) -> [Self; 2] {
            let pairs = &pairs[..Self::LEN];
            unsafe {
                let pairs = vld1q_u32(pairs.as_ptr());
                let high = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
                [vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)), vreinterpretq_f32_u32(high)]
            }
        }
    }
}

/// Four numbers without any instructions of their own, for processors with none of the above. Products are rounded before
/// they are added: a fused multiply-add would be a library call here.
#[derive(Clone, Copy)]
struct Plain([f32; 4]);

impl Lanes for Plain {
    const LEN: usize = 4;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Plain([value; 4])
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        Plain([values[0], values[1], values[2], values[3]])
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[..4].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * factor.0[i] + addend.0[i]))
    }

    #[inline(always)]
    fn widen_bf16(pairs: &[u32]) -> [Self; 2] {
        let low = std::array::from_fn(|i| f32::from_bits(pairs[i] << 16));
        [Plain(low), Plain(std::array::from_fn(|i| f32::from_bits(pairs[i] & 0xffff_0000)))]
    }
}
