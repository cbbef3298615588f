//! The offloads of an interface that are on, from the kernel's ethtool netlink family.

use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures_util::TryStreamExt;

/// Their names, as `ethtool -k` calls them in its long form; `None` when the kernel does not tell.
pub(super) fn features(interface: &str) -> Option<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().ok()?;
    runtime.block_on(active(interface))
}

async fn active(interface: &str) -> Option<Vec<String>> {
    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let messages = handle.feature().get(Some(interface)).execute().await.ok()?;
    let messages: Vec<_> = messages.try_collect().await.ok()?;
    let mut names = Vec::new();
    for attribute in messages.into_iter().flat_map(|message| message.payload.nlas) {
        if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
            names.extend(bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name));
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_does_not_exist_has_none() {
        assert_eq!(features("sl-none-such"), None);
    }
}
