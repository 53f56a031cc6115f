//! Tells the linker where libtorch lies, so that the program and its tests run without LD_LIBRARY_PATH, and compiles
//! the C++ that training with several processes needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const SHIM: &str = "src/distributed/shim.cpp";

/// Gloo's headers that libtorch's headers include and its wheel leaves out. `shim.cpp` declares what it needs of them.
const GLOO_HEADERS: [&str; 5] =
    ["algorithm.h", "common/error.h", "context.h", "rendezvous/store.h", "transport/device.h"];

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("cargo::error={problem}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = std::env::var("LIBTORCH")
        .map(PathBuf::from)
        .map_err(|_| "LIBTORCH is not set: build inside the repository, or name libtorch's folder with it")?;
    let (lib, include) = (root.join("lib"), root.join("include"));
    if !lib.is_dir() || !include.is_dir() {
        return Err(format!("{} is not libtorch's folder: run deploy/libtorch.sh first", root.display()));
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    let gloo = empty_gloo_headers().map_err(|e| format!("cannot write Gloo's headers: {e}"))?;
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .include(gloo)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .warnings(false)
        .file(SHIM)
        .try_compile("semblance_shim")
        .map_err(|e| format!("{SHIM} does not compile: a C++17 compiler such as g++ is needed: {e}"))
}

fn empty_gloo_headers() -> std::io::Result<PathBuf> {
    let out = std::env::var("OUT_DIR").map_err(std::io::Error::other)?;
    let root = Path::new(&out).join("include");
    for header in GLOO_HEADERS {
        let path = root.join("gloo").join(header);
        fs::create_dir_all(path.parent().unwrap_or(&root))?;
        fs::write(path, "")?;
    }
    Ok(root)
}
