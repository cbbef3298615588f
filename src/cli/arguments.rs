//! The arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::manage::api::types::MAX_SESSION_LIMIT;

/// A layer-4 switch on DPDK.
#[derive(Debug, Parser)]
#[command(name = "shunt", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start (in the foreground; logs go to standard error).
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Validate a configuration file; prints every error.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Is this machine ready? Each finding says how to mend it.
    Doctor {
        /// Also look at what this configuration needs.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The node at a glance.
    Status(Read),
    /// Virtual servers and their traffic.
    Services(Read),
    /// Real servers, their health and their traffic.
    Servers(Read),
    /// Sessions.
    Sessions {
        /// Where from and how.
        #[command(flatten)]
        read: Read,
        /// Which ones.
        #[command(flatten)]
        filter: SessionFilter,
    },
    /// Rules of egress SNAT, their mappings and their traffic.
    Snat(Read),
    /// Ports and taps.
    Ports(Read),
    /// Workers and what became of their packets.
    Workers(Read),
    /// Next hops and their MAC addresses.
    Neighbors(Read),
    /// The pair: who is master, whether the peer has every session, what is wrong.
    Ha(Read),
    /// Rules of the packet filter and what each has matched.
    Filters(Read),
    /// Why packets were dropped.
    Drops {
        /// Where from and how.
        #[command(flatten)]
        read: Read,
        /// Also reasons that never occurred.
        #[arg(long)]
        all: bool,
    },
}

/// Arguments of every command that reads from a running Shunt.
#[derive(Debug, Args)]
pub struct Read {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The control socket of the running Shunt.
    #[arg(long, value_name = "PATH", env = "SHUNT_SOCKET", default_value = "/run/shunt.sock")]
    pub socket: PathBuf,
}

/// Which sessions to list.
#[derive(Debug, Args)]
pub struct SessionFilter {
    /// Of this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Of this real server.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub server: Option<String>,
    /// Of clients in this network.
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub client: Option<String>,
    /// At most so many, up to 10000 [default: 100].
    #[arg(long, value_name = "N", value_parser = limit)]
    pub limit: Option<usize>,
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|n| (1..=MAX_SESSION_LIMIT).contains(n));
    limit.ok_or_else(|| format!("expected 1 to {MAX_SESSION_LIMIT}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_has_exit_status_2() {
        for wrong in [&["shunt"][..], &["shunt", "run"], &["shunt", "sessions", "--limit", "0"]] {
            assert_eq!(Cli::try_parse_from(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn sessions_takes_its_filters() {
        let line = "shunt sessions --service web --client 10.0.0.0/8 --limit 5 --json --socket /x";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Sessions { read, filter } = cli.command else { panic!("{cli:?}") };
        assert_eq!((read.json, read.socket), (true, PathBuf::from("/x")));
        assert_eq!(filter.service.as_deref(), Some("web"));
        assert_eq!(filter.server, None);
        assert_eq!(filter.client.as_deref(), Some("10.0.0.0/8"));
        assert_eq!(filter.limit, Some(5));
    }
}
