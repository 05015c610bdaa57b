//! In: the version of the Gateway API that the pinned Istio is built with. Out: its standard CRDs, in the
//! cache. The lab has none of them but where a claim needs them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::go;
use crate::cache::{Cache, Key};
use crate::checkout::Checkout;
use crate::run::check;

const MODULE: &str = "sigs.k8s.io/gateway-api";
const FOLDER: &str = "config/crd/standard";

/// One file with all CRDs of the standard channel.
///
/// # Errors
/// When the module cannot be fetched or holds no CRDs.
pub fn gateway_api_crds(checkout: &Checkout) -> Result<PathBuf> {
    let module = checkout.e2e().join("parts/istio");
    let key = Key::new("gateway-api").with_folder(&module)?.with(FOLDER);
    let place = Cache::open()?.get("parts", "gateway-api", &key, |folder| {
        check(go(&module).args(["mod", "download", MODULE]))?;
        let source = check(go(&module).args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", MODULE]))?;
        let text = crds(&Path::new(source.trim()).join(FOLDER))?;
        fs::write(folder.join("crds.yaml"), text)?;
        Ok(())
    })?;
    Ok(place.join("crds.yaml"))
}

/// The CRDs of a folder, one document each. The policy that guards upgrades is none.
fn crds(folder: &Path) -> Result<String> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut documents = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        if text.contains("\nkind: CustomResourceDefinition\n") {
            documents.push(text.trim_start_matches("---\n").to_owned());
        }
    }
    ensure!(!documents.is_empty(), "{} holds no CRDs", folder.display());
    Ok(documents.join("\n---\n"))
}

#[cfg(test)]
mod tests {
    use super::crds;

    #[test]
    fn crds_are_joined_and_other_kinds_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        file("b.yaml", "---\napiVersion: x\nkind: CustomResourceDefinition\nmetadata: {name: b}\n");
        file("a.yaml", "apiVersion: x\nkind: CustomResourceDefinition\nmetadata: {name: a}\n");
        file("c.yaml", "apiVersion: x\nkind: ValidatingAdmissionPolicy\n");
        let text = crds(folder.path()).unwrap();
        let names: Vec<&str> = text.lines().filter(|line| line.starts_with("metadata")).collect();
        assert_eq!(names, ["metadata: {name: a}", "metadata: {name: b}"]);
        assert_eq!(text.matches("---").count(), 1);
        std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
        std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
        assert!(crds(folder.path()).is_err());
    }
}
