//! A section of the changelog, as the words of a release.

/// The section of what is not released.
pub(super) const UNRELEASED: &str = "Unreleased";

/// What stands under the heading of a version, which may have a date behind it; none when there is nothing.
pub(super) fn of(changelog: &str, version: &str) -> Option<String> {
    let is_heading = |line: &str| {
        let rest = line.strip_prefix("## ").and_then(|rest| rest.strip_prefix(version));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let section = changelog.lines().skip_while(|line| !is_heading(line)).skip(1);
    let text = section.take_while(|line| !line.starts_with("## ")).collect::<Vec<_>>().join("\n");
    let text = text.trim();
    (!text.is_empty()).then(|| format!("{text}\n"))
}

/// Links to files of the repository, as a page elsewhere needs them.
pub(super) fn with_whole_links(notes: &str, repository: &str, version: &str) -> String {
    let whole = |(number, part): (usize, &str)| {
        let link = part.split(')').next().unwrap_or_default();
        if number == 0 || link.starts_with('#') || link.contains("://") {
            part.to_owned()
        } else {
            format!("https://github.com/{repository}/blob/v{version}/{part}")
        }
    };
    notes.split("](").enumerate().map(whole).collect::<Vec<_>>().join("](")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGELOG: &str = "# Changelog\n\nWords.\n\n## Unreleased\n\n## 0.2.0 (2027-01-31)\n\nSecond.\n\n- A [page](docs/a.md).\n\n## 0.2\n\n- No version.\n\n## 0.1.0\n\n- First.\n";

    #[test]
    fn a_version_has_its_own_words_with_or_without_a_date() {
        assert_eq!(of(CHANGELOG, "0.2.0").as_deref(), Some("Second.\n\n- A [page](docs/a.md).\n"));
        assert_eq!(of(CHANGELOG, "0.1.0").as_deref(), Some("- First.\n"));
        assert_eq!(of(CHANGELOG, UNRELEASED), None);
        assert_eq!(of(CHANGELOG, "0.3.0"), None);
    }

    #[test]
    fn links_of_the_repository_become_whole_and_others_stay() {
        let notes = "[a](docs/a.md), [b](https://example.com/b), [c](#c)";
        let whole = "[a](https://github.com/o/n/blob/v1.0.0/docs/a.md), [b](https://example.com/b), [c](#c)";
        assert_eq!(with_whole_links(notes, "o/n", "1.0.0"), whole);
    }
}
