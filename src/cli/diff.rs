//! `diff -f`: what an apply would change in the cluster, and why.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _, path::PathBuf, process::ExitCode};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use super::{
    Io, Paint, Tone, all_told,
    live::{Connection, Reader, block_on},
    output::{Output, count},
    read,
    world::World,
    yaml,
};
use crate::{
    report::{Action, ObjectChange, Preview, Warnings, preview, refused},
    validate::Settings,
};

/// Show what an apply of the files would change in the cluster, and why.
///
/// Reads the namespaces of the Resiliences in the files, by list calls and with your own rights, puts
/// the files on top as if they were applied (Services and Istio objects in them too) and runs the
/// operator's own functions. Prints each object that would change as it is and as it would be, the
/// fields with their reason, what becomes of the policy, and warnings that would come or go. Writes
/// nothing.
///
/// Exit codes: 0 no difference, 1 differences, 2 the question could not be answered (bad usage,
/// unreadable files, no cluster, no permission).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, a folder with all below it, or - for standard input; YAML or JSON. May be repeated.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE", value_hint = clap::ValueHint::AnyPath)]
    filenames: Vec<PathBuf>,
    #[command(flatten)]
    cluster: Connection,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// All that is printed.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether anything would change: exit code 1.
    pub differences: bool,
    /// In the order of the files.
    pub resiliences: Vec<FileReport>,
}

/// What would come of one Resilience of the files.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileReport {
    /// The file, or -.
    pub file: String,
    /// Its number in the file, from 1.
    pub document: usize,
    /// What would change.
    #[serde(flatten)]
    pub preview: Preview,
}

/// Prints what would change.
///
/// # Errors
/// If the files or the cluster cannot be read, or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    block_on(async {
        let chosen = args.cluster.choose().await?;
        let files = read(&args.filenames, &chosen.namespace, &chosen.settings, io)?;
        let twice = files.repeated().into_iter().map(|policy| {
            format!(
                "{}: Resilience {}/{} is in the files twice: keep one of the two",
                policy.place, policy.namespace, policy.name
            )
        });
        all_told(&twice.collect::<Vec<_>>(), io)?;
        let (report, notes) = match report(&chosen.reader, &files, &chosen.settings).await {
            Ok(answer) => answer,
            Err(faults) => return all_told(&faults, io).map(|()| ExitCode::from(2)),
        };
        for note in notes {
            io.warning(&note);
        }
        let paint = io.paint;
        let text = args.output.text(&report, |report| text(report, paint))?;
        io.out.write_all(text.as_bytes())?;
        Ok(if report.differences { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    })
}

/// What would change, and notes on what could not be read without harm.
///
/// # Errors
/// What could not be read of the cluster, one line each.
pub async fn report(reader: &Reader, files: &World, settings: &Settings) -> Result<(Report, Vec<String>), Vec<String>> {
    let namespaces: BTreeSet<String> = files.policies.iter().map(|policy| policy.namespace.clone()).collect();
    let live = reader.read(&namespaces, None, settings).await?;
    let before: Vec<_> =
        files.policies.iter().map(|policy| live.world.policies.get(&policy.namespace, &policy.name)).collect();
    files.lay_over(&live.world);
    let resiliences = files.policies.iter().zip(&before).map(|(policy, before)| {
        let now = before.as_ref().and_then(|before| before.view.readable());
        let then = live.world.policies.get(&policy.namespace, &policy.name);
        let then = then.as_ref().and_then(|then| then.view.readable());
        let preview = match (&policy.object, then) {
            (Ok(_), Some(then)) => preview(now, then, &live.observe(then), settings),
            (Ok(_), None) => refused(&policy.namespace, &policy.name, now, &[]),
            (Err(violations), _) => refused(&policy.namespace, &policy.name, now, violations),
        };
        FileReport { file: policy.place.file.clone(), document: policy.place.document, preview }
    });
    let resiliences: Vec<FileReport> = resiliences.collect();
    let differences = resiliences.iter().any(|report| report.preview.differs());
    Ok((Report { differences, resiliences }, live.notes.into_iter().chain(live.unread).collect()))
}

/// For people.
fn text(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    for FileReport { file, document: _, preview } in &report.resiliences {
        if preview.differs() || !preview.outcome.is_accepted() {
            one(&mut text, file, preview, paint);
        }
    }
    text.push_str(&summary(report));
    text
}

