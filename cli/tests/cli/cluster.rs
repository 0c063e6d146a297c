//! Clusters: a coordinator and a worker as processes, and what a client is told.

use crate::program::{Running, run, run_in};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What an idle coordinator and a worker may take together.
const RESIDENT_KIB_MAX: u64 = 60 * 1024;

/// A coordinator, and where it listens to workers and to clients.
fn coordinator(folder: &Path) -> (Running, String, String) {
    let mut coordinator =
        Running::start(folder, "coordinator --bind 127.0.0.1:0 --rest 127.0.0.1:0");
    let message = coordinator.message();
    let after = |start: &str| {
        let rest = message.split(start).nth(1).unwrap_or_else(|| panic!("{message}"));
        rest.split([',', '\n']).next().unwrap().to_owned()
    };
    let (workers, clients) = (after("workers at "), after("http://"));
    (coordinator, workers, clients)
}

fn resident_kib(process: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_job_that_fails_on_a_cluster_says_so_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let (coordinator, workers, clients) = coordinator(folder.path());
    let mut worker = Running::start(
        folder.path(),
        &format!("worker --coordinator {workers} --slots 2 --name host-1 --core-lease-dir cores"),
    );
    assert!(worker.message().contains("The worker host-1 offers 2 slots"));
    let job = folder.path().join("job");
    fs::write(&job, "#!/bin/sh\necho \"$1\"\nexit 3\n").unwrap();
    fs::set_permissions(&job, PermissionsExt::from_mode(0o755)).unwrap();
    let submit = format!("submit ./job --rest {clients} --slots 2 --restart none -- hello");
    let ended = run_in(folder.path(), &submit).refused(1, &["FAILED", "exit status: 3"]);
    let id = ended.stdout.trim();
    let listed = run(&format!("list --rest {clients}")).succeeded().stdout;
    assert!(listed.contains(id) && listed.contains("FAILED"), "{listed}");
    let status = run(&format!("status {id} --rest {clients} --json")).succeeded();
    assert_eq!(status.json()[0]["status"], "FAILED");
    let log = folder.path().join("millstream-worker/jobs").join(id).join("stdout.log");
    assert_eq!(fs::read_to_string(log).unwrap(), "hello\n");
    run(&format!("cancel {id} --rest {clients}")).refused(2, &["has ended already"]);
    run(&format!("stop none --rest {clients}")).refused(2, &["there is no job none"]);
    let resident = resident_kib(&coordinator) + resident_kib(&worker);
    assert!(resident < RESIDENT_KIB_MAX, "{resident} KiB");
    worker.signal("TERM");
    worker.ended().succeeded();
    coordinator.signal("TERM");
    coordinator.ended().succeeded();
}

#[test]
fn a_job_that_is_to_go_on_from_nothing_fails_instead_of_beginning_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (coordinator, workers, clients) = coordinator(folder.path());
    let mut worker = Running::start(
        folder.path(),
        &format!("worker --coordinator {workers} --slots 1 --name host-1 --core-lease-dir cores"),
    );
    worker.message();
    let submit = format!(
        "submit {} --rest {clients} --restart none --from-checkpoint ../none/data/checkpoints -- \
         demo --duration 1s",
        env!("CARGO_BIN_EXE_millstream")
    );
    let words = ["FAILED", "../none/data/checkpoints holds no checkpoint to go on from"];
    run_in(folder.path(), &submit).refused(1, &words);
    worker.signal("TERM");
    worker.ended().succeeded();
    coordinator.signal("TERM");
    coordinator.ended().succeeded();
}

#[test]
fn what_a_client_needs_of_the_secret_takes_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), "token").refused(2, &["there is no secret", "--secret-file"]);
    let secret = folder.path().join("secret");
    fs::write(&secret, "a secret that is long enough").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let shown = run_in(folder.path(), "token --secret-file secret").succeeded().stdout;
    assert!(shown.starts_with("Authorization: Bearer ") && !shown.contains("long"), "{shown}");
}

#[test]
fn what_other_hosts_can_reach_takes_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["0.0.0.0 can be reached from other hosts", "--secret-file", "openssl rand"];
    run_in(folder.path(), "coordinator --bind 0.0.0.0:0 --rest 127.0.0.1:0").refused(2, &words);
    fs::write(folder.path().join("secret"), "a secret that is long enough").unwrap();
    fs::set_permissions(folder.path().join("secret"), PermissionsExt::from_mode(0o644)).unwrap();
    let words = ["can be read by others (mode 644)", "chmod 600"];
    run_in(folder.path(), "coordinator --secret-file secret").refused(2, &words);
    run_in(folder.path(), "worker --bind 0.0.0.0").refused(2, &["--bind"]);
    let words = ["10.1.2.3 can be reached from other hosts", "--secret-file"];
    run_in(folder.path(), "worker --coordinator 10.1.2.3:7411 --data-dir w").refused(2, &words);
    run_in(folder.path(), "worker --name a/b").refused(2, &["no name of a worker"]);
}

#[test]
fn settings_come_from_a_file_and_a_coordinator_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("worker.toml"), "slots = 0\n").unwrap();
    run_in(folder.path(), "worker --config worker.toml").refused(2, &["offer one slot at least"]);
    fs::write(folder.path().join("worker.toml"), "slot = 1\n").unwrap();
    run_in(folder.path(), "worker --config worker.toml").refused(2, &["worker.toml", "slot"]);
    let words = ["the coordinator at http://127.0.0.1:1 does not answer", "does it run there?"];
    run("list --rest 127.0.0.1:1").refused(2, &words);
}
