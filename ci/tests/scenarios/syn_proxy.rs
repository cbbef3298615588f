//! The SYN proxy, byte for byte: handshakes with every set of options, data with shifted numbers, each
//! packet of the handshake lost, servers that refuse or say nothing, cookies that are wrong or old,
//! and `auto` on its way on and off.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use shunt::datapath::mirror::MirrorId;
use shunt::datapath::policy::MidStream;
use shunt::datapath::selection::Persistence;
use shunt::datapath::snapshot::{Mac, PortId, SynProxy};
use shunt::session::syn_cookie::{Claim, Offer, SynCookies};
use shunt::session::{Mode, ServerId, TcpState};
use shunt::wire::DropReason::{
    BadTransportChecksum, NoServer, SessionTableFull, SynCookieInvalid, SynProxyWaiting,
};
use shunt::wire::flow::{FlowKey, Protocol};
use shunt::wire::syn_options::{SynOptions, Timestamps};

use crate::changes::Changes;
use crate::frames::{ACK, FIN_ACK, PSH_ACK, RST, SYN, SYN_ACK, source_port, with_class};
use crate::mirror::{SENSOR, with_sensor};
use crate::net::{FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, server_mac};
use crate::rig::{Rig, cookie_secret};

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
const RST_ACK: u8 = RST | ACK;
const CLIENT_ISN: u32 = 0xffff_fff0;
const SERVER_ISN: u32 = 0x0bad_cafe;
/// The server's clock in its SYN-ACK.
const SERVER_TIME: u32 = 0x7000_0000;
const CLIENT_TIME: u32 = 0x1234_5678;

/// A TCP segment with all its numbers.
#[derive(Clone, Debug)]
pub struct Segment {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub ttl: u8,
    /// The ECN bits of the IP header.
    pub ecn: u8,
}

impl Segment {
    pub fn new(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32) -> Self {
        let (options, payload) = (Vec::new(), Vec::new());
        Segment { src, dst, seq, ack, flags, window: 500, options, payload, ttl: 64, ecn: 0 }
    }
    pub fn window(self, window: u16) -> Self {
        Segment { window, ..self }
    }
    pub fn options(self, options: &[u8]) -> Self {
        Segment { options: options.into(), ..self }
    }
    pub fn payload(self, payload: &[u8]) -> Self {
        Segment { payload: payload.into(), ..self }
    }
    pub fn ttl(self, ttl: u8) -> Self {
        Segment { ttl, ..self }
    }
    fn ecn(self, ecn: u8) -> Self {
        Segment { ecn, ..self }
    }

    /// By etherparse, between these MAC addresses.
    pub fn bytes(&self, from: Mac, to: Mac) -> Vec<u8> {
        let start = PacketBuilder::ethernet2(from, to);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => start.ipv4(src.octets(), dst.octets(), self.ttl),
            (IpAddr::V6(src), IpAddr::V6(dst)) => start.ipv6(src.octets(), dst.octets(), self.ttl),
            _ => panic!("two families"),
        };
        let mut tcp = ip.tcp(self.src.port(), self.dst.port(), self.seq, self.window);
        let has = |bit: u8| self.flags & bit != 0;
        tcp = if has(0x01) { tcp.fin() } else { tcp };
        tcp = if has(SYN) { tcp.syn() } else { tcp };
        tcp = if has(RST) { tcp.rst() } else { tcp };
        tcp = if has(0x08) { tcp.psh() } else { tcp };
        tcp = if has(ACK) { tcp.ack(self.ack) } else { tcp };
        tcp = if has(ECE) { tcp.ece() } else { tcp };
        tcp = if has(CWR) { tcp.cwr() } else { tcp };
        let tcp = tcp.options_raw(&self.options).unwrap();
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, &self.payload).unwrap();
        if self.src.is_ipv4() {
            bytes[15] |= self.ecn;
            crate::frames::mend_ipv4_checksum(&mut bytes);
        } else {
            bytes[15] |= self.ecn << 4;
        }
        bytes
    }
}

/// What a client offers and what a server has.
#[derive(Clone, Copy, Debug)]
struct Ends {
    client: SynOptions,
    ecn: bool,
    server: SynOptions,
    server_ecn: bool,
}

/// Both as Linux does it.
const LINUX: Ends = Ends {
    client: SynOptions {
        mss: Some(1460),
        window_scale: Some(5),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: CLIENT_TIME, echo: 0 }),
    },
    ecn: false,
    server: SynOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: SERVER_TIME, echo: CLIENT_TIME }),
    },
    server_ecn: false,
};

/// The largest of the cookie's sizes that is not above it.
fn rounded(mss: u16) -> u16 {
    shunt::session::syn_cookie::MSS.into_iter().filter(|size| *size <= mss).max().unwrap_or(88)
}

fn options(options: &SynOptions) -> Vec<u8> {
    let mut bytes = [0; 20];
    let len = options.emit(&mut bytes);
    bytes[..len].to_vec()
}

fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let timestamps = Some(Timestamps { value, echo });
    options(&SynOptions { timestamps, ..SynOptions::default() })
}

/// A connection of a client with the web service.
struct Talk {
    rig: Rig,
    family: Family,
    mode: Mode,
    client: SocketAddr,
    vip: SocketAddr,
    server: SocketAddr,
    id: ServerId,
    ends: Ends,
    client_isn: u32,
    /// Source towards the server: known once it was asked.
    local: SocketAddr,
    cookie: u32,
    /// Our timestamp in the SYN-ACK.
    own_time: u32,
    /// Type of service or traffic class of what the switch sends.
    class: u8,
    /// Whether a sensor gets copies of what comes in.
    watched: bool,
}

fn net(workers: usize, mode: Mode, policy: SynProxy) -> Net {
    let mut net = Net::two_armed(workers).usual(mode);
    net.snapshot.services[0].syn_proxy = policy;
    net
}

impl Talk {
    fn new(net: Net, family: Family, ends: Ends) -> Self {
        let mode = net.snapshot.services[0].mode;
        let client = SocketAddr::new(family.client(), 40_001);
        Talk {
            rig: Rig::new(net),
            family,
            mode,
            client,
            vip: SocketAddr::new(family.vip(), 80),
            server: SocketAddr::new(family.server(11), 8080),
            id: ServerId(u16::from(family == Family::V6)),
            ends,
            client_isn: CLIENT_ISN,
            local: client,
            cookie: 0,
            own_time: 0,
            class: 0,
            watched: false,
        }
    }

    fn on(family: Family) -> Self {
        Talk::new(net(1, Mode::Nat, SynProxy::On), family, LINUX)
    }

