//! Links of a folder of HTML pages. In: the folder. Out: those that lead to no file of it, or to no place on its
//! page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// A page: where it lies, and its text.
type Pages = BTreeMap<PathBuf, String>;

/// Every link that leads nowhere, with its page. Links to other sites are not followed.
///
/// # Errors
/// When the folder cannot be read, or has no pages.
pub(super) fn broken_links(folder: &Path) -> Result<Vec<String>> {
    let mut pages = Pages::new();
    gather(folder, &mut pages)?;
    anyhow::ensure!(pages.len() > 10, "only {} pages are in {}", pages.len(), folder.display());
    let places: BTreeMap<&Path, BTreeSet<&str>> =
        pages.iter().map(|(path, text)| (path.as_path(), values(text, " id=\"").collect())).collect();
    let mut broken = Vec::new();
    for (path, text) in &pages {
        // What stands for a page that is not there knows no folder of its own, and all pages in one repeat links
        // from where they were.
        if path.file_name().is_some_and(|name| name == "404.html" || name == "print.html") {
            continue;
        }
        for link in values(text, " href=\"").chain(values(text, " src=\"")).collect::<BTreeSet<_>>() {
            if link.contains("://") || ["mailto:", "data:"].iter().any(|start| link.starts_with(start)) {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { beside(path, file) };
            let there = match places.get(target.as_path()) {
                Some(places) => place.is_empty() || places.contains(place),
                None => place.is_empty() && target.is_file(),
            };
            if !there {
                broken.push(format!("{}: {link}", path.strip_prefix(folder).unwrap_or(path).display()));
            }
        }
    }
    Ok(broken)
}

/// What an attribute is, wherever it stands.
fn values<'a>(text: &'a str, attribute: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next())
}

/// The file that a page means by a relative path.
fn beside(page: &Path, path: &str) -> PathBuf {
    let mut target = page.parent().unwrap_or(page).to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                target.pop();
            }
            Component::CurDir => {}
            part => target.push(part),
        }
    }
    target
}

fn gather(folder: &Path, pages: &mut Pages) -> Result<()> {
    let unreadable = || format!("{} cannot be read", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.is_dir() {
            gather(&path, pages)?;
        } else if path.extension().is_some_and(|end| end == "html") {
            let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_no_page_and_one_to_no_place_on_it_are_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        for number in 0..12 {
            fs::write(folder.path().join(format!("{number}.html")), "<h1 id=\"head\">").unwrap();
        }
        fs::write(folder.path().join("a.png"), "").unwrap();
        let links = "<a href=\"../1.html#head\"></a><a href=\"../1.html#gone\"></a><a href=\"../none.html\"></a>\
                     <img src=\"../a.png\"><a href=\"https://example.com/none\"></a><a href=\"#none\"></a>";
        fs::write(folder.path().join("deep/page.html"), links).unwrap();
        let broken = broken_links(folder.path()).unwrap();
        assert_eq!(broken, ["deep/page.html: #none", "deep/page.html: ../1.html#gone", "deep/page.html: ../none.html"]);
    }
}
