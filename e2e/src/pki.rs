//! In: a folder. Out: a new certificate authority in it, with a certificate and key for every component,
//! and a kubeconfig for every client. Made anew at each start; nothing outside the lab trusts it.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::sandbox::NODE_ADDRESS;

/// The node's name in the cluster.
pub const NODE: &str = "lab";

/// One certificate: its file name, who it is for, and how it may be used.
struct Leaf<'a> {
    file: &'a str,
    common_name: &'a str,
    group: Option<&'a str>,
    /// Names and addresses of a server; a client has none.
    serves: &'a [&'a str],
}

const LEAVES: &[Leaf<'static>] = &[
    Leaf {
        file: "apiserver",
        common_name: "kube-apiserver",
        group: None,
        serves: &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            "10.96.0.1",
            NODE_ADDRESS,
        ],
    },
    Leaf {
        file: "kubelet-serving",
        common_name: "system:node:lab",
        group: Some("system:nodes"),
        serves: &[NODE, NODE_ADDRESS],
    },
    Leaf {
        file: "apiserver-kubelet",
        common_name: "kube-apiserver-kubelet-client",
        group: Some("system:masters"),
        serves: &[],
    },
];

/// Every kubeconfig: its file name, user and group.
const CLIENTS: &[(&str, &str, Option<&str>)] = &[
    ("kubeconfig", "lab-admin", Some("system:masters")),
    ("kubelet.kubeconfig", "system:node:lab", Some("system:nodes")),
    ("kube-proxy.kubeconfig", "system:kube-proxy", None),
    ("kube-scheduler.kubeconfig", "system:kube-scheduler", None),
    ("kube-controller-manager.kubeconfig", "system:kube-controller-manager", None),
];

/// Writes `pki/` and the kubeconfigs into this folder.
///
/// # Errors
/// When a key cannot be made or a file not be written.
pub fn write(state: &Path) -> Result<()> {
    let folder = state.join("pki");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let ca_key = KeyPair::generate()?;
    let ca_params = authority()?;
    let ca = ca_params.self_signed(&ca_key)?;
    secret(&folder.join("ca.crt"), &ca.pem())?;
    let issuer = Issuer::new(ca_params, ca_key);
    for leaf in LEAVES {
        let (certificate, key) = sign(leaf, &issuer)?;
        secret(&folder.join(format!("{}.crt", leaf.file)), &certificate)?;
        secret(&folder.join(format!("{}.key", leaf.file)), &key)?;
    }
    // Signs and checks the tokens of ServiceAccounts.
    let tokens = KeyPair::generate()?;
    secret(&folder.join("service-accounts.key"), &tokens.serialize_pem())?;
    secret(&folder.join("service-accounts.pub"), &tokens.public_key_pem())?;
    for &(file, user, group) in CLIENTS {
        let (certificate, key) = sign(&Leaf { file, common_name: user, group, serves: &[] }, &issuer)?;
        let (certificate_file, key_file) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        secret(&certificate_file, &certificate)?;
        secret(&key_file, &key)?;
        secret(&state.join(file), &kubeconfig(user, &folder.join("ca.crt"), &certificate_file, &key_file))?;
    }
    Ok(())
}

fn authority() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = name("resilience-lab", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn sign(leaf: &Leaf<'_>, issuer: &Issuer<'_, KeyPair>) -> Result<(String, String)> {
    let names: Vec<String> = leaf.serves.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = name(leaf.common_name, leaf.group);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let usage =
        if leaf.serves.is_empty() { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth };
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn name(common: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

fn kubeconfig(user: &str, ca: &Path, certificate: &Path, key: &Path) -> String {
    let (ca, certificate, key) = (ca.display(), certificate.display(), key.display());
    format!(
        "apiVersion: v1
kind: Config
current-context: lab
clusters:
- name: lab
  cluster: {{server: 'https://{NODE_ADDRESS}:6443', certificate-authority: '{ca}'}}
users:
- name: '{user}'
  user: {{client-certificate: '{certificate}', client-key: '{key}'}}
contexts:
- name: lab
  context: {{cluster: lab, user: '{user}'}}
"
    )
}

/// Writes a file that only its owner reads.
fn secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_kubeconfig_whose_files_exist() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        for (file, user, _) in CLIENTS {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(text.contains(user));
            assert!(folder.path().join(format!("pki/{file}.key")).exists());
        }
    }
}
