//! A device by its name: the only file that names a Burn backend's constructor.
//!
//! `flex` is the fast CPU backend, `ndarray` a second CPU backend that checks the first, `wgpu` a graphics card through
//! Vulkan, Metal or DX12, `cuda` and `rocm` one through its maker's own software. `auto` takes a graphics card that `wgpu`
//! finds where there is one and the CPU elsewhere. Next: [`crate::model`].

#[cfg(not(any(feature = "flex", feature = "ndarray")))]
compile_error!("gsil compares graphics cards with the CPU: build with `--features flex` or `--features ndarray` too");

mod failure;
mod memory;
#[cfg(any(feature = "cuda", feature = "rocm"))]
mod vendor;

pub use failure::{
    IN_A_COMPARISON, of_panic as error_of_panic, of_report as error_of_report, remember_advice, text_of_panic,
};
pub use memory::{HostMemory, resident_bytes};

use burn::tensor::Device;

use crate::error::{Error, Result};

/// One line of `gsil devices`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// What `--device` takes.
    pub name: String,
    /// The adapter or processor behind it.
    pub description: String,
}

/// A graphics card as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    pub name: String,
    /// Its name and version.
    pub driver: String,
    /// Vulkan, Metal or DX12.
    pub api: String,
    /// The largest buffer that a shader can be given, bytes.
    pub max_buffer_bytes: u64,
    /// Whether shaders may compute in 16-bit floating point.
    pub has_f16: bool,
}

/// The adapter behind `wgpu` or `wgpu:N`; None for processors and where there is none.
pub fn adapter(name: &str) -> Option<Adapter> {
    if is_card(name) { adapter_of(name) } else { None }
}

/// A graphics card with what its numbers may depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    /// Name and version, as far as they are known, and the API.
    pub driver: String,
}

/// The card behind a device's name; None for processors and where there is none.
pub fn card(name: &str) -> Option<Card> {
    let card =
        adapter(name).map(|Adapter { name, driver, api, .. }| Card { name, driver: format!("{driver} | {api}") });
    #[cfg(any(feature = "cuda", feature = "rocm"))]
    let card = card.or_else(|| vendor::card(name));
    card
}

/// Opens the device called `name`: `auto`, `flex` (or `cpu`), `ndarray`, `wgpu` or `wgpu:N`, and so with `cuda` and `rocm`.
///
/// # Errors
/// [`Error::Device`] if there is no such device, it is not compiled in, or it does not start.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "auto" | "cpu" => open(resolve_name(name)),
        "flex" => flex(),
        "ndarray" => ndarray(),
        _ => match kind_and_index(name) {
            Some(("wgpu", index)) => wgpu(name, index),
            Some(("cuda", index)) => cuda(name, index),
            Some(("rocm", index)) => rocm(name, index),
            _ => Err(unknown(name)),
        },
    }
}

/// `wgpu` is `("wgpu", None)`, `wgpu:1` is `("wgpu", Some(1))`.
fn kind_and_index(name: &str) -> Option<(&str, Option<usize>)> {
    match name.split_once(':') {
        None => Some((name, None)),
        Some((kind, index)) => Some((kind, Some(index.parse().ok()?))),
    }
}

/// Asks glibc to keep freed memory for the next operation instead of giving large blocks back to the system. A step of
/// training takes and frees the same few hundred megabytes over and over; fetching their pages anew costs up to two seconds
/// a step in a virtual machine. To be called once, before the first thread. Other systems' allocators are left as they are.
///
/// Returns whether it was done.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let never = libc::c_int::MAX;
        let settings = [
            (libc::M_MMAP_MAX, 0), // every block from the heap: blocks that are mapped by themselves are unmapped when freed
            (libc::M_TRIM_THRESHOLD, never),
            (libc::M_TOP_PAD, 64 << 20),
            (libc::M_ARENA_MAX, 1), // else a thread's heap ends at 64 MiB
        ];
        // SAFETY: mallopt only sets the allocator's parameters.
        settings.into_iter().all(|(parameter, value)| unsafe { libc::mallopt(parameter, value) } == 1)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// True for the name of a graphics card. Many small kernels of changing shape are costly there, so that batches are padded
