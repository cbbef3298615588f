//! The Ethernet header towards the next hop: all that direct server return changes, and the last
//! step of every other mode.

/// Destination and source MAC address, as they stand at the start of a frame.
pub type Addresses = [u8; 12];

/// Writes both MAC addresses. A frame shorter than an Ethernet header is left alone; parsing has
/// already dropped those.
#[inline(always)]
pub fn set_addresses(frame: &mut [u8], addresses: &Addresses) {
    if let Some(start) = frame.first_chunk_mut::<12>() {
        *start = *addresses;
    }
}

/// Sends a frame back where it came from: the old source becomes the destination, `own` the source.
pub fn turn_round(frame: &mut [u8], own: &[u8; 6]) {
    if frame.len() >= 12 {
        frame.copy_within(6..12, 0);
        frame[6..12].copy_from_slice(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_back_to_its_sender() {
        let mut frame = *b"ddddddssssssET";
        turn_round(&mut frame, b"oooooo");
        assert_eq!(&frame, b"ssssssooooooET");
    }

    #[test]
    fn only_the_addresses_change() {
        let mut frame = *b"xxxxxxyyyyyyET";
        set_addresses(&mut frame, b"ddddddssssss");
        assert_eq!(&frame, b"ddddddssssssET");
        set_addresses(&mut frame[..3], b"xxxxxxxxxxxx");
        assert_eq!(&frame, b"ddddddssssssET");
    }
}
