//! Tells the linker where libtorch lies, so that the program and its tests run without LD_LIBRARY_PATH.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Ok(root) = std::env::var("LIBTORCH") else {
        return;
    };
    let lib = Path::new(&root).join("lib");
    if !lib.is_dir() {
        println!("cargo:warning={} is missing: run deploy/libtorch.sh first", lib.display());
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
