#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lianxi_tests::fuzz::courier(bytes));
