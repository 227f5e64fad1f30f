//! Packs the page's files with gzip, so that the binary holds them ready to send, and lets the simulation's
//! own `getrandom` stand in for the C library's, which crates look up by name at run time: the symbol must
//! be visible from outside the test binary.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The page's files.
const ASSETS: &str = "src/ui/assets";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ASSETS}");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic-symbol=getrandom");
    }
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo names no OUT_DIR"))?;
    pack(Path::new(ASSETS), &PathBuf::from(out).join("ui"))
}

/// Writes each file of `from` into `to`, packed, under its name and `.gz`.
fn pack(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&fs::read(&path)?)?;
        fs::write(to.join(format!("{name}.gz")), encoder.finish()?)?;
    }
    Ok(())
}
