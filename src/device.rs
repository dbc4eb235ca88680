//! A device by its name: with its folder the only place that names a Burn backend's constructor.
//!
//! `flex` is the fast CPU backend, `ndarray` a second CPU backend that checks the first, `wgpu` a graphics card through
//! Vulkan, Metal or DX12, `cuda` and `rocm` one through its maker's own software. `auto` takes a graphics card that `wgpu`
//! finds where there is one and the CPU elsewhere. Next: [`crate::model`].

#[cfg(not(any(feature = "flex", feature = "ndarray")))]
compile_error!("gsil compares graphics cards with the CPU: build with `--features flex` or `--features ndarray` too");

mod failure;
#[cfg(feature = "wgpu")]
mod gpu;
mod memory;
#[cfg(any(feature = "cuda", feature = "rocm"))]
mod vendor;

pub use failure::{
    IN_A_COMPARISON, of_panic as error_of_panic, of_report as error_of_report, remember_advice, remember_panic,
    text_of_panic,
};
pub use memory::{HostMemory, keep_freed_memory, resident_bytes};

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

/// The device that unit tests compute on.
#[cfg(test)]
pub(crate) fn test_device() -> Device {
    open(processor()).unwrap()
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
