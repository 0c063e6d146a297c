//! Hosts, and programs on them, while nothing goes wrong.

use super::common::{DEADLINE, Result, hosts};
use millstream_hosts::{HOSTS_MAX, Host, Hosts, HostsError};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SIGKILL: i32 = 9;

fn listen(host: &Host) -> Result<TcpListener> {
    Ok(host.within(|| TcpListener::bind((host.address(), 0)))??)
}

fn connect(host: &Host, to: SocketAddr) -> Result<std::io::Result<TcpStream>> {
    Ok(host.within(|| TcpStream::connect_timeout(&to, DEADLINE))?)
}

fn said_by(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(command.output()?.stdout)?.trim().to_owned())
}

fn file_of(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

#[test]
fn hosts_talk_to_each_other_in_both_directions() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    for (from, to) in [(0, 1), (1, 0), (2, 0), (1, 1)] {
        let [from, to] = [from, to].map(|index| hosts.host(index));
        let listener = listen(to)?;
        let mut client = connect(from, listener.local_addr()?)??;
        let (mut server, peer) = listener.accept()?;
        assert_eq!(peer.ip(), from.address());
        client.set_read_timeout(Some(DEADLINE))?;
        server.set_read_timeout(Some(DEADLINE))?;
        let mut words = [0; 4];
        client.write_all(b"ping")?;
        server.read_exact(&mut words)?;
        assert_eq!(&words, b"ping");
        server.write_all(b"pong")?;
        client.read_exact(&mut words)?;
        assert_eq!(&words, b"pong");
    }
    Ok(())
}

#[test]
fn a_host_reaches_itself_at_its_loopback_address() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let host = hosts.host(0);
    let listener = host.within(|| TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?;
    connect(host, address)??;
    assert!(connect(hosts.host(1), address)?.is_err(), "the other host has a loopback of its own");
    Ok(())
}

#[test]
fn a_program_is_on_its_host_and_has_the_number_of_the_child() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let here = fs::read_link("/proc/self/ns/net")?;
    let mut networks = vec![here.to_string_lossy().into_owned()];
    for host in hosts.all() {
        let network = said_by(host.command("readlink").arg("/proc/self/ns/net"))?;
        let of_thread = host.within(|| fs::read_link("/proc/thread-self/ns/net"))??;
        assert_eq!(network, of_thread.to_string_lossy());
        networks.push(network);

        let mut shell = host.command("sh");
        let child = shell.args(["-c", "echo $$"]).stdout(Stdio::piped()).spawn()?;
        let number = child.id().to_string();
        assert_eq!(String::from_utf8(child.wait_with_output()?.stdout)?.trim(), number);
    }
    networks.sort_unstable();
    networks.dedup();
    assert_eq!(networks.len(), 3, "{networks:?}");
    Ok(())
}

#[test]
fn a_program_that_is_killed_is_the_program_itself() -> Result<()> {
    let Some(hosts) = hosts(1)? else { return Ok(()) };
    let mut shell = hosts.host(0).command("sh");
    shell.args(["-c", "echo up; exec sleep 600"]).stdout(Stdio::piped());
    let mut child = shell.spawn()?;
    let mut words = [0; 3];
    child.stdout.take().ok_or("no output")?.read_exact(&mut words)?;
    child.kill()?;
    assert_eq!(child.wait()?.signal(), Some(SIGKILL));
    Ok(())
}

#[test]
fn nothing_is_left_of_a_set_that_has_ended() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    let mut program = hosts.host(1).command("sleep").arg("600").spawn()?;
    let names: Vec<_> = hosts.all().iter().map(|host| host.name().to_owned()).collect();
    let set = names[0].strip_suffix("h0").ok_or("a name without a role")?.to_owned();
    assert!(names.iter().all(|name| file_of(name).exists()));
    drop(hosts);
    assert_eq!(program.wait()?.signal(), Some(SIGKILL));
    for entry in fs::read_dir("/run/netns")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        assert!(!name.starts_with(&set), "{name} is left");
    }
    Ok(())
}

#[test]
fn the_network_of_the_machine_stays_as_it_is() -> Result<()> {
    let cards = |()| said_by(Command::new("ip").args(["-brief", "address"]));
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let during = cards(())?;
    drop(hosts);
    assert_eq!(during, cards(())?);
    assert!(!during.contains("10.77.0."), "{during}");
    Ok(())
}

#[test]
fn sets_side_by_side_do_not_see_each_other() -> Result<()> {
    let (Some(one), Some(other)) = (hosts(2)?, hosts(2)?) else { return Ok(()) };
    let listener = listen(one.host(1))?;
    let address = listener.local_addr()?;
    assert_eq!(other.host(1).address(), one.host(1).address());
    assert!(connect(other.host(0), address)?.is_err(), "it is reached from another set");
    // Neither a fault nor the end of one set matters to the other.
    let _cut = other.partition(0, 1)?;
    connect(one.host(0), address)??;
    drop(other);
    connect(one.host(0), address)??;
    Ok(())
}

#[test]
fn a_set_has_a_limited_number_of_hosts() {
    for count in [0, HOSTS_MAX + 1] {
        let refused = Hosts::new(count);
        assert!(matches!(refused, Err(HostsError::Count { .. })), "{refused:?}");
    }
}

#[test]
fn a_panic_on_a_host_is_one_of_the_caller() -> Result<()> {
    let Some(hosts) = hosts(1)? else { return Ok(()) };
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        hosts.host(0).within(|| panic!("on purpose"))
    }));
    assert!(attempt.is_err());
    Ok(())
}
