//! `millstream submit`, `list`, `status`, `cancel`, `stop`: jobs of a cluster. `workers`: where they run. `token`: what
//! other clients send.

use crate::{Failure, with_causes, write_to_stdout};
use clap::Args;
use millstream_control::REST_PORT;
use millstream_control::client::{Client, ClientError, Submission};
use millstream_control::secret::ClusterSecret;
use millstream_ops::{Exit, Interrupt};
use millstream_protocol::cluster::{JobId, JobStatus, JobView, WorkerView};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// How often a job that is followed is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Args)]
struct Cluster {
    /// Where the coordinator listens to clients [default: 127.0.0.1:7410]
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_REST")]
    rest: Option<String>,

    /// A file with the cluster's secret, if it has one
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_SECRET_FILE")]
    secret_file: Option<PathBuf>,
}

impl Cluster {
    fn client(&self) -> Result<Client, Failure> {
        let secret = ClusterSecret::find(self.secret_file.as_deref());
        let secret = secret.map_err(|error| Failure::usage(&error))?;
        let default = format!("127.0.0.1:{REST_PORT}");
        Ok(Client::new(self.rest.as_deref().unwrap_or(&default), secret.as_ref()))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { exit: Exit::Usage, message: with_causes(&error) }
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream submit ./my-job --slots 4
  millstream submit ./my-job --slots 4 --detached -- --checkpoint-interval 5s
  millstream submit ./my-job --slots 6 --from-checkpoint ../692217ab-000001/data/checkpoints

The executable is uploaded once, and started on each host that gets slots of the job. The job's id is
written to standard output. Unless --detached, the job is followed until it ends; Ctrl-C ends that,
not the job. Exit codes: 0 it has finished, 1 it has failed, 130 it was cancelled.")]
pub(crate) struct SubmitArgs {
    /// The job's executable
    #[arg(value_name = "FILE")]
    executable: PathBuf,

    #[command(flatten)]
    cluster: Cluster,

    /// How many slots it runs on, on all hosts together [default: as --parallelism, else 1]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,

    /// Subtasks of operators that set no number [default: as many as slots]
    #[arg(long, value_name = "N")]
    parallelism: Option<u32>,

    /// Go on from the newest checkpoint in this directory, which workers share or have each. A relative path
    /// begins at the job's directory on its worker, so that ../ID/data/checkpoints are those of job ID
    #[arg(long, value_name = "DIR")]
    from_checkpoint: Option<PathBuf>,

    /// Its name [default: that of the file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Only on workers with this label; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,

    /// How many losses of processes are borne, such as "rate 10 10m 0s" or "none"
    #[arg(long, value_name = "STRATEGY")]
    restart: Option<String>,

    /// Do not wait for its end
    #[arg(long)]
    detached: bool,

    /// What is given to the executable
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

impl SubmitArgs {
    pub(crate) fn run(self, interrupt: &Interrupt) -> Result<Exit, Failure> {
        let client = self.cluster.client()?;
        let file = self.executable.file_name().and_then(|name| name.to_str());
        let submission = Submission {
            name: self.name.unwrap_or_else(|| file.unwrap_or("job").to_owned()),
            artifact: client.upload(&self.executable)?,
            args: self.args,
            slots: self.slots.or(self.parallelism).unwrap_or(1),
            parallelism: self.parallelism,
            from_checkpoint: self.from_checkpoint,
            labels: self.labels.into_iter().collect(),
            restart: self.restart,
        };
        let id = client.submit(&submission)?;
        write_to_stdout(format!("{id}\n").as_bytes())?;
        if self.detached { Ok(Exit::Success) } else { follow(&client, &id, interrupt) }
    }
}

/// Says what happens to a job, until it ends.
fn follow(client: &Client, id: &JobId, interrupt: &Interrupt) -> Result<Exit, Failure> {
    let mut said = String::new();
    loop {
        match client.job(id) {
            Ok(job) => {
                let says = in_words(&job);
                if says != said {
                    eprintln!("job {id}: {says}");
                    said = says;
                }
                match job.status {
                    JobStatus::Finished => return Ok(Exit::Success),
                    JobStatus::Canceled => return Ok(Exit::Cancelled),
                    JobStatus::Failed => return Ok(Exit::Failed),
                    _ => {}
                }
            }
            // The job goes on without a coordinator; it comes back.
            Err(error @ ClientError::Unreachable { .. }) => {
                let says = with_causes(&error);
                if says != said {
                    eprintln!("{says}");
                    said = says;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if interrupt.is_raised() {
            eprintln!("job {id} goes on; to end it: millstream cancel {id}");
            return Ok(Exit::Cancelled);
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

fn in_words(job: &JobView) -> String {
    let mut text = job.status.to_string();
    if let Some(what) = &job.waits_for {
        text += &format!(", waits for {what}");
    }
    if let Some(error) = &job.error {
        text += &format!(" ({error})");
    }
    text
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream list
  millstream list --rest 10.0.0.1:7410 --secret-file secret --json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    cluster: Cluster,

    /// Write a JSON object per line
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let jobs = self.cluster.client()?.jobs()?;
        let mut text = String::new();
        if !self.json {
            text += &format!("{:<16} {:<13} {:>5}  NAME\n", "ID", "STATUS", "SLOTS");
        }
        for job in &jobs {
            if self.json {
                text += &format!("{}\n", json(job)?);
            } else {
                let (id, status) = (job.id.as_str(), job.status.to_string());
                text += &format!("{id:<16} {status:<13} {:>5}  {}\n", job.slots, job.name);
            }
        }
        write_to_stdout(text.as_bytes())
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream status 692217ab-000001
  millstream cancel 692217ab-000001
  millstream stop 692217ab-000001 --rest 10.0.0.1:7410 --secret-file secret")]
pub(crate) struct JobArgs {
    /// The job's id, as `millstream list` shows it
    #[arg(value_name = "ID")]
    id: JobId,

    #[command(flatten)]
    cluster: Cluster,

    /// Write a JSON object
    #[arg(long)]
    json: bool,
}

impl JobArgs {
    pub(crate) fn status(self) -> Result<(), Failure> {
        let job = self.cluster.client()?.job(&self.id)?;
        self.show(&job)
    }

    pub(crate) fn cancel(self) -> Result<(), Failure> {
        let job = self.cluster.client()?.cancel(&self.id)?;
        self.show(&job)
    }

    pub(crate) fn stop(self) -> Result<(), Failure> {
        let job = self.cluster.client()?.stop(&self.id)?;
        self.show(&job)
    }

    fn show(&self, job: &JobView) -> Result<(), Failure> {
        let text = if self.json { json(job)? + "\n" } else { described(job) };
        write_to_stdout(text.as_bytes())
    }
}

fn json(shown: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(shown).map_err(|error| Failure::usage(&error))
}

fn described(job: &JobView) -> String {
    let mut text = format!("{} ({}): {}\n", job.id, job.name, in_words(job));
    if job.stopping {
        text += "it is to stop\n";
    }
    if let Some(checkpoint) = job.progress.checkpoint {
        text += &format!("newest checkpoint: {checkpoint}\n");
    }
    for member in &job.members {
        let pid = member.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "  {} slots on {} ({}), process {pid}: {}",
            member.slots, member.worker, member.address, member.step
        );
    }
    text
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream workers
  millstream workers --rest 10.0.0.1:7410 --secret-file secret --json")]
pub(crate) struct WorkersArgs {
    #[command(flatten)]
    cluster: Cluster,

    /// Write a JSON object per line
    #[arg(long)]
    json: bool,
}

impl WorkersArgs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let workers = self.cluster.client()?.workers()?;
        let mut text = String::new();
        if !self.json {
            text +=
                &format!("{:<16} {:<13} {:>5} {:>5}  HOST\n", "NAME", "STATUS", "SLOTS", "USED");
        }
        for worker in &workers {
            if self.json {
                text += &format!("{}\n", json(worker)?);
            } else {
                let WorkerView { name, slots, slots_used, host, .. } = worker;
                let status = if worker.connected { "CONNECTED" } else { "LOST" };
                text += &format!(
                    "{:<16} {status:<13} {slots:>5} {slots_used:>5}  {host}\n",
                    name.as_str()
                );
            }
        }
        write_to_stdout(text.as_bytes())
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream token --secret-file secret | curl -sS -H @- http://10.0.0.1:7410/v1/jobs

Whoever has it can do with the cluster whatever the secret allows, but join it.")]
pub(crate) struct TokenArgs {
    /// A file with the cluster's secret [default: the variable MILLSTREAM_SECRET]
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_SECRET_FILE")]
    secret_file: Option<PathBuf>,
}

impl TokenArgs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let secret = ClusterSecret::find(self.secret_file.as_deref());
        let secret = secret.map_err(|error| Failure::usage(&error))?.ok_or_else(|| Failure {
            exit: Exit::Usage,
            message: "there is no secret; name its file by --secret-file".to_owned(),
        })?;
        write_to_stdout(format!("Authorization: {}\n", secret.token().header()).as_bytes())
    }
}

/// A label, such as `zone=north`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, for example zone=north".into()),
    }
}
