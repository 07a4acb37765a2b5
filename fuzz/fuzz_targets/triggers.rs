//! libFuzzer's way to the target of this name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| branchline_fuzz::names_and_urls::triggers(bytes));
