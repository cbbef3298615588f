//! The control socket end to end: a management loop over fake workers, served on a real Unix socket
//! and read by the client that the commands use.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::datapath::counters::WorkerCounters;
use crate::datapath::notice::Advert;
use crate::datapath::snapshot::{PortId, Snapshot};
use crate::manage::api::{ControlSocket, pair_types};
use crate::manage::compile;
use crate::manage::config::Config;
use crate::manage::testing::{self, FakeWorker, row};
use crate::manage::{ManageError, Manager};
use crate::session::{ServerId, ServiceId};
use crate::wire::DropReason;
use crate::worker::control::{Command as WorkerCommand, Event};

/// A node whose workers are threads that answer nothing but lists of sessions.
struct Node {
    socket: PathBuf,
    stop: tokio::sync::oneshot::Sender<()>,
    management: JoinHandle<Result<(), ManageError>>,
    workers_stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Two workers; of which only the first `answering` list their sessions.
    fn start(answering: usize) -> Self {
        let mut config = testing::config();
        config.services[0].health = None;
        Self::start_with(answering, config, testing::snapshot())
    }

    fn start_with(answering: usize, mut config: Config, snapshot: Snapshot) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("shunt.sock");
        config.api.socket = socket.clone();
        let (handles, mut fakes) = testing::workers(2);
        let pair = compile::pair(&config);
        count_something(&fakes);
        // Adverts of nobody that this node knows.
        for vrid in [51, 10, 51] {
            fakes[1].event(Event::Vrrp(stranger(vrid)));
        }
        let workers_stop = Arc::new(AtomicBool::new(false));
        let workers = fakes
            .into_iter()
            .enumerate()
            .map(|(number, fake)| {
                let stop = Arc::clone(&workers_stop);
                std::thread::spawn(move || work(number, fake, number < answering, &stop))
            })
            .collect();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let manager = Manager {
            config,
            socket: ControlSocket::bind(&socket).unwrap(),
            snapshot: Arc::new(snapshot),
            workers: handles,
            ports: testing::port_views(),
            pair: pair.map(|pair| (pair, 7)),
        };
        let management = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (_hang_up, reread) = tokio::sync::mpsc::channel(1);
            let stopped = async {
                let _ = stopped.await;
            };
            runtime.block_on(manager.run(stopped, reread))
        });
        Node { socket, stop, management, workers_stop, workers, _dir: dir }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = Client::new(&self.socket).get(path).unwrap();
        let versioned: types::Versioned<T> = client::parse(&answer).unwrap();
        assert_eq!(versioned.api_version, 1);
        versioned.body
    }

    fn error(&self, path: &str) -> String {
        Client::new(&self.socket).get(path).unwrap_err().to_string()
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.management.join().unwrap().unwrap();
        assert!(!self.socket.exists());
        self.workers_stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().unwrap();
        }
    }
}

fn stranger(vrid: u8) -> Advert {
    let source = "192.0.2.77".parse().unwrap();
    Advert { port: PortId(0), source, vrid, priority: 100, interval_cs: 100, addresses: 1 }
}

fn count_something(workers: &[FakeWorker]) {
    let c: &WorkerCounters = &workers[0].counters;
    c.rx.add(100);
    c.tx.add(90);
    c.drops_of(DropReason::NoSession).add(7);
    c.drops_of(DropReason::Martian).add(3);
    c.sessions_v4.set(3);
    c.port(PortId(0)).rx_packets.add(100);
    c.port(PortId(0)).rx_bytes.add(6_400);
    let c: &WorkerCounters = &workers[1].counters;
    c.rx.add(5);
    c.sessions_v6.set(2);
    c.port(PortId(0)).rx_packets.add(5);
    // What a node without a peer does not look at.
    let sync = &workers[0].counters.sync;
    sync.peer_alive.set(1);
    sync.peer_boot.set(0xabcd);
    sync.peer_workers.set(3);
    sync.peer_config.set(5);
    sync.bad_mac.add(2);
    sync.sent_datagrams.add(30);
    sync.buckets_synced.set(40);
    workers[1].counters.sync.sent_datagrams.add(40);
    let sync = &workers[1].counters.sync;
    sync.unprotected.set(5);
    sync.own_sessions.set(9);
    sync.joining_imported.set(500);
    sync.joining_total.set(2_000);
    sync.sessions_lacking.set(2);
    sync.import_refused.add(8);
    for worker in workers {
        let server = worker.counters.server(ServerId(1));
        server.created.add(10);
        server.ended.add(4);
        server.forward_packets.add(50);
        server.reply_bytes.add(1_000);
    }
}

