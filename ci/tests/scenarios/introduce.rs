//! The server is told the client's address: PROXY protocol and TOA, byte for byte and under loss.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use shunt::datapath::snapshot::{Introduction, Mac};
use shunt::session::{Mode, ServerId};

use crate::changes::Changes;
use crate::frames::icmp_error;
use crate::net::{BACK, BACK_MAC, FRONT, FRONT_MAC, Family, Net, ROUTER_MAC, ip, server_mac};
use crate::rig::Rig;

const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// The client's first number: its stream crosses the end of the number space.
const ISN: u32 = 0xffff_fff0;
/// The number of the client's first byte.
const START: u32 = ISN.wrapping_add(1);
/// The server's number of its first byte.
const SERVER: u32 = 0x1000_0001;

/// A TCP segment.
#[derive(Clone, Debug)]
struct Segment {
    macs: (Mac, Mac),
    src: SocketAddr,
    dst: SocketAddr,
    ttl: u8,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<u8>,
    data: Vec<u8>,
}

impl Segment {
    fn bytes(&self) -> Vec<u8> {
        let start = PacketBuilder::ethernet2(self.macs.0, self.macs.1);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => start.ipv4(src.octets(), dst.octets(), self.ttl),
            (IpAddr::V6(src), IpAddr::V6(dst)) => start.ipv6(src.octets(), dst.octets(), self.ttl),
            _ => panic!("two families"),
        };
        let mut tcp = ip.tcp(self.src.port(), self.dst.port(), self.seq, self.window);
        for (bit, set) in (0..8).map(|bit| (bit, self.flags >> bit & 1 == 1)) {
            tcp = match bit {
                1 if set => tcp.syn(),
                2 if set => tcp.rst(),
                3 if set => tcp.psh(),
                4 if set => tcp.ack(self.ack),
                _ => tcp,
            };
        }
        let mut bytes = Vec::new();
        tcp.options_raw(&self.options).unwrap().write(&mut bytes, &self.data).unwrap();
        bytes
    }

    fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }
}

/// One connection through a switch whose web service introduces its clients.
struct Talk {
    rig: Rig,
    family: Family,
    client: SocketAddr,
    vip: SocketAddr,
    local: SocketAddr,
    server: SocketAddr,
    header: Vec<u8>,
}

