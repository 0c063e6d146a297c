//! What an owner leaves that is killed.

use super::common::{Result, hosts};
use millstream_hosts::Hosts;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// What a line of the owner begins with.
const MARK: &str = "owner: ";

/// True if a process runs: of one that was killed an entry may be left that nobody has looked at.
fn runs(number: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

#[test]
#[ignore = "the process that another test kills"]
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
    let Some(living) = hosts(2)? else { return Ok(()) };
    let mut owner = Command::new(env::current_exe()?);
    owner.args(["--exact", "leftovers::owner", "--ignored", "--nocapture"]);
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
    assert!(!runs(program), "a program is left");
    // Sets whose owners live are left alone.
    for host in living.all().iter().chain(next.all()) {
        assert!(Path::new("/run/netns").join(host.name()).exists(), "{} is gone", host.name());
    }
    Ok(())
}
