//! What an owner leaves that is killed.

use super::common::{DEADLINE, Result, hosts};
use millstream_hosts::Hosts;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The test, which runs itself again with [`OWNER`] set.
const NAME: &str = "leftovers::what_a_killed_owner_leaves_the_next_set_removes";
/// Tells the process to be the owner.
const OWNER: &str = "MILLSTREAM_TEST_OWNER";
/// What a line of the owner begins with.
const MARK: &str = "owner: ";

/// True if a process runs: of one that was killed an entry may be left that nobody has looked at.
fn runs(number: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

#[expect(clippy::disallowed_methods, reason = "between two looks, with a deadline")]
fn until(what: &str, there: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !there() {
        if begun.elapsed() > DEADLINE {
            return Err(format!("after {DEADLINE:?} still not: {what}").into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The process that is killed: makes hosts, says what, and waits.
fn owner() -> Result<()> {
    let hosts = Hosts::new(2)?;
    let mut program = hosts.host(1).command("sleep");
    program.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = program.spawn()?;
    let names: Vec<_> = hosts.all().iter().map(|host| host.name()).collect();
    println!("\n{MARK}{} {}", program.id(), names.join(" "));
    // Until it is killed, or whoever has started it has ended.
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(hosts);
    program.wait()?;
    Ok(())
}

#[test]
fn what_a_killed_owner_leaves_the_next_set_removes() -> Result<()> {
    if env::var_os(OWNER).is_some() {
        return owner();
    }
    let Some(living) = hosts(2)? else { return Ok(()) };
    let mut owner = Command::new(env::current_exe()?);
    owner.args(["--exact", NAME, "--nocapture"]).env(OWNER, "");
    let mut owner = owner.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(owner.stdout.take().ok_or("no output")?);
    let line = output
        .lines()
        .map_while(io::Result::ok)
        .find_map(|line| line.strip_prefix(MARK).map(str::to_owned))
        .ok_or("the owner has made no hosts")?;
    let (program, names) = line.split_once(' ').ok_or("half a line")?;
    assert!(runs(program));
    owner.kill()?;
    owner.wait()?;

    // The sets of other tests may have removed it already, or be about to.
    let next = Hosts::new(1)?;
    for name in names.split(' ') {
        assert!(!Path::new("/run/netns").join(name).exists(), "{name} is left");
        let bridge = name.rsplit_once('-').map(|(set, _)| format!("/run/netns/{set}-bridge"));
        assert!(!Path::new(&bridge.ok_or("a name without a role")?).exists());
    }
    until("the end of a program that is left", || !runs(program))?;
    // Sets whose owners live are left alone.
    for host in living.all().iter().chain(next.all()) {
        assert!(Path::new("/run/netns").join(host.name()).exists(), "{} is gone", host.name());
    }
    Ok(())
}
