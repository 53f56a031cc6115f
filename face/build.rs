//! Embeds the SeetaFace model, which ships inside the source of crate `rustface`: finds it through cargo's own
//! metadata, checks its hash and copies it to where the library includes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

const MODEL: &str = "model/seeta_fd_frontal_v1.0.bin";
const MODEL_SHA256: &str = "c4619d066ed35e84d9a8e842860b0dff567aba0cbb139881075538761db3ff5d";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let path = rustface_source()?.join(MODEL);
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    if found != MODEL_SHA256 {
        return Err(format!("{}: sha256 is {found}, not {MODEL_SHA256}", path.display()).into());
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("seeta_fd_frontal.bin");
    std::fs::write(out, bytes)?;
    Ok(())
}

/// The folder of rustface's source.
fn rustface_source() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let output = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform"])
        .arg(std::env::var("TARGET")?)
        .current_dir(std::env::var("CARGO_MANIFEST_DIR")?)
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "rustface")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not list rustface")?;
    Ok(Path::new(manifest).parent().ok_or("rustface has no folder")?.to_owned())
}
