//! The connection to the coordinator, made again whenever it is lost.

use crate::agent::Input;
use millstream_control::gate;
use millstream_control::rpc::{FromWorker, Heartbeat, from_worker, to_worker};
use millstream_control::secret::ClusterSecret;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(2);
/// The coordinator is to answer a registration in this time.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many messages may be under way to the coordinator.
const FROM_WORKER_MAX: usize = 4096;

/// The end of a connection that the agent writes to.
pub(crate) type Outgoing = mpsc::Sender<FromWorker>;
/// Ends a connection when its other end is dropped.
pub(crate) type Cut = oneshot::Receiver<()>;

/// Keeps a connection, until the agent is gone.
pub(crate) fn keep(
    coordinator: String,
    secret: Option<ClusterSecret>,
    inputs: mpsc::Sender<Input>,
) {
    tokio::spawn(async move {
        let mut pause = PAUSE_FIRST;
        loop {
            let why = match once(&coordinator, secret.clone(), &inputs, &mut pause).await {
                Ok(()) => "the coordinator has ended the connection".to_owned(),
                Err(why) => why,
            };
            if inputs.send(Input::Disconnected).await.is_err() {
                return;
            }
            tracing::warn!("no connection to the coordinator at {coordinator}: {why}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    });
}

/// One connection, from its begin to its end.
async fn once(
    coordinator: &str,
    secret: Option<ClusterSecret>,
    inputs: &mpsc::Sender<Input>,
    pause: &mut Duration,
) -> Result<(), String> {
    let client = gate::connect(coordinator, secret).await;
    let mut client = client.map_err(|error| with_causes(&error))?;
    let (outgoing, outgoing_end) = mpsc::channel(FROM_WORKER_MAX);
    // The agent says what runs at this moment, and from then on what happens, in order.
    let (registered, registers) = oneshot::channel();
    let gone = "the agent has ended".to_owned();
    let connected = Input::Connected(outgoing.clone(), registered);
    inputs.send(connected).await.map_err(|_| gone.clone())?;
    let mut cut: Cut = registers.await.map_err(|_| gone.clone())?;
    let answer = client.connect(ReceiverStream::new(outgoing_end));
    let answer = tokio::time::timeout(REGISTER_TIMEOUT, answer).await;
    let answer = answer.map_err(|_| "it does not answer".to_owned())?;
    let mut incoming = answer.map_err(|status| status.message().to_owned())?.into_inner();
    let first = incoming.message().await.map_err(|status| status.message().to_owned())?;
    let Some(to_worker::Message::Registered(registered)) = first.and_then(|one| one.message) else {
        return Err("it does not answer the registration".to_owned());
    };
    tracing::info!("connected to the coordinator at {coordinator}");
    let heard = to_worker::Message::Registered(registered);
    inputs.send(Input::Asked(heard, client.clone())).await.map_err(|_| gone.clone())?;
    *pause = PAUSE_FIRST;
    let interval = Duration::from_millis(registered.heartbeat_interval_ms.max(1));
    let mut heartbeats = tokio::time::interval(interval);
    loop {
        tokio::select! {
            _ = &mut cut => return Err("it does not keep up with what is said to it".to_owned()),
            _ = heartbeats.tick() => {
                let heartbeat = Heartbeat { generation: registered.generation };
                let message = Some(from_worker::Message::Heartbeat(heartbeat));
                outgoing.send(FromWorker { message }).await.map_err(|_| gone.clone())?;
            }
            message = incoming.message() => match message {
                Ok(None) => return Ok(()),
                Err(status) => return Err(status.message().to_owned()),
                Ok(Some(one)) => if let Some(message) = one.message {
                    let input = Input::Asked(message, client.clone());
                    inputs.send(input).await.map_err(|_| gone.clone())?;
                }
            }
        }
    }
}

/// An error and what caused it: the first says only that the connection failed.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
