//! A coordinator and workers as they are, with the processes of a job that keeps to the contract.

mod stage;

use millstream_protocol::EndStatus;
use millstream_protocol::cluster::JobStatus;
use stage::{JOBS_KEPT, LOG_BYTES_MAX, Stage, secret};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn a_job_runs_on_two_workers_to_its_end() {
    let mut stage = Stage::new(None);
    stage.join("a", 2);
    stage.join("b", 2);
    let job = stage.submit("finish", 4);
    let view = stage.until(&job, JobStatus::Finished);
    assert_eq!(view.end, Some(EndStatus::Finished));
    assert_eq!(view.members.iter().map(|one| one.slots).collect::<Vec<_>>(), [2, 2]);
    stage.wait("its slots are free again", |client| client.overview().unwrap().slots_used == 0);
}

#[test]
fn a_process_that_is_killed_is_replaced_and_the_others_stay() {
    let mut stage = Stage::new(secret("a secret of the cluster"));
    stage.join("a", 2);
    stage.join("b", 2);
    let job = stage.submit("forever", 4);
    let before = stage.until(&job, JobStatus::Running);
    stage::kill(before.members[1].pid.unwrap());
    stage.wait("a new generation works", |client| {
        let view = client.job(&job).unwrap();
        view.generation > before.generation && view.status == JobStatus::Running
    });
    let after = stage.client().job(&job).unwrap();
    assert_eq!(after.members[0].pid, before.members[0].pid);
    assert_ne!(after.members[1].pid, before.members[1].pid);
    assert!(after.error.unwrap().contains("SIGKILL"));
}

#[test]
fn a_lost_worker_is_replaced_by_another() {
    let mut stage = Stage::new(None);
    stage.join("a", 2);
    stage.join("b", 2);
    let job = stage.submit("forever", 4);
    let before = stage.until(&job, JobStatus::Running);
    stage.join("c", 2);
    let lost = before.members[1].worker.to_string();
    stage.lose(&lost);
    stage.wait("another worker has its place", |client| {
        let view = client.job(&job).unwrap();
        view.status == JobStatus::Running && view.members[1].worker.as_str() == "c"
    });
    assert_eq!(stage.client().job(&job).unwrap().members[0].pid, before.members[0].pid);
}

#[test]
fn a_coordinator_that_was_killed_finds_its_jobs_and_what_runs() {
    let mut stage = Stage::new(secret("a secret of the cluster"));
    stage.join("a", 2);
    stage.join("b", 2);
    let job = stage.submit("forever", 4);
    let before = stage.until(&job, JobStatus::Running);
    stage.restart_coordinator();
    let after = stage.until(&job, JobStatus::Running);
    assert_eq!(after.members, before.members, "the same processes");
    assert_eq!(after.generation, before.generation);
    stage.client().stop(&job).unwrap();
    assert_eq!(stage.until(&job, JobStatus::Finished).end, Some(EndStatus::Stopped));
}

#[test]
fn how_a_job_has_ended_is_heard_after_the_coordinator_was_away() {
    for says_nothing_at_first in [false, true] {
        let mut stage = Stage::new(None);
        stage.join("a", 1);
        let job = stage.submit("forever", 1);
        let pid = stage.until(&job, JobStatus::Running).members[0].pid.unwrap();
        stage.stop_coordinator();
        stage::kill(pid);
        if says_nothing_at_first {
            stage.hear_a_worker_and_die();
        }
        stage.start_coordinator();
        stage.wait("it runs again", |client| {
            let view = client.job(&job).unwrap();
            view.status == JobStatus::Running && view.generation == 2
        });
        let why = stage.client().job(&job).unwrap().error.unwrap();
        assert!(why.contains("SIGKILL"), "{why}");
    }
}

#[test]
fn a_job_waits_for_slots_and_goes_on_when_a_worker_joins() {
    let mut stage = Stage::new(None);
    stage.join("a", 2);
    let job = stage.submit("forever", 3);
    let waits = stage.client().job(&job).unwrap().waits_for.unwrap();
    assert!(waits.starts_with("1 more slots: it wants 3 in all, and 2 are free"), "{waits}");
    stage.join("b", 2);
    stage.until(&job, JobStatus::Running);
    stage.client().cancel(&job).unwrap();
    stage.until(&job, JobStatus::Canceled);
}

#[test]
fn a_job_that_crashes_again_and_again_fails() {
    let mut stage = Stage::new(None);
    stage.join("a", 1);
    let job = stage.submit_with("crash", 1, "rate 2 10m 0s");
    let view = stage.until(&job, JobStatus::Failed);
    assert!(view.error.unwrap().contains("exit status: 1"));
}

