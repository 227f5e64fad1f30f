//! Lets the simulation's own `getrandom` stand in for the C library's, which crates look up by name at
//! run time: the symbol must be visible from outside the test binary.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic-symbol=getrandom");
    }
}
