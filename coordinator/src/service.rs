//! What workers call.

use crate::driver::{Driver, TO_WORKER_MAX};
use millstream_control::VERSION;
use millstream_control::rpc::coordinator_server::Coordinator;
use millstream_control::rpc::{
    ArtifactChunk, ArtifactRequest, FromWorker, Register, ToWorker, from_worker::Message,
};
use millstream_protocol::Told;
use millstream_protocol::cluster::{
    ArtifactId, Event, JobId, Refusal, Registration, RunningProcess, WorkerName, WorkerSession,
};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A worker is to register within this time.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_AHEAD: usize = 4;

#[derive(Debug)]
pub(crate) struct Service {
    driver: Driver,
}

impl Service {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { driver }
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    type ConnectStream = ReceiverStream<Result<ToWorker, Status>>;
    type FetchArtifactStream = ReceiverStream<Result<ArtifactChunk, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(REGISTER_TIMEOUT, incoming.message());
        let first =
            first.await.map_err(|_| Status::deadline_exceeded("no registration came"))??;
        let Some(Message::Register(register)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("a worker registers first"));
        };
        if register.version != VERSION {
            return Err(Status::failed_precondition(format!(
                "the worker speaks version {}, the coordinator {VERSION}; run one version everywhere",
                register.version
            )));
        }
        let registration = registration(register).map_err(Status::invalid_argument)?;
        let (outgoing, outgoing_end) = mpsc::channel(TO_WORKER_MAX);
        let session =
            self.driver.register(registration, outgoing).map_err(|refusal| match refusal {
                Refusal::NameTaken(_) => Status::already_exists(refusal.to_string()),
                _ => Status::failed_precondition(refusal.to_string()),
            })?;
        tracing::info!("worker {} is connected", session.worker);
        let driver = self.driver.clone();
        tokio::spawn(async move {
            let ended = loop {
                match incoming.message().await {
                    Ok(Some(FromWorker { message: Some(message) })) => {
                        if let Err(error) = handle(&driver, &session, message) {
                            tracing::debug!("worker {}: {error}", session.worker);
                        }
                    }
                    Ok(Some(FromWorker { message: None })) => {}
                    Ok(None) => break "it has ended the connection".to_owned(),
                    Err(status) => break status.message().to_owned(),
                }
            };
            let worker = session.worker.clone();
            // Refused if another connection has taken its place.
            if driver.event(Event::Disconnected(session)).is_ok() {
                tracing::warn!("worker {worker} is lost: {ended}");
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing_end)))
    }

    async fn fetch_artifact(
        &self,
        request: Request<ArtifactRequest>,
    ) -> Result<Response<Self::FetchArtifactStream>, Status> {
        let id = ArtifactId::new(&request.into_inner().sha256);
        let id = id.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let file = tokio::fs::File::open(self.driver.artifacts.path(&id)).await;
        let mut file = file.map_err(|error| Status::not_found(format!("{id}: {error}")))?;
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(async move {
            loop {
                let mut data = vec![0; CHUNK_BYTES];
                let chunk = match file.read(&mut data).await {
                    Ok(0) => return,
                    Ok(read) => {
                        data.truncate(read);
                        Ok(ArtifactChunk { data })
                    }
                    Err(error) => Err(Status::data_loss(error.to_string())),
                };
                let failed = chunk.is_err();
                if sender.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }
}

/// A message that is not understood is an error for the log; one that is outdated, too.
fn handle(driver: &Driver, session: &WorkerSession, message: Message) -> Result<(), String> {
    let job = |text: &str| JobId::new(text).map_err(|error| error.to_string());
    let from = session.clone();
    let event = match message {
        Message::Register(_) => return Err("it has registered already".to_owned()),
        Message::Heartbeat(heartbeat) => {
            Event::Heartbeat(WorkerSession { generation: heartbeat.generation, ..from })
        }
        Message::Reserved(reserved) => Event::Reserved {
            from,
            job: job(&reserved.job)?,
            generation: reserved.generation,
            port: u16::try_from(reserved.port).map_err(|error| error.to_string())?,
        },
        Message::Refused(refused) => Event::Refused {
            from,
            job: job(&refused.job)?,
            generation: refused.generation,
            error: refused.error,
        },
        Message::Exited(exited) => Event::Exited {
            from,
            job: job(&exited.job)?,
            generation: exited.generation,
            how: exited.how,
        },
        Message::Told(told) => {
            let what: Told = serde_json::from_str(&told.told).map_err(|error| error.to_string())?;
            Event::Told {
                from,
                job: job(&told.job)?,
                generation: told.generation,
                member: told.member as usize,
                told: what,
            }
        }
    };
    driver.event(event).map_err(|refusal| refusal.to_string())
}

fn registration(register: Register) -> Result<Registration, String> {
    let process = |one: millstream_control::rpc::RunningProcess| {
        Ok(RunningProcess {
            job: JobId::new(&one.job).map_err(|error| error.to_string())?,
            generation: one.generation,
            member: one.member as usize,
            slots: one.slots,
            pid: one.pid,
            running: one.running,
        })
    };
    Ok(Registration {
        name: WorkerName::new(&register.name).map_err(|error| error.to_string())?,
        incarnation: register.incarnation,
        host: register.host,
        slots: register.slots,
        labels: register.labels.into_iter().collect(),
        cores: register.cores,
        memory_bytes: register.memory_bytes,
        processes: register.processes.into_iter().map(process).collect::<Result<_, String>>()?,
    })
}
