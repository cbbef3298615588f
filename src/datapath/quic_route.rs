//! QUIC by connection id: a client that changes its address stays on its server.
//!
//! A server puts its id into the connection ids it gives out ([`crate::wire::quic`]); a packet with
//! such an id opens its session with that server, also when the server takes no new connections
//! otherwise, since the connection is not new. A packet whose session is known follows that.

use std::collections::HashMap;

use super::family::Family;
use super::frame::Frame;
use super::snapshot::{Service, Snapshot};
use crate::session::{ServerId, ServiceId};
use crate::wire::flow::{Flow, Protocol};
use crate::wire::quic::{self, Header, MAX_SERVER_ID};
use crate::wire::udp;

/// How the servers of a service write connection ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quic {
    /// The first three bits of their connection ids, at most [`quic::MAX_ROTATION`].
    rotation: u8,
    /// Octets of a server id; 0 when servers have none.
    id_length: u8,
    /// Octets of the connection ids they give out; 0 when not known.
    cid_length: u8,
    servers: HashMap<Name, ServerId>,
}

/// The family (1 for IPv6) and the server id, with zeros behind it.
type Name = [u8; 1 + MAX_SERVER_ID];

fn name(v6: bool, id: &[u8]) -> Option<Name> {
    let mut name = [0; 1 + MAX_SERVER_ID];
    name[0] = u8::from(v6);
    name[1..].get_mut(..id.len())?.copy_from_slice(id);
    Some(name)
}

impl Quic {
    /// Without servers; the fields' meanings are theirs.
    pub fn new(rotation: u8, id_length: u8, cid_length: u8) -> Self {
        Quic { rotation, id_length, cid_length, servers: HashMap::new() }
    }

    /// Makes a server known by its id, which has `id_length` octets. `v6`: to IPv6 clients.
    pub fn add(&mut self, v6: bool, id: &[u8], server: ServerId) {
        if let Some(name) = name(v6, id) {
            self.servers.insert(name, server);
        }
    }

    fn server(&self, v6: bool, header: &Header<'_>) -> Option<ServerId> {
        let id = header.server_id(self.rotation, usize::from(self.id_length))?;
        self.servers.get(&name(v6, id)?).copied()
    }
}

/// The server that the connection id names, if it is up.
pub(super) fn server<A: Family, F: Frame>(
    snapshot: &Snapshot,
    service_id: ServiceId,
    frame: &F,
    flow: &Flow<A>,
) -> Option<ServerId> {
    let service = &snapshot.services[usize::from(service_id.0)];
    let quic = service.selection.quic.as_ref()?;
    let server = quic.server(A::V6, &header(frame, flow)?)?;
    snapshot.servers.get(usize::from(server.0))?.up.then_some(server)
}

/// The connection id of the packet, as far as its length is known.
pub(super) fn connection_id<'f, A: Family, F: Frame>(
    service: &Service,
    frame: &'f F,
    flow: &Flow<A>,
) -> Option<&'f [u8]> {
    let length = service.selection.quic.as_ref().map_or(0, |quic| quic.cid_length);
    header(frame, flow)?.connection_id(usize::from(length))
}

fn header<'f, A: Family, F: Frame>(frame: &'f F, flow: &Flow<A>) -> Option<Header<'f>> {
    if flow.key.protocol != Protocol::Udp {
        return None;
    }
    let datagram = A::TRANSPORT + udp::HEADER_LEN..usize::from(flow.frame_len);
    quic::parse(frame.bytes().get(datagram)?)
}
