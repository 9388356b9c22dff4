//! Compiles the contract with protox, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    for package in ["types", "enrolment", "link", "local", "admin"] {
        let folder = root.join("lianxi").join(package).join("v1");
        for entry in fs::read_dir(&folder)? {
            files.push(entry?.path());
        }
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    files.sort();
    let descriptors = protox::compile(&files, [&root])?;
    let described = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(described, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().bytes(".lianxi.types.v1.Envelope").compile_fds(descriptors)?;
    Ok(())
}
