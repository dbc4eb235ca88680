//! How many kernels a piece of work launches on a graphics card: ours and Burn's own.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// Kernels that were queued. Copies between host and device are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Launches {
    /// All of them, as the runtime reports each.
    pub total: usize,
    /// Those that are a file of `shaders/`.
    pub shaders: usize,
}

impl Launches {
    /// Of one of `count` equal pieces of work.
    pub fn per(self, count: usize) -> Self {
        Launches { total: self.total / count, shaders: self.shaders / count }
    }
}

/// Does `work`, waits for the device, and counts what the whole process launched meanwhile. Let the work run once before, or
/// the trials by which Burn tunes its matrix products count too. None on other devices than graphics cards; the work is done
/// all the same.
pub fn count(device: &Device, work: impl FnOnce()) -> Option<Launches> {
    #[cfg(feature = "wgpu")]
    if crate::device::is_wgpu(device) {
        return Some(observed::count(device, work));
    }
    #[cfg(not(feature = "wgpu"))]
    let _ = device;
    work();
    None
}

#[cfg(feature = "wgpu")]
mod observed {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burn::tensor::Device;
    use burn_cubecl::cubecl::logging::{LaunchObservation, LaunchObserver};

    use super::Launches;
    use crate::ops::wgsl;

    #[derive(Default)]
    struct Counter {
        total: AtomicUsize,
        shaders: AtomicUsize,
    }

    impl LaunchObserver for Counter {
        fn launched(&self, kernel: &'static str) {
            self.total.fetch_add(1, Ordering::Relaxed);
            if kernel == wgsl::kernel_name() {
                self.shaders.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub fn count(device: &Device, work: impl FnOnce()) -> Launches {
        settle(device);
        let counter = Arc::new(Counter::default());
        let observation = LaunchObservation::new(counter.clone());
        work();
        settle(device);
        drop(observation);
        Launches { total: counter.total.load(Ordering::Relaxed), shaders: counter.shaders.load(Ordering::Relaxed) }
    }

    /// Queues what Burn still holds back. A device that fails says so to whoever reads from it.
    fn settle(device: &Device) {
        let _ = device.sync();
    }
}
