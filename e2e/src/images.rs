//! In: the built parts. Out: the images of the lab's pods, one tar each, in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::checkout::Checkout;
use crate::image::Image;
use crate::operator;
use crate::parts::{self, ISTIO_VERSION, Parts};
use crate::report::Report;

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
    Ok(vec![
        single(PAUSE, parts.bin("small", "pause")?),
        single(STATUS500, parts.bin("small", "status500")?),
        single(COREDNS, parts.bin("coredns", "coredns")?),
        single(HTTPBIN, parts.bin("httpbin", "go-httpbin")?),
        fortio(parts.bin("fortio", "fortio")?),
        pilot(parts)?,
        proxy(parts)?,
    ])
}

/// Writes the images of what the demo and the scenarios run into a folder, for clusters that are not the lab, and gives
/// their names and files.
///
/// # Errors
/// When a part or the load generator does not build, or the folder cannot be written to.
pub fn write(checkout: &Checkout, folder: &Path, report: &Report) -> Result<Vec<(String, PathBuf)>> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let cache = Cache::open()?;
    let bin = |part: &str, binary: &str| -> Result<PathBuf> {
        Ok(parts::one(checkout, &cache, part, report)?.join("bin").join(binary))
    };
    let loader = operator::loader(bin("small", "pause")?, operator::build(checkout, report)?);
    let images = [
        single(HTTPBIN, bin("httpbin", "go-httpbin")?),
        single(STATUS500, bin("small", "status500")?),
        fortio(bin("fortio", "fortio")?),
        loader,
    ];
    let mut written = Vec::new();
    for image in images {
        let file = folder.join(format!("{}.tar", short(&image)));
        image.write(&file)?;
        written.push((image.name, file));
    }
    Ok(written)
}

/// One program, started without words.
fn single(name: &str, binary: PathBuf) -> Image {
    let path = format!("usr/local/bin/{}", binary.file_name().unwrap_or_default().to_string_lossy());
    Image::new(name, &[&format!("/{path}")], NON_ROOT).file(&path, binary)
}

/// It keeps reports where it stands.
fn fortio(binary: PathBuf) -> Image {
    single(FORTIO, binary).writable("var/lib/fortio").writable("tmp")
}

/// The name without registry and tag.
fn short(image: &Image) -> &str {
    image.name.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default()
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
    let short = short(image);
    let key = Key::new(short).with(format!("{image:?}"));
    let place = cache.get("images", short, &key, |folder| image.write(&folder.join("image.tar")))?;
    Ok(place.join("image.tar"))
}