/// to few shapes.
pub fn is_card(name: &str) -> bool {
    ["wgpu", "cuda", "rocm"].iter().any(|kind| name.starts_with(kind))
}

/// True for the fast CPU backend, whose tensors are plain memory of this process.
pub fn is_flex(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return matches!(device.clone().without_autodiff().as_dispatch(), burn::backend::DispatchDevice::Flex(_));
    #[cfg(not(feature = "flex"))]
    return false;
}

/// True for a graphics card, or software that plays one.
#[cfg(feature = "wgpu")]
pub fn is_wgpu(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), burn::backend::DispatchDevice::Cube(_))
}

/// The name that `auto` or `cpu` stands for on this machine; other names are returned as they are.
pub fn resolve_name(name: &str) -> &str {
    match name {
        "auto" if first_card().is_some() => "wgpu",
        "auto" => processor(),
        "cpu" => "flex",
        name => name,
    }
}

/// The name that [`list`] has for a device: `wgpu` is `wgpu:1` where `wgpu:0` is software, or a part of the processor
/// beside a card.
pub fn listed_name(name: &str) -> String {
    match resolve_name(name) {
        "wgpu" => format!("wgpu:{}", first_card().unwrap_or(0)),
        name @ ("cuda" | "rocm") => format!("{name}:0"),
        name => name.to_owned(),
    }
}

/// The CPU backend of this build: what other devices are compared with.
pub fn processor() -> &'static str {
    if cfg!(feature = "flex") { "flex" } else { "ndarray" }
}

/// Every device of this machine and build: cards in Burn's order, then processors.
pub fn list() -> Vec<DeviceInfo> {
    let mut devices = list_wgpu();
    #[cfg(any(feature = "cuda", feature = "rocm"))]
    devices.extend(vendor::list());
    devices.extend(list_processors());
    devices
}

/// The adapter or processor behind a device's name. For a processor no graphics driver is asked: that would load its
/// libraries, 90 MB of memory for nothing.
pub fn description(name: &str) -> Option<String> {
    let devices = if is_card(resolve_name(name)) { list() } else { list_processors() };
    let name = listed_name(name);
    devices.into_iter().find(|device| device.name == name).map(|device| device.description)
}

fn list_processors() -> Vec<DeviceInfo> {
    let mut devices = Vec::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if cfg!(feature = "flex") {
        devices.push(DeviceInfo { name: "flex".into(), description: format!("CPU, {threads} threads") });
    }
    if cfg!(feature = "ndarray") {
        devices.push(DeviceInfo { name: "ndarray".into(), description: format!("CPU, {threads} threads, the check") });
    }
    devices
}

fn unknown(name: &str) -> Error {
    Error::device(name, "no such device")
        .with_hint("known: auto, flex, ndarray, wgpu, wgpu:N, cuda, cuda:N, rocm, rocm:N; see `gsil devices`")
}

#[cfg(not(all(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda", feature = "rocm")))]
fn not_compiled_in(name: &str, feature: &str) -> Error {
    Error::device(name, "this build has no such backend").with_hint(format!("build with `--features {feature}`"))
}

