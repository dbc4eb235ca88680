//! The graphics cards that wgpu finds: which there are, which is taken, and how one is opened.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::{Device, DeviceType};

use super::{Adapter, DeviceInfo};
use crate::error::{Error, Result};

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
        for (num_found, advised, not_advised) in [(0, "Vulkan driver", "count from 0"), (1, "count from 0", "driver")] {
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