impl Talk {
    fn new(introduction: Introduction, family: Family, workers: usize, port: u16) -> Self {
        let mut net = Net::two_armed(workers).usual(Mode::FullNat);
        net.snapshot.services[0].introduction = introduction;
        let (client, vip) =
            (SocketAddr::new(family.client(), port), SocketAddr::new(family.vip(), 80));
        let header = match (introduction, family) {
            (Introduction::ProxyV1, Family::V4) => {
                format!("PROXY TCP4 198.51.100.7 192.0.2.10 {port} 80\r\n").into_bytes()
            }
            (Introduction::ProxyV1, Family::V6) => {
                format!("PROXY TCP6 2001:db8:99::7 2001:db8:1::10 {port} 80\r\n").into_bytes()
            }
            (Introduction::ProxyV2, _) => {
                let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
                match (family.client(), family.vip()) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        header.extend([0x11, 0, 12]);
                        header.extend(from.octets());
                        header.extend(to.octets());
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        header.extend([0x21, 0, 36]);
                        header.extend(from.octets());
                        header.extend(to.octets());
                    }
                    _ => unreachable!(),
                }
                header.extend(port.to_be_bytes());
                header.extend(80u16.to_be_bytes());
                header
            }
            _ => Vec::new(),
        };
        let mut talk = Talk {
            rig: Rig::new(net.clone()),
            family,
            client,
            vip,
            local: SocketAddr::new(family.lip(), 0),
            server: SocketAddr::new(family.server(11), 8080),
            header,
        };
        // A twin makes the same choice of a local port.
        let mut twin = Rig::new(net);
        let sent = twin.send(FRONT, &talk.by_client(SYN, ISN, 0).bytes());
        let at = if family == Family::V6 { 54 } else { 34 };
        talk.local.set_port(u16::from_be_bytes([sent[0].1[at], sent[0].1[at + 1]]));
        talk
    }

    fn n(&self) -> u32 {
        self.header.len() as u32
    }

    fn segment(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        Segment {
            macs: (ROUTER_MAC, FRONT_MAC),
            src: self.client,
            dst: self.vip,
            ttl: 64,
            flags,
            seq,
            ack,
            window: 500,
            options: Vec::new(),
            data: Vec::new(),
        }
    }

    fn by_client(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        self.segment(flags, seq, ack)
    }

    fn to_server(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        let macs = (BACK_MAC, server_mac(11));
        Segment {
            macs,
            src: self.local,
            dst: self.server,
            ttl: 63,
            ..self.segment(flags, seq, ack)
        }
    }

    fn by_server(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        let macs = (server_mac(11), BACK_MAC);
        Segment { macs, src: self.server, dst: self.local, ..self.segment(flags, seq, ack) }
    }

    fn to_client(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        let macs = (FRONT_MAC, ROUTER_MAC);
        Segment { macs, src: self.vip, dst: self.client, ttl: 63, ..self.segment(flags, seq, ack) }
    }

    fn id(&self) -> ServerId {
        ServerId(u16::from(self.family == Family::V6))
    }

    /// A segment from the client makes exactly these, and what Shunt adds comes first.
    fn forward(&mut self, what: &str, segment: &Segment, made: &[Segment], out: &Segment) {
        self.forward_with(what, segment, made, out, Changes::none());
    }

    fn forward_with(
        &mut self,
        what: &str,
        segment: &Segment,
        made: &[Segment],
        out: &Segment,
        changes: Changes,
    ) {
        let (bytes, out) = (segment.bytes(), out.bytes());
        // Shunt changes the length before it counts.
        let mut changes = changes.forward(self.id(), &out).tx(BACK, &out);
        if segment.flags == SYN && self.rig.sessions() == 0 {
            changes = changes.session(self.id(), self.family == Family::V6, 1);
        }
        let mut expected = Vec::new();
        for segment in made {
            let bytes = segment.bytes();
            changes = changes.originated(BACK, &bytes);
            expected.push((BACK, bytes));
        }
        expected.push((BACK, out));
        self.rig.step(what, FRONT, &bytes, Some(self.client), changes, &expected);
    }

    fn reply(&mut self, what: &str, segment: &Segment, out: &Segment) {
        let (bytes, out) = (segment.bytes(), out.bytes());
        let changes = Changes::none().reply(self.id(), &bytes).tx(FRONT, &out);
        self.rig.step(what, BACK, &bytes, Some(self.local), changes, &[(FRONT, out)]);
    }

    fn handshake(&mut self) {
        let syn = self.by_client(SYN, ISN, 0);
        self.forward("SYN", &syn, &[], &self.to_server(SYN, ISN, 0));
        let n = self.n() as u16;
        let syn_ack = self.by_server(SYN | ACK, SERVER - 1, START);
        let out = self.to_client(SYN | ACK, SERVER - 1, START).window(500 - n);
        self.reply("SYN-ACK", &syn_ack, &out);
    }
}

fn proxied() -> impl Iterator<Item = Talk> {
    [Introduction::ProxyV1, Introduction::ProxyV2].into_iter().flat_map(|how| {
        Family::BOTH
            .into_iter()
            .flat_map(move |family| [1, 2].map(|workers| Talk::new(how, family, workers, 40_000)))
    })
}

