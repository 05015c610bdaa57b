//! Start and readiness: what is missing is named, waited for, and never a reason to end.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use resilience_operator::{
    controller,
    runtime::{
        admin::{self, Health},
        metrics::Metrics,
        wait_for_crds,
    },
};
use serde_json::json;
use tokio::time::timeout;
use tower::ServiceExt as _;

async fn ask(health: &Arc<Health>, path: &str) -> (u16, String) {
    let router = admin::router(health.clone(), Arc::new(Metrics::default()));
    let answer = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Serves every kind that is needed, Istio's only once `installed`.
fn client(installed: Arc<AtomicBool>) -> Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let path = request.uri().path().to_owned();
        let there = !path.contains("istio") || installed.load(Ordering::Relaxed);
        async move {
            let resources: Vec<_> =
                ["resiliences", "destinationrules", "virtualservices", "sidecars", "serviceentries"]
                    .map(|name| json!({"name": name, "singularName": "", "namespaced": true, "kind": "K", "verbs": []}))
                    .into();
            let (code, body) = if there {
                (200, json!({"groupVersion": "g/v", "resources": resources}))
            } else {
                (
                    404,
                    json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no"}),
                )
            };
            Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(body.to_string())).unwrap())
        }
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_missing_kind_is_not_ready_but_alive_and_heals_without_a_restart() {
    let (health, installed) = (Arc::new(Health::default()), Arc::new(AtomicBool::new(false)));
    let client = client(installed.clone());
    let waiting = {
        let health = health.clone();
        tokio::spawn(async move { wait_for_crds::wait(&client, &controller::NEEDED, &health).await })
    };
    let named = async {
        while ask(&health, "/readyz").await.0 == 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), named).await.expect("readiness never went");
    let (_, why) = ask(&health, "/readyz").await;
    assert!(why.contains("destinationrules.networking.istio.io/v1: not served; install Istio"), "{why}");
    assert!(!why.contains("resiliences"), "{why}");
    assert_eq!(ask(&health, "/livez").await.0, 200);

    installed.store(true, Ordering::Relaxed);
    timeout(Duration::from_secs(5), waiting).await.expect("still waiting").unwrap();
    assert_eq!(ask(&health, "/readyz").await.0, 200);
}

#[tokio::test]
async fn metrics_are_served() {
    let (code, text) = ask(&Arc::new(Health::default()), "/metrics").await;
    assert_eq!(code, 200);
    assert!(text.contains("resilience_operator_build_info{version="), "{text}");
}
