//! `gsil doctor`.

use clap::Args;

use super::print_line;
use crate::device;
use crate::doctor::{self, Check};
use crate::error::Result;
use crate::report::table::format_table;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil doctor --device flex")]
pub(super) struct DoctorArgs {
    /// auto, flex, ndarray, wgpu, wgpu:N; see `gsil devices`.
    #[arg(long, default_value = "auto")]
    device: String,
}

pub(super) fn doctor(args: DoctorArgs) -> Result<()> {
    let name = device::resolve_name(&args.device);
    print_line(&format!("device   {name}"))?;
    if let Some(adapter) = device::adapter(name) {
        let f16 = if adapter.has_f16 { "yes" } else { "no" };
        let gib = adapter.max_buffer_bytes as f64 / (1u64 << 30) as f64;
        print_line(&format!("adapter  {}\ndriver   {}", adapter.name, adapter.driver))?;
        print_line(&format!("api      {}, shaders in WGSL", adapter.api))?;
        print_line(&format!("limits   largest buffer for a shader {gib:.1} GiB, 16-bit floating point: {f16}"))?;
    }
    let checks = doctor::examine(name)?;
    let cells = |check: &Check| {
        let difference = check.difference.as_ref().map_or_else(|_| "failed".to_owned(), |d| format!("{d:.1e}"));
        let limit = format!("{:.0e}", doctor::limit());
        vec![check.what.to_owned(), difference, limit, if check.is_sound() { "ok" } else { "WRONG" }.to_owned()]
    };
    let header = ["compared with the CPU", "difference", "limit", ""];
    print_line(&format!("\n{}", format_table(&header, &checks.iter().map(cells).collect::<Vec<_>>())))?;
    doctor::verdict(name, &checks)?;
    print_line("this device computes what it should")
}
