//! How fast one address may sign up and one user may emit.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use chassis::id::UserId;
use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};

use crate::config::{Rate, RateLimits};

/// Keys kept for one limit. Beyond it new keys share one, so that no number of
/// addresses costs more memory than this.
const MAX_KEYS: usize = 100_000;

/// All limits, with what was used of each.
#[derive(Debug)]
pub(crate) struct Limiter(Option<Limits>);

#[derive(Debug)]
struct Limits {
    sign_up: Limit<IpAddr>,
    message: Limit<i64>,
    typing: Limit<i64>,
}

#[derive(Debug)]
struct Limit<K: std::hash::Hash + Eq + Clone> {
    used: DefaultKeyedRateLimiter<K>,
    shared: K,
}

impl<K: std::hash::Hash + Eq + Clone> Limit<K> {
    fn new(rate: Rate, shared: K) -> Self {
        let quota = Quota::per_minute(rate.per_minute).allow_burst(rate.burst);
        Self {
            used: DefaultKeyedRateLimiter::keyed(quota),
            shared,
        }
    }

    fn take(&self, key: K) -> Result<(), Duration> {
        let key = if self.used.len() < MAX_KEYS {
            key
        } else {
            self.shared.clone()
        };
        self.used
            .check_key(&key)
            .map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

impl Limiter {
    pub(crate) fn new(limits: &RateLimits) -> Self {
        Self(limits.enabled.then(|| Limits {
            sign_up: Limit::new(limits.sign_up, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            message: Limit::new(limits.message, 0),
            typing: Limit::new(limits.typing, 0),
        }))
    }

    /// Lets a sign-up through, or says how long to wait.
    pub(crate) fn sign_up(&self, address: IpAddr) -> Result<(), Duration> {
        self.0
            .as_ref()
            .map_or(Ok(()), |limits| limits.sign_up.take(network(address)))
    }

    /// Whether the user may send one more message now.
    pub(crate) fn message(&self, user: UserId) -> bool {
        self.0
            .as_ref()
            .is_none_or(|limits| limits.message.take(user.get()).is_ok())
    }

    /// Whether the user may tell once more that he types.
    pub(crate) fn typing(&self, user: UserId) -> bool {
        self.0
            .as_ref()
            .is_none_or(|limits| limits.typing.take(user.get()).is_ok())
    }

    /// Forgets the keys that have their whole burst again.
    pub(crate) fn sweep(&self) {
        if let Some(limits) = &self.0 {
            limits.sign_up.used.retain_recent();
            limits.message.used.retain_recent();
            limits.typing.used.retain_recent();
        }
    }
}

/// One subscriber holds a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn limiter() -> Limiter {
        Limiter::new(&RateLimits {
            enabled: true,
            sign_up: Rate::new(2, 1),
            message: Rate::new(500, 1),
            typing: Rate::new(1, 1),
        })
    }

    #[test]
    fn a_burst_is_let_through_and_the_next_one_is_told_how_long_to_wait() {
        let limiter = limiter();
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(limiter.sign_up(here).is_ok());
        assert!(limiter.sign_up(here).is_ok());
        let wait = limiter.sign_up(here).unwrap_err();
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60));
        assert!(limiter.sign_up("192.0.2.2".parse().unwrap()).is_ok());
    }

    #[test]
    fn addresses_of_one_subscriber_count_together() {
        let limiter = limiter();
        for address in ["2001:db8::1", "2001:db8::2"] {
            assert!(limiter.sign_up(address.parse().unwrap()).is_ok());
        }
        assert!(limiter.sign_up("2001:db8::3".parse().unwrap()).is_err());
        assert!(limiter.sign_up("2001:db8:0:1::3".parse().unwrap()).is_ok());
        assert!(limiter.sign_up("::ffff:192.0.2.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn five_hundred_messages_at_once_are_no_offence() {
        let limiter = limiter();
        let user = UserId::new(1).unwrap();
        assert!((0..500).all(|_| limiter.message(user)));
        assert!(!limiter.message(user));
        assert!(limiter.typing(user));
    }

    #[test]
    fn limits_that_are_off_let_everything_through() {
        let limiter = Limiter::new(&RateLimits {
            enabled: false,
            ..RateLimits::default()
        });
        let user = UserId::new(1).unwrap();
        assert!((0..100_000).all(|_| limiter.message(user)));
    }
}
