//! What the operator was told: flags before environment before `--config` file before defaults.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::lease::timing::Timing;
use crate::names;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Lines for people.
    Human,
}

/// Settings of `run`, as they were given. What is not given is in the file or has a default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// YAML file with settings, under the names of the flags in camelCase; flags and environment win.
    #[arg(long, env = "RESILIENCE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The cluster's domain; a wrong one makes every generated rule silently dead [default: cluster.local].
    #[arg(long, env = "RESILIENCE_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Istio's root namespace (meshConfig.rootNamespace), whose rules concern every client
    /// [default: istio-system].
    #[arg(long, env = "RESILIENCE_ISTIO_ROOT_NAMESPACE", value_name = "NAMESPACE")]
    pub istio_root_namespace: Option<String>,
    /// Namespaces to work in, separated by commas [default: all].
    #[arg(long, env = "RESILIENCE_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACE")]
    pub namespaces: Option<Vec<String>>,
    /// Policies under work at a time [default: 16].
    #[arg(long, env = "RESILIENCE_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<u16>,
    /// How often a policy at rest is looked at again, in case an event was missed [default: 1h].
    #[arg(long, env = "RESILIENCE_RESYNC", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub resync: Option<Duration>,
    /// [default: json].
    #[arg(long, env = "RESILIENCE_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// A level, or a filter such as info,kube=debug [default: info].
    #[arg(long, env = "RESILIENCE_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Where liveness, readiness and metrics are served [default: 0.0.0.0:8080].
    #[arg(long, env = "RESILIENCE_ADMIN_ADDRESS", value_name = "ADDRESS")]
    pub admin_address: Option<SocketAddr>,
    /// Host and port where istiod tells its version; empty: it is never asked
    /// [default: istiod.istio-system.svc:15014].
    #[arg(long, env = "RESILIENCE_ISTIOD_ADDRESS", value_name = "HOST:PORT")]
    pub istiod_address: Option<String>,
    /// The ServiceAccount in Istio's root namespace by whose token istiod is asked what proxies have; empty:
    /// it is not asked, and InEffect stays Unknown [default: none].
    #[arg(long, env = "RESILIENCE_IN_EFFECT_SERVICE_ACCOUNT", value_name = "NAME")]
    pub in_effect_service_account: Option<String>,
    /// How long proxies may lag behind before InEffect is False [default: 1m].
    #[arg(long, env = "RESILIENCE_IN_EFFECT_GRACE", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub in_effect_grace: Option<Duration>,
    /// Whether /metrics/policies tells what each policy allows, with names of policies and hosts in its labels
    /// [default: false].
    #[arg(
        long,
        env = "RESILIENCE_LIMIT_METRICS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub limit_metrics: Option<bool>,
    /// Whether replicas elect one that writes; false: there must be no other [default: true].
    #[arg(
        long,
        env = "RESILIENCE_LEADER_ELECT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub leader_elect: Option<bool>,
    /// The Lease that they are elected by, in the operator's own namespace [default: resilience-operator].
    #[arg(long, env = "RESILIENCE_LEASE_NAME", value_name = "NAME")]
    pub lease_name: Option<String>,
    /// How long a leader that has vanished is waited for, in whole seconds [default: 15s].
    #[arg(long, env = "RESILIENCE_LEASE_DURATION", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub lease_duration: Option<Duration>,
    /// How long a leader that cannot renew still begins writes, before it ends itself [default: 10s].
    #[arg(long, env = "RESILIENCE_RENEW_DEADLINE", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub renew_deadline: Option<Duration>,
    /// How often the leader renews, and the others look [default: 2s].
    #[arg(long, env = "RESILIENCE_RETRY_PERIOD", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub retry_period: Option<Duration>,
}

/// The file: every setting of [`Flags`] but the file itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cluster_domain: Option<String>,
    istio_root_namespace: Option<String>,
    namespaces: Option<Vec<String>>,
    concurrency: Option<u16>,
    #[serde(default, with = "humantime_serde")]
    resync: Option<Duration>,
    log_format: Option<LogFormat>,
    log_level: Option<String>,
    admin_address: Option<SocketAddr>,
    istiod_address: Option<String>,
    in_effect_service_account: Option<String>,
    #[serde(default, with = "humantime_serde")]
    in_effect_grace: Option<Duration>,
    limit_metrics: Option<bool>,
    leader_elect: Option<bool>,
    lease_name: Option<String>,
    #[serde(default, with = "humantime_serde")]
    lease_duration: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    renew_deadline: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    retry_period: Option<Duration>,
}

