//! The part of QUIC packets that every version has (RFC 8999), and where a routable connection id
//! keeps the server's id (draft-ietf-quic-load-balancers-21).
//!
//! ```text
//! long header    1xxxxxxx | version, 32 bits | length | destination connection id | …
//! short header   0xxxxxxx | destination connection id, of a length that only its maker knows | …
//! routable id    rotation, 3 bits; length − 1, 5 bits | server id | nonce
//! ```

/// The longest connection id of versions 1 and 2 (RFC 9000 17.2, RFC 9369).
pub const MAX_CONNECTION_ID: usize = 20;
/// The longest server id: with the first octet and a nonce of four octets it fills a connection id.
pub const MAX_SERVER_ID: usize = 15;
/// The largest config rotation; 7 says that an id is not routable.
pub const MAX_ROTATION: u8 = 6;

const LONG: u8 = 0x80;
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

/// What a packet says about the connection it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// A packet of the handshake. The connection id is the client's choice until the server has
    /// answered with its own.
    Long {
        /// The version of QUIC; 0 in a version negotiation.
        version: u32,
        /// The destination connection id.
        id: &'a [u8],
    },
    /// A packet of an established connection.
    Short {
        /// What follows the first octet: it begins with the destination connection id.
        rest: &'a [u8],
    },
}

/// Reads the first packet of a UDP datagram. `None` when it cannot be one of QUIC.
pub fn parse(datagram: &[u8]) -> Option<Header<'_>> {
    let (first, rest) = datagram.split_first()?;
    if first & LONG == 0 {
        return Some(Header::Short { rest });
    }
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first()?;
    let version = u32::from_be_bytes(*version);
    let length = usize::from(*length);
    if matches!(version, VERSION_1 | VERSION_2) && length > MAX_CONNECTION_ID {
        return None;
    }
    Some(Header::Long { version, id: rest.get(..length)? })
}

impl<'a> Header<'a> {
    /// The server id of `length` octets in the connection id, if that is routable and of this
    /// configuration.
    pub fn server_id(&self, rotation: u8, length: usize) -> Option<&'a [u8]> {
        let (Header::Long { id, .. } | Header::Short { rest: id }) = *self;
        let (first, rest) = id.split_first()?;
        if first >> 5 != rotation {
            return None;
        }
        rest.get(..length)
    }

    /// The connection id. `short_length` is that of short headers; 0 when it is not known.
    pub fn connection_id(&self, short_length: usize) -> Option<&'a [u8]> {
        let id = match *self {
            Header::Long { id, .. } => id,
            Header::Short { rest } => rest.get(..short_length)?,
        };
        (!id.is_empty()).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The client's first packet in RFC 9001 A.2, as far as it is not protected.
    const INITIAL: [u8; 18] =
        [0xc0, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0, 0, 0x44, 0x9e];

    #[test]
    fn a_long_header() {
        let id = &INITIAL[6..14];
        let header = parse(&INITIAL).unwrap();
        assert_eq!(header, Header::Long { version: 1, id });
        assert_eq!(header.connection_id(0), Some(id));
        assert_eq!(header.connection_id(4), Some(id));
        // 0x83 is rotation 4.
        assert_eq!(header.server_id(4, 2), Some(&id[1..3]));
        assert_eq!(header.server_id(4, 7), Some(&id[1..8]));
        assert_eq!(header.server_id(4, 8), None);
        assert_eq!(header.server_id(3, 2), None);
        for cut in 0..14 {
            assert_eq!(parse(&INITIAL[..cut]), None, "{cut} octets");
        }
    }

    #[test]
    fn a_short_header() {
        let packet = [0x40, 0x07, 0x0a, 0x0b, 1, 2, 3, 4, 0xff];
        let header = parse(&packet).unwrap();
        assert_eq!(header.server_id(0, 2), Some(&[0x0a, 0x0b][..]));
        assert_eq!(header.connection_id(8), Some(&packet[1..9]));
        assert_eq!(header.connection_id(9), None);
        assert_eq!(header.connection_id(0), None);
        let empty = parse(&[0x40]).unwrap();
        assert_eq!((empty.server_id(0, 1), empty.connection_id(1)), (None, None));
    }

    #[test]
    fn lengths_of_connection_ids() {
        let mut packet = vec![0xc0, 0, 0, 0, 1, 21];
        packet.extend([7; 30]);
        assert_eq!(parse(&packet), None, "too long for version 1");
        packet[1..5].copy_from_slice(&VERSION_2.to_be_bytes());
        assert_eq!(parse(&packet), None, "and for version 2");
        packet[4] = 0xaa;
        assert!(matches!(parse(&packet), Some(Header::Long { id, .. }) if id.len() == 21));
        let none = [0xc0, 0, 0, 0, 1, 0, 5];
        assert_eq!(parse(&none), Some(Header::Long { version: 1, id: &[] }));
        assert_eq!(parse(&none).unwrap().connection_id(3), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40), n in 0usize..40) {
            if let Some(header) = parse(&bytes) {
                let _ = (header.connection_id(n), header.server_id(bytes[0] >> 5, n));
            }
        }
    }
}
