//! Every call of the table, made by everybody.

use super::house::House;
use crate::http::wire::{Http, Way};
use crate::http::{Asks, Client, router};
use crate::{AgentApi, ErrorCode, Generation, JobId, MachineId, MachineSpec, PaceFrom, Reserve, Role};
use axum::http::{HeaderValue, Method};
use std::sync::Arc;

/// Makes a call and tells whether it got past the gate. What is made of it there is not looked at.
async fn passes(http: &Http, base: &str, method: &Method, path: &str) -> bool {
    let path = path.replace(['{', '}'], "");
    let (status, answer) = http.send(method.clone(), &format!("{base}{path}"), None, None).await.unwrap();
    assert_ne!(status, 404, "{path}");
    let refused = [401, 403].contains(&status);
    assert_eq!(refused, String::from_utf8_lossy(&answer).contains("\"forbidden\""), "{path}: {status}");
    !refused
}

/// What a token of that role may ask for.
fn may(role: Role, asks: Asks) -> bool {
    match asks {
        Asks::Nothing | Asks::View => true,
        Asks::Operate | Asks::WorkerOrOperate => role != Role::View,
        Asks::Admin | Asks::WorkerOrAdmin => role == Role::Admin,
        Asks::Worker => false,
    }
}

#[tokio::test]
async fn every_call_passes_whom_its_row_names_and_nobody_else() {
    let house = House::build().await;
    let table = router::routes(Arc::new(house.stranger())).asked;
    assert!(table.len() >= 60, "{} calls are not all", table.len());
    let (url, tls) = (house.url(), house.authority.client_tls(None));
    for role in [Role::View, Role::Operate, Role::Admin] {
        let token = HeaderValue::from_str(&format!("Bearer {role}")).unwrap();
        let http = Http::new(Way::Tls(tls.clone())).with_token(token);
        for (method, path, asks) in &table {
            assert_eq!(passes(&http, &url, method, path).await, may(role, *asks), "{role}: {method} {path}");
        }
    }
    let signed = house.authority.sign();
    house.book.knows(&signed, "w2");
    let worker = Http::new(Way::Tls(house.authority.client_tls(Some(&signed))));
    let local = Http::new(Way::Unix(house.socket_url().trim_start_matches("unix:").into()));
    let open = Http::new(Way::Tcp);
    for (method, path, asks) in &table {
        let by_workers = !matches!(asks, Asks::Operate | Asks::Admin);
        assert_eq!(passes(&worker, &url, method, path).await, by_workers, "a worker: {method} {path}");
        let here = may(Role::Admin, *asks);
        assert_eq!(passes(&local, "http://localhost", method, path).await, here, "local: {method} {path}");
        assert!(passes(&open, &format!("http://{}", house.open), method, path).await, "{method} {path}");
    }
}

#[tokio::test]
async fn whoever_shows_nothing_passes_nowhere() {
    let house = House::build().await;
    let table = router::routes(Arc::new(house.stranger())).asked;
    let stranger = Http::new(Way::Tls(house.authority.client_tls(None)));
    for (method, path, asks) in table {
        let url = format!("{}{}", house.url(), path.replace(['{', '}'], ""));
        let (status, _) = stranger.send(method.clone(), &url, None, None).await.unwrap();
        assert_eq!(status == 401, asks != Asks::Nothing, "{method} {path}");
    }
    for (method, path) in [(Method::GET, "/"), (Method::GET, "/v1/nothing"), (Method::PUT, "/v1/worker")] {
        let url = format!("{}{path}", house.url());
        assert_eq!(stranger.send(method, &url, None, None).await.unwrap().0, 401, "{path}");
    }
}

#[tokio::test]
async fn a_refusal_says_which_role_would_do() {
    let house = House::build().await;
    let refusal = house.by_token("view").worker_uncordon().await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Forbidden);
    assert!(refusal.message.contains("the token view (view) may not"), "{refusal}");
    assert!(refusal.message.ends_with("the role operate"), "{refusal}");
    let refusal = house.worker("w2").worker_uncordon().await.unwrap_err();
    assert!(refusal.message.starts_with("worker w2 may not"), "{refusal}");
    let local = Client::new(&house.socket_url()).unwrap();
    let refusal = local.peer_boot(JobId::fresh()).await.unwrap_err();
    assert!(refusal.message.contains("which workers ask of each other"), "{refusal}");
}

#[tokio::test]
async fn a_worker_speaks_for_itself_only() {
    let house = House::build().await;
    let refusal = house.worker("w3").peer_reserve(reserve("w2")).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Forbidden, "{refusal}");
    assert!(refusal.message.contains("is led by worker w2, not by w3"), "{refusal}");
    let passed = house.worker("w2").peer_reserve(reserve("w2")).await.unwrap_err();
    assert_eq!(passed.code, ErrorCode::VersionMismatch, "it is answered with an empty list: {passed}");
    let pace = PaceFrom { from: "w2".parse().unwrap(), bytes_per_s: None };
    let refusal = house.worker("w3").peer_pace(pace.clone()).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Forbidden, "{refusal}");
    assert!(!house.worker("w2").peer_pace(pace).await.is_err_and(|error| error.code == ErrorCode::Forbidden));
}

/// What a source asks first.
fn reserve(from: &str) -> Reserve {
    Reserve {
        job: JobId::fresh(),
        from: from.parse().unwrap(),
        api_version: crate::API_VERSION,
        machine: MachineId::fresh(),
        machine_name: "web".parse().unwrap(),
        machine_generation: Generation(2),
        spec: MachineSpec::process("true", [""; 0]),
        created_at_ms: 1,
        volumes: Vec::new(),
        undo_unhealthy: false,
    }
}

#[tokio::test]
async fn a_call_that_came_in_through_no_entrance_is_refused() {
    let house = House::build().await;
    let request = axum::http::Request::get("/v1/worker").body(axum::body::Body::empty()).unwrap();
    let mut router = router(Arc::new(house.stranger()));
    let response = tower_service::Service::call(&mut router, request).await.unwrap();
    assert_eq!(response.status(), 401);
}
