//! Reads files, folders and standard input into objects, each with the place it came from.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde_json::Value;

use super::yaml;

/// Where an object was read: named in every message about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Path as it was given or found, or `-`.
    pub file: String,
    /// Its number in the file, from 1, without blank documents.
    pub document: usize,
    /// The file holds only one.
    alone: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.file == "-" { "standard input" } else { &self.file };
        if self.alone { f.write_str(file) } else { write!(f, "{file} (document {})", self.document) }
    }
}

/// One object as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Where.
    pub place: Place,
    /// The object.
    pub value: Value,
}

/// Everything that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input {
    /// In the order of the arguments; folders by name.
    pub objects: Vec<Object>,
    /// What could not be read, and why; one line each.
    pub unreadable: Vec<String>,
    /// Documents in folders that are no Kubernetes objects.
    pub passed_over: Vec<String>,
}

/// Reads every path: a file, a folder with all its .yaml, .yml and .json files, `-` for `stdin`.
pub fn read(paths: &[PathBuf], stdin: &mut impl io::Read) -> Input {
    let mut input = Input::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            match stdin.read_to_string(&mut text) {
                Ok(_) => input.add("-", &text, true),
                Err(error) => input.unreadable.push(format!("standard input: {error}")),
            }
        } else if path.is_dir() {
            let before = input.unreadable.len();
            let mut files = Vec::new();
            walk(path, &mut files, &mut input.unreadable);
            if files.is_empty() && input.unreadable.len() == before {
                input.unreadable.push(format!("{}: no .yaml, .yml or .json file in this folder", path.display()));
            }
            for read in files.par_iter().map(|file| Input::of_file(file, false)).collect::<Vec<_>>() {
                input.append(read);
            }
        } else {
            input.append(Input::of_file(path, true));
        }
    }
    input
}

/// Files below a folder, by name. Folders behind links are left out, as in kubectl: they may lead in
/// a circle.
fn walk(folder: &Path, files: &mut Vec<PathBuf>, unreadable: &mut Vec<String>) {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> = match entries {
        Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
        Err(error) => return unreadable.push(format!("{}: {error}", folder.display())),
    };
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if !path.is_symlink() {
                walk(&path, files, unreadable);
            }
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
        {
            files.push(path);
        }
    }
}

impl Input {
    fn of_file(path: &Path, named: bool) -> Self {
        let mut input = Self::default();
        match fs::read_to_string(path) {
            Ok(text) => input.add(&path.display().to_string(), &text, named),
            Err(error) => input.unreadable.push(format!("{}: {error}", path.display())),
        }
        input
    }

    fn append(&mut self, more: Self) {
        let Self { objects, unreadable, passed_over } = more;
        self.objects.extend(objects);
        self.unreadable.extend(unreadable);
        self.passed_over.extend(passed_over);
    }

    /// `named`: whoever names a file means all that is in it; a folder may hold other things.
    fn add(&mut self, file: &str, text: &str, named: bool) {
        let documents = yaml::documents(text);
        let alone = documents.len() == 1;
        for (index, document) in documents.into_iter().enumerate() {
            let place = Place { file: file.to_owned(), document: index + 1, alone };
            match document {
                Ok(value) => self.add_object(&place, value, named),
                Err(error) => self.unreadable.push(format!("{place}: is no YAML: {error}")),
            }
        }
    }

    fn add_object(&mut self, place: &Place, value: Value, named: bool) {
        let has = |key| value.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        match (has("apiVersion"), has("kind")) {
            (true, true) => {}
            (false, false) if !named => {
                return self.passed_over.push(format!("{place}: is no Kubernetes object"));
            }
            (_, kind) => {
                let missing = if kind { "apiVersion" } else { "kind" };
                return self.unreadable.push(format!("{place}: is no Kubernetes object: {missing} is missing"));
            }
        }
        // `kubectl get -o yaml` prints the first, the API server's list of our kind is the second.
        let is_list =
            value.get("kind").and_then(Value::as_str).is_some_and(|kind| matches!(kind, "List" | "ResilienceList"));
        match value.get("items").and_then(Value::as_array) {
            Some(items) if is_list => {
                for item in items {
                    self.add_object(place, item.clone(), named);
                }
            }
            _ => self.objects.push(Object { place: place.clone(), value }),
        }
    }
}