    fn v6(&self) -> bool {
        self.family == Family::V6
    }
    fn has_timestamps(&self) -> bool {
        self.ends.client.timestamps.is_some()
    }
    fn by_client(&self, segment: &Segment) -> Vec<u8> {
        segment.bytes(ROUTER_MAC, FRONT_MAC)
    }
    fn by_server(&self, segment: &Segment) -> Vec<u8> {
        segment.bytes(server_mac(11), self.rig.net.server_side_mac())
    }
    fn to_client(&self, segment: &Segment) -> Vec<u8> {
        with_class(segment.bytes(FRONT_MAC, ROUTER_MAC), self.class | segment.ecn)
    }
    fn to_server(&self, segment: &Segment) -> Vec<u8> {
        let bytes = segment.bytes(self.rig.net.server_side_mac(), server_mac(11));
        with_class(bytes, self.class | segment.ecn)
    }
    /// As [`Rig::step`]; the sensor gets what came in.
    fn step(
        &mut self,
        what: &str,
        port: PortId,
        bytes: &[u8],
        outer: Option<SocketAddr>,
        mut changes: Changes,
        out: &[(PortId, Vec<u8>)],
    ) {
        let mut out = out.to_vec();
        if self.watched {
            changes = changes.add("mirrored", 1).originated(SENSOR, bytes);
            out.push((SENSOR, bytes.to_vec()));
        }
        self.rig.step(what, port, bytes, outer, changes, &out);
    }
    fn back(&self) -> PortId {
        self.rig.net.server_side()
    }

    fn mint(&self, isn: u32, now: u32) -> u32 {
        let mss = self.ends.client.mss.unwrap_or(if self.v6() { 1220 } else { 536 });
        let timestamps = self.has_timestamps();
        let mut cookies = SynCookies::new(cookie_secret());
        let (sport, dport, protocol) = (self.client.port(), self.vip.port(), Protocol::Tcp);
        match (self.client.ip(), self.vip.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let key = FlowKey { src, dst, sport, dport, protocol };
                cookies.mint(&Claim { key, isn, timestamps }, mss, now)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let key = FlowKey { src, dst, sport, dport, protocol };
                cookies.mint(&Claim { key, isn, timestamps }, mss, now)
            }
            _ => panic!("two families"),
        }
    }

    fn offer(&self) -> Offer {
        let client = self.ends.client;
        Offer { window_scale: client.window_scale, sack: client.sack_permitted, ecn: self.ends.ecn }
    }

    fn syn(&self) -> Segment {
        let flags = if self.ends.ecn { SYN | ECE | CWR } else { SYN };
        Segment::new(self.client, self.vip, flags, self.client_isn, 0)
            .options(&options(&self.ends.client))
    }

    /// The SYN-ACK that answers it now.
    fn challenge(&self) -> Segment {
        let mss = Some(if self.v6() { 1440 } else { 1460 });
        let mut answer = SynOptions { mss, ..SynOptions::default() };
        let mut flags = SYN_ACK;
        if let Some(client) = self.ends.client.timestamps {
            let value = self.offer().timestamp(self.rig.now);
            answer.window_scale = self.ends.client.window_scale.map(|_| 7);
            answer.sack_permitted = self.ends.client.sack_permitted;
            answer.timestamps = Some(Timestamps { value, echo: client.value });
            flags |= if self.ends.ecn { ECE } else { 0 };
        }
        let cookie = self.mint(self.client_isn, self.rig.now);
        Segment::new(self.vip, self.client, flags, cookie, self.client_isn.wrapping_add(1))
            .window(0)
            .options(&options(&answer))
    }

    /// The client's SYN is answered with a cookie.
    fn knock(&mut self) {
        let bytes = self.by_client(&self.syn());
        let out = self.to_client(&self.challenge());
        self.cookie = self.mint(self.client_isn, self.rig.now);
        self.own_time = self.offer().timestamp(self.rig.now);
        let changes =
            Changes::none().consumed().originated(FRONT, &out).add("service0.syn_cookies_sent", 1);
        self.step("SYN", FRONT, &bytes, Some(self.client), changes, &[(FRONT, out)]);
    }

    /// A segment from the client with the timestamps that it has by now.
    fn client_segment(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        let segment = Segment::new(self.client, self.vip, flags, seq, ack).window(0x0123);
        if self.has_timestamps() {
            segment.options(&timestamps(CLIENT_TIME + 1, self.own_time))
        } else {
            segment
        }
    }

    fn ack(&self) -> Segment {
        let (seq, ack) = (self.client_isn.wrapping_add(1), self.cookie.wrapping_add(1));
        self.client_segment(ACK, seq, ack)
    }

    /// The SYN to the server, when the client's timestamp was `time`.
    fn server_syn(&self, time: u32) -> Segment {
        let client = self.ends.client;
        let mss = Some(rounded(client.mss.unwrap_or(if self.v6() { 1220 } else { 536 })));
        let (mut asked, mut flags) = (SynOptions { mss, ..SynOptions::default() }, SYN);
        let mut window = 0x0123;
        if self.has_timestamps() {
            asked = SynOptions { mss, ..client };
            asked.timestamps = Some(Timestamps { value: time, echo: 0 });
            flags |= if self.ends.ecn { ECE | CWR } else { 0 };
            window = (window << client.window_scale.unwrap_or(0)).min(0xffff);
        }
        Segment::new(self.local, self.server, flags, self.client_isn, 0)
            .window(window as u16)
            .options(&options(&asked))
            .ttl(63)
    }

    /// The local port is the switch's choice: a twin makes the same. It need not have seen the SYN.
    fn learn_local_port(&mut self) {
        if self.mode == Mode::FullNat {
            let mut twin = Rig::new(self.rig.net.clone());
            (twin.now, twin.turn) = (self.rig.now, self.rig.turn);
            let sent = twin.send(FRONT, &self.by_client(&self.ack()));
            assert_eq!(sent.len(), 1 + usize::from(self.watched));
            self.local = SocketAddr::new(self.family.lip(), source_port(&sent[0].1));
        }
    }

    /// The client returns the cookie and the server is asked.
    fn enter(&mut self) {
        self.learn_local_port();
        let bytes = self.by_client(&self.ack());
        let back = self.back();
        let out = self.to_server(&self.server_syn(CLIENT_TIME + 1));
        let changes = Changes::none()
            .session(self.id, self.v6(), 1)
            .forward(self.id, &out)
            .tx(back, &out)
            .add("service0.syn_cookies_accepted", 1);
        self.step("ACK", FRONT, &bytes, Some(self.client), changes, &[(back, out)]);
    }

    /// The server's SYN-ACK.
    fn accept(&self) -> Segment {
        let flags = if self.ends.server_ecn { SYN_ACK | ECE } else { SYN_ACK };
        let mut server = self.ends.server;
        if !self.has_timestamps() {
            server = SynOptions { mss: server.mss, ..SynOptions::default() };
        }
        let ack = self.client_isn.wrapping_add(1);
        Segment::new(self.server, self.local, flags, SERVER_ISN, ack)
            .window(0xfe80)
            .options(&options(&server))
    }

    /// Our ACK to it.
    fn acknowledgment(&self) -> Segment {
        let client = self.client_isn.wrapping_add(1);
        let unscaled = self.ends.server.window_scale.is_none();
        let scale = if unscaled && self.has_timestamps() {
            self.ends.client.window_scale.unwrap_or(0)
        } else {
            0
        };
        let ack = Segment::new(self.local, self.server, ACK, client, SERVER_ISN.wrapping_add(1))
            .window((0x0123u32 << scale).min(0xffff) as u16);
        match self.ends.server.timestamps.filter(|_| self.has_timestamps()) {
            Some(_) => ack.options(&timestamps(CLIENT_TIME, SERVER_TIME)),
            None => ack,
        }
    }

    /// The server accepts: it is acknowledged and the client's window opened.
    fn complete(&mut self) {
        let bytes = self.by_server(&self.accept());
        let ack = self.to_server(&self.acknowledgment());
        let scaled = self.has_timestamps() && self.ends.client.window_scale.is_some();
        let update = Segment::new(
            self.vip,
            self.client,
            ACK,
            self.cookie.wrapping_add(1),
            self.client_isn.wrapping_add(1),
        )
        .window(if scaled { 0xfe80 >> 7 } else { 0xfe80 })
        .ttl(63);
        let update = match self.ends.server.timestamps.filter(|_| self.has_timestamps()) {
            Some(_) => update.options(&timestamps(self.own_time, CLIENT_TIME)),
            None => update,
        };
        let update = self.to_client(&update);
        let back = self.back();
        let changes = Changes::none()
            .reply(self.id, &update)
            .tx(FRONT, &update)
            .originated(back, &ack)
            .add("service0.syn_proxied", 1);
        let mut out = vec![(FRONT, update), (back, ack)];
        if back == FRONT {
            // The server hears of the handshake's end before the client may send.
            out.sort_by_key(|(_, bytes)| bytes[..6] == ROUTER_MAC);
        }
        self.step("SYN-ACK", back, &bytes, Some(self.local), changes, &out);
    }

    fn connect(&mut self) {
        self.knock();
        self.enter();
        self.complete();
        assert_eq!(self.state(), TcpState::Established);
    }

    fn state(&self) -> TcpState {
        let mut states = Vec::new();
        for worker in &self.rig.workers {
            worker.pipeline().sessions_v4().walk(&mut 0, 1000, |_, e| states.push(e.state));
            worker.pipeline().sessions_v6().walk(&mut 0, 1000, |_, e| states.push(e.state));
        }
        assert_eq!(states.len(), 1);
        states[0]
    }

    /// A packet of the established session passes, as exactly that.
    fn passes(&mut self, what: &str, segment: &Segment, expected: &Segment) {
        let back = self.back();
        if segment.src == self.client {
            let (bytes, out) = (self.by_client(segment), self.to_server(expected));
            let changes = Changes::none().forward(self.id, &bytes).tx(back, &out);
            self.step(what, FRONT, &bytes, Some(self.client), changes, &[(back, out)]);
        } else {
            let (bytes, out) = (self.by_server(segment), self.to_client(expected));
            let changes = Changes::none().reply(self.id, &bytes).tx(FRONT, &out);
            self.step(what, back, &bytes, Some(self.local), changes, &[(FRONT, out)]);
        }
    }

    /// A packet from the client is dropped.
    fn dropped(&mut self, what: &str, segment: &Segment, changes: Changes) {
        let bytes = self.by_client(segment);
        self.step(what, FRONT, &bytes, Some(self.client), changes, &[]);
    }

    /// The server gets the SYN again after the client's `segment`.
    fn asks_again(&mut self, what: &str, segment: &Segment) {
        let bytes = self.by_client(segment);
        let out = self.to_server(&self.server_syn(CLIENT_TIME + 1));
        let changes = Changes::none().forward(self.id, &out).tx(self.back(), &out);
        let back = self.back();
        self.step(what, FRONT, &bytes, Some(self.client), changes, &[(back, out)]);
    }
}