#[test]
fn a_header_comes_before_the_clients_first_byte() {
    for mut talk in proxied() {
        let n = talk.n();
        talk.handshake();
        // The acknowledgment of the handshake brings it.
        let ack = talk.by_client(ACK, START, SERVER);
        let with_header = talk.to_server(PSH | ACK, START, SERVER).data(&talk.header.clone());
        talk.forward("ACK", &ack, &[], &with_header);
        // As long as nobody says that it has come, it comes again.
        talk.forward("ACK again", &ack, &[], &with_header);
        let whole = [talk.header.as_slice(), b"GET / HTTP/1.1"].concat();
        let data = talk.by_client(PSH | ACK, START, SERVER).data(b"GET / HTTP/1.1");
        let out = talk.to_server(PSH | ACK, START, SERVER).data(&whole);
        talk.forward("first data", &data, &[], &out);
        // Later data is shifted only.
        let more = talk.by_client(ACK, START.wrapping_add(14), SERVER).data(b"odd");
        let out = talk.to_server(ACK, START.wrapping_add(14 + n), SERVER).data(b"odd");
        talk.forward("more data", &more, &[], &out);
        // The server has a part of the header, and something behind a gap.
        let sack = |from: u32, to: u32| {
            let mut option = vec![1, 1, 5, 10];
            option.extend(from.to_be_bytes());
            option.extend(to.to_be_bytes());
            option
        };
        let at = |offset: u32| START.wrapping_add(offset);
        let part = talk.by_server(ACK, SERVER, at(3)).options(&sack(at(n + 14), at(n + 17)));
        let out = talk.to_client(ACK, SERVER, START).options(&sack(at(14), at(17)));
        talk.reply("a part", &part, &out.window(500 - n as u16));
        // A duplicate of the header is reported, which is nothing of the client's.
        let twice = talk.by_server(ACK, SERVER, at(n - 1)).options(&sack(START, at(n - 1)));
        let out = talk.to_client(ACK, SERVER, START).options(&sack(START, START));
        talk.reply("a duplicate", &twice, &out.window(500 - n as u16));
        // All of it.
        let all = talk.by_server(ACK, SERVER, at(n + 17)).data(b"HTTP");
        talk.reply("acknowledged", &all, &talk.to_client(ACK, SERVER, at(17)).data(b"HTTP"));
        // From now on there are only the numbers.
        let again = talk.to_server(PSH | ACK, at(n), SERVER).data(b"GET / HTTP/1.1");
        talk.forward("a retransmission", &data, &[], &again);
        let probe = talk.by_client(ACK, at(16), SERVER + 4);
        talk.forward("a keep-alive", &probe, &[], &talk.to_server(ACK, at(n + 16), SERVER + 4));
        // What comes late is still from before the header.
        let syn = talk.by_client(SYN, ISN, 0);
        talk.forward("the SYN again", &syn, &[], &talk.to_server(SYN, ISN, 0));
        let syn_ack = talk.by_server(SYN | ACK, SERVER - 1, START);
        talk.reply("its answer", &syn_ack, &talk.to_client(SYN | ACK, SERVER - 1, START));
        let end = talk.by_client(RST, at(17), 0);
        talk.forward("a reset", &end, &[], &talk.to_server(RST, at(n + 17), 0));
    }
}

/// A SYN on the open connection is not its beginning, whoever sends it: the header stays where it is.
#[test]
fn a_forged_syn_does_not_move_the_header() {
    for mut talk in proxied() {
        talk.handshake();
        let ack = talk.by_client(ACK, START, SERVER);
        let with_header = talk.to_server(PSH | ACK, START, SERVER).data(&talk.header.clone());
        talk.forward("ACK", &ack, &[], &with_header);
        for other in [0x4000_0000, 0xc000_0000] {
            let syn = talk.by_client(SYN, other, 0);
            talk.forward("a forged SYN", &syn, &[], &talk.to_server(SYN, other, 0));
            let whole = [talk.header.as_slice(), b"GET"].concat();
            let data = talk.by_client(PSH | ACK, START, SERVER).data(b"GET");
            let out = talk.to_server(PSH | ACK, START, SERVER).data(&whole);
            talk.forward("first data", &data, &[], &out);
        }
    }
}

#[test]
fn data_that_does_not_fit_behind_the_header_follows_it() {
    for mut talk in proxied() {
        let n = talk.n();
        talk.handshake();
        let stamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let (room, limit) = if talk.family == Family::V6 { (1440, 1280) } else { (1460, 576) };
        let data = vec![0x5a; room - stamps.len()];
        let first = talk.by_client(ACK, START, SERVER).options(&stamps).data(&data);
        let header = Segment {
            ttl: 64,
            ..talk.to_server(PSH | ACK, START, SERVER).options(&stamps).data(&talk.header.clone())
        };
        let out = talk.to_server(ACK, START.wrapping_add(n), SERVER).options(&stamps).data(&data);
        talk.forward("the first", &first, std::slice::from_ref(&header), &out);
        // Perhaps the header was lost.
        talk.forward("again", &first, std::slice::from_ref(&header), &out);
        // To the byte.
        let fits = &data[..data.len() - n as usize - (1500 - limit)];
        let short = talk.by_client(ACK, START, SERVER).options(&stamps).data(fits);
        let both = [talk.header.as_slice(), fits].concat();
        let out_both = talk.to_server(PSH | ACK, START, SERVER).options(&stamps).data(&both);
        assert_eq!(out_both.bytes().len(), 14 + limit);
        talk.forward("to the byte", &short, &[], &out_both);
        let longer = &data[..fits.len() + 1];
        let long = talk.by_client(ACK, START, SERVER).options(&stamps).data(longer);
        let out_long =
            talk.to_server(ACK, START.wrapping_add(n), SERVER).options(&stamps).data(longer);
        talk.forward("one byte more", &long, std::slice::from_ref(&header), &out_long);
        // Right after an acknowledgment that brought it, it need not come again at once.
        let ack = talk.by_client(ACK, START, SERVER);
        let with_header = talk.to_server(PSH | ACK, START, SERVER).data(&talk.header.clone());
        talk.forward("ACK", &ack, &[], &with_header);
        talk.forward("data after ACK", &first, &[], &out);
        talk.forward("and again", &first, &[header], &out);
    }
}

