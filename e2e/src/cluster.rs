//! In: a running sandbox and the built parts. Out: a Kubernetes node in it: etcd, API server, controllers,
//! scheduler, containerd, kubelet, kube-proxy, DNS; each waited for by what it is there for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::checkout::Checkout;
use crate::images;
use crate::kubectl::Kubectl;
use crate::parts::Parts;
use crate::pki::NODE;
use crate::report::Report;
use crate::run::{check, finish, tail};
use crate::sandbox::{NODE_ADDRESS, Sandbox};
use crate::wait::{self, Seen};

/// The daemons with their part, in the order of their start. The first three are the control plane.
pub const DAEMONS: &[(&str, &str)] = &[
    ("etcd", "etcd"),
    ("kube-apiserver", "kubernetes"),
    ("kube-controller-manager", "kubernetes"),
    ("containerd", "containerd"),
    ("kube-scheduler", "kubernetes"),
    ("kubelet", "kubernetes"),
    ("kube-proxy", "kubernetes"),
];

/// How many of [`DAEMONS`] a control plane without a node has.
pub const CONTROL_PLANE: usize = 3;

/// How long a daemon may take on a slow and busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where containerd listens, inside the sandbox.
pub const CONTAINERD_SOCKET: &str = "/run/lab/containerd.sock";

/// The node of one checkout's lab.
#[derive(Debug)]
pub struct Cluster<'a> {
    checkout: &'a Checkout,
    sandbox: &'a Sandbox,
    parts: &'a Parts,
}

impl<'a> Cluster<'a> {
    /// A cluster that is to run in this sandbox.
    #[must_use]
    pub fn new(checkout: &'a Checkout, sandbox: &'a Sandbox, parts: &'a Parts) -> Self {
        Self { checkout, sandbox, parts }
    }

    /// Starts etcd, the API server and the controllers.
    ///
    /// # Errors
    /// When one of them ends or does not get ready in time.
    pub fn start_control_plane(&self, report: &Report) -> Result<()> {
        crate::pki::write(&self.checkout.state())?;
        report.step("start etcd and the API server", || {
            self.spawn("etcd")?;
            self.spawn("kube-apiserver")?;
            self.until("the API server is ready", &["etcd", "kube-apiserver"], || {
                let answer = finish(&mut self.kubectl().command(&["get", "--raw", "/readyz"])?)?;
                Ok(if answer.stdout == "ok" { Seen::Done(()) } else { Seen::NotYet(tail(&answer.all(), 2)) })
            })
        })?;
        // They take seconds to begin, and nobody needs them before the first pods.
        self.spawn("kube-controller-manager")
    }

    /// Waits until the controllers work.
    ///
    /// # Errors
    /// When they end or do nothing in time.
    pub fn controllers_work(&self, report: &Report) -> Result<()> {
        report.step("wait for the controllers", || {
            self.until("controllers make the default ServiceAccount", &["kube-controller-manager"], || {
                self.exists("serviceaccount", "default", "default")
            })
        })
    }

    /// Starts containerd and gives it the images. Needs no control plane, so it may run beside its start.
    ///
    /// # Errors
    /// When containerd does not get ready or refuses an image.
    pub fn start_containerd(&self, report: &Report, tars: &[PathBuf]) -> Result<()> {
        report.step("start containerd and import the images", || {
            let configured = self.configure("cni.conflist")?;
            fs::rename(&configured, configured.with_file_name("10-lab.conflist"))?;
            check(self.sandbox.enter("cp")?.arg(configured.with_file_name("10-lab.conflist")).arg("/run/lab/cni/"))?;
            self.spawn("containerd")?;
            self.until("containerd answers", &["containerd"], || {
                let answer = finish(self.ctr()?.arg("version"))?;
                Ok(if answer.status.success() { Seen::Done(()) } else { Seen::NotYet(tail(&answer.all(), 2)) })
            })?;
            tars.iter().try_for_each(|tar| self.import(tar))
        })
    }

