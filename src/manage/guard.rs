//! From the configuration of filters, lists and mirrors to what the workers use.

use std::sync::Arc;

use super::compile::port_id;
use super::config::{Config, Filter};
use crate::datapath::filter::{Filters, Rule};
use crate::datapath::guard::Guard;
use crate::datapath::mirror::{Mirror, MirrorId};
use crate::datapath::prefix_set::PrefixSet;

/// Makes the guard of a validated configuration.
pub(super) fn compile(config: &Config) -> Guard {
    let guard = &config.guard;
    let mirror = |mirror: &super::config::Mirror| Mirror {
        name: mirror.name.clone(),
        port: port_id(config, &mirror.port).unwrap_or_default(),
        sample: mirror.sample,
        matching: prefixes(&mirror.matching),
    };
    Guard {
        filters: Filters::new(guard.filters.iter().map(|f| rule(config, f)).collect()),
        mirrors: guard.mirrors.iter().map(mirror).collect(),
        bogons: guard.bogons,
        reverse_path: guard.reverse_path,
    }
}

/// The mirror of that name.
pub(super) fn mirror_id(config: &Config, name: &str) -> Option<MirrorId> {
    let at = config.guard.mirrors.iter().position(|mirror| mirror.name == name)?;
    u8::try_from(at).ok().map(MirrorId)
}

fn rule(config: &Config, filter: &Filter) -> Rule {
    let list = |name: &String| {
        let lists = &config.guard.lists;
        lists.iter().find(|list| list.name == *name).map(|list| Arc::clone(&list.prefixes))
    };
    Rule {
        name: filter.name.clone(),
        action: filter.action,
        sources: prefixes(&filter.sources),
        destinations: prefixes(&filter.destinations),
        list: filter.list.as_ref().and_then(list),
        protocol: filter.protocol,
        source_ports: filter.source_ports.clone(),
        destination_ports: filter.destination_ports.clone(),
        tcp_flags: filter.tcp_flags,
        port: filter.port.as_ref().and_then(|name| port_id(config, name)),
    }
}

/// `None` when the file names none: any address will do.
fn prefixes(prefixes: &[ipnet::IpNet]) -> Option<PrefixSet> {
    (!prefixes.is_empty()).then(|| prefixes.iter().copied().collect())
}