/// Settings, all decided and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Istio's root namespace; with a wrong one, rules that concern every client are overlooked.
    pub istio_root_namespace: String,
    /// Namespaces to work in; empty: all.
    pub namespaces: Vec<String>,
    /// Policies under work at a time. More than 16 only made each wait longer where it was measured.
    pub concurrency: u16,
    /// How often a policy at rest is looked at again.
    pub resync: Duration,
    /// How logs are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// Where the admin server listens.
    pub admin_address: SocketAddr,
    /// Host and port of istiod's monitoring; empty: nobody is asked.
    pub istiod_address: String,
    /// The ServiceAccount of the root namespace that istiod is asked by; empty: it is not asked.
    pub in_effect_service_account: String,
    /// How long proxies may lag behind.
    pub in_effect_grace: Duration,
    /// Whether what policies allow is served, by name.
    pub limit_metrics: bool,
    /// Whether replicas elect one that writes.
    pub leader_elect: bool,
    /// The Lease that they are elected by.
    pub lease_name: String,
    /// The times of the election.
    pub timing: Timing,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_domain: names::DEFAULT_CLUSTER_DOMAIN.to_owned(),
            istio_root_namespace: names::DEFAULT_ROOT_NAMESPACE.to_owned(),
            namespaces: Vec::new(),
            concurrency: 16,
            resync: Duration::from_hours(1),
            log_format: LogFormat::Json,
            log_level: "info".to_owned(),
            admin_address: SocketAddr::from(([0, 0, 0, 0], 8080)),
            istiod_address: "istiod.istio-system.svc:15014".to_owned(),
            in_effect_service_account: String::new(),
            in_effect_grace: Duration::from_mins(1),
            limit_metrics: false,
            leader_elect: true,
            lease_name: names::OPERATOR.to_owned(),
            timing: Timing::default(),
        }
    }
}

impl Settings {
    /// Puts flags, file and defaults together. Environment variables come in through the flags.
    ///
    /// # Errors
    /// If the file cannot be read or has a key that does not exist, or if a value makes no sense.
    pub fn load(flags: Flags) -> anyhow::Result<Self> {
        let file = match &flags.config {
            None => File::default(),
            Some(path) => {
                let shown = path.display();
                let text = fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
                serde_saphyr::from_str(&text).with_context(|| format!("{shown} is not a settings file"))?
            }
        };
        let default = Self::default();
        // Without `..`, so that a new setting does not compile until it is taken from all three.
        let Flags {
            config: _,
            cluster_domain,
            istio_root_namespace,
            namespaces,
            concurrency,
            resync,
            log_format,
            log_level,
            admin_address,
            istiod_address,
            in_effect_service_account,
            in_effect_grace,
            limit_metrics,
            leader_elect,
            lease_name,
            lease_duration,
            renew_deadline,
            retry_period,
        } = flags;
        let settings = Self {
            cluster_domain: cluster_domain.or(file.cluster_domain).unwrap_or(default.cluster_domain),
            istio_root_namespace: istio_root_namespace
                .or(file.istio_root_namespace)
                .unwrap_or(default.istio_root_namespace),
            namespaces: namespaces.or(file.namespaces).unwrap_or(default.namespaces),
            concurrency: concurrency.or(file.concurrency).unwrap_or(default.concurrency),
            resync: resync.or(file.resync).unwrap_or(default.resync),
            log_format: log_format.or(file.log_format).unwrap_or(default.log_format),
            log_level: log_level.or(file.log_level).unwrap_or(default.log_level),
            admin_address: admin_address.or(file.admin_address).unwrap_or(default.admin_address),
            istiod_address: istiod_address.or(file.istiod_address).unwrap_or(default.istiod_address),
            in_effect_service_account: in_effect_service_account
                .or(file.in_effect_service_account)
                .unwrap_or(default.in_effect_service_account),
            in_effect_grace: in_effect_grace.or(file.in_effect_grace).unwrap_or(default.in_effect_grace),
            limit_metrics: limit_metrics.or(file.limit_metrics).unwrap_or(default.limit_metrics),
            leader_elect: leader_elect.or(file.leader_elect).unwrap_or(default.leader_elect),
            lease_name: lease_name.or(file.lease_name).unwrap_or(default.lease_name),
            timing: Timing {
                lease_duration: lease_duration.or(file.lease_duration).unwrap_or(default.timing.lease_duration),
                renew_deadline: renew_deadline.or(file.renew_deadline).unwrap_or(default.timing.renew_deadline),
                retry_period: retry_period.or(file.retry_period).unwrap_or(default.timing.retry_period),
            },
        };
        settings.checked()
    }

