//! Whoever does not know the secret of a cluster changes nothing, whatever he sends to a member's port,
//! and learns nothing.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Cluster, MEMBERS, Moment, Pace, Program};
use millstream_hosts::{Host, Hosts};
use millstream_network::remote::handshake::{Connecting, Nonce, Purpose, Secret};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a job runs at the least.
const RUN_SECONDS: f64 = 12.0;
/// Of each member.
const SILENT: usize = 200;
const SENDERS: usize = 20;
/// How long a member may take to come back among strangers. They would be let go after five seconds each,
/// some of them at a time.
const RETURN_MAX: Duration = Duration::from_secs(8);
const HELLO_BYTES: usize = 64;

fn connect(host: &Host, address: SocketAddr) -> Result<TcpStream> {
    let stream = host.within(|| TcpStream::connect(address))??;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// What is answered until the other side ends the connection.
fn answer(mut stream: TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(answer),
        // It did not want to hear all of it.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(answer),
        Err(error) => Err(error).context("a stranger is still connected"),
    }
}

/// Sends bytes and no more; nothing may be answered.
fn send(host: &Host, address: SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut stream = connect(host, address)?;
    // It may be closed before all is sent.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let answer = answer(stream)?;
    ensure!(answer.is_empty(), "{} bytes were answered to a stranger", answer.len());
    Ok(())
}

/// The first thing that members say to each other, without the proofs before it.
fn hello(rng: &mut SmallRng) -> [u8; HELLO_BYTES] {
    let mut hello = [0; HELLO_BYTES];
    rng.fill_bytes(&mut hello[8..40]);
    hello[..4].copy_from_slice(b"MSJ\x01");
    hello[4] = rng.gen_range(1..4);
    hello[40] = rng.gen_range(0..3);
    hello
}

/// Tries another secret; there may be a challenge, and nothing behind it.
fn prove_wrongly(host: &Host, address: SocketAddr) -> Result<()> {
    let secret = Secret::new(b"a guess that is long enough")?;
    let (connecting, greeting) = Connecting::begin(&secret, Purpose::Exchange, Nonce::random()?);
    let mut stream = connect(host, address)?;
    stream.write_all(&greeting)?;
    let mut challenge = [0; 40];
    stream.read_exact(&mut challenge)?;
    let (_, proof) = connecting.challenged(&challenge)?;
    stream.write_all(&proof)?;
    let answer = answer(stream)?;
    ensure!(answer.is_empty(), "{} bytes were answered to a wrong secret", answer.len());
    Ok(())
}

#[test]
fn strangers_change_nothing_and_learn_nothing() -> Result<()> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    let expected = program.undisturbed(Workload::Visits)?;
    let mut cluster = Cluster::new(&program, Workload::Visits, Pace::Seconds(RUN_SECONDS))?;
    cluster.add_flags(&["--checkpoint-interval", "50ms", "--log-level", "trace"]);
    disturb(&mut cluster).with_context(|| last_words(&cluster))?;
    cluster.site().check(&expected)?;
    for member in 0..MEMBERS {
        let log = cluster.log(member);
        ensure!(log.contains("DEBUG"), "a member says less than it was told to: {log}");
        ensure!(!log.contains(cluster.secret()), "the secret is in a log");
    }
    Ok(())
}

/// The ends of all logs.
fn last_words(cluster: &Cluster<'_>) -> String {
    let logs = (0..MEMBERS).map(|member| cluster.log(member));
    let ends = logs.map(|log| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
    ends.collect::<Vec<_>>().join("\n----\n")
}

fn disturb(cluster: &mut Cluster<'_>) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(1);
    cluster.start_all()?;
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    for member in 0..MEMBERS {
        let number = cluster.process(member)?.id();
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{number}/{file}"))?;
            let words = String::from_utf8_lossy(&bytes);
            ensure!(!words.contains(cluster.secret()), "the secret is in {file}");
        }
    }
    let mut silent = Vec::new();
    for member in 0..MEMBERS {
        let (host, address) =
            (cluster.hosts().host((member + 1) % MEMBERS), cluster.address(member));
        for _ in 0..SENDERS {
            let mut noise = vec![0; rng.gen_range(1..4_096)];
            rng.fill_bytes(&mut noise);
            send(host, address, &noise)?;
            send(host, address, &hello(&mut rng))?;
            prove_wrongly(host, address)?;
        }
        for _ in 0..SILENT {
            silent.push(connect(host, address)?);
        }
    }
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    ensure!(cluster.recoveries() == 0, "the job has begun anew for strangers");
    // Nor do they keep members out.
    let begun = Instant::now();
    cluster.kill(&[2])?;
    cluster.start(2, &[])?;
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    let took = begun.elapsed();
    ensure!(took < RETURN_MAX, "among strangers a member takes {took:?} to come back");
    ensure!(cluster.recoveries() > 0, "no member was missed");
    cluster.wait()
}
