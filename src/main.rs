//! The `shunt` command: composition only.

#[cfg(feature = "dpdk")]
mod run;

fn main() -> std::process::ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let path = std::env::args().nth(2).unwrap_or_default();
    match run::run(std::path::Path::new(&path)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shunt: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
