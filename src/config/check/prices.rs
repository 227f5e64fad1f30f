//! The table of models and prices: built in, and overridden by `pricesFile`.

use super::Check;
use crate::config::path::Path;
use crate::config::settings::Backend;
use crate::config::tree::FILE_BYTES_MAX;
use llm_router_logic::cost::price::{PriceTable, table_hash};
use std::io::Read;
use std::sync::Arc;

/// The table at the time of the build.
const BUILT_IN: &str = include_str!("../../../config/prices.json");

impl Check<'_> {
    /// The built-in table with the rows of `file` over it.
    pub(super) fn prices(&mut self, file: Option<&str>) -> PriceTable {
        let at = Path::default().key("pricesFile");
        let mut table = PriceTable::parse(BUILT_IN).unwrap_or_else(|error| {
            self.findings.problem(&at, format!("the built-in table is wrong: {error}"));
            PriceTable::default()
        });
        if let Some(file) = file {
            let path = self.file_path(file);
            match read(&path).and_then(|text| PriceTable::parse(&text).map_err(|error| error.to_string())) {
                Ok(own) => table.override_with(own),
                Err(why) => self.findings.problem(&at, format!("`{}`: {why}", path.display())),
            }
        }
        table
    }
}

/// Writes the hash of all prices in force into each of them, so that a charge can say what table it was
/// made by.
pub(super) fn stamp(backends: &mut [Backend]) {
    let priced = backends.iter().flat_map(|backend| {
        let spec = &backend.spec;
        spec.models.iter().filter_map(|model| Some((spec.id.as_str(), &*model.name, model.price?)))
    });
    let hash = table_hash(priced);
    for backend in backends {
        for model in &mut Arc::make_mut(&mut backend.spec).models {
            if let Some(price) = &mut model.price {
                price.table = hash;
            }
        }
    }
}

fn read(path: &std::path::Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read: {error}"))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read: {error}"))?;
    if text.len() > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}