#[test]
fn who_does_not_know_the_secret_is_refused() {
    let mut stage = Stage::new(secret("a secret of the cluster"));
    stage.join_with("stranger", 1, secret("not the one of the cluster"));
    stage.join("a", 1);
    let names: Vec<_> = stage.client().workers().unwrap();
    assert_eq!(names.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a"]);
    let refused = stage.client_with(None).jobs().unwrap_err().to_string();
    assert!(refused.contains("does not know the cluster's secret"), "{refused}");
    let other = secret("not the one of the cluster");
    assert!(stage.client_with(other).jobs().is_err());
}

#[test]
fn an_executable_with_another_hash_is_refused() {
    let stage = Stage::new(None);
    let mut stream = TcpStream::connect(stage.rest()).unwrap();
    let sha256 = "0".repeat(64);
    let request = format!(
        "PUT /v1/artifacts/{sha256} HTTP/1.1\r\nhost: {}\r\ncontent-length: 4\r\nconnection: \
         close\r\n\r\nevil",
        stage.rest()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("was announced as 000"), "{answer}");
}

/// The number of nobody.
const NOBODY: u32 = 65534;

#[test]
fn what_ended_jobs_have_left_is_cleared_but_for_the_newest() {
    let mut stage = Stage::new(secret("a secret of the cluster"));
    stage.join("a", 1);
    let own = stage.submit_script("echo mine > sink && exit 3", "none");
    stage.until(&own, JobStatus::Failed);
    let jobs: Vec<_> = (0..JOBS_KEPT + 2)
        .map(|_| {
            let job = stage.submit("finish", 1);
            stage.until(&job, JobStatus::Finished);
            job
        })
        .collect();
    let is_there = |job| stage.job_directory("a", job).exists();
    let (old, new) = jobs.split_at(2);
    stage.wait("the older ones are gone", |_| !old.iter().any(is_there));
    assert!(new.iter().all(is_there));
    assert!(stage.job_directory("a", &new[0]).join("stdout.log").exists());
    let own = stage.job_directory("a", &own);
    stage.wait("the worker's files are gone", |_| !own.join("stdout.log").exists());
    assert_eq!(fs::read_to_string(own.join("sink")).unwrap(), "mine\n");
}

#[test]
fn logs_are_bounded_while_a_job_writes_to_them() {
    let mut stage = Stage::new(None);
    stage.join("a", 1);
    let script = "yes | head -c 100000\nwhile :; do echo more; sleep 0.1; done";
    let job = stage.submit_script(script, "none");
    let directory = stage.job_directory("a", &job);
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    stage.wait("what was written is put aside, and more comes", |_| {
        read("stdout.log.1").starts_with("y\ny\n") && read("stdout.log").ends_with("more\n")
    });
    let len = fs::metadata(directory.join("stdout.log")).unwrap().len();
    assert!(len <= LOG_BYTES_MAX, "{len}");
}

#[test]
fn a_process_runs_as_the_user_that_it_is_to_run_as() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: to start processes of other users takes root");
    }
    let mut stage = Stage::new(secret("a secret of the cluster"));
    let secret_file = stage.path("secret");
    fs::write(&secret_file, "a secret of the cluster").unwrap();
    fs::set_permissions(&secret_file, Permissions::from_mode(0o600)).unwrap();
    stage.run_as(NOBODY, NOBODY);
    stage.join("a", 1);
    let secret_file = secret_file.display();
    let job = stage.submit_script(
        &format!(
            "id -u; id -g; id -G\n\
             cat {secret_file} || echo no secret\n\
             cat /proc/$PPID/environ || echo no environment\n\
             touch ../other || echo no other job\n\
             cat secret > own && cat deployment.json > data/told && echo over\n\
             exec sleep 1000"
        ),
        "none",
    );
    let directory = stage.job_directory("a", &job);
    let said = || fs::read_to_string(directory.join("stdout.log")).unwrap_or_default();
    stage.wait("the process has looked around", |_| said().ends_with("over\n"));
    let expected = "65534\n65534\n65534\nno secret\nno environment\nno other job\nover\n";
    assert_eq!(said(), expected);
    // The job's own secret, and nobody else's.
    assert_eq!(fs::read_to_string(directory.join("own")).unwrap().len(), 64);
    assert_eq!(fs::metadata(directory.join("own")).unwrap().uid(), NOBODY);
}

#[test]
fn a_job_cannot_lead_its_worker_to_files_of_others() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: to start processes of other users takes root");
    }
    let mut stage = Stage::new(secret("a secret of the cluster"));
    let (file, folder) = (stage.path("file"), stage.path("folder"));
    fs::write(&file, "mine").unwrap();
    fs::create_dir(&folder).unwrap();
    stage.run_as(NOBODY, NOBODY);
    stage.join("a", 1);
    let job = stage.submit_script(
        &format!(
            "for name in deployment.new secret.new stdout.log stdout.log.1 stderr.log.1; do\n\
             ln -sf {} $name\ndone\n\
             rmdir data && ln -s {} data && exit 3",
            file.display(),
            folder.display()
        ),
        "rate 2 10m 0s",
    );
    let view = stage.until(&job, JobStatus::Failed);
    assert!(view.restarts >= 2, "it was started again where it had prepared all");
    assert!(view.error.unwrap().contains("exit status: 1"), "there is no folder to remove");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    for path in [&file, &folder] {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0, "{}", path.display());
    }
}