#[cfg(feature = "flex")]
fn flex() -> Result<Device> {
    Ok(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn flex() -> Result<Device> {
    Err(not_compiled_in("flex", "flex"))
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)] // see `ops`
fn ndarray() -> Result<Device> {
    Ok(Device::ndarray())
}

#[cfg(not(feature = "ndarray"))]
fn ndarray() -> Result<Device> {
    Err(not_compiled_in("ndarray", "ndarray"))
}

#[cfg(feature = "wgpu")]
mod gpu {
    use super::{Adapter, DeviceInfo};
    use crate::error::{Error, Result};
    use burn::tensor::{Device, DeviceType};
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Adapters in Burn's order. A missing or broken driver may panic inside the graphics library: that is "none".
    fn adapters() -> Vec<Device> {
        catch_unwind(|| Device::enumerate(DeviceType::Wgpu).into_vec()).unwrap_or_default()
    }

    fn describe(device: &Device) -> String {
        let identity = catch_unwind(AssertUnwindSafe(|| device.identity())).ok().flatten();
        identity.map_or_else(|| "unknown adapter".to_owned(), |identity| identity.name.to_string())
    }

    pub fn list() -> Vec<DeviceInfo> {
        let adapters = adapters();
        let named = adapters.iter().enumerate();
        named.map(|(i, d)| DeviceInfo { name: format!("wgpu:{i}"), description: describe(d) }).collect()
    }

    /// What wgpu says of the adapter with the given place in Burn's order: the first one of the same name.
    pub fn adapter(index: Option<usize>) -> Option<Adapter> {
        let devices = adapters();
        let name = describe(devices.get(index.or_else(first_card).unwrap_or(0))?);
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let named = |backends| {
            let mut listing = pin!(instance.enumerate_adapters(backends));
            let Poll::Ready(listed) = listing.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                return None;
            };
            listed.into_iter().find(|adapter| adapter.get_info().name == name)
        };
        // Burn falls back on OpenGL where nothing else has the card. It is asked last: it loads libraries of its own.
        let found = named(wgpu::Backends::PRIMARY).or_else(|| named(wgpu::Backends::GL))?;
        let info = found.get_info();
        Some(Adapter {
            name: info.name,
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            api: format!("{:?}", info.backend),
            max_buffer_bytes: max_buffer_bytes(&found.limits()),
            has_f16: found.features().contains(wgpu::Features::SHADER_F16),
        })
    }

    /// Burn gives a shader whole buffers, and so makes none that is too large to be bound.
    fn max_buffer_bytes(limits: &wgpu::Limits) -> u64 {
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
    }

    /// The card that is taken where none is named: software adapters have to be asked for.
    pub fn first_card() -> Option<usize> {
        preferred(&adapters().iter().map(|device| format!("{device:?}")).collect::<Vec<_>>())
    }

    /// The first that is no part of the processor; else the first that is not a processor playing one.
    fn preferred(adapters: &[String]) -> Option<usize> {
        let discrete = adapters.iter().position(|adapter| adapter.contains("DiscreteGpu"));
        discrete.or_else(|| adapters.iter().position(|adapter| !adapter.contains("Cpu")))
    }

    pub fn open(name: &str, index: Option<usize>) -> Result<Device> {
        let adapters = adapters();
        let count = adapters.len();
        let index = index.or_else(first_card).unwrap_or(0);
        let device = adapters.into_iter().nth(index).ok_or_else(|| no_such_adapter(name, count))?;
        let started = catch_unwind(AssertUnwindSafe(|| device.sync()));
        let why = match started {
            Ok(Ok(())) => return Ok(device),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the driver failed".to_owned(),
        };
        Err(Error::device(name, format!("does not start: {why}")).with_hint(
            "update the graphics driver, try another device (`gsil devices`), or use --device flex; a run that has begun \
             goes on only on its own device",
        ))
    }

    fn no_such_adapter(name: &str, num_found: usize) -> Error {
        let advice = match num_found {
            0 => "install a Vulkan driver (Debian: mesa-vulkan-drivers libvulkan1), or use --device flex",
            _ => "they count from 0: `gsil devices` lists them",
        };
        Error::device(name, format!("no such graphics adapter ({num_found} found)"))
            .with_hint(format!("{advice}; a run that has begun goes on only on its own device"))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_driver_is_advised_where_there_is_no_adapter_and_the_list_where_the_number_is_too_high() {
            for (num_found, advised, not_advised) in
                [(0, "Vulkan driver", "count from 0"), (1, "count from 0", "driver")]
            {
                let error = no_such_adapter("wgpu:1", num_found);
                let hint = error.hint().unwrap();
                assert!(hint.contains(advised) && !hint.contains(not_advised), "{num_found}: {hint}");
            }
        }

        #[test]
        fn a_card_is_preferred_to_a_part_of_the_processor_and_software_never_taken() {
            for (adapters, expected) in [
                (&["IntegratedGpu(0)", "Cpu", "DiscreteGpu(0)", "DiscreteGpu(1)"][..], Some(2)),
                (&["Cpu", "VirtualGpu(0)", "IntegratedGpu(0)"], Some(1)),
                (&["Cpu"], None),
                (&[], None),
            ] {
                let adapters: Vec<String> = adapters.iter().map(|kind| format!("Device {{ Wgpu({kind}) }}")).collect();
                assert_eq!(preferred(&adapters), expected, "{adapters:?}");
            }
        }

        #[test]
        fn the_largest_buffer_is_one_that_can_be_made_and_bound() {
            for (max_storage_buffer_binding_size, max_buffer_size) in [(3, 4), (4, 3)] {
                let limits = wgpu::Limits { max_storage_buffer_binding_size, max_buffer_size, ..Default::default() };
                assert_eq!(max_buffer_bytes(&limits), 3);
            }
        }
    }
}