/// Both ways, with SACK blocks and timestamps where they are in use, then both FINs.
fn exchange(talk: &mut Talk) {
    let (client, server) = (talk.client_isn.wrapping_add(1), SERVER_ISN.wrapping_add(1));
    let (cookie, shift) = (talk.cookie.wrapping_add(1), talk.cookie.wrapping_sub(SERVER_ISN));
    let ts = talk.has_timestamps() && talk.ends.server.timestamps.is_some();
    let time_shift = talk.own_time.wrapping_sub(SERVER_TIME);
    let with = |own: u32, echo: u32, blocks: &[u32]| {
        let mut bytes = if ts { timestamps(own, echo) } else { Vec::new() };
        if !blocks.is_empty() {
            bytes.extend([1, 1, 5, 2 + 4 * blocks.len() as u8]);
            bytes.extend(blocks.iter().flat_map(|edge| edge.to_be_bytes()));
        }
        bytes
    };
    let (from, to) = (talk.client, talk.vip);
    let up = |flags, seq, ack, options: Vec<u8>, data: &[u8]| {
        Segment::new(from, to, flags, seq, ack).options(&options).payload(data)
    };
    let up_out = |talk: &Talk, s: &Segment, ack, options: Vec<u8>| {
        Segment { src: talk.local, dst: talk.server, ack, ttl: 63, ..s.clone() }.options(&options)
    };
    let request = up(
        PSH_ACK,
        client,
        cookie,
        with(CLIENT_TIME + 9, talk.own_time.wrapping_add(5), &[]),
        b"GET / HTTP/1.1\r\n\r\n",
    );
    let expected = up_out(talk, &request, server, with(CLIENT_TIME + 9, SERVER_TIME + 5, &[]));
    talk.passes("request", &request, &expected);

    let acked = client.wrapping_add(18);
    let answer = Segment::new(talk.server, talk.local, PSH_ACK, server, acked)
        .options(&with(SERVER_TIME + 77, CLIENT_TIME + 9, &[acked + 100, acked + 200]))
        .payload(&[0xa5; 1301]);
    let expected = Segment {
        src: talk.vip,
        dst: talk.client,
        seq: answer.seq.wrapping_add(shift),
        ttl: 63,
        ..answer.clone()
    }
    .options(&with(
        (SERVER_TIME + 77).wrapping_add(time_shift),
        CLIENT_TIME + 9,
        &[acked + 100, acked + 200],
    ));
    talk.passes("answer", &answer, &expected);

    let got = cookie.wrapping_add(1301);
    let edges = [got.wrapping_add(1000), got.wrapping_add(2000)];
    let sack = up(
        ACK,
        acked,
        got,
        with(CLIENT_TIME + 20, (SERVER_TIME + 77).wrapping_add(time_shift), &edges),
        b"",
    );
    let server_edges = edges.map(|edge| edge.wrapping_sub(shift));
    let expected = up_out(
        talk,
        &sack,
        server.wrapping_add(1301),
        with(CLIENT_TIME + 20, SERVER_TIME + 77, &server_edges),
    );
    talk.passes("selective acknowledgment", &sack, &expected);

    let fin = up(FIN_ACK, acked, got, with(CLIENT_TIME + 30, talk.own_time, &[]), b"");
    let expected =
        up_out(talk, &fin, server.wrapping_add(1301), with(CLIENT_TIME + 30, SERVER_TIME, &[]));
    talk.passes("FIN", &fin, &expected);
    let fin = Segment::new(talk.server, talk.local, FIN_ACK, server.wrapping_add(1301), acked + 1)
        .options(&with(SERVER_TIME + 90, CLIENT_TIME + 30, &[]));
    let expected = Segment { src: talk.vip, dst: talk.client, seq: got, ttl: 63, ..fin.clone() }
        .options(&with((SERVER_TIME + 90).wrapping_add(time_shift), CLIENT_TIME + 30, &[]));
    talk.passes("the server's FIN", &fin, &expected);
    assert_eq!(talk.state(), TcpState::FinBoth);
}

