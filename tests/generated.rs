//! Files that are printed by the program are as it prints them now.

use std::process::Command;

use crate::support::{PROGRAM, difference, read, root};

/// What the program prints for such arguments, run at the root of the repository.
fn printed(args: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(args).current_dir(root()).output().expect("it runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

fn same(file: &str, args: &[&str]) {
    let (have, want) = (std::fs::read_to_string(root().join(file)).unwrap_or_default(), printed(args));
    let renew = format!("cargo run --quiet -- {} > {file}", args.join(" "));
    assert!(have == want, "{file} is stale; renew it: {renew}\n{}", difference(&have, &want));
}

#[test]
fn the_crd_is_what_the_types_say() {
    same("crds/resilience.yaml", &["crd"]);
}

#[test]
fn the_generated_half_of_each_sample_is_what_render_prints() {
    let folders = std::fs::read_dir(root().join("istio-samples")).expect("the folder is there");
    let mut count = 0;
    for entry in folders {
        let entry = entry.expect("it can be read");
        if !entry.path().is_dir() {
            continue;
        }
        let folder = format!("istio-samples/{}", entry.file_name().to_string_lossy());
        let (policy, service) = (format!("{folder}/resilience.yaml"), format!("{folder}/service.yaml"));
        let mut args = vec!["render", "-f", policy.as_str()];
        if root().join(&service).exists() {
            args.extend(["-f", service.as_str()]);
        }
        same(&format!("{folder}/generated.yaml"), &args);
        count += 1;
    }
    assert!(count >= 3, "only {count} samples");
}

#[test]
fn no_sample_names_a_namespace_so_that_apply_can() {
    for folder in ["httpbin-circuit-breaker", "http-api", "grpc-service", "limits-on-both-sides"] {
        let text = read(format!("istio-samples/{folder}/resilience.yaml"));
        assert!(!text.contains("namespace:"), "{folder}");
    }
}
