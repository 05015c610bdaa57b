//! In: files and a configuration. Out: one tar in the form of `docker save`, which containerd imports.
//! Equal input gives equal bytes: names are sorted, times are zero, owners are root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image with a single layer.
#[derive(Debug, Clone)]
pub struct Image {
    /// The full name, tag included.
    pub name: String,
    /// What is started.
    pub entrypoint: Vec<String>,
    /// The numeric user that it is started as.
    pub user: u32,
    /// Path in the image (without a leading slash) to what is there.
    pub files: BTreeMap<String, Content>,
}

/// What one path of an image holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// A copy of this file, with its mode.
    File(PathBuf),
    /// A symbolic link to this target.
    Link(String),
    /// An empty folder that everyone may write to.
    Writable,
}

impl Image {
    /// An image that so far holds nothing.
    #[must_use]
    pub fn new(name: &str, entrypoint: &[&str], user: u32) -> Self {
        let entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
        Self { name: name.to_owned(), entrypoint, user, files: BTreeMap::new() }
    }

    /// Adds a copy of one file.
    #[must_use]
    pub fn file(mut self, at: &str, from: PathBuf) -> Self {
        self.files.insert(at.to_owned(), Content::File(from));
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, at: &str, target: &str) -> Self {
        self.files.insert(at.to_owned(), Content::Link(target.to_owned()));
        self
    }

    /// Adds an empty folder that everyone may write to.
    #[must_use]
    pub fn writable(mut self, at: &str) -> Self {
        self.files.insert(at.to_owned(), Content::Writable);
        self
    }

    /// Adds what lies below a folder and passes the filter, links as links.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn folder(mut self, at: &str, from: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Self> {
        for file in crate::cache::files_below(from)?.into_iter().filter(|file| wanted(file)) {
            let name = file.strip_prefix(from).unwrap_or(&file).to_string_lossy();
            let name = format!("{at}/{name}");
            let content = match fs::read_link(&file) {
                Ok(target) => Content::Link(target.to_string_lossy().into_owned()),
                Err(_) => Content::File(file),
            };
            self.files.insert(name, content);
        }
        Ok(self)
    }

    /// Writes the image to this file.
    ///
    /// # Errors
    /// When a file of it cannot be read, or the tar not be written.
    pub fn write(&self, to: &Path) -> Result<()> {
        let layer = to.with_extension("layer");
        let digest = self.layer(&layer).with_context(|| format!("the layer of {} cannot be written", self.name))?;
        let config = serde_json::to_vec(&self.config(&digest))?;
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let layer_name = format!("{digest}/layer.tar");
        let manifest = json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": [layer_name] }]);
        let mut tar = Builder::new(BufWriter::new(File::create(to)?));
        add_bytes(&mut tar, &config_name, &config)?;
        let content = File::open(&layer)?;
        let mut header = header(EntryType::Regular, 0o644, content.metadata()?.len());
        tar.append_data(&mut header, &layer_name, content)?;
        add_bytes(&mut tar, "manifest.json", &serde_json::to_vec(&manifest)?)?;
        tar.into_inner()?.flush()?;
        fs::remove_file(&layer)?;
        Ok(())
    }

    fn config(&self, layer: &str) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": self.user.to_string(),
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        })
    }

    /// Writes the layer, not compressed, and gives its SHA-256.
    ///
    /// # Errors
    /// When a file of it cannot be read, or the layer not be written.
    pub fn layer(&self, to: &Path) -> Result<String> {
        let mut tar = Builder::new(Hashing { inner: BufWriter::new(File::create(to)?), hash: Sha256::new() });
        let mut folders = std::collections::BTreeSet::new();
        for (path, content) in &self.files {
            for folder in Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
                folders.insert(folder.to_path_buf());
            }
            if matches!(content, Content::Writable) {
                folders.remove(Path::new(path));
            }
        }
        for folder in folders {
            tar.append_data(&mut header(EntryType::Directory, 0o755, 0), &folder, std::io::empty())?;
        }
        for (path, content) in &self.files {
            match content {
                Content::File(from) => {
                    let file = File::open(from).with_context(|| format!("{} cannot be read", from.display()))?;
                    let metadata = file.metadata()?;
                    // Wheels and archives lose the bit; what is in a bin folder is meant to run.
                    let executable = metadata.permissions().mode() & 0o111 != 0 || path.contains("bin/");
                    let mode = if executable { 0o755 } else { 0o644 };
                    tar.append_data(&mut header(EntryType::Regular, mode, metadata.len()), path, file)?;
                }
                Content::Link(target) => {
                    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?;
                }
                Content::Writable => {
                    tar.append_data(&mut header(EntryType::Directory, 0o1777, 0), path, std::io::empty())?;
                }
            }
        }
        let mut hashing = tar.into_inner()?;
        hashing.flush()?;
        Ok(hex::encode(hashing.hash.finalize()))
    }
}

/// The machine's architecture as images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn add_bytes(tar: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
    tar.append_data(&mut header, name, bytes.take(u64::MAX))?;
    Ok(())
}

/// Hashes what it passes on.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &Path) -> Image {
        fs::write(folder.join("tool"), "binary").unwrap();
        Image::new("docker.io/lab/tool:1", &["/bin/tool"], 65532)
            .file("bin/tool", folder.join("tool"))
            .link("bin/alias", "tool")
            .writable("tmp")
    }

    #[test]
    fn equal_input_gives_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        image.write(&folder.path().join("1.tar")).unwrap();
        image.write(&folder.path().join("2.tar")).unwrap();
        assert_eq!(fs::read(folder.path().join("1.tar")).unwrap(), fs::read(folder.path().join("2.tar")).unwrap());
    }

    #[test]
    fn the_layer_is_found_under_the_name_and_digest_that_manifest_and_config_give() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        image(folder.path()).write(&path).unwrap();
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            entries.insert(entry.path().unwrap().to_string_lossy().into_owned(), bytes);
        }
        let manifest: Value = serde_json::from_slice(&entries["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "docker.io/lab/tool:1");
        let config: Value = serde_json::from_slice(&entries[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(config["config"]["User"], "65532");
        let layer = &entries[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex::encode(Sha256::digest(layer))));
        let names: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["bin", "bin/alias", "bin/tool", "tmp"].map(str::to_owned));
    }
}
