//! Several VirtualServices for one host. The names run against the ages, so that no order of names passes for
//! an order of ages.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Routes;

/// What the two VirtualServices answer.
const OWNER: i32 = 461;
const OTHER: i32 = 462;

pub(super) fn same_namespace(routes: &Routes) -> Result<()> {
    let home = &routes.stage.kubectl;
    routes.answering(home, "b", OWNER, &[])?;
    routes.answering(home, "a", OTHER, &[])?;
    routes.expect(OWNER, OWNER)?;
    home.run(&["delete", "virtualservice", "b", "--wait"])?;
    routes.answering(home, "b", OWNER, &[])?;
    routes.expect(OTHER, OTHER)?;
    // Whole: what the older does not speak of, the younger does not add.
    let only = |name: &str, path: &str| {
        let http = json!([{"match": [{"uri": {"prefix": path}}], "route": routes.stage.to("httpbin")}]);
        routes.stage.virtual_service(name, "httpbin", &http)
    };
    routes.stage.write(&[only("a", "/post"), only("b", "/get")])?;
    routes.expect(404, 404)
}

pub(super) fn both_public(routes: &Routes) -> Result<()> {
    let (home, away) = (&routes.stage.kubectl, routes.stage.away()?);
    let older = routes.answering(home, "b", OWNER, &[])?;
    let younger = routes.answering(away, "a", OTHER, &[])?;
    ensure!(older < younger, "written in the wrong order: {older}, {younger}");
    routes.expect(OWNER, OWNER)?;
    routes.sweep()?;
    routes.answering(away, "b", OTHER, &[])?;
    routes.answering(home, "a", OWNER, &[])?;
    routes.expect(OTHER, OTHER)
}

pub(super) fn private(routes: &Routes) -> Result<()> {
    routes.answering(&routes.stage.kubectl, "a", OWNER, &[])?;
    routes.answering(routes.stage.away()?, "b", OTHER, &["."])?;
    routes.expect(OWNER, OTHER)
}

pub(super) fn by_name(routes: &Routes) -> Result<()> {
    let home = &routes.stage.kubectl;
    routes.answering(home, "a", OWNER, &[])?;
    routes.answering(routes.stage.away()?, "b", OTHER, &[home.current_namespace()])?;
    routes.expect(OTHER, OWNER)
}

pub(super) fn third(routes: &Routes) -> Result<()> {
    let home = &routes.stage.kubectl;
    routes.answering(&routes.third, "b", OTHER, &["*"])?;
    routes.answering(home, "a", OWNER, &[])?;
    routes.expect(OTHER, OTHER)?;
    routes.sweep()?;
    routes.answering(home, "b", OWNER, &[])?;
    routes.answering(&routes.third, "a", OTHER, &["*"])?;
    routes.expect(OWNER, OWNER)
}
