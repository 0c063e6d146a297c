//! What clients ask, under `/v1`.
//!
//! # Invariants
//! - Where there is a secret, nothing of a request but its head is read before its token is checked.
//! - Requests, answers to wait for, and connections are bounded.

use crate::artifacts::UploadError;
use crate::driver::Driver;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use millstream_control::client::{Problem, Submission, Submitted};
use millstream_control::secret::Token;
use millstream_protocol::cluster::{ArtifactId, Event, JobId, JobSpec, JobView, Refusal};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const CONNECTIONS_MAX: usize = 256;
const UPLOADS_MAX: usize = 4;
const BODY_BYTES_MAX: usize = 1 << 20;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many losses of members are borne if a submission does not say it.
const RESTART_DEFAULT: &str = "rate 10 10m 0s";

#[derive(Clone)]
struct Shared {
    driver: Driver,
    token: Option<Token>,
    uploads: Arc<Semaphore>,
}

/// Answers clients until it is dropped.
pub(crate) async fn serve(listener: TcpListener, driver: Driver, token: Option<Token>) {
    let shared = Shared { driver, token, uploads: Arc::new(Semaphore::new(UPLOADS_MAX)) };
    let quick = Router::new()
        .route("/v1/jobs", post(submit).get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/stop", post(stop))
        .route("/v1/workers", get(workers))
        .route("/v1/overview", get(overview))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(in_time));
    let routes = Router::new()
        .route("/v1/artifacts/{sha256}", put(upload).head(uploaded))
        .merge(quick)
        .fallback(|| async {
            problem(StatusCode::NOT_FOUND, "there is nothing here; see /v1/jobs")
        })
        .with_state(shared.clone());
    // Around all of them: a stranger is not even told which routes there are, and with which methods.
    let app = Router::new()
        .fallback_service(routes)
        .layer(axum::middleware::from_fn_with_state(shared, authorized));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a client's connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!("a client's connection broke: {error}");
            }
            drop(permit);
        });
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| problem(StatusCode::REQUEST_TIMEOUT, "the request took too long"))
}

async fn authorized(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let allowed = match &shared.token {
        Some(token) => {
            let given = headers.get(header::AUTHORIZATION);
            given.is_some_and(|given| token.matches(given.as_bytes()))
        }
        // Whoever is on this host may ask, but no web page that a browser on it shows.
        None => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            !headers.contains_key(header::ORIGIN) && host.is_some_and(is_loopback)
        }
    };
    if allowed {
        return next.run(request).await;
    }
    match shared.token {
        Some(_) => problem(
            StatusCode::UNAUTHORIZED,
            "the client does not know the cluster's secret; give it with --secret-file",
        ),
        None => problem(StatusCode::FORBIDDEN, "only programs on this host may ask"),
    }
}

/// Whether a request was meant for an address of the loopback interface.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn problem(status: StatusCode, error: impl ToString) -> Response {
    (status, Json(Problem { error: error.to_string() })).into_response()
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::UnknownJob(_) => StatusCode::NOT_FOUND,
        Refusal::Ended { .. } | Refusal::Outdated { .. } | Refusal::NameTaken(_) => {
            StatusCode::CONFLICT
        }
        Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
        Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::NotStored(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(status, refusal)
}

async fn submit(
    State(shared): State<Shared>,
    submission: Result<Json<Submission>, JsonRejection>,
) -> Response {
    let Json(submission) = match submission {
        Ok(submission) => submission,
        Err(rejection) => return problem(rejection.status(), rejection.body_text()),
    };
    if !shared.driver.artifacts.has(&submission.artifact) {
        let error = format!("there is no executable {}; upload it first", submission.artifact);
        return problem(StatusCode::BAD_REQUEST, error);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let submitted = shared.driver.new_job_id().and_then(|id| {
        let spec = JobSpec {
            id: id.clone(),
            name: submission.name,
            artifact: submission.artifact,
            args: submission.args,
            slots: submission.slots,
            parallelism: submission.parallelism,
            from_checkpoint: submission.from_checkpoint,
            labels: submission.labels,
            restart: submission.restart.unwrap_or_else(|| RESTART_DEFAULT.to_owned()),
            submitted_at_ms: now.as_millis() as u64,
        };
        shared.driver.event(Event::Submit(spec)).map(|()| id)
    });
    match submitted {
        Ok(id) => (StatusCode::CREATED, Json(Submitted { id })).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

async fn jobs(State(shared): State<Shared>) -> Json<Vec<JobView>> {
    Json(shared.driver.show(|cluster| cluster.jobs()))
}

async fn job(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    with_job(&shared, &id, |_| Ok(()))
}

async fn cancel(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    with_job(&shared, &id, |id| shared.driver.event(Event::Cancel(id)))
}

async fn stop(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    with_job(&shared, &id, |id| shared.driver.event(Event::Stop(id)))
}

/// Does something with a job, then shows it.
fn with_job(
    shared: &Shared,
    id: &str,
    deed: impl FnOnce(JobId) -> Result<(), Refusal>,
) -> Response {
    let id = match JobId::new(id) {
        Ok(id) => id,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    if let Err(refusal) = deed(id.clone()) {
        return refused(&refusal);
    }
    match shared.driver.show(|cluster| cluster.job(&id)) {
        Some(job) => Json(job).into_response(),
        None => refused(&Refusal::UnknownJob(id)),
    }
}

async fn workers(State(shared): State<Shared>) -> Response {
    Json(shared.driver.show(|cluster| cluster.workers())).into_response()
}

async fn overview(State(shared): State<Shared>) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    Json(shared.driver.show(|cluster| cluster.overview(version))).into_response()
}

async fn uploaded(State(shared): State<Shared>, Path(sha256): Path<String>) -> StatusCode {
    match ArtifactId::new(&sha256) {
        Ok(id) if shared.driver.artifacts.has(&id) => StatusCode::OK,
        _ => StatusCode::NOT_FOUND,
    }
}

async fn upload(State(shared): State<Shared>, Path(sha256): Path<String>, body: Body) -> Response {
    let id = match ArtifactId::new(&sha256) {
        Ok(id) => id,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    let Ok(_permit) = shared.uploads.try_acquire() else {
        let error = format!("{UPLOADS_MAX} uploads are under way; try again later");
        return problem(StatusCode::TOO_MANY_REQUESTS, error);
    };
    match shared.driver.artifacts.put(&id, body.into_data_stream()).await {
        Ok(()) => StatusCode::CREATED.into_response(),
        Err(error) => {
            let status = match error {
                UploadError::Size => StatusCode::PAYLOAD_TOO_LARGE,
                UploadError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_REQUEST,
            };
            problem(status, error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_loopback() {
        for host in ["127.0.0.1:7410", "localhost", "localhost:1", "[::1]:7410"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "10.0.0.1:7410", "evil.example:7410", "127.0.0.1.evil.example", "[::2]:1"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
