//! What clients without a token ask a coordinator, and what they may be told.

use anyhow::{Context, Result, bail, ensure};
use millstream_cluster_tests::Stranger;
use rand::Rng;
use rand::seq::SliceRandom;

/// All that such a client is told.
const REFUSAL: &str =
    r#"{"error":"the client does not know the cluster's secret; give it with --secret-file"}"#;
/// Of HTTP/2, and its frames for empty settings and the headers of a request.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS_FRAME: u8 = 1;
const END_HEADERS: u8 = 4;

/// A request of any route, right but for its token.
pub fn rest(stranger: &mut Stranger<'_>, host: &str, job: &str) -> Vec<u8> {
    let zeros = "0".repeat(64);
    let submission =
        format!(r#"{{"name": "theirs", "artifact": "{zeros}", "slots": 1, "args": []}}"#);
    let routes = [
        ("POST", "/v1/jobs".to_owned(), submission.as_str()),
        ("GET", "/v1/jobs".to_owned(), ""),
        ("GET", format!("/v1/jobs/{job}"), ""),
        ("POST", format!("/v1/jobs/{job}/cancel"), ""),
        ("POST", format!("/v1/jobs/{job}/stop"), ""),
        ("GET", "/v1/workers".to_owned(), ""),
        ("GET", "/v1/overview".to_owned(), ""),
        ("PUT", format!("/v1/artifacts/{zeros}"), "#!/bin/sh\nexit\n"),
        ("HEAD", format!("/v1/artifacts/{zeros}"), ""),
        ("GET", "/".to_owned(), ""),
        // Nobody may find out what else there is.
        ("PATCH", "/v1/jobs".to_owned(), ""),
    ];
    let tokens = [
        String::new(),
        format!("authorization: Bearer {zeros}\r\n"),
        "authorization: Bearer \r\n".to_owned(),
        "authorization: Basic OnNlY3JldA==\r\n".to_owned(),
    ];
    let rng = stranger.rng();
    let (method, path, body) = &routes[rng.gen_range(0..routes.len())];
    let token = tokens.choose(rng).map_or("", String::as_str);
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{token}content-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The first bytes of a call that a worker makes.
pub fn grpc() -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/millstream.control.v1.Coordinator/Connect"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        // As they are, not to be remembered: HPACK (RFC 7541), 6.2.2.
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = HTTP2.to_vec();
    bytes.extend_from_slice(&[0, 0, block.len() as u8, HEADERS_FRAME, END_HEADERS, 0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    bytes
}

/// Looks whether answers say no more than that the client is refused.
///
/// # Errors
/// If one says more.
pub fn check_refused(answers: &[u8]) -> Result<()> {
    let mut rest = std::str::from_utf8(answers).context("an answer is no text")?;
    while !rest.is_empty() {
        let (head, behind) = rest.split_once("\r\n\r\n").context("an answer without an end")?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        ensure!(status.starts_with('4'), "a stranger is answered: {rest}");
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            match name {
                "date" | "content-length" => {}
                "content-type" if value == "application/json" => {}
                "connection" if value == "close" => {}
                _ => bail!("a stranger is told {line}"),
            }
        }
        // There is none if it was only asked for the head.
        rest = behind.strip_prefix(REFUSAL).unwrap_or(behind);
        ensure!(rest.is_empty() || rest.starts_with("HTTP/1."), "a stranger is told {behind}");
    }
    Ok(())
}

#[test]
fn whatever_is_told_beyond_a_refusal_is_noticed() {
    let head =
        |status: &str| format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\r\n");
    for refused in [head("401 Unauthorized") + REFUSAL, head("400 Bad Request"), String::new()] {
        check_refused(refused.as_bytes()).unwrap();
        check_refused((refused.clone() + &refused).as_bytes()).unwrap();
    }
    for told in [
        head("200 OK") + "[]",
        head("401 Unauthorized") + REFUSAL + "more",
        head("404 Not Found") + "there is no job 7",
        "HTTP/1.1 401 Unauthorized\r\nserver: millstream 0.1\r\n\r\n".to_owned(),
        "anything".to_owned(),
    ] {
        check_refused(told.as_bytes()).unwrap_err();
    }
}
