//! Where the slots of a process run, and how they reach those of others: what a deployment decides.

use super::Job;
use crate::config::{ExecutionConfig, IdlePolicy};
use crate::error::JobError;
use crate::exchange::Routes;
use crate::graph::Graph;
use crate::hosts::Host;
use millstream_network::transport::TransportSettings;
use millstream_protocol::Deployment;
use millstream_tuning::{
    BackgroundCores, ChannelMemory, Placement, Requirements, Severity, Topology, check,
    raise_limits,
};
use millstream_types::{SlotIndex, hash_key};
use std::ops::Range;
use std::sync::Arc;

/// The place of a process.
pub(super) struct Site {
    /// This process among those of the job, if there are several.
    pub(super) host: Option<Arc<Host>>,
    /// How slots of several hosts reach each other.
    pub(super) routes: Routes,
    pub(super) idle: IdlePolicy,
    /// By slot of this process.
    pub(super) places: Vec<Place>,
    /// Where the control of the job runs.
    pub(super) background: BackgroundCores,
    /// The slots of the job by region: those start again together.
    pub(super) regions: Vec<Range<u32>>,
}

impl Site {
    /// All slots are of this process.
    ///
    /// # Errors
    /// If the host is not fit for it.
    pub(super) fn of_one_host(
        graph: &Graph,
        slots_of: &[Vec<SlotIndex>],
        config: &ExecutionConfig,
    ) -> Result<Self, JobError> {
        Self::with(None, Routes::of_one_host(config.slots), graph, slots_of, config)
    }

    /// The process is a member of this deployment.
    ///
    /// # Errors
    /// As of [`Host::open`], and if the host is not fit for it.
    pub(super) fn of_member(
        deployment: Deployment,
        graph: &Graph,
        slots_of: &[Vec<SlotIndex>],
        config: &ExecutionConfig,
    ) -> Result<Self, JobError> {
        let exchange = config.exchange;
        let settings = (exchange.credits, exchange.fan_in_above, config.max_parallelism);
        let fingerprint = hash_key(&(graph.fingerprint(slots_of), settings));
        let routes = Routes::of_hosts(&deployment, exchange.fan_in_above);
        let host = Host::open(deployment, routes.clone(), fingerprint)?;
        Self::with(Some(Arc::new(host)), routes, graph, slots_of, config)
    }

    /// The process of a job is a member of another deployment from now on, and has let go of the one before.
    ///
    /// # Errors
    /// If only a process that begins anew can be that, or the host is not fit for it.
    pub(super) fn follow(job: &Job, deployment: Deployment) -> Result<Self, JobError> {
        let Some(host) = job.site.host.as_ref().filter(|host| host.can_follow(&deployment)) else {
            return Err(JobError::Host("more than the hosts has changed".to_owned()));
        };
        let routes = Routes::of_hosts(&deployment, job.config.exchange.fan_in_above);
        let host = host.follow(deployment, routes.clone(), &job.metrics)?;
        Self::with(Some(Arc::new(host)), routes, &job.graph, &job.slots_of, &job.config)
    }

    fn with(
        host: Option<Arc<Host>>,
        routes: Routes,
        graph: &Graph,
        slots_of: &[Vec<SlotIndex>],
        config: &ExecutionConfig,
    ) -> Result<Self, JobError> {
        let here = slots(host.as_deref(), config);
        let leased = host.as_ref().and_then(|host| host.cores());
        let (idle, pin) = match leased {
            // Others have slots on the cores of this host.
            Some(cores) if cores.len() < here.len() => (IdlePolicy::Park, false),
            _ => (config.idle, config.pin),
        };
        let channels = graph.channel_memory(slots_of, &here, config.exchange);
        let regions = regions(graph.regions(slots_of, config.slots), host.as_deref());
        let links = match &host {
            // What has no channels has no connections.
            Some(host) if regions.len() == 1 => link_memory(&host.connections_of_slots()),
            _ => 0,
        };
        let channels = ChannelMemory {
            bytes_at_start: channels.bytes_at_start.saturating_add(links),
            bytes_max: channels.bytes_max.saturating_add(links),
            ..channels
        };
        let (idle, mut places, background) = place_on_host((idle, pin), here.len(), channels)?;
        if let Some(cores) = leased {
            let pinned = places.iter_mut().filter(|place| place.core.is_some());
            pinned.zip(cores).for_each(|(place, core)| place.core = Some(*core));
        }
        Ok(Self { host, routes, idle, places, background, regions })
    }

