//! Links between pages lead somewhere, as files and in the book; the book has every page.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use super::fences::{fences, pages, prose};
use crate::support::{files, name, read, root};

/// Links of a page: what stands in round brackets behind square ones.
fn links(page: &str) -> Vec<String> {
    let text = prose(page);
    // Of code within a sentence nothing is a link.
    let words: String = text.split('`').enumerate().map(|(n, piece)| if n % 2 == 1 { "x" } else { piece }).collect();
    let targets = words.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

/// The places of a page that a link can name: its headings, as GitHub and mdBook call them alike.
fn places(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(page).lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        let place: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        // A heading that comes again is numbered.
        let numbered = (1..).map(|n| format!("{place}-{n}"));
        let free = std::iter::once(place.clone()).chain(numbered).find(|place| !found.contains(place));
        found.extend(free);
    }
    found
}

/// Where a link leads, from the root of the repository; `None` if it leaves it.
fn target(page: &Path, file: &str) -> Option<PathBuf> {
    let mut place = page.parent()?.to_owned();
    for part in Path::new(file).components() {
        match part {
            Component::ParentDir => {
                if !place.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            part => place.push(part),
        }
    }
    Some(place)
}

fn is_elsewhere(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_of_it() {
    let mut faults = Vec::new();
    let mut count = 0;
    for path in pages(root()) {
        let page = path.strip_prefix(root()).expect("it is below");
        for link in links(&read(page)).into_iter().filter(|link| !is_elsewhere(link)) {
            count += 1;
            let (file, place) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { Some(page.to_owned()) } else { target(page, file) };
            let Some(target) = target.filter(|target| root().join(target).exists()) else {
                faults.push(format!("{}: {link}: there is no such file", page.display()));
                continue;
            };
            if !place.is_empty() && !places(&read(&target)).contains(place) {
                faults.push(format!("{}: {link}: no such heading", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 300, "only {count} links were found");
}

/// The book is made of `docs/` alone.
#[test]
fn no_page_of_the_book_links_to_what_the_book_has_not() {
    let mut faults = Vec::new();
    for page in book() {
        for link in links(&read(&page)).into_iter().filter(|link| !is_elsewhere(link)) {
            let file = link.split('#').next().unwrap_or_default();
            let inside = file.is_empty() || target(&page, file).is_some_and(|target| target.starts_with("docs"));
            let is_folder = root().join(page.with_file_name("")).join(file).is_dir() && !file.is_empty();
            if !inside || is_folder {
                faults.push(format!("{}: {link}: name it as code instead, or link to a page", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Every page below `docs/`, from the root of the repository.
fn book() -> Vec<PathBuf> {
    let folders = ["docs", "docs/warnings", "docs/adr"].into_iter();
    let all = folders
        .flat_map(|folder| files(folder, ".md").into_iter().map(move |path| Path::new(folder).join(name(&path))));
    all.filter(|page| page != Path::new("docs/SUMMARY.md")).collect()
}

#[test]
fn the_summary_names_every_page_once_and_by_its_own_title() {
    let summary = read("docs/SUMMARY.md");
    let entry = |line: &str| {
        let (title, link) = line.trim_start().strip_prefix("- ").unwrap_or(line).strip_prefix('[')?.split_once("](")?;
        Some((title.to_owned(), Path::new("docs").join(link.strip_suffix(')')?)))
    };
    let entries: Vec<(String, PathBuf)> = summary.lines().filter_map(entry).collect();
    let named: BTreeSet<&PathBuf> = entries.iter().map(|(_, page)| page).collect();
    assert_eq!(named.len(), entries.len(), "a page is there twice");
    let pages = book();
    for page in &pages {
        assert!(named.contains(page), "docs/SUMMARY.md does not name {}", page.display());
    }
    for (title, page) in &entries {
        assert!(pages.contains(page), "docs/SUMMARY.md names {}, which is not there", page.display());
        let heading = read(page).lines().next().unwrap_or_default().trim_start_matches("# ").replace('`', "");
        assert_eq!(*title, heading, "docs/SUMMARY.md: the title of {}", page.display());
    }
}

#[test]
fn no_page_of_the_book_draws_by_a_script() {
    // mdBook shows such a block as text.
    for page in book() {
        let drawn = fences(&read(&page)).into_iter().find(|fence| fence.language == "mermaid");
        assert!(
            drawn.is_none(),
            "{}:{}: draw it as SVG or as text",
            page.display(),
            drawn.map_or(0, |fence| fence.line)
        );
    }
}