// Writing to a String cannot fail.
fn one(text: &mut String, file: &str, preview: &Preview, paint: Paint) {
    let Preview { namespace, name, outcome, outcome_now, objects, warnings } = preview;
    let now = match outcome_now {
        Some(now) if *now == outcome.reason => "as now".to_owned(),
        Some(now) => format!("now {now}"),
        None => "nothing is said of it yet".to_owned(),
    };
    let word = paint.word(if outcome.is_accepted() { Tone::Good } else { Tone::Error }, &outcome.reason);
    let _ = writeln!(text, "{file}: Resilience {namespace}/{name}: {word} ({now})");
    for fault in &outcome.faults {
        let _ = writeln!(text, "  {fault}");
    }
    if outcome.faults.is_empty() && !outcome.message.is_empty() {
        let _ = writeln!(text, "  {}", outcome.message);
    }
    for object in objects {
        text.push_str(&unified(object, namespace, paint));
        for change in &object.changes {
            if object.kind != crate::names::KIND {
                let (before, after) = (short(change.before.as_ref()), short(change.after.as_ref()));
                let _ = writeln!(text, "# {}: {before} -> {after} ({})", change.path, change.reason);
            }
        }
    }
    let Warnings { new, gone, staying: _ } = warnings;
    for warning in new {
        let code = paint.word(Tone::Warning, &warning.code.to_string());
        let _ = writeln!(text, "new warning {code}: {} ({})", warning.message, warning.page);
    }
    for warning in gone {
        let _ = writeln!(text, "no longer {}: {}", warning.code, warning.message);
    }
    text.push('\n');
}

/// A value on one line; whole blocks stand in the difference above it.
pub(super) fn short(value: Option<&Value>) -> String {
    match value {
        None => "unset".to_owned(),
        Some(Value::Array(list)) if list.iter().any(Value::is_object) => format!("a list of {}", list.len()),
        Some(Value::Object(_)) => "a block".to_owned(),
        Some(value) => value.to_string(),
    }
}

/// The object as it is and as it would be.
fn unified(object: &ObjectChange, namespace: &str, paint: Paint) -> String {
    let yaml = |value: &Option<Value>| value.as_ref().map(|value| yaml::print(value).unwrap_or_default());
    let whole = format!("{} {namespace}/{}", object.kind, object.name);
    let head = |side: &Option<Value>, when: &str| {
        if side.is_some() { format!("{whole} ({when})") } else { "/dev/null".to_owned() }
    };
    let (before, after) = (yaml(&object.before).unwrap_or_default(), yaml(&object.after).unwrap_or_default());
    let diff = TextDiff::from_lines(before.as_str(), after.as_str());
    let text = diff
        .unified_diff()
        .context_radius(3)
        .header(&head(&object.before, "now"), &head(&object.after, "then"))
        .to_string();
    let coloured = text.lines().map(|line| match line.as_bytes().first() {
        Some(b'+') => paint.word(Tone::Good, line),
        Some(b'-') => paint.word(Tone::Error, line),
        _ => line.to_owned(),
    });
    coloured.map(|line| line + "\n").collect()
}

fn summary(report: &Report) -> String {
    let previews: Vec<&Preview> = report.resiliences.iter().map(|report| &report.preview).collect();
    let objects = |action| previews.iter().flat_map(|preview| &preview.objects).filter(|o| o.action == action).count();
    let whole = if previews.len() == 1 { "1 Resilience".to_owned() } else { format!("{} Resiliences", previews.len()) };
    if !report.differences {
        return format!("{whole}: no difference\n");
    }
    let (new, gone) = previews
        .iter()
        .fold((0, 0), |(new, gone), preview| (new + preview.warnings.new.len(), gone + preview.warnings.gone.len()));
    let refused = match previews.iter().filter(|preview| !preview.outcome.is_accepted()).count() {
        0 => String::new(),
        number => format!(", {number} not accepted"),
    };
    format!(
        "{whole}{refused}: {} to create, {} to update, {} to delete; {} more, {gone} less\n",
        count(objects(Action::Create), "object"),
        objects(Action::Update),
        objects(Action::Delete),
        count(new, "warning"),
    )
}
