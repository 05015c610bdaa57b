//! The command line: transcripts that users read (`tests/cli/*.md`), and what no transcript can hold.
//!
//! `TRYCMD=overwrite cargo test transcripts` writes the transcripts anew.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{PROGRAM, read, root};

const SAMPLE: &str = "istio-samples/httpbin-circuit-breaker/resilience.yaml";

fn run(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("it is piped").write_all(stdin.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it is text")
}

#[test]
fn transcripts_are_what_the_program_prints() {
    trycmd::TestCases::new().register_bin("resilience-operator", Path::new(PROGRAM)).case("tests/cli/*.md");
}

#[test]
fn standard_input_is_a_file_called_dash() {
    let from_file = run(&["render", "-f", SAMPLE], "");
    let from_stdin = run(&["render", "-f", "-"], &read(SAMPLE));
    assert_eq!(from_file.stdout, from_stdin.stdout);
    assert!(text(&from_stdin.stderr).contains("warning: standard input: Resilience default/httpbin: RES010"));
    assert_eq!(from_stdin.status.code(), Some(0));
}

#[test]
fn what_render_prints_can_be_read_back_beside_the_policy() {
    let printed = run(&["render", "-f", SAMPLE], "");
    let both = format!("{}\n---\n{}", read(SAMPLE), text(&printed.stdout));
    assert_eq!(run(&["render", "-f", "-"], &both).stdout, printed.stdout);
}

#[test]
fn manifests_are_the_same_in_both_formats() {
    for args in [&["crd"][..], &["render", "-f", "tests/cli/ejection.yaml", "--endpoints", "3"]] {
        let (json, yaml) = (run(&[args, &["-o", "json"]].concat(), ""), run(&[args, &["-o", "yaml"]].concat(), ""));
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("it is JSON");
        let yaml: serde_json::Value = serde_saphyr::from_str(text(&yaml.stdout)).expect("it is YAML");
        let one = if json["kind"] == "List" { &json["items"][0] } else { &json };
        assert_eq!(*one, yaml, "{args:?}");
    }
}

#[test]
fn every_command_with_an_answer_takes_the_same_formats() {
    let offers = |command: &str, formats: &str| {
        let help = run(&[command, "-h"], "");
        let words = text(&help.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("[possible values: {formats}]")), "{command}: {words}");
    };
    for command in ["validate", "diff", "explain", "status", "top", "why", "load"] {
        offers(command, "table, json, yaml");
    }
    for command in ["render", "crd", "import"] {
        offers(command, "yaml, json");
    }
    offers("verify", "table, json, yaml, junit");
}

#[test]
fn completion_knows_every_command_and_its_flags() {
    let script = run(&["completion", "bash"], "");
    let script = text(&script.stdout);
    for word in [
        "diff",
        "explain",
        "top",
        "--max-proxies",
        "--kubeconfig",
        "--context",
        "--namespace",
        "--output",
        "table json yaml",
    ] {
        assert!(script.contains(word), "{word} cannot be completed");
    }
}

#[test]
fn a_closed_pipe_is_a_success() {
    for args in [&["crd"][..], &["render", "-f", SAMPLE], &["validate", "-f", SAMPLE], &["completion", "bash"]] {
        let mut child = Command::new(PROGRAM)
            .args(args)
            .current_dir(root())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{args:?}: {said}");
        assert!(!said.contains("panicked") && !said.contains("error"), "{args:?}: {said}");
    }
}

#[test]
fn a_pipe_gets_no_colours() {
    let output = run(&["validate", "-f", "-"], "apiVersion: resilience.dev/v1alpha1\nkind: Resilience\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
}

#[test]
fn as_a_kubectl_plugin_the_help_speaks_of_kubectl() {
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = folder.path().join("kubectl-resilience");
    std::os::unix::fs::symlink(PROGRAM, &plugin).expect("a link");
    let output = Command::new(&plugin).args(["render", "--help"]).output().expect("it runs");
    assert!(text(&output.stdout).contains("Usage: kubectl resilience render"), "{}", text(&output.stdout));
}

#[test]
fn one_unreadable_file_of_several_is_named_and_ends_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.yaml"), read(SAMPLE)).expect("written");
    std::fs::write(folder.path().join("b.yaml"), "a: 1\n---\nkind: [\n").expect("written");
    let output = run(&["validate", "-f", &folder.path().display().to_string()], "");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("b.yaml (document 2): is no YAML") && said.contains("line 3"), "{said}");
}

#[test]
fn a_folder_is_read_to_its_depth_and_other_things_in_it_are_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let deep = folder.path().join("x/y");
    std::fs::create_dir_all(&deep).expect("made");
    std::fs::write(deep.join("policy.yml"), read(SAMPLE)).expect("written");
    std::fs::write(folder.path().join("values.yaml"), "replicas: 3\n").expect("written");
    std::fs::write(folder.path().join("notes.txt"), "{{{").expect("written");
    std::fs::write(folder.path().join("pod.json"), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}"#)
        .expect("written");
    let path = folder.path().display().to_string();
    let output = run(&["validate", "-f", &path, "-v"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(said.contains("passed over") && said.contains("Pod default/p") && said.contains("values.yaml"), "{said}");
    assert!(!said.contains("notes.txt"));
    assert!(run(&["validate", "-f", &path], "").stderr.is_empty());
}
