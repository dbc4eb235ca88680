//! What a run may take: the machine's memory, or what the configuration allows.

use super::bytes;
use super::memory::Memory;
use super::phase_name;
use super::program::kept_bytes;
use crate::config::{RunConfig, parse_bytes};
use crate::device::{self, HostMemory};

/// Limits of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Limits {
    /// None where nobody says: the memory of a graphics card, as a rule.
    pub bytes: Option<u64>,
    /// `bytes` is the configuration's own limit, not the machine's.
    pub is_configured: bool,
    /// What is free now, with what this process keeps of earlier runs.
    pub available_bytes: Option<u64>,
    /// The largest buffer that a shader can be given on a graphics card.
    pub max_buffer_bytes: Option<u64>,
}

impl Limits {
    /// Those of the device with this name.
    pub fn of(config: &RunConfig, device_name: &str) -> Self {
        let adapter = device::adapter(device_name);
        let is_card = device::is_card(device_name);
        let host = if is_card { None } else { HostMemory::of_this_machine() };
        let configured = config.memory_limit.as_deref().and_then(parse_bytes);
        Limits {
            bytes: configured.or(host.map(|host| host.total_bytes)),
            is_configured: configured.is_some(),
            available_bytes: host.map(|host| host.available_bytes + kept_bytes()),
            max_buffer_bytes: adapter.map(|adapter| adapter.max_buffer_bytes),
        }
    }

    /// Why a run does not fit; None if it does, or if nobody knows.
    pub fn problem(&self, memory: &Memory) -> Option<String> {
        let peak = memory.peak();
        if let Some(limit) = self.max_buffer_bytes.filter(|_| self.is_beyond_a_buffer(memory)) {
            let (largest, limit) = (bytes(memory.largest_tensor_bytes), bytes(limit));
            return Some(format!(
                "the run has a tensor of {largest}, the largest buffer for a shader of this card is {limit}"
            ));
        }
        if let Some(limit) = self.bytes.filter(|limit| memory.peak_bytes() > *limit) {
            let has = if self.is_configured { "memory_limit is" } else { "this machine has" };
            let (needed, phase) = (bytes(memory.peak_bytes()), phase_name(peak.phase));
            return Some(format!("the run needs about {needed} of memory ({phase}), {has} {}", bytes(limit)));
        }
        None
    }

    /// Whether a tensor alone is too large for the card. It is a weight of the model: no setting makes it smaller.
    pub fn is_beyond_a_buffer(&self, memory: &Memory) -> bool {
        self.max_buffer_bytes.is_some_and(|limit| memory.largest_tensor_bytes > limit)
    }

    /// What there is, in words.
    pub fn describe(&self) -> String {
        let free = self.available_bytes.map(|free| format!("{} are free", bytes(free)));
        match (self.bytes, self.is_configured, free) {
            (Some(limit), true, Some(free)) => format!("memory_limit is {}; {free}", bytes(limit)),
            (Some(limit), true, None) => format!("memory_limit is {}", bytes(limit)),
            (Some(total), false, Some(free)) => format!("{free} of {}", bytes(total)),
            _ => "how much this device has, its driver does not say".to_owned(),
        }
    }
}
