//! In: where the command was typed. Out: the checkout that the lab belongs to, its id, and the folders
//! of its state. Two checkouts have two ids, and so two labs side by side.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::kubectl::Kubectl;

/// A working copy of this repository.
#[derive(Debug, Clone)]
pub struct Checkout {
    root: PathBuf,
    id: String,
    /// The cluster that scenarios are played on instead of its lab.
    elsewhere: Option<Box<Kubectl>>,
}

impl Checkout {
    /// The checkout around the current folder; when there is none, the one that `cargo run` names.
    ///
    /// # Errors
    /// When neither is a checkout.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().context("the current folder cannot be read")?;
        let by_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        for start in std::iter::once(here.clone()).chain(by_cargo) {
            if let Some(root) = start.ancestors().find(|folder| is_checkout(folder)) {
                return Self::at(root);
            }
        }
        bail!("{} is in no checkout of Resilience: change to one and try again", here.display())
    }

    /// The checkout at this folder.
    ///
    /// # Errors
    /// When the folder is not one.
    pub fn at(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("{} cannot be read", root.display()))?;
        if !is_checkout(&root) {
            bail!("{} is no checkout of Resilience: it has no e2e/parts", root.display());
        }
        let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
        let id = hex::encode(digest)[..10].to_owned();
        Ok(Self { root, id, elsewhere: None })
    }

    /// The folder itself, absolute and without links.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The same checkout, whose scenarios are played on this cluster instead of its lab.
    #[must_use]
    pub fn elsewhere(self, cluster: Kubectl) -> Self {
        Self { elsewhere: Some(Box::new(cluster)), ..self }
    }

    /// The cluster that is not its lab, if scenarios are to be played on one.
    #[must_use]
    pub fn other_cluster(&self) -> Option<&Kubectl> {
        self.elsewhere.as_deref()
    }

    /// Ten hexadecimal digits from the folder's path: what tells this lab's things from another's.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The member crate with the pinned parts, configurations and manifests.
    #[must_use]
    pub fn e2e(&self) -> PathBuf {
        self.root.join("e2e")
    }

    /// Everything of the lab on disk. Cargo puts what a profile called `lab` needs for itself here too, so
    /// nothing but the folders below is ours to remove.
    fn folder(&self) -> PathBuf {
        self.root.join("target/lab")
    }

    /// What a running lab keeps; gone after `down`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// One file per daemon; kept after `down`, overwritten by the next `up`.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    /// The administrator's kubeconfig. Its address is reachable from inside the sandbox only.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    /// The name of the lab's cgroups, right under each hierarchy's root.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("resilience-lab-{}", self.id)
    }

    /// Lets one `up` or `down` work on this lab at a time. Released when the file is dropped, also by kill -9.
    ///
    /// # Errors
    /// When the lock's file cannot be made.
    pub fn lock(&self) -> Result<File> {
        let path = self.folder().join("lock");
        fs::create_dir_all(self.folder()).with_context(|| format!("{} cannot be made", self.folder().display()))?;
        let file = File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another lab command in this checkout");
            file.lock().with_context(|| format!("{} cannot be locked", path.display()))?;
        }
        Ok(file)
    }
}

fn is_checkout(folder: &Path) -> bool {
    folder.join("e2e/parts").is_dir() && folder.join("Cargo.toml").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(folder: &Path) -> Checkout {
        fs::create_dir_all(folder.join("e2e/parts")).unwrap();
        fs::write(folder.join("Cargo.toml"), "").unwrap();
        Checkout::at(folder).unwrap()
    }

    #[test]
    fn two_checkouts_have_two_ids_and_one_keeps_its_own() {
        let parent = tempfile::tempdir().unwrap();
        let one = checkout(&parent.path().join("one"));
        let two = checkout(&parent.path().join("two"));
        assert_ne!(one.id(), two.id());
        assert_eq!(one.id(), Checkout::at(one.root()).unwrap().id());
        assert_ne!(one.cgroup(), two.cgroup());
    }

    #[test]
    fn a_folder_without_parts_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Checkout::at(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no e2e/parts"), "{error}");
    }
}
