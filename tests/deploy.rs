//! What is shipped asks for no right and opens no way that it does not need; judged at the manifests
//! themselves. What each right is for, the lab judges (`e2e/src/scenarios/rights.rs`).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use resilience_operator::{cli::yaml, runtime::settings::Settings};
use serde_json::{Value, json};

use crate::support::{read, root};

/// Every YAML below a folder, by name.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    files
}

fn documents(path: impl AsRef<Path>) -> Vec<Value> {
    let text = read(&path);
    let documents = yaml::documents(&text).into_iter();
    documents.map(|one| one.unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))).collect()
}

/// Everything that is shipped, with the file that it is from. The chart's templates are no YAML; that they come to the
/// same, the lab judges (`e2e/src/scenarios/chart.rs`).
fn shipped() -> Vec<(String, Value)> {
    let deploy = root().join("deploy");
    let files = files_below(&deploy).into_iter().filter(|file| !file.starts_with(deploy.join("chart")));
    files
        .flat_map(|file| {
            let shown = file.strip_prefix(&deploy).expect("it is below").display().to_string();
            documents(&file).into_iter().map(move |document| (shown.clone(), document))
        })
        .collect()
}

fn of_kind(kind: &str, file: &str) -> Vec<Value> {
    documents(format!("deploy/{file}")).into_iter().filter(|document| document["kind"] == kind).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The rights of a role, one by one: group, resource, verb.
pub fn rights(role: &Value) -> BTreeSet<(String, String, String)> {
    let rules = role["rules"].as_array().into_iter().flatten();
    let each = rules.flat_map(|rule| {
        let (groups, resources, verbs) = (texts(&rule["apiGroups"]), texts(&rule["resources"]), texts(&rule["verbs"]));
        groups.into_iter().flat_map(move |group| {
            let (resources, verbs) = (resources.clone(), verbs.clone());
            resources.into_iter().flat_map(move |resource| {
                let group = group.clone();
                verbs.clone().into_iter().map(move |verb| (group.clone(), resource.clone(), verb))
            })
        })
    });
    each.collect()
}

/// Roles that a binding gives to the operator's account; the others are for people.
pub fn roles_of_the_operator() -> Vec<(String, Value)> {
    let all = shipped();
    let is_bound = |role: &Value| {
        all.iter().any(|(_, binding)| {
            binding["roleRef"]["kind"] == role["kind"]
                && binding["roleRef"]["name"] == role["metadata"]["name"]
                && binding["subjects"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|subject| subject["kind"] == "ServiceAccount" && subject["name"] == "resilience-operator")
        })
    };
    let is_role = |document: &Value| ["Role", "ClusterRole"].iter().any(|kind| document["kind"] == *kind);
    all.iter().filter(|(_, one)| is_role(one) && one.get("rules").is_some() && is_bound(one)).cloned().collect()
}

/// Tokens of the one account without rights by which istiod is asked, which one opts in to.
fn is_of_the_reader(role: &Value, resource: &str) -> bool {
    let of_resource = |rule: &&Value| texts(&rule["resources"]).iter().any(|one| one == resource);
    let rules: Vec<&Value> = role["rules"].as_array().into_iter().flatten().filter(of_resource).collect();
    let named = json!(["resilience-reader"]);
    resource == "serviceaccounts/token"
        && role["metadata"]["name"] == "resilience-operator-in-effect"
        && rules.iter().all(|rule| rule["resourceNames"] == named && rule["verbs"] == json!(["create"]))
}

#[test]
fn the_operator_has_no_secrets_no_pods_no_exec_and_no_way_to_more_rights() {
    let roles = roles_of_the_operator();
    assert!(roles.len() >= 5, "too few roles were found: {roles:?}");
    for (file, role) in roles {
        for (group, resource, verb) in rights(&role) {
            let right = format!("deploy/{file}: {verb} {resource} of «{group}»");
            let words = [&group, &resource, &verb];
            assert!(!words.iter().any(|word| word.contains('*')), "{right}: a wildcard");
            let whole = resource.split('/').next().unwrap_or_default();
            let never = ["secrets", "pods", "serviceaccounts", "configmaps", "nodes", "customresourcedefinitions"];
            assert!(!never.contains(&whole) || is_of_the_reader(&role, &resource), "{right}");
            let groups = ["rbac.authorization.k8s.io", "admissionregistration.k8s.io", "apps", "batch"];
            assert!(!groups.contains(&group.as_str()), "{right}");
            assert!(!["escalate", "bind", "impersonate", "deletecollection"].contains(&verb.as_str()), "{right}");
            let reads = ["get", "list", "watch"].contains(&verb.as_str());
            assert!(resource != "resiliences" || reads, "{right}: a policy is its author's, but for its status");
            assert!(whole != "namespaces" || reads, "{right}");
        }
        assert!(!role.to_string().contains("nonResourceURLs"), "deploy/{file}: {role}");
    }
}

#[test]
fn what_is_shipped_holds_no_secret_and_mounts_none() {
    for (file, document) in shipped() {
        assert!(document["kind"] != "Secret", "deploy/{file} has a Secret");
        let text = document.to_string();
        for word in ["secretName", "secretKeyRef", "secretRef", "hostPath", "hostNetwork", "hostPID", "privileged\""] {
            assert!(!text.contains(word), "deploy/{file}: {word}");
        }
    }
}

#[test]
fn the_roles_of_a_namespace_are_the_cluster_role_but_for_namespaces() {
    let cluster = &of_kind("ClusterRole", "rbac.yaml")[0];
    assert_eq!(cluster["metadata"]["name"], "resilience-operator");
    let mut wanted = rights(cluster);
    wanted.retain(|(_, resource, _)| resource != "namespaces");
    let roles = of_kind("Role", "namespaced/namespace/rbac.yaml");
    assert_eq!(roles.len(), 1);
    assert_eq!(rights(&roles[0]), wanted);
}

#[test]
fn nothing_of_the_cluster_gives_a_namespaced_operator_a_right() {
    let cluster = ["ClusterRole", "ClusterRoleBinding"];
    let is_cluster = |document: &Value| cluster.iter().any(|kind| document["kind"] == *kind);
    let kustomization = &documents("deploy/namespaced/kustomization.yaml")[0];
    let patches = kustomization["patches"].as_array().expect("there are patches");
    let patches: Vec<Value> = patches
        .iter()
        .filter_map(|patch| patch["patch"].as_str())
        .flat_map(|patch| yaml::documents(patch).into_iter().map(|one| one.expect("it is YAML")))
        .collect();
    let base = texts(&documents("deploy/kustomization.yaml")[0]["resources"]);
    let mut found = 0;
    for file in base.iter().filter(|file| Path::new(file).extension().is_some()) {
        for document in documents(format!("deploy/{file}")).into_iter().filter(is_cluster) {
            let gone = json!({"$patch": "delete", "apiVersion": document["apiVersion"], "kind": document["kind"],
                "metadata": {"name": document["metadata"]["name"]}});
            assert!(patches.contains(&gone), "deploy/namespaced keeps {} of {file}", document["metadata"]["name"]);
            found += 1;
        }
    }
    assert!(found >= 3, "only {found} were found");
    for (file, document) in shipped().into_iter().filter(|(file, _)| file.starts_with("namespaced/")) {
        assert!(!is_cluster(&document), "deploy/{file}");
    }
}

#[test]
fn the_network_lets_through_what_the_settings_talk_to_and_no_more() {
    let policy = &of_kind("NetworkPolicy", "network-policy/policy.yaml")[0]["spec"];
    let deployment = &of_kind("Deployment", "deployment.yaml")[0]["spec"];
    let settings = Settings::default();

    let labels = &deployment["template"]["metadata"]["labels"];
    let selected = policy["podSelector"]["matchLabels"].as_object().expect("it selects");
    assert!(selected.iter().all(|(key, value)| labels[key] == *value), "it is not for the operator's pods");
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));

    // In: one port, that of the admin server.
    let admin = &deployment["template"]["spec"]["containers"][0]["ports"][0];
    assert_eq!(admin["containerPort"], settings.admin_address.port());
    let [ingress] = policy["ingress"].as_array().expect("it has a list").as_slice() else {
        panic!("more than one way in: {}", policy["ingress"])
    };
    assert_eq!(ingress["ports"], json!([{"protocol": "TCP", "port": admin["name"]}]));
    assert!(ingress["from"].as_array().is_some_and(|from| !from.is_empty()), "anybody may come in");

    // Out: by what each rule is for.
    let egress = policy["egress"].as_array().expect("it has a list");
    let ports = |rule: &Value| -> BTreeSet<u64> {
        rule["ports"].as_array().into_iter().flatten().filter_map(|port| port["port"].as_u64()).collect()
    };
    assert!(egress.iter().all(|rule| rule.get("to").is_some() && !ports(rule).is_empty()), "{egress:?}");
    let all: BTreeSet<u64> = egress.iter().flat_map(ports).collect();
    let (istiod, port) = settings.istiod_address.rsplit_once(':').expect("it has a port");
    let port: u64 = port.parse().expect("it is a number");
    assert_eq!(all, BTreeSet::from([53, 443, 6443, port]));
    let (service, rest) = istiod.split_once('.').expect("it has a namespace");
    let namespace = rest.split('.').next().expect("it has a namespace");
    let to_istiod = json!([{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {"app": service}},
    }]);
    assert!(egress.iter().any(|rule| rule["to"] == to_istiod && ports(rule) == BTreeSet::from([port])));
    // Whatever address: the API server's alone, which no label names.
    let anywhere = egress.iter().filter(|rule| rule.to_string().contains("ipBlock"));
    assert_eq!(anywhere.map(ports).collect::<Vec<_>>(), [BTreeSet::from([443, 6443])]);
}

#[test]
fn the_pod_is_one_that_the_restricted_standard_admits() {
    let pod = &of_kind("Deployment", "deployment.yaml")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().expect("there is one") {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(context["readOnlyRootFilesystem"], true);
    }
    let namespace = &of_kind("Namespace", "namespace.yaml")[0]["metadata"]["labels"];
    assert_eq!(namespace["pod-security.kubernetes.io/enforce"], "restricted");
}
