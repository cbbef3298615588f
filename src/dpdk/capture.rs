//! Captures that net_pcap replays for ever: with `infinite_rx` the driver loads all frames of a
//! file into packet buffers when its port starts, and they stay there.

use std::fs::File;
use std::io::{self, BufReader, Read};

/// How many packet buffers the vdevs fill with captures when their ports start. A capture that
/// cannot be read counts for nothing: the driver says then what is wrong with it.
pub fn preloaded(vdevs: &[String]) -> u32 {
    vdevs
        .iter()
        .filter(|vdev| vdev.starts_with("net_pcap") && vdev.contains("infinite_rx=1"))
        .flat_map(|vdev| vdev.split(',').filter_map(|word| word.strip_prefix("rx_pcap=")))
        .map(|path| File::open(path).and_then(frames).unwrap_or(0))
        .fold(0, u32::saturating_add)
}

/// Counts the frames of a pcap file of either byte order; 0 for a file of another kind.
fn frames(file: File) -> io::Result<u32> {
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut magic = [0; 24];
    file.read_exact(&mut magic)?;
    let number: fn([u8; 4]) -> u32 = match magic[..4] {
        // The order of the bytes tells the machine that wrote it; two numbers, since times may be
        // in microseconds or nanoseconds.
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => u32::from_be_bytes,
        _ => return Ok(0),
    };
    let mut count = 0;
    let mut record = [0; 16];
    while file.read_exact(&mut record).is_ok() {
        // Two fields of time, then the length in the file.
        let length = number([record[8], record[9], record[10], record[11]]);
        file.seek_relative(i64::from(length))?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn capture(order: fn(u32) -> [u8; 4], lengths: &[u32]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for word in [0xa1b2_c3d4, 0, 0, 0, 65_535, 1] {
            file.write_all(&order(word)).unwrap();
        }
        for &length in lengths {
            for word in [0, 0, length, length] {
                file.write_all(&order(word)).unwrap();
            }
            file.write_all(&vec![0; length as usize]).unwrap();
        }
        file
    }

    #[test]
    fn frames_of_endless_captures_are_counted() {
        let little = capture(u32::to_le_bytes, &[60, 60, 1514]);
        let big = capture(u32::to_be_bytes, &[60, 70_000]);
        let vdevs = [
            format!("net_pcap0,rx_pcap={},infinite_rx=1", little.path().display()),
            format!("net_pcap1,infinite_rx=1,rx_pcap={}", big.path().display()),
            format!("net_pcap2,rx_pcap={}", little.path().display()),
            "net_pcap3,rx_pcap=/nowhere,infinite_rx=1".to_owned(),
            "net_null0".to_owned(),
        ];
        assert_eq!(preloaded(&vdevs), 5);
        assert_eq!(preloaded(&vdevs[2..]), 0);
    }

    #[test]
    fn another_file_counts_for_nothing() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 400]).unwrap();
        assert_eq!(frames(file.reopen().unwrap()).unwrap(), 0);
    }
}
