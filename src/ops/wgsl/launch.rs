//! From the text of a shader to a launch.

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::ir::attributes::BufferIOAttr;
use burn_cubecl::cubecl::prelude::{CubeCount, CubeDim, KernelId};
use burn_cubecl::cubecl::server::{KernelArguments, MetadataBindingInfo};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::template::{KernelSource, SourceKernel, SourceTemplate};
use burn_cubecl::tensor::CubeTensor;

/// Most workgroups of a grid in one direction, on every adapter.
const MAX_GRID: usize = 65_535;

/// The runtime's name where its compiler takes WGSL. Others (SPIR-V, MSL) cannot run a shader's text.
const WGSL_RUNTIME: &str = "wgpu<wgsl>";

/// A file of `shaders/`.
#[derive(Debug)]
pub struct Shader {
    pub name: &'static str,
    pub text: &'static str,
    /// Appended to `text`; empty for most.
    pub shared_text: &'static str,
    /// Lanes of a workgroup.
    pub workgroup: usize,
}

/// A word in double braces in a shader's text, and what stands there instead.
pub type Constant = (&'static str, String);

/// A tensor that a shader is given; contiguous.
#[derive(Debug, Clone, Copy)]
pub enum Buffer<'a> {
    Read(&'a CubeTensor),
    Write(&'a CubeTensor),
    Update(&'a CubeTensor),
}

impl Shader {
    /// A shader that shares no text with others. Its workgroup is two of the usual hardware's groups of 32 lanes: more lanes
    /// cost rows of a few hundred columns more at barriers than they save.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        Shader { name, text, shared_text: "", workgroup: 64 }
    }

    /// Workgroups that give each of `len` numbers a lane.
    pub fn num_workgroups(&self, len: usize) -> usize {
        len.div_ceil(self.workgroup)
    }

    /// Queues one run. `constants` are written into the text (each set of them is compiled once), `numbers` follow the grid's
    /// width in the shader's `info`.
    ///
    /// A failure shows when a written buffer is read.
    pub fn launch(
        &'static self,
        constants: &[Constant],
        num_workgroups: usize,
        buffers: &[Buffer<'_>],
        numbers: &[u32],
    ) {
        let [Buffer::Read(first) | Buffer::Write(first) | Buffer::Update(first), ..] = buffers else {
            unreachable!("{} has no buffers", self.name)
        };
        let (width, height) = grid(num_workgroups);
        let mut arguments = KernelArguments::new().with_info(MetadataBindingInfo::custom(info_words(width, numbers)));
        for buffer in buffers {
            // A launch that fails spoils what it was to write, not what it was to read.
            let (tensor, io) = match buffer {
                Buffer::Read(tensor) => (tensor, BufferIOAttr::ReadOnly),
                Buffer::Write(tensor) => (tensor, BufferIOAttr::WriteOnly),
                Buffer::Update(tensor) => (tensor, BufferIOAttr::ReadWrite),
            };
            assert!(tensor.is_contiguous(), "{}: a buffer is not contiguous", self.name);
            arguments = arguments.with_buffer_io(tensor.handle.clone().binding(), io);
        }
        let kernel = SourceKernel::new(Text { shader: self, constants: constants.to_vec() }, self.dim());
        first.client.launch(Box::new(kernel), CubeCount::Static(width, height, 1), arguments);
    }

    fn dim(&self) -> CubeDim {
        CubeDim::new_1d(self.workgroup as u32)
    }
}

/// A shader with its constants: what is compiled.
struct Text {
    shader: &'static Shader,
    constants: Vec<Constant>,
}

impl KernelSource for Text {
    fn source(&self) -> SourceTemplate {
        let template = SourceTemplate::new(self.shader.text)
            .add_template(self.shader.shared_text)
            .register("workgroup", self.shader.workgroup.to_string());
        self.constants.iter().fold(template, |template, (name, value)| template.register(*name, value.as_str()))
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>().cube_dim(self.shader.dim().0).info((self.shader.name, self.constants.clone()))
    }

    fn lang(&self) -> &'static str {
        "wgsl"
    }
}

/// The name under which the runtime reports our launches.
pub fn kernel_name() -> &'static str {
    std::any::type_name::<SourceKernel<Text>>()
}

/// Width and height of a grid with at least so many workgroups; shaders count `x + y * width`.
fn grid(num_workgroups: usize) -> (u32, u32) {
    let height = num_workgroups.div_ceil(MAX_GRID).max(1);
    (num_workgroups.div_ceil(height).max(1) as u32, height as u32)
}

/// The grid's width and the numbers, two to a word.
fn info_words(width: u32, numbers: &[u32]) -> Vec<u64> {
    let all: Vec<u32> = [&[width], numbers].concat();
    all.chunks(2).map(|pair| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32).collect()
}

/// Set by the test of what happens where shaders do not run.
#[cfg(test)]
pub static COMPOSITES_ONLY: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// True if shaders work on these tensors; else the composite bodies have to.
pub fn takes_shaders(tensors: &[&CubeTensor]) -> bool {
    #[cfg(test)]
    if COMPOSITES_ONLY.load(std::sync::atomic::Ordering::SeqCst) {
        return false;
    }
    is_supported(tensors[0].client.name(), tensors.iter().map(|tensor| tensor.dtype))
}

fn is_supported(runtime: &str, mut dtypes: impl Iterator<Item = DType>) -> bool {
    runtime == WGSL_RUNTIME && dtypes.all(|dtype| dtype == DType::F32)
}

/// Uninitialised f32 memory on the device of `like`.
pub fn empty(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), DType::F32)
}

/// The most bytes that one buffer of this device may have.
pub fn max_buffer_bytes(client: &Client) -> u64 {
    client.properties().memory.max_page_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_enough_workgroups_and_no_side_over_the_limit() {
        for num_workgroups in [0, 1, 65_535, 65_536, 70_001, 5_000_000] {
            let (width, height) = grid(num_workgroups);
            assert!(width.max(height) as usize <= MAX_GRID);
            let surplus = (width * height) as usize - num_workgroups;
            assert!(surplus < (height as usize).max(2), "{num_workgroups}: {width} x {height}");
        }
    }

    #[test]
    fn shaders_are_for_wgsl_and_f32_only() {
        let f32s = || [DType::F32, DType::F32].into_iter();
        assert!(is_supported("wgpu<wgsl>", f32s()));
        for runtime in ["wgpu<spirv>", "wgpu<msl>", "cuda"] {
            assert!(!is_supported(runtime, f32s()), "{runtime}");
        }
        assert!(!is_supported("wgpu<wgsl>", [DType::F32, DType::F16].into_iter()));
    }

    #[test]
    fn info_holds_two_numbers_a_word() {
        assert_eq!(info_words(7, &[1]), [7 | 1 << 32]);
        assert_eq!(info_words(7, &[1, 2]), [7 | 1 << 32, 2]);
    }
}