#[cfg(feature = "wgpu")]
fn wgpu(name: &str, index: Option<usize>) -> Result<Device> {
    gpu::open(name, index)
}

#[cfg(feature = "cuda")]
fn cuda(name: &str, index: Option<usize>) -> Result<Device> {
    vendor::open(name, || Device::cuda(index.unwrap_or(0)))
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _index: Option<usize>) -> Result<Device> {
    Err(not_compiled_in(name, "cuda"))
}

#[cfg(feature = "rocm")]
fn rocm(name: &str, index: Option<usize>) -> Result<Device> {
    vendor::open(name, || Device::rocm(index.unwrap_or(0)))
}

#[cfg(not(feature = "rocm"))]
fn rocm(name: &str, _index: Option<usize>) -> Result<Device> {
    Err(not_compiled_in(name, "rocm"))
}

#[cfg(feature = "wgpu")]
fn adapter_of(name: &str) -> Option<Adapter> {
    let index = name.strip_prefix("wgpu")?;
    gpu::adapter(index.strip_prefix(':').and_then(|index| index.parse().ok()))
}

#[cfg(feature = "wgpu")]
fn list_wgpu() -> Vec<DeviceInfo> {
    gpu::list()
}

#[cfg(feature = "wgpu")]
fn first_card() -> Option<usize> {
    gpu::first_card()
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(name: &str, _index: Option<usize>) -> Result<Device> {
    Err(not_compiled_in(name, "wgpu"))
}

#[cfg(not(feature = "wgpu"))]
fn adapter_of(_name: &str) -> Option<Adapter> {
    None
}

#[cfg(not(feature = "wgpu"))]
fn list_wgpu() -> Vec<DeviceInfo> {
    Vec::new()
}

#[cfg(not(feature = "wgpu"))]
fn first_card() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_an_error_that_lists_the_known_ones() {
        for name in ["tpu", "wgpu:", "wgpu:x", "wgpu2", "cuda:", "rocm:-1", "flex:0", ""] {
            let error = open(name).unwrap_err();
            assert_eq!(error.exit_code(), 4, "{name}");
            assert!(error.hint().unwrap_or_default().contains("gsil devices"), "{name}");
        }
    }

    #[test]
    fn the_cpu_is_flex_by_either_name() {
        assert_eq!((resolve_name("cpu"), listed_name("cpu").as_str()), ("flex", "flex"));
    }

    #[test]
    fn every_listed_device_has_its_own_description() {
        for device in list() {
            assert_eq!(listed_name(&device.name), device.name);
            assert_eq!(description(&device.name), Some(device.description));
        }
        assert_eq!(description("wgpu:99"), None);
    }

    #[test]
    fn processors_and_devices_that_are_not_there_are_no_cards() {
        for name in [processor(), "ndarray", "cuda:99", "rocm:99"] {
            assert_eq!(card(name), None, "{name}");
        }
    }
}
