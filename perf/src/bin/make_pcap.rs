//! Writes a capture of N flows to the virtual server, one frame of each, for `net_pcap` with
//! `infinite_rx=1`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Parser;
use perf::traffic::{self, Kind, MAX_FLOWS, Way};

/// Writes a pcap file with one UDP frame of each of N flows to the VIP.
#[derive(Parser)]
#[command(name = "make_pcap")]
struct Arguments {
    /// Where to.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How many flows.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FLOWS)))]
    flows: u32,
    /// Bytes of a frame on the wire, FCS included.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    frame_bytes: u16,
    /// The MAC address of the device under test; the default is that of the first net_pcap port.
    #[arg(long, default_value = "02:70:63:61:70:00", value_parser = mac)]
    dut_mac: [u8; 6],
    /// Chooses the order of the flows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let len = usize::from(arguments.frame_bytes) - 4;
    let mut out = BufWriter::new(File::create(&arguments.out)?);
    // The header of a pcap file in this machine's byte order: magic number, version 2.4, two unused
    // fields, the longest frame, and link type 1, Ethernet.
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.write_all(&word.to_ne_bytes())?;
    }
    let padding = [0; 1518];
    for (microseconds, flow) in
        traffic::shuffled(arguments.flows, arguments.seed).iter().enumerate()
    {
        let time = [microseconds / 1_000_000, microseconds % 1_000_000];
        for word in [time[0] as u32, time[1] as u32, len as u32, len as u32] {
            out.write_all(&word.to_ne_bytes())?;
        }
        let mut way = Way::of_client(*flow);
        way.macs[0] = arguments.dut_mac;
        let head = traffic::head(&way, Kind::Udp, *flow, len).0;
        out.write_all(&head[..len.min(64)])?;
        out.write_all(&padding[..len.saturating_sub(64)])?;
    }
    out.flush()?;
    Ok(())
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("{text:?} is no MAC address; expected one like 02:00:00:00:00:01"))
}
