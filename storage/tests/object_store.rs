//! An object store, against a server that speaks the protocol of S3 on this host.
#![cfg(feature = "object-store")]

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use millstream_storage::{Location, Storage, StorageError};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

mod conformance;

const BUCKET: &str = "checkpoints";
/// By this variable, this test program finds the server, as the one of its children that is to run.
const ENDPOINT: &str = "MILLSTREAM_TEST_ENDPOINT";
const KEY: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// Serves a folder, whose folders are the buckets, until this process ends. Returns the address.
fn serve(folder: &Path) -> String {
    std::fs::create_dir(folder.join(BUCKET)).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
    builder.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = builder.build();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((connection, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
    });
    format!("http://{address}")
}

/// Runs a test of this program in a process of its own, which has this environment.
fn run(test: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

#[track_caller]
fn ran(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("it was so"), "{said}{errors}");
}

#[test]
fn a_bucket_is_a_storage() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = serve(folder.path());
    ran(&run("child_uses_a_bucket", &[KEY[0], KEY[1], (ENDPOINT, &endpoint)]));
}

#[test]
fn a_wrong_key_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = serve(folder.path());
    let wrong = ("AWS_ACCESS_KEY_ID", "another");
    ran(&run("child_is_refused", &[wrong, KEY[1], (ENDPOINT, &endpoint)]));
}

#[test]
fn an_endpoint_that_does_not_answer_is_said() {
    // Bound, and closed again: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{address}");
    ran(&run("child_finds_nobody", &[KEY[0], KEY[1], (ENDPOINT, &endpoint)]));
}

/// The storage that a child was told of; `None` where this is no child.
fn told_of(prefix: &str) -> Option<std::sync::Arc<dyn Storage>> {
    let endpoint = std::env::var(ENDPOINT).ok()?;
    let location = format!("s3://{BUCKET}{prefix}?endpoint={endpoint}&region=us-east-1");
    Some(location.parse::<Location>().unwrap().storage().unwrap())
}

#[test]
fn child_uses_a_bucket() {
    let (Some(inside), Some(whole)) = (told_of("/jobs/one"), told_of("")) else { return };
    conformance::check(&*inside);
    assert_eq!(inside.title("a/b"), "s3://checkpoints/jobs/one/a/b");

    // Prefixes keep jobs apart, also where one's name begins with the other's.
    let other = told_of("/jobs/one-more").unwrap();
    other.put("x", b"1").unwrap();
    assert!(inside.get("x").unwrap_err().is_not_found());
    assert!(inside.list("").unwrap().iter().all(|file| file.path != "x"));
    assert_eq!(whole.get("jobs/one-more/x").unwrap(), b"1");
    let all = whole.list("").unwrap();
    assert!(all.iter().any(|file| file.path == "jobs/one-more/x"), "{all:?}");

    // A long file goes in parts, and a listing in pages.
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n % 253) as u8).collect();
    let mut local = tempfile::NamedTempFile::new().unwrap();
    local.write_all(&bytes).unwrap();
    inside.copy_from_local(local.path(), 19_999_999, "long").unwrap();
    assert_eq!(inside.len("long").unwrap(), 19_999_999);
    assert!(inside.get("long").unwrap() == bytes[..19_999_999]);
    assert!(inside.read_range("long", 8_388_600, 100).unwrap() == bytes[8_388_600..8_388_700]);
    for n in 0..1_100 {
        inside.put(&format!("many/{n}"), b"").unwrap();
    }
    assert_eq!(inside.list("many").unwrap().len(), 1_100);
    inside.delete_folder("many").unwrap();
    assert_eq!(inside.list("many").unwrap(), []);
    println!("it was so");
}

#[test]
fn child_is_refused() {
    let Some(storage) = told_of("") else { return };
    let error = storage.put("x", b"1").unwrap_err();
    assert!(matches!(error, StorageError::Remote { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("s3://checkpoints/x: cannot write it; give the access key"), "{text}");
    println!("it was so");
}

#[test]
fn child_finds_nobody() {
    let Some(storage) = told_of("") else { return };
    let text = storage.get("x").unwrap_err().to_string();
    assert!(text.contains("cannot read it; is the endpoint right"), "{text}");
    println!("it was so");
}
