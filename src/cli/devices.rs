//! `gsil devices`.

use super::print_line;
use crate::device;
use crate::error::Result;

pub(super) fn devices() -> Result<()> {
    let default = device::listed_name("auto");
    for info in device::list() {
        let mark = if info.name == default { "  (auto)" } else { "" };
        print_line(&format!("{:<10} {}{mark}", info.name, info.description))?;
    }
    Ok(())
}
