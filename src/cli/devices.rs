//! `gsil devices`.

use super::print_line;
use crate::device;
use crate::error::Result;

pub(super) fn devices() -> Result<()> {
    let default = device::resolve_name("auto");
    for info in device::list() {
        let is_default = info.name == default || info.name == format!("{default}:0");
        let mark = if is_default { "  (auto)" } else { "" };
        print_line(&format!("{:<10} {}{mark}", info.name, info.description))?;
    }
    Ok(())
}