    /// Gives containerd one image for pods to use.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn import(&self, tar: &Path) -> Result<()> {
        check(
            self.ctr()?
                .args(["--namespace", "k8s.io", "images", "import", "--local", "--discard-unpacked-layers"])
                .arg(tar),
        )
        .with_context(|| format!("containerd does not take the image {}", tar.display()))?;
        Ok(())
    }

    /// Starts scheduler, kubelet and kube-proxy, and waits for a node that takes pods.
    ///
    /// # Errors
    /// When one of them ends or the node does not get ready in time.
    pub fn start_node(&self, report: &Report) -> Result<()> {
        report.step("start scheduler, kubelet and kube-proxy", || {
            self.kubectl().apply(PROXY_RIGHTS)?;
            for daemon in ["kube-scheduler", "kubelet", "kube-proxy"] {
                self.spawn(daemon)?;
            }
            self.until("the node is ready", &["kube-scheduler", "kubelet", "kube-proxy"], || {
                let path =
                    "{.status.conditions[?(@.type=='Ready')].status} {.status.conditions[?(@.type=='Ready')].message}";
                let answer =
                    finish(&mut self.kubectl().command(&["get", "node", NODE, "-o", &format!("jsonpath={path}")])?)?;
                Ok(if answer.stdout.starts_with("True") { Seen::Done(()) } else { Seen::NotYet(answer.all()) })
            })
        })
    }

    /// Puts DNS on the node and waits until it serves: it reaches the API server by a Service's address,
    /// so kube-proxy, routes and the pod network are then known to work.
    ///
    /// # Errors
    /// When it does not get ready in time.
    pub fn start_dns(&self, report: &Report) -> Result<()> {
        report.step("start DNS", || {
            let manifest = manifest(self.checkout, "coredns.yaml")?.replace("${COREDNS_IMAGE}", images::COREDNS);
            self.kubectl().apply(&manifest)?;
            self.kubectl().namespace("kube-system").rolled_out("deployment/coredns", PATIENCE)
        })
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.checkout, self.sandbox, &self.parts.path())
    }

    fn exists(&self, kind: &str, namespace: &str, name: &str) -> Result<Seen<()>> {
        let answer = finish(&mut self.kubectl().namespace(namespace).command(&["get", kind, name, "-o", "name"])?)?;
        Ok(if answer.status.success() { Seen::Done(()) } else { Seen::NotYet(tail(&answer.all(), 2)) })
    }

    fn ctr(&self) -> Result<Command> {
        let mut command = self.sandbox.enter(self.parts.bin("containerd", "ctr")?)?;
        command.args(["--address", CONTAINERD_SOCKET]);
        Ok(command)
    }

    /// Waits for a condition as long as the daemons that it needs run; when one ends, says its last words.
    fn until(&self, what: &str, daemons: &[&str], mut look: impl FnMut() -> Result<Seen<()>>) -> Result<()> {
        let logs = self.checkout.logs();
        let words = |name: &str| tail(&fs::read_to_string(logs.join(format!("{name}.log"))).unwrap_or_default(), 8);
        let mut absent = 0;
        let waited = wait::until(what, PATIENCE, || {
            let seen = look()?;
            if matches!(seen, Seen::NotYet(_)) {
                for &name in daemons {
                    absent += usize::from(self.sandbox.runs(&self.program(name)?)?.is_none());
                    // On a busy machine a daemon that was just started is still the `env` that starts it.
                    if absent > 10 {
                        bail!("{name} ended; its last words:\n{}", words(name));
                    }
                }
            }
            Ok(seen)
        });
        waited.with_context(|| format!("the lab did not come up; logs are in {}", logs.display()))
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let part = DAEMONS.iter().find(|(daemon, _)| *daemon == name).map(|(_, part)| *part);
        self.parts.bin(part.with_context(|| format!("no daemon is called {name}"))?, name)
    }

    fn spawn(&self, name: &str) -> Result<()> {
        // Of an earlier run there may be one.
        let log = self.checkout.logs().join(format!("{name}.log"));
        fs::write(&log, "").with_context(|| format!("{} cannot be written", log.display()))?;
        let path: Vec<String> = self.parts.path().iter().map(|folder| folder.display().to_string()).collect();
        let inherited = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let environment = [
            ("PATH".to_owned(), format!("{}:{inherited}", path.join(":"))),
            ("TMPDIR".to_owned(), "/run/lab/tmp".to_owned()),
        ];
        self.sandbox.spawn(name, &self.program(name)?, &self.arguments(name)?, &environment)
    }

    /// Fills in one file of `e2e/config`, and gives the path of the result.
    fn configure(&self, file: &str) -> Result<PathBuf> {
        let from = self.checkout.e2e().join("config").join(file);
        let mut text = fs::read_to_string(&from).with_context(|| format!("{} cannot be read", from.display()))?;
        let state = self.checkout.state();
        // Only what a file names: a control plane alone has neither CNI plugins nor runc.
        if text.contains("${CNI_BIN}") {
            text = text.replace("${CNI_BIN}", &self.parts.debian()?.join("usr/lib/cni").to_string_lossy());
        }
        if text.contains("${RUNC}") {
            text = text.replace("${RUNC}", &self.parts.bin("runc", "runc")?.to_string_lossy());
        }
        let text = text
            .replace("${PAUSE_IMAGE}", images::PAUSE)
            .replace("${PKI}", &state.join("pki").to_string_lossy())
            .replace("${STATE}", &state.to_string_lossy())
            .replace("${CGROUP}", &self.checkout.cgroup());
        let folder = state.join("config");
        fs::create_dir_all(&folder)?;
        let to = folder.join(file);
        fs::write(&to, text).with_context(|| format!("{} cannot be written", to.display()))?;
        Ok(to)
    }

    fn arguments(&self, name: &str) -> Result<Vec<String>> {
        let state = self.checkout.state();
        let kubeconfig = state.join(format!("{name}.kubeconfig"));
        let kubeconfig = kubeconfig.display();
        let pki = state.join("pki");
        let pki = pki.display();
        Ok(match name {
            "etcd" => words(
                "--data-dir=/run/lab/etcd --listen-client-urls=http://127.0.0.1:2379 \
                 --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync \
                 --log-level=warn",
            ),
            "kube-apiserver" => {
                let policy = self.configure("audit.yaml")?;
                let log = self.checkout.logs().join("audit.log");
                // Of an earlier run there may be one; this one is counted in.
                fs::write(&log, "").with_context(|| format!("{} cannot be written", log.display()))?;
                let mut arguments = api_server(&pki.to_string());
                arguments.push(format!("--audit-policy-file={}", policy.display()));
                arguments.push(format!("--audit-log-path={}", log.display()));
                arguments
            }
            "kube-controller-manager" => words(&format!(
                "--kubeconfig={kubeconfig} --authentication-kubeconfig={kubeconfig} --authorization-kubeconfig={kubeconfig} \
                 --leader-elect=false --use-service-account-credentials=true --root-ca-file={pki}/ca.crt \
                 --service-account-private-key-file={pki}/service-accounts.key --bind-address=127.0.0.1"
            )),
            "kube-scheduler" => words(&format!(
                "--kubeconfig={kubeconfig} --authentication-kubeconfig={kubeconfig} --authorization-kubeconfig={kubeconfig} \
                 --leader-elect=false --bind-address=127.0.0.1"
            )),
            "containerd" => vec!["--config".to_owned(), self.configure("containerd.toml")?.display().to_string()],
            "kubelet" => words(&format!(
                "--config={} --kubeconfig={kubeconfig} --hostname-override={NODE} --node-ip={NODE_ADDRESS} \
                 --root-dir=/run/lab/kubelet --cert-dir=/run/lab/kubelet/pki",
                self.configure("kubelet.yaml")?.display()
            )),
            "kube-proxy" => words(&format!("--config={}", self.configure("kube-proxy.yaml")?.display())),
            other => bail!("no daemon is called {other}"),
        })
    }
}

