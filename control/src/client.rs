//! What clients ask the coordinator, over HTTP.

use crate::secret::ClusterSecret;
use millstream_protocol::cluster::{ArtifactId, JobId, JobView, Overview, WorkerView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};

/// An executable has no more bytes.
pub const ARTIFACT_BYTES_MAX: u64 = 1 << 30;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A job to run. Unknown fields are refused, so that what is misspelled is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Its name, for people.
    pub name: String,
    /// The executable, which was uploaded.
    pub artifact: ArtifactId,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// How many slots it runs on, on all hosts together.
    pub slots: u32,
    /// How many subtasks an operator has that sets none; else as the program says.
    #[serde(default)]
    pub parallelism: Option<u32>,
    /// A directory of checkpoints to go on from, on each host or shared by all. A relative path begins at the
    /// job's directory on its worker.
    #[serde(default)]
    pub from_checkpoint: Option<PathBuf>,
    /// The labels that a worker must have to get a member.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many losses of members are borne: a restart strategy, such as `rate 10 10m 0s`.
    #[serde(default)]
    pub restart: Option<String>,
}

/// The answer to a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The job's id.
    pub id: JobId,
}

/// What is answered if something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Why.
    pub error: String,
}

/// Why something could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The coordinator does not answer.
    #[error("the coordinator at {url} does not answer: {source}; does it run there?")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// It refuses.
    #[error("{error}")]
    Refused {
        /// Its answer's status.
        status: u16,
        /// What it says.
        error: String,
    },
    /// It answers something else than expected.
    #[error("the answer of the coordinator at {url} is not understood; are both of one version?")]
    Answer {
        /// Where it is.
        url: String,
        /// Why not.
        source: Box<ureq::Error>,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is too large, or empty.
    #[error("{} has {bytes} bytes; an executable has 1 to {ARTIFACT_BYTES_MAX}", path.display())]
    Size {
        /// Which.
        path: PathBuf,
        /// How many it has.
        bytes: u64,
    },
}

/// A coordinator.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

impl Client {
    /// The one that answers clients at `HOST:PORT`.
    pub fn new(address: &str, secret: Option<&ClusterSecret>) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Self {
            agent: config.into(),
            url: format!("http://{address}"),
            authorization: secret.map(|secret| secret.token().header()),
        }
    }

    /// All jobs, the newest first.
    ///
    /// # Errors
    /// If the coordinator does not answer, or refuses.
    pub fn jobs(&self) -> Result<Vec<JobView>, ClientError> {
        self.get("/v1/jobs")
    }

    /// One job.
    ///
    /// # Errors
    /// If the coordinator does not answer, or does not know it.
    pub fn job(&self, id: &JobId) -> Result<JobView, ClientError> {
        self.get(&format!("/v1/jobs/{id}"))
    }

    /// All workers.
    ///
    /// # Errors
    /// If the coordinator does not answer, or refuses.
    pub fn workers(&self) -> Result<Vec<WorkerView>, ClientError> {
        self.get("/v1/workers")
    }

    /// The cluster in numbers.
    ///
    /// # Errors
    /// If the coordinator does not answer, or refuses.
    pub fn overview(&self) -> Result<Overview, ClientError> {
        self.get("/v1/overview")
    }

    /// Cancels a job.
    ///
    /// # Errors
    /// If the coordinator does not answer, or the job has ended.
    pub fn cancel(&self, id: &JobId) -> Result<JobView, ClientError> {
        self.answer(
            self.with_token(self.agent.post(self.to(&format!("/v1/jobs/{id}/cancel"))))
                .send_empty(),
        )
    }

    /// Stops a job, with a last checkpoint.
    ///
    /// # Errors
    /// If the coordinator does not answer, or the job has ended.
    pub fn stop(&self, id: &JobId) -> Result<JobView, ClientError> {
        self.answer(
            self.with_token(self.agent.post(self.to(&format!("/v1/jobs/{id}/stop")))).send_empty(),
        )
    }

    /// Submits a job whose executable was [uploaded](Self::upload).
    ///
    /// # Errors
    /// If the coordinator does not answer, or refuses it.
    pub fn submit(&self, submission: &Submission) -> Result<JobId, ClientError> {
        let request = self.with_token(self.agent.post(self.to("/v1/jobs")));
        Ok(self.answer::<Submitted>(request.send_json(submission))?.id)
    }

    /// Uploads an executable, if the coordinator has not got it.
    ///
    /// # Errors
    /// If it cannot be read, or the coordinator does not answer or refuses it.
    pub fn upload(&self, path: &Path) -> Result<ArtifactId, ClientError> {
        let failed = |source| ClientError::File { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes == 0 || bytes > ARTIFACT_BYTES_MAX {
            return Err(ClientError::Size { path: path.to_owned(), bytes });
        }
        let id = artifact_id(&mut file).map_err(failed)?;
        let to = self.to(&format!("/v1/artifacts/{id}"));
        let known = self.agent.head(&to);
        let known = match &self.authorization {
            Some(token) => known.header("authorization", token),
            None => known,
        };
        let known = known.call().map_err(|error| self.unreachable(error))?;
        if known.status().is_success() {
            return Ok(id);
        }
        file.rewind().map_err(failed)?;
        let request = self.with_token(self.agent.put(to)).header("content-length", bytes);
        let answer = request.send(ureq::SendBody::from_reader(&mut file.take(bytes)));
        self.check(answer.map_err(|error| self.unreachable(error))?)?;
        Ok(id)
    }

    fn to(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn with_token<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.authorization {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.with_token(self.agent.get(self.to(path))).call())
    }

    fn answer<T: DeserializeOwned>(
        &self,
        answer: Result<Response<Body>, ureq::Error>,
    ) -> Result<T, ClientError> {
        let answer = answer.map_err(|error| self.unreachable(error))?;
        let mut answer = self.check(answer)?;
        answer
            .body_mut()
            .read_json()
            .map_err(|error| ClientError::Answer { url: self.url.clone(), source: Box::new(error) })
    }

    fn check(&self, mut answer: Response<Body>) -> Result<Response<Body>, ClientError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let error = match answer.body_mut().read_json::<Problem>() {
            Ok(problem) => problem.error,
            Err(_) => format!("the coordinator at {} answers {status}", self.url),
        };
        Err(ClientError::Refused { status: status.as_u16(), error })
    }

    fn unreachable(&self, source: ureq::Error) -> ClientError {
        ClientError::Unreachable { url: self.url.clone(), source: Box::new(source) }
    }
}

/// What a file is known by.
///
/// # Errors
/// If it cannot be read.
pub fn artifact_id(file: &mut impl Read) -> std::io::Result<ArtifactId> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    named(hash)
}

/// What bytes are known by that were hashed.
///
/// # Errors
/// None that can happen: the name of a hash has its form.
pub fn named(hash: Sha256) -> std::io::Result<ArtifactId> {
    ArtifactId::new(&crate::secret::hex(&hash.finalize())).map_err(std::io::Error::other)
}
