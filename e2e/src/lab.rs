//! In: what is wanted of the lab. Out: a lab that stands, or nothing of it. This is what scenarios hold.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Key};
use crate::checkout::Checkout;
use crate::cluster::{CONTROL_PLANE, Cluster, DAEMONS};
use crate::kubectl::Kubectl;
use crate::parts::Parts;
use crate::report::Report;
use crate::sandbox::Sandbox;
use crate::{doctor, images, istio, operator, workloads};

/// What `up` is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Our operator too, built from this checkout.
    pub operator: bool,
    /// Only etcd, API server, controllers and CRDs: no node, no Istio, no pods.
    pub control_plane: bool,
}

/// What a lab that stands consists of. Written last: without it a lab is half built, and is built anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    control_plane: bool,
    /// The digest of the operator's image, once deployed.
    operator: Option<String>,
    /// Folders with kubectl and the other tools; their names carry the keys of the parts.
    path: Vec<PathBuf>,
    /// The key of what daemons and Istio were configured with.
    made_of: String,
}

impl State {
    /// Whether a lab started now would be of the same parts and configuration.
    fn is_of(&self, parts: &Parts, made_of: &str) -> bool {
        self.made_of == made_of && parts.path().iter().all(|folder| self.path.contains(folder))
    }
}

fn made_of(checkout: &Checkout) -> Result<String> {
    Ok(Key::new("config").with_folder(&checkout.e2e().join("config"))?.digits())
}

/// A lab that stands.
#[derive(Debug, Clone)]
pub struct Lab {
    checkout: Checkout,
    sandbox: Sandbox,
    kubectl: Kubectl,
    state: State,
}

impl Lab {
    /// The lab of the checkout around the current folder, which must be up.
    ///
    /// # Errors
    /// When it is not.
    pub fn attach() -> Result<Self> {
        Self::attach_to(&Checkout::find()?)
    }

    /// The lab of this checkout, which must be up.
    ///
    /// # Errors
    /// When it is not.
    pub fn attach_to(checkout: &Checkout) -> Result<Self> {
        is_meant(checkout)?;
        let sandbox = Sandbox::of(checkout);
        let state = read_state(checkout)?.filter(|_| matches!(sandbox.running(), Ok(Some(_))));
        let state =
            state.ok_or_else(|| anyhow!("no lab is up in {}: `cargo lab up` starts one", checkout.root().display()))?;
        let kubectl = Kubectl::new(checkout, &sandbox, &state.path);
        Ok(Self { checkout: checkout.clone(), sandbox, kubectl, state })
    }

    /// Brings the lab of this checkout up, or finds it up. The flag says whether this call started it.
    ///
    /// # Errors
    /// What the first step that fails says.
    pub fn up(checkout: &Checkout, options: Options, report: &Report) -> Result<(Self, bool)> {
        is_meant(checkout)?;
        let _lock = checkout.lock()?;
        let cache = Cache::open()?;
        let standing = Self::attach_to(checkout).ok().filter(|lab| lab.serves(options));
        if standing.is_none() {
            doctor::require(checkout, report)?;
        }
        let parts = Parts::get(checkout, &cache, options.control_plane, report)?;
        let made_of = made_of(checkout)?;
        let standing = standing.filter(|lab| lab.state.is_of(&parts, &made_of));
        let started = standing.is_none();
        let binary =
            if options.operator && !options.control_plane { Some(operator::build(checkout, report)?) } else { None };
        let mut lab = match standing {
            Some(lab) => lab,
            None => start(checkout, options, &cache, &parts, report)?,
        };
        if let Some(binary) = binary {
            let cluster = Cluster::new(checkout, &lab.sandbox, &parts);
            let before = lab.state.operator.take();
            lab.state.operator = Some(operator::deploy(
                checkout,
                &cluster,
                &lab.kubectl,
                parts.bin("small", "pause")?,
                binary,
                before,
                report,
            )?);
        }
        if !options.control_plane {
            istio::webhook_refuses(checkout, &lab.kubectl, report)?;
            workloads::mutual_tls(&lab.kubectl, report)?;
        }
        write_state(checkout, &lab.state)?;
        Ok((lab, started))
    }

    /// Ends the lab of this checkout and removes everything of it; also right when none is up, or half of one.
    ///
    /// # Errors
    /// When something does not go away.
    pub fn down(checkout: &Checkout) -> Result<()> {
        let _lock = checkout.lock()?;
        Sandbox::of(checkout).stop()
    }