#[test]
fn handshake_and_data_in_every_mode_and_family() {
    for workers in [1, 2, 4] {
        for mode in [Mode::Nat, Mode::FullNat] {
            for family in Family::BOTH {
                for one_armed in [false, true] {
                    let mut net =
                        if one_armed { Net::one_armed(workers) } else { Net::two_armed(workers) }
                            .usual(mode);
                    net.snapshot.services[0].syn_proxy = SynProxy::On;
                    let mut talk = Talk::new(net, family, LINUX);
                    talk.connect();
                    exchange(&mut talk);
                    talk.rig.wait(
                        "the session ends",
                        11_000,
                        Changes::none().add("expired", 1).session(talk.id, talk.v6(), -1),
                    );
                }
            }
        }
    }
}

/// The sensor gets every packet of the handshake as it came, and what the switch sends is marked.
#[test]
fn a_handshake_that_is_watched_and_marked() {
    for workers in [1, 2] {
        for mode in [Mode::Nat, Mode::FullNat] {
            for family in Family::BOTH {
                let mut net = with_sensor(net(workers, mode, SynProxy::On), 1, None);
                net.snapshot.services[0].mirror = Some(MirrorId(0));
                net.snapshot.services[0].policy.dscp = Some(46);
                let mut talk = Talk::new(net, family, LINUX);
                (talk.class, talk.watched) = (46 << 2, true);
                talk.knock();
                // Before the server has answered: the SYN comes again, and data too early.
                talk.enter();
                let early = Changes::none().dropped(SynProxyWaiting);
                let ack = talk.ack();
                talk.dropped("the ACK again", &ack, early);
                talk.complete();
                let (client, server) = (CLIENT_ISN.wrapping_add(1), SERVER_ISN.wrapping_add(1));
                let request = talk.client_segment(PSH_ACK, client, talk.cookie.wrapping_add(1));
                let request = request.payload(b"GET / HTTP/1.1\r\n\r\n");
                let expected = Segment {
                    src: talk.local,
                    dst: talk.server,
                    ack: server,
                    ttl: 63,
                    ..request.clone()
                }
                .options(&timestamps(CLIENT_TIME + 1, SERVER_TIME));
                talk.passes("request", &request, &expected);
                // Our ACK was lost: the server has answered again.
                let bytes = talk.by_server(&talk.accept());
                let ack = talk.to_server(&talk.acknowledgment());
                let (back, local) = (talk.back(), talk.local);
                let changes = Changes::none().consumed().originated(back, &ack);
                talk.step("SYN-ACK again", back, &bytes, Some(local), changes, &[(back, ack)]);
            }
        }
    }
}

/// The server is asked again by a timer, and the client told when it does not answer.
#[test]
fn what_timers_send_is_marked() {
    for family in Family::BOTH {
        let mut net = net(1, Mode::Nat, SynProxy::On);
        net.snapshot.services[0].policy.dscp = Some(46);
        let mut talk = Talk::new(net, family, LINUX);
        talk.class = 46 << 2;
        talk.knock();
        talk.enter();
        let again = talk.to_server(&talk.server_syn(CLIENT_TIME + 1));
        talk.rig.sent();
        talk.rig.pass(1100);
        assert_eq!(talk.rig.sent(), [(talk.back(), again.clone())]);
        talk.rig.pass(2000);
        assert_eq!(talk.rig.sent(), [(talk.back(), again)]);
        talk.rig.pass(3000);
        let sent = talk.rig.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(with_class(sent[0].1.clone(), 46 << 2), sent[0].1);
    }
}

#[test]
fn every_set_of_options() {
    for family in Family::BOTH {
        for bits in 0..16 {
            for mss in [None, Some(9000), Some(1452), Some(1459), Some(500)] {
                let mut ends = LINUX;
                ends.client.mss = mss;
                if bits & 1 == 0 {
                    ends.client.timestamps = None;
                }
                if bits & 2 == 0 {
                    ends.client.window_scale = None;
                    ends.server.window_scale = None;
                }
                if bits & 4 == 0 {
                    ends.client.sack_permitted = false;
                    ends.server.sack_permitted = false;
                }
                ends.ecn = bits & 8 != 0;
                ends.server_ecn = ends.ecn;
                let mut talk = Talk::new(net(1, Mode::Nat, SynProxy::On), family, ends);
                talk.connect();
                exchange(&mut talk);
            }
        }
    }
}

/// The server has other ideas than what the client was told in its place.
#[test]
fn windows_are_rescaled_and_ecn_taken_off() {
    let cases: [(Option<u8>, u16, u16, u16); 4] = [
        // The server's scale, a window of its, what the client gets, what the server gets of 0x123.
        (Some(9), 0x0456, 0x0456 << 2, 0x0123),
        (Some(14), 0x0456, 0xffff, 0x0123),
        (Some(3), 0x4567, 0x0456, 0x0123),
        (None, 0xfe80, 0xfe80 >> 7, 0x0123 << 5),
    ];
    for family in Family::BOTH {
        for (scale, window, to_client, to_server) in cases {
            let mut ends = LINUX;
            ends.server.window_scale = scale;
            ends.ecn = true;
            let mut talk = Talk::new(net(1, Mode::Nat, SynProxy::On), family, ends);
            talk.connect();
            let (cookie, server) = (talk.cookie.wrapping_add(1), SERVER_ISN.wrapping_add(1));
            let client = talk.client_isn.wrapping_add(1);
            let down = Segment::new(talk.server, talk.local, ACK, server, client).window(window);
            let expected = Segment {
                src: talk.vip,
                dst: talk.client,
                seq: cookie,
                window: to_client,
                ttl: 63,
                ..down.clone()
            };
            talk.passes("the server's window", &down, &expected);
            let up = Segment::new(talk.client, talk.vip, ACK, client, cookie)
                .window(0x0123)
                .payload(b"marked")
                .ecn(2);
            let expected = Segment {
                src: talk.local,
                dst: talk.server,
                ack: server,
                window: to_server,
                ttl: 63,
                ecn: 0,
                ..up.clone()
            };
            talk.passes("the client's window", &up, &expected);
        }
    }
}

