//! The kernels of the CUDA worker: for cards by nvcc, and for the processor, where tests run them.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// A file made before by nvcc, in the place of a compilation.
const READY_MADE: &str = "TRIMTAB_CUDA_KERNELS";
/// Cards that get machine code; later ones compile the code for the last of these when the worker starts.
const ARCHITECTURES: [u32; 4] = [80, 86, 89, 90];

/// Leaves `kernels.fatbin` in the folder of outputs and links the emulation of the kernels.
pub(crate) fn compile(root: &Path) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder for outputs"));
    let folder = root.join("src/cuda/device");
    emulation(&folder);
    twins(&root.join("src/cuda/twins"), &out);
    for variable in [READY_MADE, "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let fatbin = out.join("kernels.fatbin");
    if let Some(made) = env::var_os(READY_MADE).filter(|made| !made.is_empty()) {
        println!("cargo::rerun-if-changed={}", Path::new(&made).display());
        fs::copy(&made, &fatbin).unwrap_or_else(|error| refuse(&format!("read {READY_MADE}: {error}")));
        return;
    }
    let Some(nvcc) = nvcc() else {
        refuse(
            "the feature `cuda` needs NVIDIA's compiler nvcc, which was not found in CUDA_HOME, CUDA_PATH or PATH; \
                scripts/build-cuda fetches it where it is missing",
        )
    };
    let key = key(&folder, &nvcc);
    let made_by = out.join("kernels.key");
    if fatbin.is_file() && fs::read_to_string(&made_by).is_ok_and(|made| made == key) {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "the compiler of the kernels is a program")]
    let mut command = std::process::Command::new(&nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "--threads", "0", "-Werror", "all-warnings"]);
    for architecture in ARCHITECTURES {
        let is_last = Some(&architecture) == ARCHITECTURES.last();
        let code =
            if is_last { format!("[sm_{architecture},compute_{architecture}]") } else { format!("sm_{architecture}") };
        command.arg("-gencode").arg(format!("arch=compute_{architecture},code={code}"));
    }
    command.arg(folder.join("kernels.cu")).arg("-o").arg(&fatbin);
    match command.status() {
        Ok(status) if status.success() => {
            fs::write(&made_by, key).unwrap_or_else(|error| refuse(&format!("write {}: {error}", made_by.display())));
        }
        Ok(status) => refuse(&format!("{} did not compile the kernels: {status}", nvcc.display())),
        Err(error) => refuse(&format!("start {}: {error}", nvcc.display())),
    }
}

/// What the kernels were made from: nvcc takes minutes, and most changes are elsewhere.
fn key(folder: &Path, nvcc: &Path) -> String {
    let mut files = Vec::new();
    crate::files_below(folder, &mut files);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "cu" || extension == "cuh"));
    files.sort();
    let mut hash = crate::Fnv::default();
    for file in files {
        hash.feed(&fs::read(file).unwrap_or_default());
    }
    format!("{:016x} {ARCHITECTURES:?} {}", hash.0, nvcc.display())
}

fn nvcc() -> Option<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    homes.chain(env::split_paths(&path)).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}

/// The same kernels as a library for the processor. Only tests call it, so that no program contains it.
fn emulation(folder: &Path) {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).warnings(true).file(folder.join("emulation.cpp"));
    build.flag("-ffp-contract=off").cargo_warnings(true).compile("trimtab_emulation");
}

/// Libraries that stand for NVIDIA's, over the emulation and the host's memory, each in a folder that tests name to the
/// worker. No program looks there by itself.
fn twins(sources: &Path, out: &Path) {
    // The names that the binding asks for first, so that tests get the twin where the real library is installed too.
    let driver = twin(&sources.join("driver.cpp"), &out.join("twin-driver"), "libcuda.so.1", "libcuda.so", |command| {
        command.args(["-Wl,-z,defs", "-Wl,--exclude-libs,ALL"]).arg(out.join("libtrimtab_emulation.a"));
    });
    let first = driver.join("libcuda.so");
    fs::copy(driver.join("libcuda.so.1"), &first)
        .unwrap_or_else(|error| refuse(&format!("write {}: {error}", first.display())));
    println!("cargo::rustc-env=TRIMTAB_DRIVER_TWIN={}", driver.display());
    let products =
        twin(&sources.join("cublaslt.cpp"), &out.join("twin-cublaslt"), "libcublasLt.so.13", "libcublasLt.so", |_| {});
    println!("cargo::rustc-env=TRIMTAB_CUBLASLT_TWIN={}", products.display());
}

/// Compiles `source` to the shared library `file` in `folder`, which is returned.
fn twin(
    source: &Path,
    folder: &Path,
    file: &str,
    soname: &str,
    more: impl FnOnce(&mut std::process::Command),
) -> PathBuf {
    fs::create_dir_all(folder).unwrap_or_else(|error| refuse(&format!("make {}: {error}", folder.display())));
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).warnings(true).cargo_metadata(false);
    let mut command = build.get_compiler().to_command();
    command.args(["-shared", "-fPIC", "-fvisibility=hidden"]).arg(format!("-Wl,-soname,{soname}")).arg(source);
    more(&mut command);
    match command.arg("-o").arg(folder.join(file)).status() {
        Ok(status) if status.success() => folder.to_path_buf(),
        Ok(status) => refuse(&format!("{} did not compile: {status}", source.display())),
        Err(error) => refuse(&format!("start the compiler of {}: {error}", source.display())),
    }
}

#[expect(clippy::exit, clippy::print_stderr, reason = "cargo shows what a failing build script says last")]
fn refuse(reason: &str) -> ! {
    eprintln!("error: {reason}");
    std::process::exit(1)
}
