//! Graphics cards through their makers' own software: CUDA and ROCm.
//!
//! Both look for the driver's libraries when a device is first used, and panic where there are none: that is "no device" here.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, DeviceType};

use super::{Card, DeviceInfo};
use crate::error::{Error, Result};

/// Makes a device and waits until it answers.
///
/// # Errors
/// [`Error::Device`] where it does not start.
pub fn open(name: &str, make: impl FnOnce() -> Device) -> Result<Device> {
    let started = catch_unwind(AssertUnwindSafe(|| {
        let device = make();
        device.sync().map(|()| device)
    }));
    let failed = |message: String| {
        Error::device(name, message).with_hint("is the driver installed, and is there such a card? see `gsil devices`")
    };
    match started {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(failed(format!("does not start: {error}"))),
        Err(_) => Err(failed("does not start: its driver or libraries are missing".to_owned())),
    }
}

/// The cards that are there.
pub fn list() -> Vec<DeviceInfo> {
    let kinds = [
        #[cfg(feature = "cuda")]
        ("cuda", DeviceType::Cuda),
        #[cfg(feature = "rocm")]
        ("rocm", DeviceType::Rocm),
    ];
    let of_kind = |(kind, device_type): (&'static str, DeviceType)| {
        let devices = catch_unwind(|| Device::enumerate(device_type).into_vec()).unwrap_or_default();
        devices
            .into_iter()
            .enumerate()
            .map(move |(i, device)| DeviceInfo { name: format!("{kind}:{i}"), description: describe(&device) })
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

/// The card behind `cuda`, `rocm:1` and so on. The version of its driver is known where Linux tells it; there alone another
/// driver makes another card.
pub fn card(name: &str) -> Option<Card> {
    let (api, version_file) = match name.split(':').next()? {
        "cuda" => ("CUDA", "/proc/driver/nvidia/version"),
        "rocm" => ("ROCm", "/sys/module/amdgpu/version"),
        _ => return None,
    };
    let listed = super::listed_name(name);
    let card = list().into_iter().find(|device| device.name == listed)?;
    let text = fs::read_to_string(version_file).unwrap_or_default();
    let version = text.lines().next().unwrap_or("driver of unknown version").trim();
    Some(Card { name: card.description, driver: format!("{version} | {api}") })
}

fn describe(device: &Device) -> String {
    let identity = catch_unwind(AssertUnwindSafe(|| device.identity())).ok().flatten();
    identity.map_or_else(|| "unknown card".to_owned(), |identity| identity.name.to_string())
}