#[test]
fn lost_packets_of_the_handshake() {
    for family in Family::BOTH {
        let mut talk = Talk::on(family);
        // Our SYN-ACK is lost: the client asks again and gets the same number.
        talk.knock();
        let first = talk.cookie;
        talk.rig.now = talk.rig.now.wrapping_add(100);
        talk.knock();
        assert_eq!(talk.cookie, first);
        assert_eq!(talk.rig.sessions(), 0);
        talk.enter();
        // Our SYN to the server is lost: at once nothing happens, a little later it is asked again.
        let waiting = || Changes::none().dropped(SynProxyWaiting);
        let (isn, ack) = (talk.client_isn, talk.cookie.wrapping_add(1));
        let again = talk.ack();
        talk.dropped("the ACK twice", &again, waiting());
        talk.rig.now = talk.rig.now.wrapping_add(200);
        // A window probe of Linux, and one of a stack that sends a byte.
        let probe = talk.client_segment(ACK, isn, ack);
        talk.asks_again("probe", &probe);
        let byte = talk.client_segment(ACK, isn.wrapping_add(1), ack).payload(b"G");
        talk.dropped("a byte at once", &byte, waiting());
        talk.rig.now = talk.rig.now.wrapping_add(200);
        talk.asks_again("a byte", &byte);
        // A FIN must wait too.
        let fin = talk.client_segment(FIN_ACK, isn.wrapping_add(1), ack);
        talk.dropped("FIN", &fin, waiting());
        assert_eq!(talk.state(), TcpState::SynProxied);
        talk.complete();
        // Our ACK to the server is lost: it is not the client's to answer.
        let bytes = talk.by_server(&talk.accept());
        let again = talk.acknowledgment();
        let out = again.bytes(talk.rig.net.server_side_mac(), server_mac(11));
        let back = talk.back();
        let changes = Changes::none().consumed().originated(back, &out);
        talk.rig.step("SYN-ACK", back, &bytes, Some(talk.local), changes, &[(back, out)]);
        // The window update to the client is lost: its probe reaches the server.
        let probe = talk.client_segment(ACK, isn, ack);
        let expected = Segment {
            src: talk.local,
            dst: talk.server,
            ack: SERVER_ISN.wrapping_add(1),
            ttl: 63,
            ..probe.clone()
        }
        .options(&timestamps(CLIENT_TIME + 1, SERVER_TIME));
        talk.passes("probe", &probe, &expected);
        exchange(&mut talk);
    }
}

/// The client's ACK is lost: its first probe, with whatever number, opens the session.
#[test]
fn the_ack_is_lost() {
    for family in Family::BOTH {
        for probe in 0..2 {
            let mut talk = Talk::on(family);
            talk.knock();
            let seq = talk.client_isn.wrapping_add(probe);
            let data: &[u8] = if probe == 1 { b"G" } else { b"" };
            let probe = talk.client_segment(ACK, seq, talk.cookie.wrapping_add(1)).payload(data);
            let bytes = talk.by_client(&probe);
            let back = talk.back();
            let out = talk.to_server(&talk.server_syn(CLIENT_TIME + 1));
            let changes = Changes::none()
                .session(talk.id, talk.v6(), 1)
                .forward(talk.id, &out)
                .tx(back, &out)
                .add("service0.syn_cookies_accepted", 1);
            talk.rig.step("probe", FRONT, &bytes, Some(talk.client), changes, &[(back, out)]);
            talk.complete();
            exchange(&mut talk);
        }
    }
}

/// Nobody says anything: Shunt asks the server again by itself, twice, and then resets the client.
#[test]
fn the_server_is_silent() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for family in Family::BOTH {
            let mut talk = Talk::new(net(1, mode, SynProxy::On), family, LINUX);
            talk.knock();
            talk.enter();
            let back = talk.back();
            let syn = talk.to_server(&talk.server_syn(CLIENT_TIME + 1));
            for (ms, sent) in [(900, 0), (200, 1), (1700, 0), (200, 1), (1900, 0)] {
                talk.rig.changes();
                talk.rig.pass(ms);
                assert_eq!(talk.rig.sent(), vec![(back, syn.clone()); sent]);
                let changes = match sent {
                    0 => Changes::none(),
                    _ => Changes::none().originated(back, &syn),
                };
                assert_eq!(talk.rig.changes(), changes);
            }
            assert_eq!(talk.state(), TcpState::SynProxied);
            talk.rig.pass(400);
            let (cookie, client) = (talk.cookie.wrapping_add(1), talk.client_isn.wrapping_add(1));
            let reset = Segment::new(talk.vip, talk.client, RST_ACK, cookie, client);
            let reset = talk.to_client(&reset.window(0).ttl(63));
            let expired = Changes::none()
                .add("expired", 1)
                .session(talk.id, talk.v6(), -1)
                .originated(FRONT, &reset);
            assert_eq!(talk.rig.changes(), expired);
            assert_eq!(talk.rig.sent(), [(FRONT, reset)]);
        }
    }
}

/// Probes do not keep a session alive whose server says nothing.
#[test]
fn a_client_cannot_wait_for_ever() {
    let mut talk = Talk::on(Family::V4);
    talk.knock();
    talk.enter();
    for _ in 0..20 {
        talk.rig.pass(240);
        talk.rig.send(FRONT, &talk.by_client(&talk.ack()));
    }
    assert_eq!(talk.rig.sessions(), 1);
    talk.rig.pass(500);
    assert_eq!(talk.rig.sessions(), 0);
}

#[test]
fn the_server_refuses() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for family in Family::BOTH {
            let mut talk = Talk::new(net(1, mode, SynProxy::On), family, LINUX);
            talk.knock();
            talk.enter();
            let client = talk.client_isn.wrapping_add(1);
            let back = talk.back();
            // Not for our SYN.
            let wrong = Segment::new(talk.server, talk.local, RST_ACK, 0, client.wrapping_add(1));
            let wrong = talk.by_server(&wrong);
            let changes = Changes::none().dropped(SynProxyWaiting);
            talk.rig.step("another's RST", back, &wrong, Some(talk.local), changes, &[]);

            let reset = Segment::new(talk.server, talk.local, RST_ACK, 0, client).window(0);
            let bytes = talk.by_server(&reset);
            let cookie = talk.cookie.wrapping_add(1);
            let out =
                Segment::new(talk.vip, talk.client, RST_ACK, cookie, client).window(0).ttl(63);
            let out = talk.to_client(&out);
            let changes = Changes::none().reply(talk.id, &out).tx(FRONT, &out);
            talk.rig.step("RST", back, &bytes, Some(talk.local), changes, &[(FRONT, out)]);
            assert_eq!(talk.state(), TcpState::Closed);

            // The client tries again from the same port: the old session goes when the cookie comes.
            talk.client_isn = 0x4000;
            talk.knock();
            assert_eq!(talk.state(), TcpState::Closed);
            let bytes = talk.by_client(&talk.ack());
            let sent = talk.rig.send(FRONT, &bytes);
            talk.local = if mode == Mode::FullNat {
                SocketAddr::new(family.lip(), source_port(&sent[0].1))
            } else {
                talk.client
            };
            assert_eq!(sent, [(back, talk.to_server(&talk.server_syn(CLIENT_TIME + 1)))]);
            assert_eq!(talk.state(), TcpState::SynProxied);
            talk.complete();
            exchange(&mut talk);
        }
    }
}