    /// The administrator's client, in no namespace.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The client in one namespace.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Kubectl {
        self.kubectl.namespace(name)
    }

    /// Any command inside the lab, with KUBECONFIG and PATH set.
    ///
    /// # Errors
    /// When the lab has gone.
    pub fn inside(&self, program: &str) -> Result<Command> {
        self.kubectl.inside(program)
    }

    /// The checkout that it belongs to.
    #[must_use]
    pub fn checkout(&self) -> &Checkout {
        &self.checkout
    }

    /// The namespaces that it runs in.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Whether it is a control plane without a node.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.state.control_plane
    }

    /// Whether our operator was deployed.
    #[must_use]
    pub fn has_operator(&self) -> bool {
        self.state.operator.is_some()
    }

    /// The daemons that should run, each with its process when it does.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn daemons(&self) -> Result<Vec<(&'static str, Option<nix::unistd::Pid>)>> {
        let wanted = if self.state.control_plane { &DAEMONS[..CONTROL_PLANE] } else { DAEMONS };
        let find = |name: &'static str| {
            let program = self.state.path.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
            Ok((name, program.map(|file| self.sandbox.runs(&file)).transpose()?.flatten()))
        };
        wanted.iter().map(|&(name, _)| find(name)).collect()
    }

    /// Whether this lab is whole and has what is wanted (the operator apart, which is put on top).
    fn serves(&self, options: Options) -> bool {
        let enough = options.control_plane || !self.state.control_plane;
        enough && self.daemons().is_ok_and(|daemons| daemons.iter().all(|(_, pid)| pid.is_some()))
    }
}

/// What needs a lab must not touch another cluster.
fn is_meant(checkout: &Checkout) -> Result<()> {
    ensure!(checkout.other_cluster().is_none(), "this needs the lab itself: leave --cluster out");
    Ok(())
}

/// From whatever there is to a lab without our operator.
fn start(checkout: &Checkout, options: Options, cache: &Cache, parts: &Parts, report: &Report) -> Result<Lab> {
    let sandbox = Sandbox::of(checkout);
    let tars = if options.control_plane {
        Vec::new()
    } else {
        report.step("write the images", || images::get(parts, cache))?
    };
    report.step("make the sandbox", || {
        // Half a lab, or one with less than is wanted now, or one whose daemons were killed.
        sandbox.stop()?;
        sandbox.start()
    })?;
    let cluster = Cluster::new(checkout, &sandbox, parts);
    let kubectl = Kubectl::new(checkout, &sandbox, &parts.path());
    if options.control_plane {
        cluster.start_control_plane(report)?;
        istio::crds(checkout, &kubectl, parts, report)?;
        cluster.controllers_work(report)?;
    } else {
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| cluster.start_containerd(report, &tars));
            let control_plane = cluster.start_control_plane(report);
            let containerd = beside.join().unwrap_or_else(|_| Err(anyhow!("starting containerd panicked")));
            control_plane.and(containerd)
        })?;
        cluster.start_node(report)?;
        cluster.controllers_work(report)?;
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| cluster.start_dns(report));
            let istio = istio::install(checkout, &kubectl, report);
            let dns = beside.join().unwrap_or_else(|_| Err(anyhow!("starting DNS panicked")));
            istio.and(dns)
        })?;
        workloads::start(checkout, &kubectl, report)?;
    }
    let state =
        State { control_plane: options.control_plane, operator: None, path: parts.path(), made_of: made_of(checkout)? };
    Ok(Lab { checkout: checkout.clone(), sandbox, kubectl, state })
}

fn state_file(checkout: &Checkout) -> PathBuf {
    checkout.state().join("state.json")
}

fn read_state(checkout: &Checkout) -> Result<Option<State>> {
    let path = state_file(checkout);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => bail!("{} cannot be read: {error}", path.display()),
    };
    // A state that another version wrote is as good as none.
    Ok(serde_json::from_slice(&text).ok())
}

fn write_state(checkout: &Checkout, state: &State) -> Result<()> {
    let path = state_file(checkout);
    let half = path.with_extension("new");
    fs::write(&half, serde_json::to_vec_pretty(state)?)
        .with_context(|| format!("{} cannot be written", half.display()))?;
    fs::rename(&half, &path).with_context(|| format!("{} cannot be written", path.display()))
}
