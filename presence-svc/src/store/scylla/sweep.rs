//! The sweep of a lease that does not live: two rounds through its users, minutes apart.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use chassis::id::UserId;

use super::{
    ScyllaStore, each,
    leases::Lease,
    sessions::{Ids, PAGE, SHARDS},
};
use crate::{
    clock::Time,
    session::LeaseId,
    store::{StoreError, Swept},
};

/// How long after the first round the second comes: beyond the longest call, and beyond
/// what the clocks of two replicas differ.
pub(super) const SETTLE: Duration = Duration::from_mins(5);

/// About how many users one step looks at; most of them left long before the lease ended.
const LOOKS: usize = 1_024;

/// How far a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    lease: LeaseId,
    /// When the first round was over, in the second.
    first_over: Option<Time>,
    shard: i8,
    behind: Option<UserId>,
}

impl ScyllaStore {
    /// One step of the sweep of one lease.
    pub(super) async fn sweep_step(&self, now: Time, limit: usize) -> Result<Swept, StoreError> {
        let is_due = |lease: &Lease| {
            !lease.lives(now) && lease.swept.is_none_or(|swept| swept.after(SETTLE) <= now)
        };
        let Some(lease) = self.leases.all().await?.into_iter().find(is_due) else {
            return Ok(Swept {
                sessions: 0,
                done: true,
            });
        };
        // From here on it can't be renewed, whatever the clocks of others say.
        let sessions = if self.leases.end(&lease).await? {
            self.go_round(&lease, now, limit).await?
        } else {
            0
        };
        Ok(Swept {
            sessions,
            done: false,
        })
    }

    /// Goes on with a round through the users of a lease; how many sessions it ended.
    async fn go_round(&self, lease: &Lease, now: Time, limit: usize) -> Result<usize, StoreError> {
        let mut place = self.place_in(lease);
        let (mut ended, mut looks) = (0, 0);
        while place.shard < SHARDS {
            if ended >= limit || looks >= LOOKS {
                return Ok(ended);
            }
            let (users, sessions) = self.sweep_page(lease, &mut place, limit - ended).await?;
            *self.place() = Some(place);
            looks += users;
            ended += sessions;
        }
        match lease.swept {
            None => self.leases.mark_swept(lease, now).await?,
            Some(swept) => {
                self.sessions.unlist(lease.id).await?;
                self.leases.forget(lease.id, swept).await?;
            }
        }
        *self.place() = None;
        Ok(ended)
    }

    /// Sweeps a page of users behind a place, and moves it. How many users it looked at, and
    /// how many sessions it ended.
    async fn sweep_page(
        &self,
        lease: &Lease,
        place: &mut Place,
        limit: usize,
    ) -> Result<(usize, usize), StoreError> {
        let users = self.sessions.users(lease.id, place.shard, place.behind);
        let users = users.await?;
        let looks = users.iter().map(async |user| match lease.swept {
            None => self.sessions.look(lease.id, *user).await,
            // Nobody comes after the second round: nothing may be left half decided.
            Some(_) => self.sessions.look_serial(lease.id, *user).await,
        });
        let rows = each(looks.collect::<Vec<_>>()).await?;
        let mut room = limit;
        let mut ends = Vec::new();
        let mut is_through = true;
        for (user, row) in users.iter().zip(rows) {
            let ids: Ids = row.ids.iter().copied().take(room).collect();
            is_through = ids.len() == row.ids.len();
            room -= ids.len();
            if !ids.is_empty() {
                let seen = Some(lease.last_there());
                ends.push(self.sessions.end(lease.id, *user, ids, seen));
            }
            if !is_through {
                break;
            }
            place.behind = Some(*user);
        }
        let ended = each(ends).await?;
        if is_through && users.len() < PAGE {
            place.shard += 1;
            place.behind = None;
        }
        Ok((users.len(), ended.iter().map(|ended| ended.sessions).sum()))
    }

    /// Where the round through a lease that is due goes on.
    fn place_in(&self, lease: &Lease) -> Place {
        let start = Place {
            lease: lease.id,
            first_over: lease.swept,
            shard: 0,
            behind: None,
        };
        self.place()
            .filter(|place| place.lease == start.lease && place.first_over == start.first_over)
            .unwrap_or(start)
    }

    /// It is written as a whole, so a poisoned lock means nothing.
    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