/// The client's port is used anew while the session of its last connection is closing.
#[test]
fn a_port_is_used_again() {
    for family in Family::BOTH {
        let mut talk = Talk::on(family);
        talk.connect();
        exchange(&mut talk);
        talk.client_isn = 0x7777_0000;
        talk.knock();
        assert_eq!(talk.state(), TcpState::FinBoth, "a SYN, perhaps spoofed, ends nothing");
        let bytes = talk.by_client(&talk.ack());
        let back = talk.back();
        let out = talk.to_server(&talk.server_syn(CLIENT_TIME + 1));
        let created = format!("server{}.created", talk.id.0);
        let ended = format!("server{}.ended", talk.id.0);
        let changes = Changes::none()
            .add(created, 1)
            .add(ended, 1)
            .forward(talk.id, &out)
            .tx(back, &out)
            .add("service0.syn_cookies_accepted", 1);
        talk.rig.step("ACK", FRONT, &bytes, Some(talk.client), changes, &[(back, out)]);
        talk.complete();
        exchange(&mut talk);
    }
}

/// A client begins anew where server and client have forgotten a connection that the session has not:
/// the handshake is theirs.
#[test]
fn a_server_has_forgotten_the_connection() {
    for family in Family::BOTH {
        let mut talk = Talk::on(family);
        talk.connect();
        let (isn, theirs) = (0x7777_0000, SERVER_ISN.wrapping_add(0x4000_0000));
        let ours = theirs.wrapping_add(talk.cookie).wrapping_sub(SERVER_ISN);
        let (client, vip, local, server) = (talk.client, talk.vip, talk.local, talk.server);
        let syn = Segment::new(client, vip, SYN, isn, 0);
        talk.passes("SYN", &syn, &Segment { src: local, dst: server, ..syn.clone() }.ttl(63));
        let answer = Segment::new(server, local, SYN_ACK, theirs, isn + 1);
        let expected = Segment::new(vip, client, SYN_ACK, ours, isn + 1).ttl(63);
        talk.passes("SYN-ACK", &answer, &expected);
        talk.passes("SYN-ACK again", &answer, &expected);
        let ack = Segment::new(client, vip, ACK, isn + 1, ours.wrapping_add(1));
        let expected = Segment::new(local, server, ACK, isn + 1, theirs.wrapping_add(1)).ttl(63);
        talk.passes("ACK", &ack, &expected);
        let ack = Segment::new(server, local, ACK, theirs.wrapping_add(1), isn + 1);
        let expected = Segment::new(vip, client, ACK, ours.wrapping_add(1), isn + 1).ttl(63);
        talk.passes("ACK", &ack, &expected);
        let reset = Segment::new(client, vip, RST, isn + 1, 0);
        talk.passes("RST", &reset, &Segment { src: local, dst: server, ..reset.clone() }.ttl(63));
        assert_eq!(talk.state(), TcpState::Closed);
    }
}

/// Each side is asked in the numbers that it knows, and its exact reset is known by them.
#[test]
fn ends_in_doubt_are_asked_in_their_own_numbers() {
    for family in Family::BOTH {
        for mode in [Mode::Nat, Mode::FullNat] {
            for by_client in [true, false] {
                let mut talk = Talk::new(net(1, mode, SynProxy::On), family, LINUX);
                talk.connect();
                let (next, theirs) = (CLIENT_ISN.wrapping_add(18), SERVER_ISN + 1);
                let ours = talk.cookie.wrapping_add(1);
                let (client, vip, local, server) = (talk.client, talk.vip, talk.local, talk.server);
                let up = |flags, seq, ack| {
                    let segment = Segment::new(client, vip, flags, seq, ack);
                    let out = Segment::new(local, server, flags, seq, theirs).ttl(63);
                    (segment, out)
                };
                let down = |flags, seq: u32, ack| {
                    let segment = Segment::new(server, local, flags, theirs.wrapping_add(seq), ack);
                    let out = Segment::new(vip, client, flags, ours.wrapping_add(seq), ack);
                    (segment, out.ttl(63))
                };
                let (request, out) = up(PSH_ACK, CLIENT_ISN.wrapping_add(1), ours);
                talk.passes("request", &request.payload(&[7; 17]), &out.payload(&[7; 17]));
                let (ack, out) = down(ACK, 0, next);
                talk.passes("ACK", &ack, &out);
                let (reset, out) = match by_client {
                    true => up(RST, next.wrapping_add(50), 0),
                    false => down(RST, 50, 0),
                };
                talk.passes("RST", &reset, &out);
                assert_eq!(talk.state(), TcpState::Contested);
                talk.rig.pass(10_300);
                let asked = match by_client {
                    true => {
                        let asked = Segment::new(vip, client, ACK, ours.wrapping_sub(1), next);
                        (FRONT, talk.to_client(&asked.window(512)))
                    }
                    false => {
                        let asked = Segment::new(local, server, ACK, next.wrapping_sub(1), theirs);
                        (talk.back(), talk.to_server(&asked.window(512)))
                    }
                };
                assert_eq!(talk.rig.sent(), [asked]);
                let ((answer, out), (reset, gone)) = match by_client {
                    true => (up(ACK, next, ours), up(RST, next, 0)),
                    false => (down(ACK, 0, next), down(RST, 0, 0)),
                };
                talk.passes("lives", &answer, &out);
                assert_eq!(talk.state(), TcpState::Established);
                talk.passes("gone", &reset, &gone);
                assert_eq!(talk.state(), TcpState::Closed);
            }
        }
    }
}

/// The client gives up and begins anew while the server is being asked.
#[test]
fn a_client_begins_anew_before_the_server_has_answered() {
    for family in Family::BOTH {
        let mut talk = Talk::on(family);
        talk.knock();
        talk.enter();
        talk.client_isn = 0x0777_0000;
        talk.knock();
        let ack = talk.ack();
        let bytes = talk.by_client(&ack);
        let back = talk.back();
        let out = talk.to_server(&talk.server_syn(CLIENT_TIME + 1));
        let changes = Changes::none()
            .add(format!("server{}.created", talk.id.0), 1)
            .add(format!("server{}.ended", talk.id.0), 1)
            .forward(talk.id, &out)
            .tx(back, &out)
            .add("service0.syn_cookies_accepted", 1);
        talk.rig.step("ACK", FRONT, &bytes, Some(talk.client), changes, &[(back, out)]);
        // The server still has the first half of the older connection and says so: it is reset.
        let challenge =
            Segment::new(talk.server, talk.local, ACK, SERVER_ISN, CLIENT_ISN.wrapping_add(1));
        let bytes = talk.by_server(&challenge);
        let reset =
            Segment::new(talk.local, talk.server, RST, CLIENT_ISN.wrapping_add(1), 0).window(0);
        let out = talk.to_server(&reset);
        let changes = Changes::none().dropped(SynProxyWaiting).originated(back, &out);
        talk.rig.step("challenge ACK", back, &bytes, Some(talk.local), changes, &[(back, out)]);
        talk.complete();
        exchange(&mut talk);
    }
}

