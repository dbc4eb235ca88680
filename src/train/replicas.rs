//! A training step on several devices: each has a replica of the model and its share of the micro-batches, and works in a
//! thread of its own. Gradients are summed where the model itself is; there it is updated, too, and copied anew for the next
//! step. Next: [`super::step`].

use std::panic::resume_unwind;

use burn::module::Module;
use burn::tensor::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::model::CausalLm;

/// The devices beside that of the model itself. None: everything happens there.
#[derive(Default)]
pub struct Replicas(Vec<Place>);

/// Where a replica is and who works with it.
struct Place {
    /// With autodiff.
    device: Device,
    /// The same for all steps: a graphics card keeps memory for each thread that uses it. On the CPU as many threads as
    /// are its part of the cores.
    threads: ThreadPool,
}

impl Replicas {
    /// Replicas on these devices. One that is named twice, or is the model's own, gets that many.
    ///
    /// # Errors
    /// [`Error::Device`] if the system has no thread left.
    pub fn new(devices: Vec<Device>) -> Result<Self> {
        let num_threads = (rayon::current_num_threads() / (devices.len() + 1)).max(1);
        let place = |device: Device| {
            let is_cpu = crate::device::is_flex(&device);
            let threads = ThreadPoolBuilder::new().num_threads(if is_cpu { num_threads } else { 1 }).build();
            let threads = threads.map_err(|error| Error::device(format!("{device:?}"), error.to_string()))?;
            Ok(Place { device: device.autodiff(), threads })
        };
        devices.into_iter().map(place).collect::<Result<Vec<Place>>>().map(Replicas)
    }

    /// How many devices work, the model's own included.
    pub fn num_devices(&self) -> usize {
        self.0.len() + 1
    }

    /// Does the work on each device at the same time, with its number and its copy of the model; 0 is the model itself. The
    /// copies are gone when this returns, so that the model can be updated in place.
    ///
    /// # Panics
    /// With what `work` panicked with.
    pub fn each<T: Send>(&self, model: &CausalLm, work: impl Fn(usize, &CausalLm) -> T + Sync) -> Vec<T> {
        let work = &work;
        std::thread::scope(|scope| {
            let mut running = Vec::new(); // all of them, before the own share is begun
            for (i, place) in self.0.iter().enumerate() {
                let (replica, threads) = (model.clone().fork(&place.device), &place.threads);
                running.push(scope.spawn(move || threads.install(move || work(i + 1, &replica))));
            }
            let mut results = vec![work(0, model)];
            results
                .extend(running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))));
            results
        })
    }
}
