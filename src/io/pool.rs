//! How many packet buffers a node needs, and how much memory they take.

/// Bytes around a frame that mtu does not count: Ethernet header, two VLAN tags, FCS.
pub const FRAME_OVERHEAD: u16 = 14 + 8 + 4;

/// Bytes before the frame in a buffer (DPDK's RTE_PKTMBUF_HEADROOM).
pub const HEADROOM: u32 = 128;
/// Bytes of what DPDK keeps with each buffer (struct rte_mbuf).
pub const METADATA: u64 = 128;

/// The size of a packet pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Packet buffers.
    pub packets: u32,
    /// Buffers that each registered thread keeps for itself: up to 512, and 1.5 times as many must
    /// fit in the pool.
    pub cache: u32,
    /// The largest MTU of any port; a buffer holds such a frame with its headroom in one piece.
    pub mtu: u16,
}

impl PoolOptions {
    /// The usual cache.
    pub const CACHE: u32 = 256;

    /// A pool that `queues` queue pairs (over all ports) and `workers` cannot exhaust, with
    /// `held` buffers on top for packets that wait.
    pub fn for_ports(
        queues: u32,
        rx_desc: u16,
        tx_desc: u16,
        workers: u32,
        held: u32,
        mtu: u16,
    ) -> Self {
        let rings = queues * (u32::from(rx_desc) + u32::from(tx_desc));
        // A cache grows to 1.5 times its size; the main thread has one too.
        let caches = (workers + 1) * Self::CACHE * 3 / 2;
        let bursts = (workers + 1) * 1024;
        // A power of two less one uses the ring below the pool best.
        let packets = (rings + caches + bursts + held).max(4096).next_power_of_two() - 1;
        PoolOptions { packets, cache: Self::CACHE, mtu }
    }

    /// Bytes of a buffer, headroom included, as DPDK wants it.
    pub fn buffer_bytes(&self) -> u32 {
        let frame = u32::from(self.mtu) + u32::from(FRAME_OVERHEAD);
        // Drivers hand out buffers in units of 1 KiB; 2 KiB is what they all expect at least.
        HEADROOM + frame.max(2048).next_multiple_of(1024)
    }

    /// Megabytes of the pool: buffers with their metadata, alignment and the ring of pointers.
    pub fn memory_mb(&self) -> u64 {
        let each = u64::from(self.buffer_bytes()) + METADATA + 64 + 16;
        (u64::from(self.packets) * each).div_ceil(1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let options = PoolOptions::for_ports(2, 1024, 1024, 2, 1024, 1500);
        // 4096 in rings, 1152 in caches, 3072 on the way, 1024 held: 9344.
        assert_eq!(options, PoolOptions { packets: 16_383, cache: 256, mtu: 1500 });
        assert_eq!(options.buffer_bytes(), 2048 + 128);
        assert_eq!(options.memory_mb(), 38);
        assert_eq!(PoolOptions { mtu: 9000, ..options }.buffer_bytes(), 9216 + 128);
    }
}