/// A manifest of `e2e/manifests`, as it stands there.
///
/// # Errors
/// When it cannot be read.
pub fn manifest(checkout: &Checkout, file: &str) -> Result<String> {
    let path = checkout.e2e().join("manifests").join(file);
    fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
}

/// kube-proxy's client has no group that carries its rights.
const PROXY_RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: 'lab:kube-proxy'}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:node-proxier'}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: 'system:kube-proxy'}
";

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn api_server(pki: &str) -> Vec<String> {
    words(&format!(
        "--etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 --advertise-address={NODE_ADDRESS} \
         --service-cluster-ip-range=10.96.0.0/16 --client-ca-file={pki}/ca.crt \
         --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key \
         --kubelet-client-certificate={pki}/apiserver-kubelet.crt --kubelet-client-key={pki}/apiserver-kubelet.key \
         --kubelet-certificate-authority={pki}/ca.crt --kubelet-preferred-address-types=InternalIP \
         --service-account-issuer=https://kubernetes.default.svc --service-account-key-file={pki}/service-accounts.pub \
         --service-account-signing-key-file={pki}/service-accounts.key \
         --api-audiences=https://kubernetes.default.svc,istio-ca --authorization-mode=Node,RBAC \
         --enable-admission-plugins=NodeRestriction --allow-privileged=true"
    ))
}
