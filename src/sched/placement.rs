//! What `sh` and `maglev` place clients by: made of the service's servers in the management thread,
//! never changed, and shared by all workers.

use std::net::SocketAddr;
use std::sync::Arc;

use super::SchedulerKind;
use super::maglev;
use super::sh;

/// A server that clients can be placed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is, on whatever node and at whatever place in the configuration.
    pub server: SocketAddr,
    /// Its weight, at most 65,535; 0 takes no part.
    pub weight: u32,
    /// Its position among the candidates.
    pub position: u16,
}

/// The list of `sh` or the table of `maglev`.
#[derive(Clone, Debug)]
pub struct Placement {
    members: Box<[Member]>,
    pub(super) made: Made,
}

/// What was made.
#[derive(Clone, Debug)]
pub(super) enum Made {
    List(Arc<sh::List>),
    Table(Arc<maglev::Table>),
}

impl Placement {
    /// Makes what the scheduler needs of these servers, or gives `old` when that was made of the
    /// same. `None` for schedulers that need nothing. A table takes its time: see [`maglev`].
    ///
    /// `sh` wants all servers with their weights, `maglev` those that are down with weight 0.
    pub fn make(
        kind: SchedulerKind,
        members: Vec<Member>,
        old: Option<&Arc<Placement>>,
    ) -> Option<Arc<Placement>> {
        let same = |old: &&Arc<Placement>| {
            let same_kind = matches!(
                (&old.made, kind),
                (Made::List(_), SchedulerKind::Sh) | (Made::Table(_), SchedulerKind::Maglev)
            );
            same_kind && *old.members == *members
        };
        if let Some(old) = old.filter(same) {
            return Some(Arc::clone(old));
        }
        let made = match kind {
            SchedulerKind::Sh => Made::List(Arc::new(sh::List::new(&members))),
            SchedulerKind::Maglev => {
                let size = maglev::size_for(members.len());
                Made::Table(Arc::new(maglev::Table::new(&members, size)))
            }
            _ => return None,
        };
        Some(Arc::new(Placement { members: members.into(), made }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::members;

    #[test]
    fn what_was_made_of_the_same_is_kept() {
        for kind in [SchedulerKind::Sh, SchedulerKind::Maglev] {
            let first = Placement::make(kind, members(&[1, 2]), None).unwrap();
            let same = Placement::make(kind, members(&[1, 2]), Some(&first)).unwrap();
            assert!(Arc::ptr_eq(&first, &same));
            let other = Placement::make(kind, members(&[1, 0]), Some(&first)).unwrap();
            assert!(!Arc::ptr_eq(&first, &other));
        }
        let list = Placement::make(SchedulerKind::Sh, members(&[1]), None).unwrap();
        let table = Placement::make(SchedulerKind::Maglev, members(&[1]), Some(&list)).unwrap();
        assert!(matches!(table.made, Made::Table(_)));
        assert!(Placement::make(SchedulerKind::Wrr, members(&[1]), Some(&list)).is_none());
    }
}