#[test]
fn what_else_a_client_may_send_first() {
    for mut talk in proxied() {
        let n = talk.n();
        // Data on the SYN waits.
        let early = talk.by_client(SYN, ISN, 0).data(b"early");
        talk.forward("SYN with data", &early, &[], &talk.to_server(SYN, ISN, 0));
        // Another first number (the client has begun anew), and the numbers follow it.
        let other = ISN.wrapping_add(77);
        let anew = talk.by_client(SYN, other, 0);
        talk.forward("another SYN", &anew, &[], &talk.to_server(SYN, other, 0));
        talk.forward("SYN", &talk.by_client(SYN, ISN, 0), &[], &talk.to_server(SYN, ISN, 0));
        let syn_ack = talk.by_server(SYN | ACK, SERVER - 1, START);
        let out = talk.to_client(SYN | ACK, SERVER - 1, START).window(500 - n as u16);
        talk.reply("SYN-ACK", &syn_ack, &out);
        // A window probe or keep-alive, with and without its byte of garbage.
        let with_header = talk.to_server(PSH | ACK, START, SERVER).data(&talk.header.clone());
        let probe = talk.by_client(ACK, ISN, SERVER);
        talk.forward("a probe", &probe, &[], &with_header);
        talk.forward("with garbage", &probe.clone().data(b"?"), &[], &with_header);
        // The server has no room: the client learns that.
        let closed = talk.by_server(ACK, SERVER, START).window(0);
        talk.reply("closed", &closed, &talk.to_client(ACK, SERVER, START).window(0));
        let little = talk.by_server(ACK, SERVER, START).window(5);
        talk.reply("little", &little, &talk.to_client(ACK, SERVER, START).window(0));
        // Without knowing what the server has, a reset has the number before the header; one that
        // acknowledges brings the header along.
        let reset = talk.by_client(RST, START, 0);
        let mut twin =
            Talk::new(talk.rig.net.snapshot.services[0].introduction, talk.family, 1, 40_000);
        twin.handshake();
        twin.forward("a reset", &reset, &[], &twin.to_server(RST, START, 0));
        let reset = talk.by_client(RST | ACK, START, SERVER);
        let header = Segment { ttl: 64, ..with_header };
        let out = talk.to_server(RST | ACK, START.wrapping_add(n), SERVER);
        talk.forward("a reset that acknowledges", &reset, &[header], &out);
    }
}

/// The client finds the segment an error is about among its own: its SYN, and its first byte for the
/// header.
#[test]
fn an_error_speaks_of_the_clients_numbers() {
    for mut talk in proxied() {
        let n = talk.n();
        let error = |talk: &mut Talk, what: &str, to_server: Segment, as_client: Segment| {
            let family = talk.family;
            let router = ip(if family == Family::V4 { "10.0.0.99" } else { "2001:db8:2::99" });
            let (macs, kinds) = ((server_mac(11), BACK_MAC), [(3, 1), (1, 0)]);
            let (lip, quote) = (talk.local.ip(), to_server.bytes());
            let bytes = icmp_error(macs, router, lip, 64, kinds, 0, &quote[14..]);
            let (macs, client) = ((FRONT_MAC, ROUTER_MAC), talk.client.ip());
            let quote = as_client.bytes();
            let out = icmp_error(macs, router, client, 63, kinds, 0, &quote[14..]);
            let changes = Changes::none().tx(FRONT, &out).add("icmp_errors", 1);
            talk.rig.step(what, BACK, &bytes, Some(talk.local), changes, &[(FRONT, out)]);
        };
        talk.handshake();
        let as_client =
            |talk: &Talk, segment: Segment| Segment { src: talk.client, dst: talk.vip, ..segment };
        let syn = talk.to_server(SYN, ISN, 0);
        let seen = as_client(&talk, syn.clone());
        error(&mut talk, "SYN", syn, seen);
        let ack = talk.by_client(ACK, START, SERVER);
        let with_header = talk.to_server(PSH | ACK, START, SERVER).data(&talk.header.clone());
        talk.forward("ACK", &ack, &[], &with_header);
        let seen = as_client(&talk, with_header.clone());
        error(&mut talk, "the header", with_header, seen);
        let more = talk.by_client(ACK, START.wrapping_add(9), SERVER).data(b"data");
        let out = talk.to_server(ACK, START.wrapping_add(9 + n), SERVER).data(b"data");
        talk.forward("data", &more, &[], &out);
        let seen = as_client(&talk, Segment { seq: START.wrapping_add(9), ..out.clone() });
        error(&mut talk, "data", out, seen);
    }
}

