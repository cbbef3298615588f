//! New connections whose packets go by node 0 and come back by node 1.
//!
//! The server answers a SYN at once, from the same machine: the reply races with the record that
//! tells node 1 about the session. A race that is lost is either corrected (node 1 gives the reply to
//! node 0) or costs the client or the server a packet sent again.

use std::path::PathBuf;

use crate::pair::backend::LINES;
use crate::pair::storm::{counter, storm};
use crate::pair::{Forwarding, Node, Pair, Plan, config};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// New connections.
    #[arg(long, default_value_t = 100_000)]
    connections: usize,
    /// How many of them at a time.
    #[arg(long, default_value_t = 100)]
    at_once: usize,
    /// Workers of each node.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

pub(crate) fn measure(shunt: PathBuf, arguments: &Arguments) {
    let mut plan = Plan::new(shunt, Forwarding::FullNat);
    plan.active_active = true;
    plan.workers = [arguments.workers; 2];
    plan.sessions = 1_000_000;
    let mut pair = Pair::new(plan);
    pair.asymmetric();
    pair.nodes.iter_mut().for_each(Node::spawn);
    pair.nodes.iter_mut().for_each(Node::wait_ready);
    pair.wait_for("both nodes have all sessions", |pair| pair.both_synced());

    let sent_again = |pair: &Pair| {
        let client = &pair.fabric.client;
        let servers = pair.servers.iter().map(|s| counter(&s.namespace, "RetransSegs"));
        let servers: u64 = servers.sum();
        [counter(client, "TCPSynRetrans"), counter(client, "RetransSegs"), servers]
    };
    let before = sent_again(&pair);
    let outcome = storm(
        &pair.fabric.client,
        &config::listen(LINES),
        arguments.connections,
        arguments.at_once,
    );
    let after = sent_again(&pair);
    let [syns, client, server] = [0, 1, 2].map(|n| after[n] - before[n]);
    let seconds = outcome.elapsed.as_secs_f64();

    println!(
        "forward by node 0, reply by node 1; fullnat, {} worker(s) each, {} at a time, IPv4 and IPv6\n",
        arguments.workers, arguments.at_once,
    );
    println!("| new connections | {} |", outcome.tried);
    println!("|---|--:|");
    println!("| per second | {:.0} |", outcome.tried as f64 / seconds);
    println!("| failed | {} |", outcome.failed);
    println!("| whose client sent something again | {} |", outcome.repeated);
    println!("| SYNs sent again | {syns} |");
    println!("| segments sent again by the client | {client} |");
    println!("| segments sent again by the servers | {server} |");
    println!("| replies that node 1 gave to node 0 (corrections) | {} |", pair.corrections());
    for node in &pair.nodes {
        let drops = node.json(&["drops"]);
        for drop in drops["drops"].as_array().into_iter().flatten() {
            if drop["packets"].as_u64() > Some(0) {
                let reason = drop["reason"].as_str().unwrap_or_default();
                println!("| dropped by node {}: {reason} | {} |", node.number, drop["packets"]);
            }
        }
    }
    for why in &outcome.why {
        println!("  {why}");
    }
    pair.finish();
}