#[test]
fn a_client_resets_before_the_server_has_answered() {
    for family in Family::BOTH {
        let mut talk = Talk::on(family);
        talk.knock();
        talk.enter();
        let client = talk.client_isn.wrapping_add(1);
        let waiting = || Changes::none().dropped(SynProxyWaiting);
        let off_path = Segment::new(talk.client, talk.vip, RST, client.wrapping_add(1), 0);
        talk.dropped("RST with another number", &off_path, waiting());
        let syn_ack = Segment::new(talk.client, talk.vip, SYN_ACK, 1, 1);
        talk.dropped("SYN-ACK from the client", &syn_ack, waiting());
        assert_eq!(talk.state(), TcpState::SynProxied);
        let bytes = talk.by_client(&Segment::new(talk.client, talk.vip, RST, client, 0));
        let out = Segment::new(talk.local, talk.server, RST, client, 0).window(0).ttl(63);
        let (back, out) = (talk.back(), talk.to_server(&out));
        let changes = Changes::none().forward(talk.id, &out).tx(back, &out);
        talk.rig.step("RST", FRONT, &bytes, Some(talk.client), changes, &[(back, out)]);
        assert_eq!(talk.state(), TcpState::Closed);
    }
}

#[test]
fn cookies_that_are_not_good() {
    let rejected =
        || Changes::none().dropped(SynCookieInvalid).add("service0.syn_cookies_rejected", 1);
    for family in Family::BOTH {
        let mut talk = Talk::on(family);
        talk.knock();
        let good = talk.ack();
        let bad = |change: &dyn Fn(&mut Segment)| {
            let mut segment = good.clone();
            change(&mut segment);
            segment
        };
        let cases: [(&str, Segment); 5] = [
            ("another number", bad(&|s| s.ack = s.ack.wrapping_add(32))),
            ("another ISN", bad(&|s| s.seq = s.seq.wrapping_add(2))),
            ("data far on", bad(&|s| (s.seq, s.payload) = (s.seq.wrapping_add(9), b"x".into()))),
            ("no timestamps", bad(&|s| s.options.clear())),
            ("a FIN of nothing", bad(&|s| (s.flags, s.ack) = (FIN_ACK, 77))),
        ];
        for (what, segment) in cases {
            talk.dropped(what, &segment, rejected());
        }
        let port = bad(&|s| s.src.set_port(40_002));
        let bytes = talk.by_client(&port);
        talk.rig.step("another port", FRONT, &bytes, Some(port.src), rejected(), &[]);
        let mut damaged = talk.by_client(&good);
        *damaged.last_mut().unwrap() ^= 1;
        let changes = Changes::none().dropped(BadTransportChecksum);
        talk.rig.step("damaged", FRONT, &damaged, Some(talk.client), changes, &[]);
        let mut damaged = talk.by_client(&talk.syn());
        *damaged.last_mut().unwrap() ^= 1;
        let changes = Changes::none().dropped(BadTransportChecksum);
        talk.rig.step("damaged", FRONT, &damaged, Some(talk.client), changes, &[]);
        assert_eq!(talk.rig.sessions(), 0);

        // It is good for a minute, and after two it is not.
        talk.rig.pass(65_000);
        let mut twin = Rig::new(talk.rig.net.clone());
        twin.now = talk.rig.now;
        assert_eq!(twin.send(FRONT, &talk.by_client(&good)).len(), 1);
        talk.rig.pass(67_000);
        talk.dropped("an old cookie", &good, rejected());
        assert_eq!(talk.rig.sessions(), 0);
    }
}

/// Where segments without a session are answered with resets, one without a good cookie is too.
#[test]
fn a_stray_is_reset_where_the_service_says_so() {
    for family in Family::BOTH {
        let mut net = net(1, Mode::Nat, SynProxy::On);
        net.snapshot.services[0].policy.mid_stream = MidStream::Reset;
        let mut talk = Talk::new(net, family, LINUX);
        let stray = talk.client_segment(ACK, 5, 77);
        let bytes = talk.by_client(&stray);
        let out = talk.to_client(&Segment::new(talk.vip, talk.client, RST, 77, 0).window(0));
        let changes = Changes::none()
            .dropped(SynCookieInvalid)
            .add("service0.syn_cookies_rejected", 1)
            .originated(FRONT, &out);
        talk.rig.step("stray", FRONT, &bytes, Some(talk.client), changes, &[(FRONT, out)]);
    }
}

#[test]
fn nobody_is_answered_in_vain() {
    for family in Family::BOTH {
        let mut down = net(1, Mode::Nat, SynProxy::On);
        for server in &mut down.snapshot.servers {
            server.up = false;
        }
        let mut talk = Talk::new(down, family, LINUX);
        let syn = talk.syn();
        talk.dropped("no server is up", &syn, Changes::none().dropped(NoServer));

        let mut talk = Talk::on(family);
        talk.rig = Rig::with_sessions(talk.rig.net.clone(), 0).warmed();
        let syn = talk.syn();
        talk.dropped("no room", &syn, Changes::none().dropped(SessionTableFull));

        // The last server goes between the SYN and the ACK: the client is told.
        let mut talk = Talk::on(family);
        talk.knock();
        for server in &mut talk.rig.net.snapshot.servers {
            server.up = false;
        }
        talk.rig.reconfigure();
        let bytes = talk.by_client(&talk.ack());
        let reset = Segment::new(talk.vip, talk.client, RST, talk.cookie.wrapping_add(1), 0);
        let out = talk.to_client(&reset.window(0));
        let changes = Changes::none()
            .dropped(NoServer)
            .originated(FRONT, &out)
            .add("service0.syn_cookies_accepted", 1);
        talk.rig.step("too late", FRONT, &bytes, Some(talk.client), changes, &[(FRONT, out)]);
    }
}

/// A SYN from another port of the client.
fn flood_syn(talk: &Talk, n: u16) -> Vec<u8> {
    let mut syn = talk.syn();
    syn.src.set_port(1024 + n);
    talk.by_client(&syn)
}

#[test]
fn a_flood_leaves_nothing_behind() {
    for family in Family::BOTH {
        let mut talk = Talk::on(family);
        for n in 0..5_000 {
            let sent = talk.rig.send(FRONT, &flood_syn(&talk, n));
            assert_eq!(sent.len(), 1);
        }
        assert_eq!(talk.rig.sessions(), 0);
        talk.connect();
        assert_eq!(talk.rig.sessions(), 1);
        exchange(&mut talk);
    }
}

