//! The devices that tests run on: every one that is compiled in and present.
//!
//! `GSIL_TEST_DEVICE=flex` (or `ndarray`, `wgpu`, `wgpu:1`, or several with commas) restricts the tests to some.
//! Tests that need many tensor shapes run on the CPU devices only, because a graphics card compiles a program for
//! every new shape.

use std::sync::OnceLock;

use burn::tensor::Device;
use gsil::device;
use gsil::train::setup;

use super::binary::say_skipped;

/// By name, and whether they are of this build.
const CPU_BACKENDS: [(&str, bool); 2] = [("flex", cfg!(feature = "flex")), ("ndarray", cfg!(feature = "ndarray"))];

/// A device and its name.
#[derive(Debug)]
pub struct TestDevice {
    pub name: String,
    pub device: Device,
}

impl TestDevice {
    /// What a run on this device pads its batches to.
    pub fn num_tokens_multiple(&self) -> usize {
        setup::num_tokens_multiple(&self.name)
    }

    /// True where a new tensor shape costs nothing.
    pub fn is_cpu(&self) -> bool {
        !device::is_card(&self.name)
    }
}

/// The CPU backends of this build; of others it is said that they are skipped.
pub fn cpu_backends() -> impl Iterator<Item = &'static str> {
    CPU_BACKENDS
        .into_iter()
        .filter(|(device, is_compiled_in)| {
            if !is_compiled_in {
                say_skipped(device, "this build has no such backend");
            }
            *is_compiled_in
        })
        .map(|(device, _)| device)
}

/// Every device of this build and machine that `GSIL_TEST_DEVICE` does not exclude.
pub fn devices() -> &'static [TestDevice] {
    static DEVICES: OnceLock<Vec<TestDevice>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let wanted = std::env::var("GSIL_TEST_DEVICE").ok();
        let devices: Vec<TestDevice> = CPU_BACKENDS
            .into_iter()
            .chain([("wgpu", cfg!(feature = "wgpu"))])
            .filter(|(_, is_compiled_in)| *is_compiled_in)
            .filter_map(|(kind, _)| open(kind, wanted.as_deref()))
            .collect();
        assert!(!devices.is_empty(), "GSIL_TEST_DEVICE={wanted:?} names no device of this build");
        devices
    })
}

/// Those of [`devices`] that take any number of tensor shapes. May be empty if `GSIL_TEST_DEVICE` says so.
pub fn cpu_devices() -> impl Iterator<Item = &'static TestDevice> {
    devices().iter().filter(|device| device.is_cpu())
}

/// The device that others are compared with.
pub fn flex() -> Device {
    device::open("flex").unwrap()
}

/// Opens the device of this kind: under the name by which it is wanted, if there is a wish.
fn open(kind: &str, wanted: Option<&str>) -> Option<TestDevice> {
    let name = match wanted {
        None => kind,
        Some(names) => match names.split(',').find(|name| name.split(':').next() == Some(kind)) {
            Some(name) => name,
            None => {
                if kind == "wgpu" {
                    say_skipped("the tests of wgpu", &format!("GSIL_TEST_DEVICE={names} leaves it out"));
                }
                return None;
            }
        },
    };
    match device::open(name) {
        Ok(device) => Some(TestDevice { name: name.to_owned(), device }),
        Err(error) if kind == "wgpu" && wanted.is_none() => {
            say_skipped("the tests of wgpu", &error.to_string());
            None
        }
        Err(error) => panic!("device `{name}` does not open: {error}"),
    }
}