/// A xorshift generator: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Reads a segment whose checksum must be right.
fn read(frame: &[u8]) -> (TcpHeader, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
    let (header, data) = (tcp.to_header(), tcp.payload().to_vec());
    let sum = match &packet.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv4_raw(src, dst, &data).unwrap()
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv6_raw(src, dst, &data).unwrap()
        }
        _ => panic!("no IP"),
    };
    assert_eq!(header.checksum, sum);
    (header, data)
}

/// The server's end of the stream.
#[derive(Default)]
struct Receiver {
    got: Vec<u8>,
    early: BTreeMap<u32, Vec<u8>>,
}

impl Receiver {
    /// Takes in what lies within the window.
    fn take(&mut self, seq: u32, data: &[u8], window: u32) {
        let from = seq.wrapping_sub(START);
        let room = (self.got.len() as u32 + window).saturating_sub(from) as usize;
        // What lies before the stream cannot be data of it.
        assert!(from < 1 << 20 || data.is_empty(), "{from:#x}");
        if from < 1 << 20 {
            let kept = data[..data.len().min(room)].to_vec();
            let longest = self.early.entry(from).or_default();
            if longest.len() < kept.len() {
                *longest = kept;
            }
        }
        for (from, data) in &self.early {
            let (from, have) = (*from as usize, self.got.len());
            if from <= have && from + data.len() > have {
                self.got.extend(&data[have - from..]);
            }
        }
    }
}