    /// The slots of this process.
    pub(super) fn slots(&self, config: &ExecutionConfig) -> Range<u32> {
        slots(self.host.as_deref(), config)
    }
}

/// The regions of a job, or all as one if there is one that several hosts have slots of: when one of these is lost,
/// or a connection between them, its attempt ends on all.
fn regions(regions: Vec<Range<u32>>, host: Option<&Host>) -> Vec<Range<u32>> {
    let Some(host) = host else { return regions };
    let on_one_host = |region: &Range<u32>| {
        let mut hosts = host.slots_of_all();
        hosts.any(|slots| slots.start <= region.start && region.end <= slots.end)
    };
    match (regions.iter().all(on_one_host), regions.last()) {
        (false, Some(last)) => std::iter::once(0..last.end).collect(),
        _ => regions,
    }
}

fn slots(host: Option<&Host>, config: &ExecutionConfig) -> Range<u32> {
    host.map_or(0..config.slots, Host::slots)
}

/// Where a slot runs.
#[derive(Clone, Default)]
pub(super) struct Place {
    /// The core that it is pinned to.
    pub(super) core: Option<usize>,
    /// Where threads run that work for it.
    pub(super) background: BackgroundCores,
}

/// What slots take that have so many connections each to slots of other hosts.
fn link_memory(connections_of_slots: &[usize]) -> u64 {
    let connected = connections_of_slots.iter().filter(|connections| **connections > 0);
    let bytes = connected.map(|connections| {
        TransportSettings::for_connections(*connections).buffer_bytes(*connections) as u64
    });
    bytes.sum()
}

/// Checks the host against what the job wants of it, and chooses a place for each slot, and cores for
/// the job's control.
fn place_on_host(
    (wanted_idle, pin): (IdlePolicy, bool),
    slots: usize,
    channels: ChannelMemory,
) -> Result<(IdlePolicy, Vec<Place>, BackgroundCores), JobError> {
    if let Err(error) = raise_limits() {
        tracing::debug!("the limits on open files and locked memory stay as they are: {error}");
    }
    let topology = Topology::detect();
    let host = millstream_tuning::HostReport::probe(&topology);
    let wanted = Requirements { channels, ..Requirements::for_slots(slots) };
    for finding in check(&host, &wanted) {
        match finding.severity {
            Severity::Refusal => return Err(JobError::Invalid(finding.to_string())),
            Severity::Warning => tracing::warn!("{finding}"),
            Severity::Note => tracing::debug!("{finding}"),
        }
    }
    let placements = topology.assign(slots);
    let oversubscribed = slots > topology.slots_max();
    let idle = match wanted_idle {
        IdlePolicy::Spin if oversubscribed => {
            return Err(JobError::Invalid(format!(
                "{slots} slots cannot spin on {} cores: a slot that spins takes a core from one that works; use at most {} slots, or the idle policy \"park\"",
                topology.slots_max(),
                topology.slots_max(),
            )));
        }
        // That they share cores has been warned of, as a finding.
        IdlePolicy::SpinThenPark(_) if oversubscribed => IdlePolicy::Park,
        idle => idle,
    };
    if !pin || oversubscribed {
        return Ok((idle, vec![Place::default(); placements.len()], BackgroundCores::default()));
    }
    let place = |placement: &Placement| Place {
        core: Some(placement.core.0),
        background: topology.background(&placements, placement.numa_node),
    };
    let places = placements.iter().map(place).collect();
    Ok((idle, places, topology.background(&placements, None)))
}