#[test]
fn auto_turns_on_and_off() {
    for family in Family::BOTH {
        let mut talk = Talk::new(net(1, Mode::Nat, SynProxy::Auto { above: 100 }), family, LINUX);
        let back = talk.back();
        let to = |sent: Vec<(PortId, Vec<u8>)>| sent[0].0;
        // The plain way, and a session from before.
        let sent = talk.rig.send(FRONT, &talk.by_client(&talk.syn()));
        assert_eq!(to(sent), back);
        for n in 0..98 {
            assert_eq!(to(talk.rig.send(FRONT, &flood_syn(&talk, n))), back, "{n}");
        }
        // The hundredth of the second is answered, and all that follow.
        for n in 98..120 {
            assert_eq!(to(talk.rig.send(FRONT, &flood_syn(&talk, n))), FRONT, "{n}");
        }
        assert_eq!(talk.rig.sessions(), 99);

        // The session from before goes on as it began.
        let ack = talk.client_isn.wrapping_add(1);
        let bytes =
            talk.by_server(&Segment::new(talk.server, talk.local, SYN_ACK, SERVER_ISN, ack));
        assert_eq!(to(talk.rig.send(back, &bytes)), FRONT);
        let bytes = Segment::new(talk.client, talk.vip, ACK, ack, SERVER_ISN.wrapping_add(1));
        let bytes = talk.by_client(&bytes);
        assert_eq!(to(talk.rig.send(FRONT, &bytes)), back);

        // Half of the rate keeps it on.
        for second in 0..20u16 {
            for n in 0..50 {
                let syn = flood_syn(&talk, 1000 + 50 * second + n);
                assert_eq!(to(talk.rig.send(FRONT, &syn)), FRONT, "second {second}");
            }
            talk.rig.pass(1000);
        }
        talk.client = SocketAddr::new(family.client(), 50_000);
        talk.local = talk.client;
        talk.knock();
        // Ten quiet seconds turn it off; the cookie from before is still good.
        talk.rig.pass(12_000);
        let sent = talk.rig.send(FRONT, &flood_syn(&talk, 5000));
        assert_eq!(to(sent), back);
        talk.enter();
        let worker = &talk.rig.counters[0];
        let service = worker.service(shunt::session::ServiceId(0));
        assert_eq!((service.syn_proxy_on.get(), service.syn_proxied.get()), (0, 0));
        let bytes = talk.by_server(&talk.accept());
        assert_eq!(talk.rig.send(back, &bytes).len(), 2);
        assert_eq!(talk.rig.counters[0].service(shunt::session::ServiceId(0)).syn_proxied.get(), 1);
        // When none can be good any more, an ACK is what it is without a proxy.
        talk.rig.pass(140_000);
        let mut stray = talk.ack();
        stray.src.set_port(50_001);
        let bytes = talk.by_client(&stray);
        let changes = Changes::none().dropped(shunt::wire::DropReason::NoSession);
        talk.rig.step("stray", FRONT, &bytes, Some(stray.src), changes, &[]);
    }
}

#[test]
fn each_worker_has_its_share_of_the_limit() {
    let net = net(4, Mode::Nat, SynProxy::Auto { above: 400 });
    let talk = Talk::new(net.clone(), Family::V4, LINUX);
    let mut rig = Rig::new(net);
    let mut counts = [0; 4];
    for n in 0..1000 {
        let syn = flood_syn(&talk, n);
        let owner = rig.net.owner(SocketAddr::new(Family::V4.client(), 1024 + n));
        let answered = rig.send(FRONT, &syn)[0].0 == FRONT;
        counts[owner] += 1;
        assert_eq!(answered, counts[owner] >= 100, "worker {owner}: {}", counts[owner]);
    }
    assert!(counts.iter().all(|n| *n > 100), "{counts:?}");
}

#[test]
fn a_configuration_without_proxy_lets_its_sessions_live() {
    let mut talk = Talk::on(Family::V4);
    talk.connect();
    let mut other = Talk::on(Family::V4);
    other.knock();
    talk.rig.net.snapshot.services[0].syn_proxy = SynProxy::Off;
    talk.rig.reconfigure();
    other.rig.net.snapshot.services[0].syn_proxy = SynProxy::Off;
    other.rig.reconfigure();
    exchange(&mut talk);
    // A cookie that was handed out is honoured.
    other.enter();
    other.complete();
    exchange(&mut other);
}

/// A service with persistence: whoever is known by the other of two workers is asked for there.
fn asked(policy: SynProxy) -> Net {
    let mut net = with_sensor(net(2, Mode::Nat, policy), 1, None);
    let service = &mut net.snapshot.services[0];
    service.selection.persistence =
        Some(Persistence { life_ms: 60_000, mask_v4: 32, mask_v6: 128, scope: 0 });
    service.mirror = Some(MirrorId(0));
    net
}

/// Ports of the client whose sessions belong to another worker than the one that knows it.
fn ports_of_the_other(talk: &Talk) -> impl Iterator<Item = u16> {
    let address = talk.client.ip();
    let net = talk.rig.net.clone();
    let owner = move |port| net.owner(SocketAddr::new(address, port));
    let knows = owner(0);
    (40_000..60_000).filter(move |port| owner(*port) != knows)
}

/// A SYN that goes to another worker with a question, and comes back, is counted once.
#[test]
fn a_syn_that_comes_back_counts_once() {
    for family in Family::BOTH {
        // Five on each of two workers.
        let net = asked(SynProxy::Auto { above: 10 });
        let mut talk = Talk::new(net, family, LINUX);
        let ports: Vec<u16> = ports_of_the_other(&talk).take(6).collect();
        for (n, port) in ports.into_iter().enumerate() {
            talk.client.set_port(port);
            let bytes = talk.by_client(&talk.syn());
            talk.rig.changes();
            // The worker that the session belongs to receives it: all hops are for the question.
            talk.rig.turn = talk.rig.net.owner(talk.client);
            let sent = talk.rig.send(FRONT, &bytes);
            let changes = Changes::none().rx(FRONT, &bytes);
            let changes = changes.add("mirrored", 1).originated(SENSOR, &bytes);
            let changes = if n < 4 {
                let persistent = i64::from(n == 0);
                changes
                    .tx(talk.back(), &sent[0].1)
                    .session(talk.id, talk.v6(), 1)
                    .forward(talk.id, &bytes)
                    .add("handed_off", 2)
                    .add("handed_in", 2)
                    .add("persistent_clients", persistent)
            } else {
                changes.consumed().originated(FRONT, &sent[0].1).add("service0.syn_cookies_sent", 1)
            };
            assert_eq!(talk.rig.changes(), changes, "{n}");
            let copy = sent.iter().find(|(port, _)| *port == SENSOR).expect("a copy");
            assert_eq!((sent.len(), &copy.1), (2, &bytes));
        }
    }
}

/// The same of the ACK that returns a cookie.
#[test]
fn an_ack_that_comes_back_counts_once() {
    for family in Family::BOTH {
        let mut talk = Talk::new(asked(SynProxy::On), family, LINUX);
        talk.watched = true;
        let port = ports_of_the_other(&talk).next().expect("a port");
        talk.client.set_port(port);
        talk.local = talk.client;
        talk.knock();
        talk.rig.changes();
        talk.rig.turn = talk.rig.net.owner(talk.client);
        let bytes = talk.by_client(&talk.ack());
        let out = talk.to_server(&talk.server_syn(CLIENT_TIME + 1));
        let sent = talk.rig.send(FRONT, &bytes);
        assert_eq!(sent, [(talk.back(), out.clone()), (SENSOR, bytes.clone())]);
        let changes = Changes::none()
            .rx(FRONT, &bytes)
            .session(talk.id, talk.v6(), 1)
            .forward(talk.id, &out)
            .tx(talk.back(), &out)
            .add("mirrored", 1)
            .originated(SENSOR, &bytes)
            .add("persistent_clients", 1)
            .add("handed_off", 2)
            .add("handed_in", 2)
            .add("service0.syn_cookies_accepted", 1);
        assert_eq!(talk.rig.changes(), changes);
        talk.complete();
    }
}