fn work(number: usize, mut fake: FakeWorker, answers: bool, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for command in fake.commands() {
            if let (WorkerCommand::ListSessions(mut query), true) = (command, answers) {
                let client = format!("198.51.100.{}:1000", 9 - number);
                query.matching = if query.filter.service == Some(ServiceId(1)) { 0 } else { 2 };
                if query.matching > 0 && query.rows.capacity() > 0 {
                    query.rows.push(row(&client));
                }
                fake.event(Event::Sessions(query));
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_command_reads_a_running_node() {
    let node = Node::start(2);

    let status: types::Status = node.get("status");
    assert_eq!((status.node.as_str(), status.node_id, status.generation), ("lb-a", 0, 1));
    assert_eq!((status.sessions_v4, status.sessions_v6), (3, 2));
    assert_eq!((status.services_up, status.services_down), (2, 0));
    assert_eq!((status.servers_up, status.servers_down), (3, 0));
    let balance: Vec<_> =
        status.workers.iter().map(|w| (w.worker, w.core, w.unaccounted_packets)).collect();
    assert_eq!(balance, [(0, 4, 0), (1, 5, 5)]);
    let worst: Vec<_> = status.worst_drops.iter().map(|d| (d.reason.as_str(), d.packets)).collect();
    assert_eq!(worst, [("no_session", 7), ("martian", 3)]);

    let services: types::Services = node.get("services");
    let web = &services.services[0];
    assert_eq!((web.name.as_str(), web.servers_up, web.servers_total), ("web", 2, 2));
    assert_eq!((web.mode.as_str(), web.scheduler.as_str()), ("nat", "wrr"));
    assert_eq!(
        (web.traffic.sessions_active, web.traffic.forward_packets, web.traffic.reply_bytes),
        (12, 100, 2_000)
    );

    let servers: types::Servers = node.get("servers");
    let second = &servers.servers[1];
    assert_eq!(second.address.to_string(), "10.9.0.12:8080");
    assert_eq!(second.via.map(|v| v.to_string()).as_deref(), Some("10.0.0.254"));
    assert_eq!((second.port.as_str(), second.traffic.sessions_created), ("back", 20));
    assert_eq!(second.health, None);

    let ports: types::Ports = node.get("ports");
    let front = &ports.ports[0];
    assert_eq!((front.name.as_str(), front.role.as_str()), ("front", "client"));
    assert_eq!((front.rx_packets, front.rx_bytes, front.speed_mbps), (105, 6_400, Some(10_000)));
    assert_eq!(front.hardware.rx_missed_packets, 2);
    assert_eq!(front.capabilities["queues"], 1);

    let workers: types::Workers = node.get("workers");
    assert_eq!((workers.workers[0].dropped_packets, workers.workers[1].rx_packets), (10, 5));

    let neighbors: types::Neighbors = node.get("neighbors");
    let seen: Vec<_> =
        neighbors.neighbors.iter().map(|n| (n.address.to_string(), n.state.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("10.0.0.11".to_string(), "incomplete"),
            ("10.0.0.13".to_string(), "fixed"),
            ("10.0.0.254".to_string(), "incomplete"),
        ]
    );
    assert_eq!(neighbors.neighbors[1].mac.as_deref(), Some("02:00:00:00:00:13"));

    let drops: types::Drops = node.get("drops");
    assert_eq!((drops.dropped_packets, drops.drops.len()), (10, DropReason::COUNT));
    let martian = &drops.drops[DropReason::Martian as usize];
    assert_eq!(martian.count.reason, "martian");
    assert_eq!(martian.packets_by_worker, [3, 0]);

    node.stop();
}

#[test]
fn the_pair() {
    let alone = Node::start(2);
    assert_eq!(alone.get::<pair_types::Ha>("ha").pair, None);
    assert_eq!(alone.get::<types::Status>("status").pair, None);
    alone.stop();

    let mut config = testing::config();
    config.services[0].health = None;
    config.ha = Some(testing::ha());
    let node = Node::start_with(2, config, testing::paired_snapshot());
    // After the first look, which is at the start.
    let pair = loop {
        let pair = node.get::<pair_types::Ha>("ha").pair.unwrap();
        if !pair.problems.is_empty() {
            break pair;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!((pair.mode.as_str(), pair.node.name.as_str()), ("active-backup", "lb-a"));
    assert_eq!((pair.node.synced, pair.node.buckets_synced, pair.node.buckets), (false, 40, 128));
    let group = &pair.groups[0];
    assert_eq!((group.vrid, group.priority), (10, 200));
    assert_eq!(group.addresses, ["192.0.2.10".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((group.adverts_heard, group.adverts_ignored), (0, 1));
    let ignored: Vec<_> =
        pair.ignored_adverts.iter().map(|i| (i.vrid, i.of_this_node, i.adverts)).collect();
    assert_eq!((ignored, pair.ignored_adverts_of_others), (vec![(10, true, 1), (51, false, 2)], 0));
    assert_eq!(pair.peer.boot.as_deref(), Some("000000000000abcd"));
    assert_eq!((pair.peer.restarts, pair.peer.restarted_ago_ms), (0, None));
    assert_eq!((pair.peer.id, pair.peer.workers, pair.peer.config_equal), (1, 3, Some(false)));
    assert_eq!((pair.sync.sent_datagrams, pair.sync.unprotected_sessions), (70, 5));
    assert_eq!((pair.sync.joining_imported, pair.sync.joining_total), (500, 2_000));
    assert_eq!((pair.sync.lacking_sessions, pair.sync.refused_sessions), (2, 8));
    let joining = &pair.problems[2];
    assert_eq!(
        joining.text,
        "this node does not have all sessions of the peer yet: imported 500 of 2000, 40 of 128 buckets \
         are equal; until then it takes no addresses over"
    );
    let problems: Vec<_> = pair.problems.iter().map(|p| p.kind.as_str()).collect();
    assert_eq!(problems, ["wrong_key", "config_differs", "joining"]);
    let summary = node.get::<types::Status>("status").pair.unwrap();
    assert_eq!((summary.peer_alive, summary.synced, summary.problems), (true, false, 2));
    node.stop();
}

#[test]
fn sessions_of_all_workers_are_merged_and_filtered() {
    let node = Node::start(2);
    let all: types::Sessions = node.get("sessions");
    assert_eq!((all.matching, all.truncated, all.silent_workers.len()), (4, true, 0));
    let seen: Vec<_> = all.sessions.iter().map(|s| (s.worker, s.client.to_string())).collect();
    assert_eq!(seen, [(1, "198.51.100.8:1000".to_string()), (0, "198.51.100.9:1000".to_string())]);
    assert_eq!(
        (all.sessions[0].service.as_str(), all.sessions[0].state.as_str()),
        ("web", "established")
    );
    let one: types::Sessions = node.get("sessions?limit=1&client=198.51.100.0%2F24");
    assert_eq!(one.sessions.len(), 1);
    let none: types::Sessions = node.get("sessions?service=dns");
    assert_eq!((none.matching, none.truncated, none.sessions.len()), (0, false, 0));
    node.stop();
}

#[test]
fn a_worker_that_does_not_answer_is_named() {
    let node = Node::start(1);
    let list: types::Sessions = node.get("sessions");
    assert_eq!((list.silent_workers, list.sessions.len()), (vec![1], 1));
    node.stop();
}

#[test]
fn wrong_questions_get_a_sentence() {
    let node = Node::start(2);
    assert_eq!(node.error("nothing"), "there is no /v1/nothing");
    assert_eq!(node.error("sessions?service=wep"), "no service is called wep; there are: web, dns");
    assert_eq!(node.error("sessions?limit=0"), "limit 0 is not between 1 and 10000");
    assert!(node.error("sessions?colour=red").contains("unknown field `colour`"));
    node.stop();
}

#[test]
fn servers_that_listen_come_up_and_the_others_stay_down() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut config, mut snapshot) = (testing::config(), testing::snapshot());
    for (i, at) in [listener.local_addr().unwrap(), closed].into_iter().enumerate() {
        config.services[0].servers[i].address = at;
        snapshot.servers[i].address = at.ip();
        snapshot.servers[i].port = at.port();
    }
    let health = config.services[0].health.as_mut().unwrap();
    (health.interval_ms, health.rise, health.fall) = (10, 1, 2);
    let node = Node::start_with(2, config, snapshot);
    let wait_for = |wanted: &dyn Fn(&[types::Server]) -> bool| loop {
        let servers = node.get::<types::Servers>("servers").servers;
        let checked = |s: &types::Server| s.health.as_ref().is_none_or(|h| h.checks > 0);
        if servers.iter().all(checked) && wanted(&servers) {
            break servers;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let up = |servers: &[types::Server]| servers.iter().map(|s| s.up).collect::<Vec<_>>();

    let servers = wait_for(&|s| s[0].up);
    assert_eq!(up(&servers), [true, false, true]);
    let error = servers[1].health.as_ref().unwrap().error.as_deref();
    assert_eq!(error, Some("connection refused"));

    drop(listener);
    let servers = wait_for(&|s| !s[0].up);
    assert_eq!(up(&servers), [false, false, true]);
    let status: types::Status = node.get("status");
    assert_eq!((status.services_up, status.services_down), (1, 1));
    node.stop();
}
