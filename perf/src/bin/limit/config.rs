//! The configuration of Shunt as the device under test: one-armed, all hosts known.

use std::fmt::Write;
use std::path::Path;

use perf::traffic::{
    CLIENT_MAC, GATEWAY, SERVER_MAC, VIP, VIP_PORT, local_address, server_address,
};

/// Real servers.
const SERVERS: usize = 16;
/// FullNAT local addresses: 16 servers × 8 addresses × 32,256 ports are enough for 1 M sessions,
/// whichever steering buckets their clients fall into.
const LOCAL_ADDRESSES: usize = 8;

/// A configuration with one worker on core 1.
pub(crate) fn text(mode: &str, vdev: &str, device: &str, socket: &Path) -> String {
    let locals: Vec<String> =
        (0..LOCAL_ADDRESSES).map(|i| format!("\"{}\"", local_address(i))).collect();
    let locals = if mode == "fullnat" { locals.join(", ") } else { String::new() };
    let mut text = format!(
        r#"[node]
workers = [1]
idle = "spin"
sessions = 2_000_000

[dpdk]
memory_mb = 384
vdevs = ["{vdev}"]

[[port]]
name = "both"
device = "{device}"
side = "both"
addresses = ["192.0.2.2/24", "10.0.0.2/15"]
local_addresses = [{locals}]

[[route]]
to = "0.0.0.0/0"
via = "{GATEWAY}"

[[neighbor]]
address = "{GATEWAY}"
mac = "{gateway_mac}"
port = "both"

[timeouts]
tcp_established = 3600
tcp_syn = 3600
udp = 3600

[[service]]
name = "limit"
protocol = "udp"
listen = ["{VIP}:{VIP_PORT}"]
mode = "{mode}"
scheduler = "rr"

[api]
socket = "{socket}"
"#,
        gateway_mac = mac(&CLIENT_MAC),
        socket = socket.display(),
    );
    // Servers belong to the service above; neighbors stand for themselves, so they come last.
    for i in 0..SERVERS {
        let _ =
            writeln!(text, "\n[[service.server]]\naddress = \"{}:{VIP_PORT}\"", server_address(i));
    }
    for i in 0..SERVERS {
        let _ = writeln!(
            text,
            "\n[[neighbor]]\naddress = \"{}\"\nmac = \"{}\"\nport = \"both\"",
            server_address(i),
            mac(&SERVER_MAC)
        );
    }
    text
}

/// What makes a node of a pair of it, to be appended. The addresses are this node's as long as there is
/// no peer, and packets are forwarded whoever is master.
pub(crate) fn channel(key_file: &Path) -> String {
    format!(
        r#"
[ha]
group = 10
peer = "192.0.2.3"
sync_port = "both"
key_file = "{}"
"#,
        key_file.display()
    )
}

fn mac(bytes: &[u8; 6]) -> String {
    let parts: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    parts.join(":")
}