    fn checked(mut self) -> anyhow::Result<Self> {
        // `RESILIENCE_NAMESPACES=` in a manifest means all.
        self.namespaces.retain(|namespace| !namespace.is_empty());
        self.namespaces.sort();
        self.namespaces.dedup();
        for namespace in &self.namespaces {
            ensure!(is_dns(namespace) && !namespace.contains('.'), "namespaces: {namespace:?} is no namespace's name");
        }
        let domain = &self.cluster_domain;
        ensure!(is_dns(domain), "clusterDomain: {domain:?} is no domain; most clusters have cluster.local");
        let root = &self.istio_root_namespace;
        ensure!(
            is_dns(root) && !root.contains('.'),
            "istioRootNamespace: {root:?} is no namespace's name; most meshes have istio-system"
        );
        let istiod = &self.istiod_address;
        let is_address =
            istiod.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
        ensure!(
            istiod.is_empty() || is_address,
            "istiodAddress: {istiod:?} is no HOST:PORT; istiod tells its version on port 15014"
        );
        if self.concurrency == 0 {
            bail!("concurrency: 0 would be without bound; set at least 1");
        }
        ensure!(
            self.resync >= Duration::from_mins(1),
            "resync: {} is a load on the API server; set at least 1m",
            humantime::format_duration(self.resync)
        );
        let account = &self.in_effect_service_account;
        ensure!(
            account.is_empty() || is_dns(account),
            "inEffectServiceAccount: {account:?} is no object's name; its namespace is Istio's root namespace"
        );
        ensure!(is_dns(&self.lease_name), "leaseName: {:?} is no object's name", self.lease_name);
        self.timing.check()?;
        Ok(self)
    }
}

/// A name, or an address in square brackets.
fn is_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    address.map_or_else(|| is_dns(host), |address| address.parse::<Ipv6Addr>().is_ok())
}

fn is_dns(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(text: &str) -> (tempfile::NamedTempFile, Flags) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
        (file, flags)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let (_file, mut flags) =
            file("{concurrency: 4, resync: 2h 30m, clusterDomain: corp.example, istioRootNamespace: mesh}");
        flags.concurrency = Some(2);
        let settings = Settings::load(flags).unwrap();
        assert_eq!(settings.concurrency, 2);
        assert_eq!(settings.resync, Duration::from_mins(150));
        assert_eq!(settings.cluster_domain, "corp.example");
        assert_eq!(settings.istio_root_namespace, "mesh");
        assert_eq!(settings.admin_address, Settings::default().admin_address);
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused_by_name() {
        let (_file, flags) = file("concurency: 4");
        let error = format!("{:#}", Settings::load(flags).unwrap_err());
        assert!(error.contains("concurency"), "{error}");
    }

    #[test]
    fn every_value_that_makes_no_sense_is_refused() {
        for text in [
            "concurrency: 0",
            "resync: 1s",
            "resync: 5",
            "clusterDomain: ''",
            "clusterDomain: .local",
            "istioRootNamespace: ''",
            "istioRootNamespace: a.b",
            "namespaces: [a.b]",
            "logFormat: xml",
            "istiodAddress: istiod",
            "istiodAddress: http://istiod:15014",
            "istiodAddress: istiod:155014",
            "inEffectServiceAccount: istio-system/reader",
            "inEffectGrace: 5",
            "leaseName: A",
            "leaseDuration: 10s",
            "renewDeadline: 3s",
            "retryPeriod: 100ms",
        ] {
            let (_file, flags) = file(text);
            assert!(Settings::load(flags).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn istiod_is_asked_under_a_name_an_address_or_not_at_all() {
        for address in ["istiod-canary.istio-system.svc:15014", "10.0.0.1:15014", "[fd00::1]:15014", ""] {
            let (_file, flags) = file(&format!("istiodAddress: '{address}'"));
            assert_eq!(Settings::load(flags).unwrap().istiod_address, address);
        }
    }

    #[test]
    fn an_empty_list_of_namespaces_means_all() {
        let flags = Flags { namespaces: Some(vec![String::new()]), ..Flags::default() };
        assert_eq!(Settings::load(flags).unwrap().namespaces, Vec::<String>::new());
    }
}