/// Both ends over wires that lose, delay and duplicate, with a window that opens and closes: the
/// server gets the header and the client's bytes, and the client never hears more than that.
#[test]
fn the_stream_arrives_whole_whatever_the_wires_do() {
    for seed in 1..=40u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let how = if seed % 2 == 0 { Introduction::ProxyV1 } else { Introduction::ProxyV2 };
        let family = Family::BOTH[(seed / 2 % 2) as usize];
        let mut talk = Talk::new(how, family, 1 + (seed / 4 % 2) as usize, 1024 + seed as u16);
        let n = talk.n();
        let stream: Vec<u8> = (0..4000u32).map(|i| (i * 7 + i / 256) as u8).collect();
        let mut server = Receiver::default();
        // What the client has sent and what it has been told of, as offsets into the stream.
        let (mut sent, mut acked) = (0u32, 0u32);
        let mut told_window = 500u32;
        let mut window = 500u32;
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        talk.handshake();
        for step in 0..4000 {
            let lossless = step > 2000;
            if lossless {
                window = 3000;
            }
            let mut by_client = |talk: &mut Talk, random: &mut Random, seq: u32, data: &[u8]| {
                let segment = talk.by_client(ACK, START.wrapping_add(seq), SERVER).data(data);
                for (port, frame) in talk.rig.send(FRONT, &segment.bytes()) {
                    assert_eq!(port, BACK);
                    if lossless || random.below(4) != 0 {
                        to_server.push(frame);
                    }
                }
            };
            match random.below(8) {
                // New data, as far as the window allows.
                0 | 1 => {
                    let edge = (acked + told_window).min(stream.len() as u32);
                    let len = (1 + random.below(1440) as u32).min(edge.saturating_sub(sent));
                    if len > 0 {
                        let data = &stream[sent as usize..(sent + len) as usize];
                        by_client(&mut talk, &mut random, sent, data);
                        sent += len;
                    }
                }
                // The oldest data again, in another portion.
                2 if sent > acked => {
                    let len = (1 + random.below(1440) as u32).min(sent - acked);
                    let data = &stream[acked as usize..(acked + len) as usize];
                    by_client(&mut talk, &mut random, acked, data);
                }
                3 => by_client(&mut talk, &mut random, sent, b""),
                4 => by_client(&mut talk, &mut random, acked.wrapping_sub(1), b""),
                5 | 6 if !to_server.is_empty() => {
                    let pick = if lossless { 0 } else { random.below(to_server.len() as u64) };
                    let frame = match random.below(8) {
                        0 if !lossless => to_server[pick as usize].clone(),
                        _ => to_server.remove(pick as usize),
                    };
                    let (tcp, data) = read(&frame);
                    server.take(tcp.sequence_number, &data, window);
                }
                _ => {
                    if !lossless && random.below(4) == 0 {
                        window = random.below(3000) as u32;
                    }
                    let ack = START.wrapping_add(server.got.len() as u32);
                    let segment = talk.by_server(ACK, SERVER, ack).window(window as u16);
                    for (_, frame) in talk.rig.send(BACK, &segment.bytes()) {
                        if lossless || random.below(4) != 0 {
                            to_client.push((frame, server.got.len() as u32 + window));
                        }
                    }
                }
            }
            if !to_client.is_empty() && random.below(2) == 0 {
                let pick = if lossless { 0 } else { random.below(to_client.len() as u64) };
                let (frame, edge) = to_client.remove(pick as usize);
                let (tcp, _) = read(&frame);
                let heard = tcp.acknowledgment_number.wrapping_sub(START);
                if heard < 1 << 20 && heard >= acked {
                    assert!(heard <= sent, "seed {seed}: {heard} of {sent}");
                    assert!(heard <= (server.got.len() as u32).saturating_sub(n));
                    acked = heard;
                    told_window = u32::from(tcp.window_size);
                    assert!(acked + told_window <= edge.saturating_sub(n).max(acked));
                }
            }
            let whole = [talk.header.as_slice(), &stream].concat();
            assert!(whole.starts_with(&server.got), "seed {seed}, step {step}");
        }
        assert_eq!(server.got.len(), n as usize + stream.len(), "seed {seed}");
        assert_eq!(acked as usize, stream.len(), "seed {seed}");
    }
}

#[test]
fn an_option_tells_the_address() {
    for family in Family::BOTH {
        for workers in [1, 2] {
            let mut talk = Talk::new(Introduction::Toa, family, workers, 40_000);
            let toa: Vec<u8> = match family.client() {
                IpAddr::V4(ip) => [&[254, 8, 0x9c, 0x40], &ip.octets()[..]].concat(),
                IpAddr::V6(ip) => [&[253, 20, 0x9c, 0x40], &ip.octets()[..]].concat(),
            };
            let with_toa = |options: &[u8]| [toa.as_slice(), options].concat();
            let (mss, lower) = match family {
                Family::V4 => ([2, 4, 0x05, 0xb4], [2, 4, 0x05, 0xac]),
                Family::V6 => ([2, 4, 0x05, 0xa0], [2, 4, 0x05, 0x8c]),
            };
            let syn = talk.by_client(SYN, ISN, 0).options(&mss);
            let out = talk.to_server(SYN, ISN, 0).options(&with_toa(&mss));
            talk.forward("SYN", &syn, &[], &out);
            let syn_ack = talk.by_server(SYN | ACK, SERVER - 1, START).options(&mss);
            let out = talk.to_client(SYN | ACK, SERVER - 1, START).options(&lower);
            talk.reply("SYN-ACK", &syn_ack, &out);
            // No room in the header.
            let full = talk.by_client(ACK, START, SERVER).options(&[1; 36]);
            let out = talk.to_server(ACK, START, SERVER).options(&[1; 36]);
            let none = Changes::none().add("toa_no_room", 1);
            talk.forward_with("no room", &full, &[], &out, none.clone());
            // Nor in the packet.
            let room = if family == Family::V6 { 1440 } else { 1460 };
            let long = vec![7; room - toa.len() + 1];
            let full = talk.by_client(ACK, START, SERVER).data(&long);
            let out = talk.to_server(ACK, START, SERVER).data(&long);
            talk.forward_with("too long", &full, &[], &out, none);
            let full = talk.by_client(ACK, START, SERVER).data(&long[1..]);
            let out = talk.to_server(ACK, START, SERVER).options(&toa).data(&long[1..]);
            talk.forward("to the byte", &full, &[], &out);
            // A long packet does not have it twice.
            let out = talk.to_server(ACK, START, SERVER).data(&long[1..]);
            talk.forward("not twice", &full, &[], &out);
            let ack = talk.by_client(ACK, START, SERVER);
            talk.forward("ACK", &ack, &[], &talk.to_server(ACK, START, SERVER).options(&toa));
            // The client claims to be somebody else.
            let claim = [1, 1, 1, 1, 254, 8, 1, 2, 9, 9, 9, 9];
            let data = talk.by_client(PSH | ACK, START, SERVER).options(&claim).data(b"GET");
            let out = talk.to_server(PSH | ACK, START, SERVER).options(&with_toa(&[1; 12]));
            talk.forward("data", &data, &[], &out.data(b"GET"));
            let reset = talk.by_client(RST, START, 0);
            let mut twin = Talk::new(Introduction::Toa, family, workers, 40_000);
            twin.forward("SYN", &syn, &[], &twin.to_server(SYN, ISN, 0).options(&with_toa(&mss)));
            twin.forward("a reset", &reset, &[], &twin.to_server(RST, START, 0));
            // The server has heard it.
            let heard = talk.by_server(ACK, SERVER, START.wrapping_add(3));
            let out = talk.to_client(ACK, SERVER, START.wrapping_add(3));
            talk.reply("heard", &heard, &out);
            let more = talk.by_client(ACK, START.wrapping_add(3), SERVER).data(b"more");
            let out = talk.to_server(ACK, START.wrapping_add(3), SERVER).data(b"more");
            talk.forward("more", &more, &[], &out);
        }
    }
}

