//! In: the built parts. Out: the images of the lab's pods, one tar each, in the cache.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::{Cache, Key};
use crate::image::Image;
use crate::parts::{ISTIO_VERSION, Parts};

/// The user that Istio's containers must run as: its charts say runAsNonRoot without a number.
const ISTIO_USER: u32 = 1337;
/// Nobody in particular.
const NON_ROOT: u32 = 65532;

/// Keeps pods' namespaces open.
pub const PAUSE: &str = "docker.io/lab/pause:1";
/// Cluster DNS.
pub const COREDNS: &str = "docker.io/lab/coredns:1";
/// The server that scenarios call.
pub const HTTPBIN: &str = "docker.io/lab/httpbin:1";
/// The load generator that is not ours.
pub const FORTIO: &str = "docker.io/lab/fortio:1";
/// The replica that fails every request.
pub const STATUS500: &str = "docker.io/lab/status500:1";

/// Writes the images that are not in the cache yet, and gives the tars of all.
///
/// # Errors
/// When a part is missing or the cache cannot be written.
pub fn get(parts: &Parts, cache: &Cache) -> Result<Vec<PathBuf>> {
    all(parts)?.iter().map(|image| tar(image, cache)).collect()
}

fn all(parts: &Parts) -> Result<Vec<Image>> {
    let single = |name: &str, part: &str, binary: &str| -> Result<Image> {
        let path = format!("usr/local/bin/{binary}");
        Ok(Image::new(name, &[&format!("/{path}")], NON_ROOT).file(&path, parts.bin(part, binary)?))
    };
    Ok(vec![
        single(PAUSE, "small", "pause")?,
        single(STATUS500, "small", "status500")?,
        single(COREDNS, "coredns", "coredns")?,
        single(HTTPBIN, "httpbin", "go-httpbin")?,
        // It keeps reports where it stands.
        single(FORTIO, "fortio", "fortio")?.writable("var/lib/fortio").writable("tmp"),
        pilot(parts)?,
        proxy(parts)?,
    ])
}

fn pilot(parts: &Parts) -> Result<Image> {
    let name = format!("docker.io/lab/pilot:{ISTIO_VERSION}");
    let image = Image::new(&name, &["/usr/local/bin/pilot-discovery"], ISTIO_USER);
    Ok(image.file("usr/local/bin/pilot-discovery", parts.bin("istio", "pilot-discovery")?).writable("tmp"))
}

/// The sidecar: agent, Envoy, and the iptables family that turns a pod's traffic to it.
fn proxy(parts: &Parts) -> Result<Image> {
    let debian = parts.debian()?;
    let name = format!("docker.io/lab/proxyv2:{ISTIO_VERSION}");
    let mut image = Image::new(&name, &["/usr/local/bin/pilot-agent"], ISTIO_USER)
        .file("usr/local/bin/pilot-agent", parts.bin("istio", "pilot-agent")?)
        .file("usr/local/bin/envoy", parts.envoy()?)
        .file("var/lib/istio/envoy/envoy_bootstrap_tmpl.json", parts.istio_file("envoy_bootstrap_tmpl.json"))
        .folder("lib64", &debian.join("lib64"), |_| true)?
        .folder("lib", &debian.join("lib"), is_library)?
        .folder("usr/lib", &debian.join("usr/lib"), is_library)?
        .folder("usr/sbin", &debian.join("usr/sbin"), is_tables)?
        .writable("etc/istio/proxy")
        .writable("tmp");
    // What the package's installation would set up as alternatives.
    for tool in ["iptables", "ip6tables"] {
        for form in ["", "-save", "-restore"] {
            image = image.link(&format!("usr/sbin/{tool}{form}"), &format!("{tool}-nft{form}"));
        }
    }
    Ok(image)
}

fn is_library(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.contains(".so") && !file.components().any(|folder| folder.as_os_str() == "gconv")
}

fn is_tables(file: &Path) -> bool {
    file.file_name().unwrap_or_default().to_string_lossy().contains("tables")
}

/// The tar of one image. Its key is the paths of what is in it: they carry the keys of their parts.
fn tar(image: &Image, cache: &Cache) -> Result<PathBuf> {
    let short = image.name.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let key = Key::new(short).with(format!("{image:?}"));
    let place = cache.get("images", short, &key, |folder| image.write(&folder.join("image.tar")))?;
    Ok(place.join("image.tar"))
}
