//! Which kernel modules tests need, and in which order they are loaded.
//!
//! A module that a kernel does not have as a file is built in or absent; the tests that need it find out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Modules that are loaded into every guest, with what they depend on.
pub(crate) const WANTED: &[&str] = &[
    // Namespaces with links between them.
    "veth",
    "dummy",
    "bridge",
    // IPv6 broken by a firewall.
    "nf_tables",
    "nft_ct",
    "nft_limit",
    "nft_numgen",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    // IPv6 that is slow.
    "sch_netem",
    // Protocols whose connect passes.
    "sctp",
    "dccp",
    "dccp_ipv4",
    "dccp_ipv6",
];

/// Unpacks the wanted modules and what they depend on into `folder`; the names of the files sort in the order
/// of loading.
///
/// # Errors
///
/// When the dependencies cannot be found out, or a file cannot be unpacked.
pub(crate) fn collect(unpacked: &Path, release: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    // depmod looks in /lib, where newer packages rely on the link that every installation has.
    if !unpacked.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", unpacked.join("lib")).context("linking lib to usr/lib")?;
    }
    let status = Command::new("busybox")
        .args(["depmod", "-b"])
        .args([unpacked.as_os_str(), release.as_ref()])
        .status()
        .context("running busybox depmod")?;
    if !status.success() {
        bail!("busybox depmod for {release} ended with {status}");
    }
    let root = unpacked.join("lib/modules").join(release);
    let path = root.join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    for (index, module) in load_order(&text, WANTED).into_iter().enumerate() {
        let path = folder.join(format!("{index:02}-{}.ko", name(module)));
        let bytes = decompressed(&root.join(module))?;
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The files of the wanted modules, each after those it depends on, from the text of `modules.dep`: lines
/// `FILE: FILE…`.
fn load_order<'text>(modules_dep: &'text str, wanted: &[&str]) -> Vec<&'text str> {
    let depends: BTreeMap<&str, &str> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    for wanted in wanted {
        if let Some(file) = depends.keys().find(|file| name(file) == *wanted) {
            visit(file, &depends, &mut seen, &mut order);
        }
    }
    order
}

fn visit<'text>(
    file: &'text str,
    depends: &BTreeMap<&'text str, &'text str>,
    seen: &mut BTreeSet<&'text str>,
    order: &mut Vec<&'text str>,
) {
    if !seen.insert(file) {
        return;
    }
    for needed in depends.get(file).copied().unwrap_or_default().split_whitespace() {
        visit(needed, depends, seen, order);
    }
    order.push(file);
}

/// A module's name: that of its file, without folders and endings.
fn name(file: &str) -> &str {
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split('.').next().unwrap_or(file)
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let tool: &[&str] = match extension {
        Some("ko") => return fs::read(path).with_context(|| format!("reading {}", path.display())),
        Some("xz") => &["busybox", "xzcat"],
        Some("gz") => &["busybox", "zcat"],
        Some("zst") => &["zstd", "-dc"],
        _ => bail!("unpacking {}: a compression that nobody foresaw", path.display()),
    };
    let output = Command::new(tool[0])
        .args(&tool[1..])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", tool[0]))?;
    if !output.status.success() {
        bail!(
            "unpacking {}: {} ended with {}",
            path.display(),
            tool[0],
            output.status
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_once_and_after_what_it_needs() {
        let text = "k/nft_ct.ko.xz: k/nf_conntrack.ko.xz k/nf_tables.ko.xz\n\
                    k/nf_conntrack.ko.xz: k/crc.ko.xz\n\
                    k/nf_tables.ko.xz: k/nfnetlink.ko.xz k/crc.ko.xz\n\
                    k/nfnetlink.ko.xz:\n\
                    k/crc.ko.xz:\n\
                    k/unwanted.ko.xz:\n";
        let order = load_order(text, &["nf_tables", "nft_ct", "absent"]);
        let names: Vec<_> = order.into_iter().map(name).collect();
        assert_eq!(names, ["nfnetlink", "crc", "nf_tables", "nf_conntrack", "nft_ct"]);
    }
}