/// A frame that came with Ethernet padding grows where its packet ends.
#[test]
fn padding_does_not_become_data() {
    for family in Family::BOTH {
        let mut talk = Talk::new(Introduction::ProxyV2, family, 1, 40_000);
        talk.handshake();
        let mut ack = talk.by_client(ACK, START, SERVER).bytes();
        ack.resize(80, 0xee);
        let out = talk.to_server(PSH | ACK, START, SERVER).data(&talk.header.clone()).bytes();
        assert_eq!(talk.rig.send(FRONT, &ack), [(BACK, out)]);
    }
}

/// What the server acknowledges counts without the header: the exact reset of the client, and the
/// question to the server, are told by that.
#[test]
fn the_header_does_not_move_the_clients_mark() {
    for mut talk in proxied() {
        talk.handshake();
        let (header, n) = (talk.header.clone(), talk.n());
        let bare = talk.by_client(ACK, START, SERVER);
        let out = talk.to_server(PSH | ACK, START, SERVER).data(&header);
        talk.forward("header", &bare, &[], &out);
        let at = START.wrapping_add(n);
        let heard = talk.by_server(ACK, SERVER, at);
        talk.reply("heard", &heard, &talk.to_client(ACK, SERVER, START));
        let (next, at) = (START.wrapping_add(30), at.wrapping_add(30));
        let data = talk.by_client(PSH | ACK, START, SERVER).data(&[7; 30]);
        let out = talk.to_server(PSH | ACK, START.wrapping_add(n), SERVER).data(&[7; 30]);
        talk.forward("data", &data, &[], &out);
        talk.reply("ACK", &talk.by_server(ACK, SERVER, at), &talk.to_client(ACK, SERVER, next));
        let reset = talk.by_server(RST, SERVER.wrapping_add(9), 0);
        talk.reply("RST", &reset, &talk.to_client(RST, SERVER.wrapping_add(9), 0));
        talk.rig.pass(10_300);
        let mut asked = talk.to_server(ACK, at.wrapping_sub(1), SERVER).window(512);
        asked.ttl = 64;
        assert_eq!(talk.rig.sent(), [(BACK, asked.bytes())]);
        // The server lives; then the client closes.
        talk.reply("ACK", &talk.by_server(ACK, SERVER, at), &talk.to_client(ACK, SERVER, next));
        let reset = talk.by_client(RST, next, 0);
        talk.forward("RST", &reset, &[], &talk.to_server(RST, at, 0));
        talk.rig.pass(10_300);
        assert_eq!((talk.rig.sessions(), talk.rig.sent()), (0, Vec::new()));
    }
}
