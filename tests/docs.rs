//! Every warning has its page, and every page its warning.

use resilience_operator::api::warnings::Code;

use crate::support::{files, name, read};

#[test]
fn every_warning_code_has_a_page_that_says_what_why_what_to_do_and_how_we_know() {
    for code in Code::ALL {
        let page = read(format!("docs/warnings/{code}.md"));
        assert!(page.starts_with(&format!("# {code}: ")), "{code}: the title starts with the code");
        for heading in ["## What happens", "## Why", "## What to do", "## Evidence"] {
            assert!(page.contains(heading), "{code}: no «{heading}»");
        }
    }
}

#[test]
fn every_page_has_a_code_and_the_index_lists_them_all() {
    let index = read("docs/warnings/README.md");
    for page in files("docs/warnings", ".md").iter().map(|path| name(path)).filter(|page| page != "README.md") {
        assert!(Code::ALL.iter().any(|code| page == format!("{code}.md")), "{page}: no such code");
        assert!(index.contains(&format!("]({page})")), "README.md does not list {page}");
    }
}
