//! The command line (design §8): arguments, the client of the control socket, and the tables.
//!
//! Results go to standard output, errors to standard error. Exit status: 0 well, 1 the operation
//! failed, 2 wrong usage.
#![forbid(unsafe_code)]

mod arguments;
mod client;
mod doctor;
mod format;
mod output;
mod render;
mod table;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use arguments::{Cli, Command, Read};

use crate::manage::api::types;
use crate::manage::config;
use client::Client;

/// What the commands need of the rest of the program.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// `shunt run`: runs until it is told to stop.
    pub run: fn(&Path) -> Result<()>,
}

/// The whole program: reads the arguments, does what they say, reports errors.
pub fn main(hooks: &Hooks) -> ExitCode {
    match dispatch(Cli::parse(), hooks) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shunt: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the arguments say.
///
/// # Errors
/// When the operation failed, with the sentence for standard error.
pub fn dispatch(cli: Cli, hooks: &Hooks) -> Result<ExitCode> {
    match cli.command {
        Command::Run { config } => (hooks.run)(&config)?,
        Command::Check { file } => return check(&file),
        Command::Doctor { config, json } => return doctor::run(config.as_deref(), json),
        Command::Status(read) => show(&read, "status", render::status::text)?,
        Command::Services(read) => show(&read, "services", render::services::text)?,
        Command::Servers(read) => show(&read, "servers", render::servers::text)?,
        Command::Sessions { read, filter } => {
            let parameters = types::SessionParameters {
                service: filter.service,
                server: filter.server,
                client: filter.client,
                limit: filter.limit,
            };
            let path = client::with_query("sessions", &parameters)?;
            show(&read, &path, render::sessions::text)?;
        }
        Command::Snat(read) => show(&read, "snat", render::snat::text)?,
        Command::Ports(read) => show(&read, "ports", render::ports::text)?,
        Command::Workers(read) => show(&read, "workers", render::workers::text)?,
        Command::Neighbors(read) => show(&read, "neighbors", render::neighbors::text)?,
        Command::Ha(read) => show(&read, "ha", render::ha::text)?,
        Command::Filters(read) => show(&read, "filters", render::filters::text)?,
        Command::Drops { read, all } => {
            show(&read, "drops", |drops| render::drops::text(drops, all))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the answer to `path`: as JSON, or as `text` makes it.
fn show<T: DeserializeOwned + Serialize>(
    read: &Read,
    path: &str,
    text: impl FnOnce(&T) -> String,
) -> Result<()> {
    let answer = Client::new(&read.socket).get(path)?;
    if read.json {
        // What was said, whole: it may come from a newer process than this one.
        let value: serde_json::Value = client::parse(&answer)?;
        output::print_json(&value)
    } else {
        output::print(&text(&client::parse(&answer)?))
    }
}

/// `shunt check FILE`
fn check(file: &Path) -> Result<ExitCode> {
    match config::load(file) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            output::print(&format!(
                "{}: configuration is valid: {}, {}, {}\n",
                file.display(),
                format::plural(config.ports.len(), "port"),
                format::plural(config.services.len(), "service"),
                format::plural(config.services.iter().map(|s| s.servers.len()).sum(), "server"),
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            eprintln!("{errors}");
            Ok(ExitCode::FAILURE)
        }
    }
}

#[cfg(test)]
mod tests;
