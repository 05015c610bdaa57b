//! The image, for every Linux machine that it is released for, as one archive in OCI's layout: what a registry holds,
//! so that uploading changes no byte of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::Builder;

use super::Release;
use super::archive::{append, zipped};
use super::binaries::{LINUX, PROGRAM, Target};
use crate::image::Image;
use crate::operator::USER;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes it: one file at its root, which is what it starts.
///
/// # Errors
/// When a binary cannot be read, or the archive not be written.
pub(super) fn write(release: &Release<'_>, binaries: &[(&Target, PathBuf)]) -> Result<()> {
    let work = release.scratch("image")?;
    let mut layout = Layout { tar: Builder::new(Vec::new()), time: release.time };
    layout.add("oci-layout", &serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?)?;
    let about = about(release)?;
    let mut manifests = Vec::new();
    for (target, binary) in binaries.iter().filter(|(target, _)| target.os == LINUX) {
        let path = work.join(format!("{}.layer", target.arch));
        let entrypoint = format!("/{PROGRAM}");
        let image = Image::new(&release.image(), &[&entrypoint], USER).file(PROGRAM, binary.clone());
        let unpacked = image.layer(&path)?;
        let layer = layout.blob(LAYER, &zipped(&fs::read(&path)?)?)?;
        let config = json!({
            "created": about["org.opencontainers.image.created"],
            "architecture": target.arch,
            "os": target.os,
            "config": {"Entrypoint": [entrypoint], "User": format!("{USER}:{USER}"), "WorkingDir": "/", "Labels": about},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{unpacked}")]},
        });
        let config = layout.blob(CONFIG, &serde_json::to_vec(&config)?)?;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], "annotations": about});
        let mut manifest = layout.blob(MANIFEST, &serde_json::to_vec(&manifest)?)?;
        manifest["platform"] = json!({"architecture": target.arch, "os": target.os});
        manifests.push(manifest);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": about});
    let mut index = layout.blob(INDEX, &serde_json::to_vec(&index)?)?;
    // By the first skopeo finds it, by the second containerd.
    index["annotations"] = json!({
        "org.opencontainers.image.ref.name": release.version,
        "io.containerd.image.name": release.image(),
    });
    layout.add("index.json", &serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [index]}))?)?;
    let bytes = layout.tar.into_inner().context("the image cannot be packed")?;
    release.put(&format!("{PROGRAM}_{}_oci.tar", release.version), &bytes)
}

/// What the image says of itself.
fn about(release: &Release<'_>) -> Result<Value> {
    let time = jiff::Timestamp::from_second(i64::try_from(release.time)?)?;
    Ok(json!({
        "org.opencontainers.image.title": PROGRAM,
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.revision": release.revision,
        "org.opencontainers.image.created": time.to_string(),
        "org.opencontainers.image.source": format!("https://github.com/{}", release.repository),
        "org.opencontainers.image.licenses": "Apache-2.0",
    }))
}

struct Layout {
    tar: Builder<Vec<u8>>,
    time: u64,
}

impl Layout {
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        append(&mut self.tar, name, bytes, 0o644, self.time)
    }

    /// Adds what is named by its digest, and gives the words by which others refer to it.
    fn blob(&mut self, kind: &str, bytes: &[u8]) -> Result<Value> {
        let digest = hex::encode(Sha256::digest(bytes));
        self.add(&format!("blobs/sha256/{digest}"), bytes)?;
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::super::binaries::TARGETS;
    use super::*;
    use crate::checkout::Checkout;
    use crate::report::Report;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        found
    }

    /// What is referred to, by a digest and a size that are right.
    fn referred(entries: &BTreeMap<String, Vec<u8>>, to: &Value) -> Vec<u8> {
        let digest = to["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = entries[&format!("blobs/sha256/{digest}")].clone();
        assert_eq!(hex::encode(Sha256::digest(&bytes)), digest);
        assert_eq!(to["size"], bytes.len());
        bytes
    }

    #[test]
    fn each_machine_finds_its_program_by_digests_from_the_index_down() {
        let folder = tempfile::tempdir().unwrap();
        let (checkout, report) = (Checkout::find().unwrap(), Report::new());
        let release = Release {
            checkout: &checkout,
            report: &report,
            version: "1.2.3",
            repository: "Some/name",
            revision: "f".repeat(40),
            time: 0,
            folder: folder.path().to_owned(),
            notes: folder.path().join("notes.md"),
            work: folder.path().join("work"),
        };
        let binaries: Vec<_> = TARGETS
            .iter()
            .map(|target| {
                let path = folder.path().join(target.triple);
                fs::write(&path, target.triple).unwrap();
                (target, path)
            })
            .collect();
        write(&release, &binaries).unwrap();
        let entries = entries(&fs::read(folder.path().join("resilience-operator_1.2.3_oci.tar")).unwrap());
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let top = &json(&entries["index.json"])["manifests"][0];
        assert_eq!(top["annotations"]["io.containerd.image.name"], "ghcr.io/some/resilience-operator:1.2.3");
        let index = json(&referred(&entries, top));
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 2, "those of Linux: {manifests:?}");
        for (manifest, target) in manifests.iter().zip(TARGETS) {
            assert_eq!(manifest["platform"], json!({"architecture": target.arch, "os": "linux"}));
            let manifest = json(&referred(&entries, manifest));
            let config = json(&referred(&entries, &manifest["config"]));
            assert_eq!(config["architecture"], target.arch);
            assert_eq!(config["config"]["User"], "65532:65532");
            let mut layer = Vec::new();
            let zipped = referred(&entries, &manifest["layers"][0]);
            flate2::read::GzDecoder::new(zipped.as_slice()).read_to_end(&mut layer).unwrap();
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex::encode(Sha256::digest(&layer))));
            let files = super::tests::entries(&layer);
            assert_eq!(files.keys().collect::<Vec<_>>(), [PROGRAM]);
            assert_eq!(files[PROGRAM], target.triple.as_bytes());
        }
    }
}
