//! Which hosts a job runs on.
//!
//! A file names them, for processes that are started by hand:
//!
//! ```toml
//! secret_file = "/etc/millstream/secret"
//!
//! [[host]]
//! name = "a"
//! address = "10.0.0.1:7801"
//! slots = 2
//! rack = "left" # may be left out: copies go to other racks first
//! ```
//!
//! A process that an agent has started is told by a variable of the environment.

use millstream_protocol::{DEPLOYMENT_VARIABLE, Deployment, Member};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the hosts of a job are named.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterChoice {
    pub(crate) file: Option<PathBuf>,
    pub(crate) host: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    #[serde(default)]
    secret_file: Option<PathBuf>,
    host: Vec<Member>,
}

impl ClusterChoice {
    /// The hosts that the job of this name is to run on, and which of them this is. `None` for this
    /// process alone.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn deployment(&self, job: &str) -> Result<Option<Deployment>, String> {
        if let Some(path) = std::env::var_os(DEPLOYMENT_VARIABLE) {
            return read_deployment(Path::new(&path)).map(Some);
        }
        let Some(path) = &self.file else {
            return match &self.host {
                None => Ok(None),
                Some(host) => Err(format!(
                    "--host {host} names one of the hosts of a cluster; name them by --cluster FILE"
                )),
            };
        };
        let of_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| of_file(&error))?;
        let file: ClusterFile = toml::from_str(&text).map_err(|error| of_file(&error))?;
        let names: Vec<_> = file.host.iter().map(|host| host.name.as_str()).collect();
        let own = self.host.clone().or_else(host_name).unwrap_or_default();
        let member = names.iter().position(|name| *name == own).ok_or_else(|| {
            of_file(&format!(
                "there is no host \"{own}\" among {}; say which of them this is by --host NAME",
                names.join(", ")
            ))
        })?;
        let deployment = Deployment {
            job: job.to_owned(),
            generation: 0,
            members: file.host,
            member,
            parallelism: None,
            from_checkpoint: None,
            cores: Vec::new(),
            secret_file: file.secret_file,
            data_directory: None,
            agent: None,
        };
        deployment.validate().map_err(|error| of_file(&error))?;
        Ok(Some(deployment))
    }
}

fn host_name() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned())
}

fn read_deployment(path: &Path) -> Result<Deployment, String> {
    let of_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read(path).map_err(|error| of_file(&error))?;
    let deployment: Deployment = serde_json::from_slice(&text).map_err(|error| of_file(&error))?;
    deployment.validate().map_err(|error| of_file(&error))?;
    Ok(deployment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn choice(text: &str, host: &str) -> (tempfile::NamedTempFile, ClusterChoice) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_owned();
        (file, ClusterChoice { file: Some(path), host: Some(host.to_owned()) })
    }

    const TWO: &str = "[[host]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nslots = 2\n\
                       [[host]]\nname = \"b\"\naddress = \"127.0.0.1:2\"\nslots = 1\n";

    #[test]
    fn a_file_names_the_hosts_and_a_flag_which_this_is() {
        let (_file, choice) = choice(TWO, "b");
        let deployment = choice.deployment("job").unwrap().unwrap();
        assert_eq!((deployment.member, deployment.slots()), (1, 3));
        assert_eq!(ClusterChoice::default().deployment("job"), Ok(None));
        let (_file, choice) = self::choice(&format!("{TWO}rack = \"left\"\n"), "a");
        let members = choice.deployment("job").unwrap().unwrap().members;
        assert_eq!((&members[0].rack, members[1].rack.as_deref()), (&None, Some("left")));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let cases = [
            (TWO, "c", "there is no host \"c\" among a, b"),
            ("host = 1", "a", "invalid type"),
            ("[[host]]\nname = \"a\"\n", "a", "missing field"),
            ("slots = 1\n", "a", "unknown field"),
        ];
        for (text, host, expected) in cases {
            let (_file, choice) = choice(text, host);
            let error = choice.deployment("job").unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let twice = format!("{TWO}{}", &TWO[..TWO.len() / 2]);
        let (_file, choice) = choice(&twice, "a");
        assert!(choice.deployment("job").unwrap_err().contains("the same address"));
        let alone = ClusterChoice { file: None, host: Some("a".into()) };
        assert!(alone.deployment("job").unwrap_err().contains("--cluster FILE"));
    }
}
