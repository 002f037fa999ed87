//! Builds the eBPF programs with aya-build and leaves the objects in OUT_DIR.

fn main() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../enforcer-ebpf");
    // SAFETY: build scripts are single-threaded here.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "enforcer-ebpf",
            root_dir: root,
            ..Default::default()
        }],
        aya_build::Toolchain::Custom("1.95.0"),
    )
    .unwrap();
}
