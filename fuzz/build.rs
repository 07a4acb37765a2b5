//! Keeps the programs of `cargo fuzz` small: twenty of them with all that debuggers want
//! to know would take three gigabytes. A panic says its place without that.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_LIBFUZZER").is_some() {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-debug");
    }
}
