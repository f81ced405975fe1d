//! The live part of the canary stage: one worker that no client reaches, and what is asked of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::Probe;
use super::super::document::DocumentError;
use super::super::field::Field;
use super::read::{Scope, probe};
use super::{Group, Listen};

/// The live canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// the group of which one process is started
    pub worker: String,
    /// where it is kept from the clients
    pub network: Network,
    /// what has to succeed when it is ready
    pub probe: Probe,
    /// with a network of its own: addresses besides those of the group's `listen`
    pub addresses: Vec<IpAddr>,
}

/// How a canary is kept from the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// it gets sockets of its own on loopback
    Host,
    /// it has a network namespace of its own, with its real addresses on loopback
    Private,
}

/// Reads `canary:` of a pipeline that has these groups.
pub(super) fn read(
    field: &Field<'_>,
    groups: &BTreeMap<String, Group>,
    loader: bool,
) -> Result<Canary, DocumentError> {
    field.only("a map with `probe`", &["worker", "network", "probe", "addresses"])?;
    let (worker, group) = group_of(field, groups)?;
    let network = match field.get("network") {
        None => Network::Host,
        Some(field) => match field.text("`host` or `private`")? {
            "host" => Network::Host,
            "private" => Network::Private,
            _ => return Err(field.expected("`host` or `private`")),
        },
    };
    if let (Network::Host, Listen::Inherit(_)) = (network, &group.listen) {
        return Err(field.error(format!(
            "`{worker}` binds its sockets by itself (`inherit`), where the clients are: write `network: private`"
        )));
    }
    let addresses = match field.get("addresses") {
        Some(list) if network == Network::Host => {
            return Err(list.key_error("expected `network: private` with it: only there are addresses made"));
        }
        Some(list) => list.items("a list of IP addresses")?.iter().map(address).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let scope = Scope { loader, sockets: Some(&group.listen), passed: false };
    let what = "{command: [..]} or {http: url}";
    let question = field.need("probe", what)?;
    question.only(what, &["command", "http"])?;
    let probe = probe(&question, what, &scope)?;
    Ok(Canary { worker, network, probe, addresses })
}

fn group_of<'g>(
    field: &Field<'_>,
    groups: &'g BTreeMap<String, Group>,
) -> Result<(String, &'g Group), DocumentError> {
    let known = || groups.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let Some(named) = field.get("worker") else {
        return match groups.iter().next() {
            Some((name, group)) if groups.len() == 1 => Ok((name.clone(), group)),
            Some(_) => Err(field.error(format!("expected `worker`: one of {}", known()))),
            None => Err(field.key_error("expected a worker to try, found a pipeline without any")),
        };
    };
    let name = named.text("the name of a group")?;
    match groups.get_key_value(name) {
        Some((name, group)) => Ok((name.clone(), group)),
        None if groups.is_empty() => Err(named.error("expected a group, found a pipeline without any")),
        None => Err(named.expected(&format!("one of the groups: {}", known()))),
    }
}

fn address(item: &Field<'_>) -> Result<IpAddr, DocumentError> {
    let what = "an IP address without a port";
    item.text(what)?.parse().map_err(|_| item.expected(what))
}
