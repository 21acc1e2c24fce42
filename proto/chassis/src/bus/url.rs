//! Which bus a URL means.

use std::{sync::Arc, time::Duration};

use super::{
    Bus,
    memory::MemoryBus,
    misbehaving::{MisbehavingBus, Misbehaviour},
    nats::{NatsBus, NatsUrl},
};

/// A URL that means no bus. Never tells a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBusUrl {
    /// No known scheme. What there is instead is not repeated, as it may hold a password.
    #[error("that is no bus: `memory:` or `nats://host` is expected")]
    Scheme,
    /// No host, or one that is none.
    #[error("`{0}` is no host: a name or an address is expected, with or without a port")]
    Host(String),
    /// Something behind the hosts.
    #[error("nothing is expected behind the hosts, and there is `{0}`")]
    Path(String),
    /// An unknown key.
    #[error("`{key}` is no key of this bus: {expected} is expected")]
    Key {
        /// The key.
        key: String,
        /// The keys that there are.
        expected: &'static str,
    },
    /// A value of the wrong form.
    #[error("`{key}={value}` is no value: {expected} is expected")]
    Value {
        /// Its key.
        key: String,
        /// The value.
        value: String,
        /// What the key takes.
        expected: &'static str,
    },
    /// Parts that need or exclude each other.
    #[error("{0}")]
    Together(&'static str),
    /// A file that can't be used; a whole sentence.
    #[error("{0}")]
    File(String),
}

#[derive(Debug, PartialEq)]
struct Parsed {
    /// `None` within the process.
    broker: Option<NatsUrl>,
    misbehaviour: Option<Misbehaviour>,
}

/// The bus of this URL: `memory:` delivers within the process, `nats://host` by a
/// broker, which may be away: it is tried until it is there. For tests,
/// `memory:?drop=0.2&double=0.1&delay_ms=50&reorder=0.1&seed=7` loses, doubles,
/// delays and reorders events, and so do these keys with a broker; see [`Misbehaviour`].
///
/// # Errors
/// When the URL means no bus, or names a file that can't be used.
pub async fn connect(url: &str) -> Result<Arc<dyn Bus>, InvalidBusUrl> {
    let Parsed {
        broker,
        misbehaviour,
    } = parse(url)?;
    let bus: Arc<dyn Bus> = match broker {
        None => Arc::new(MemoryBus::new()),
        Some(broker) => {
            let connecting = Box::pin(NatsBus::connect(&broker));
            Arc::new(connecting.await.map_err(InvalidBusUrl::File)?)
        }
    };
    Ok(match misbehaviour {
        None => bus,
        Some(plan) => {
            tracing::warn!(?plan, "the bus misbehaves on purpose");
            Arc::new(MisbehavingBus::new(bus, plan))
        }
    })
}

/// Whether a URL means a bus, so that a configuration can be refused before
/// anything is connected.
///
/// # Errors
/// When it means none.
pub fn check(url: &str) -> Result<(), InvalidBusUrl> {
    parse(url).map(|_| ())
}

fn parse(url: &str) -> Result<Parsed, InvalidBusUrl> {
    let mut plan = None;
    let Some(rest) = url.strip_prefix("memory:") else {
        let broker = NatsUrl::parse(url, |key, value| misbehave(&mut plan, key, value))?;
        return Ok(Parsed {
            broker: Some(broker),
            misbehaviour: plan,
        });
    };
    let query = match rest.strip_prefix('?') {
        Some(query) => query,
        None if rest.is_empty() => "",
        None => return Err(InvalidBusUrl::Path(rest.to_owned())),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !misbehave(&mut plan, key, value)? {
            return Err(InvalidBusUrl::Key {
                key: key.to_owned(),
                expected: "drop, double, reorder, delay_ms or seed",
            });
        }
    }
    Ok(Parsed {
        broker: None,
        misbehaviour: plan,
    })
}

/// Says whether the key is one of a bus that misbehaves.
fn misbehave(
    plan: &mut Option<Misbehaviour>,
    key: &str,
    value: &str,
) -> Result<bool, InvalidBusUrl> {
    if !["drop", "double", "reorder", "delay_ms", "seed"].contains(&key) {
        return Ok(false);
    }
    let plan = plan.get_or_insert(Misbehaviour {
        drop: 0.0,
        double: 0.0,
        reorder: 0.0,
        delay: Duration::ZERO,
        seed: 0,
    });
    match key {
        "drop" => plan.drop = share(key, value)?,
        "double" => plan.double = share(key, value)?,
        "reorder" => plan.reorder = share(key, value)?,
        "delay_ms" => plan.delay = Duration::from_millis(number(key, value)?.into()),
        _ => plan.seed = number(key, value)?.into(),
    }
    Ok(true)
}

fn share(key: &str, value: &str) -> Result<f64, InvalidBusUrl> {
    value
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| invalid(key, value, "a number from 0 to 1"))
}

fn number(key: &str, value: &str) -> Result<u32, InvalidBusUrl> {
    value
        .parse()
        .map_err(|_| invalid(key, value, "an integer below 2^32"))
}

fn invalid(key: &str, value: &str, expected: &'static str) -> InvalidBusUrl {
    InvalidBusUrl::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn misbehaving(url: &str) -> Option<Misbehaviour> {
        parse(url).unwrap().misbehaviour
    }

    #[test]
    fn a_url_says_how_to_misbehave() {
        assert_eq!(misbehaving("memory:"), None);
        let plan = Some(Misbehaviour {
            drop: 0.2,
            double: 0.1,
            reorder: 0.3,
            delay: Duration::from_millis(50),
            seed: 7,
        });
        let keys = "drop=0.2&double=0.1&delay_ms=50&reorder=0.3&seed=7";
        assert_eq!(misbehaving(&format!("memory:?{keys}")), plan);
        let with_broker = format!("nats://broker?prefix=trial&{keys}");
        assert_eq!(misbehaving(&with_broker), plan);
        assert_eq!(misbehaving("nats://broker"), None);
    }

    #[test]
    fn a_wrong_url_is_refused_with_what_is_wrong_and_without_the_password() {
        for (url, named) in [
            ("redis://u:hunter2@host", "`memory:` or `nats://host`"),
            ("memory:x", "`x`"),
            ("memory:?lose=1", "lose"),
            ("memory:?prefix=x", "prefix"),
            ("memory:?drop=2", "drop=2"),
            ("memory:?drop=NaN", "drop=NaN"),
            ("memory:?delay_ms=-1", "delay_ms=-1"),
            ("memory:?seed", "seed="),
            ("nats://host?drop=2", "drop=2"),
            ("nats://u:hunter2@host?lose=1", "lose"),
        ] {
            let error = check(url).unwrap_err().to_string();
            assert!(error.contains(named), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_cant_be_read_is_named() {
        for key in [
            "user=u&password_file",
            "token_file",
            "credentials",
            "nkey_file",
            "ca",
        ] {
            let url = format!("nats://host?{key}=/nowhere/file");
            let error = connect(&url).await.err().unwrap().to_string();
            assert!(error.contains("/nowhere/file"), "{key}: {error}");
        }
    }
}
