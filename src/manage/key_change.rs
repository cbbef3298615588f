//! SIGHUP: the keys of the pair are read anew, so that they can be changed without a restart.

use log::{error, info, warn};

use super::config::ha::keys_in;
use super::state::State;
use crate::sync::keys::{Keys, name};
use crate::worker::control::Command;

impl State {
    /// Reads `ha.key_file` anew and gives the keys to the workers; a file that is wrong changes
    /// nothing.
    pub(super) fn read_keys_anew(&mut self) {
        let Some(ha) = &mut self.config.ha else {
            warn!("SIGHUP: this node has no peer and no keys to read; all else needs a restart");
            return;
        };
        let keys = match keys_in(&ha.key_file) {
            Ok(keys) => keys,
            Err(wrong) => {
                error!("SIGHUP: the keys stay as they are: {wrong}");
                return;
            }
        };
        if keys == ha.keys {
            info!(
                "SIGHUP: {} is as it was; what else is configured needs a restart",
                ha.key_file.display()
            );
            return;
        }
        info!("SIGHUP: {}: {}", ha.key_file.display(), shown(&keys));
        if !keys.accepts(ha.keys.id()) {
            warn!(
                "the key {} is no longer accepted: if the peer still signs with it, it is not heard \
                 until it has the new keys too",
                name(ha.keys.id())
            );
        }
        ha.keys.clone_from(&keys);
        for worker in &mut self.workers {
            worker.send(Command::Keys(Box::new(keys.clone())));
        }
    }
}

fn shown(keys: &Keys) -> String {
    let other = keys.other_id().map(|id| format!(", accepts {} as well", name(id)));
    format!("signs with {}{}", name(keys.id()), other.unwrap_or_default())
}
