//! Gives the program an identity made of its sources, and compiles the kernels of the CUDA worker where it is asked for.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[cfg(feature = "cuda")]
#[path = "build/cuda.rs"]
mod cuda;

/// What a program is made of.
const SOURCES: [&str; 5] = ["Cargo.lock", "Cargo.toml", "build", "build.rs", "src"];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the package's folder"));
    let mut files = Vec::new();
    for name in SOURCES {
        println!("cargo::rerun-if-changed={name}");
        files_below(&root.join(name), &mut files);
    }
    files.sort();
    let mut hash = Fnv::default();
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file);
        hash.feed(name.as_os_str().as_encoded_bytes());
        hash.feed(&fs::read(&file).unwrap_or_default());
    }
    println!("cargo::rustc-env=TRIMTAB_SOURCES={:016x}", hash.0);
    #[cfg(feature = "cuda")]
    cuda::compile(&root);
}

fn files_below(path: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(path) else { return found.push(path.to_owned()) };
    entries.flatten().for_each(|entry| files_below(&entry.path(), found));
}

/// FNV-1a over parts, each with its length.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn feed(&mut self, part: &[u8]) {
        for byte in part.len().to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
