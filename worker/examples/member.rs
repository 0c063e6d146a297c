//! The process of a job that does nothing but to keep to the contract with its agent: for tests.
//!
//! `member forever` works until it is told otherwise, `member finish` ends at once, `member crash` fails.

use millstream_protocol::{DEPLOYMENT_VARIABLE, Deployment, EndStatus, Order, Told};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::var(DEPLOYMENT_VARIABLE)?;
    let deployment: Deployment = serde_json::from_slice(&std::fs::read(file)?)?;
    let what = std::env::args().nth(1).unwrap_or_default();
    if what == "crash" {
        return Err("it crashes".into());
    }
    // Its port is its own.
    let _listener = TcpListener::bind(&deployment.members[deployment.member].address)?;
    let agent = UnixStream::connect(deployment.agent.as_ref().ok_or("there is no agent")?)?;
    let mut member = Member { agent: agent.try_clone()?, first: false };
    member.follow(&deployment)?;
    if what == "finish" && member.first {
        return member.end(EndStatus::Finished);
    }
    for line in BufReader::new(agent).lines() {
        match serde_json::from_str(&line?)? {
            Order::Stop => return member.end(EndStatus::Stopped),
            Order::Cancel => return member.end(EndStatus::Canceled),
            Order::Checkpoint => member.tell(&Told::Checkpoint { id: 1, took_us: 1 })?,
            Order::Deploy(deployment) => member.follow(&deployment)?,
            Order::Exit => return Ok(()),
        }
    }
    Err("the agent has gone".into())
}

struct Member {
    agent: UnixStream,
    first: bool,
}

impl Member {
    fn follow(&mut self, deployment: &Deployment) -> Result<(), Box<dyn Error>> {
        self.first = deployment.member == 0;
        self.tell(&Told::Hello {
            job: deployment.job.clone(),
            generation: deployment.generation,
            member: deployment.member,
            pid: std::process::id(),
        })?;
        if self.first {
            self.tell(&Told::Running { attempt: 1, restored: None })?;
        }
        Ok(())
    }

    fn end(&mut self, status: EndStatus) -> Result<(), Box<dyn Error>> {
        self.tell(&Told::Ended { status, error: None })
    }

    fn tell(&mut self, told: &Told) -> Result<(), Box<dyn Error>> {
        let mut line = serde_json::to_vec(told)?;
        line.push(b'\n');
        Ok(self.agent.write_all(&line)?)
    }
}
