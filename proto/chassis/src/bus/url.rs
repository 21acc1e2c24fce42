//! Which bus a URL means.

use std::{sync::Arc, time::Duration};

use super::{
    Bus,
    memory::MemoryBus,
    misbehaving::{MisbehavingBus, Misbehaviour},
};

/// A URL that means no bus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBusUrl {
    /// A broker that this build can't talk to.
    #[error("`nats:` is not supported by this build: `memory:` is the only bus")]
    Nats,
    /// No known scheme.
    #[error("`{0}` is no bus: `memory:` is expected")]
    Scheme(String),
    /// A key that `memory:` does not know.
    #[error("`{0}` is no key of `memory:`: drop, double, reorder, delay_ms or seed is expected")]
    Key(String),
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
}

/// The bus of this URL: `memory:` delivers within the process. For tests,
/// `memory:?drop=0.2&double=0.1&delay_ms=50&reorder=0.1&seed=7` loses, doubles,
/// delays and reorders events; see [`Misbehaviour`].
///
/// # Errors
/// When the URL means no bus.
pub async fn connect(url: &str) -> Result<Arc<dyn Bus>, InvalidBusUrl> {
    let Some(plan) = parse(url)? else {
        return Ok(Arc::new(MemoryBus::new()));
    };
    tracing::warn!(?plan, "the bus misbehaves on purpose");
    Ok(Arc::new(MisbehavingBus::new(
        Arc::new(MemoryBus::new()),
        plan,
    )))
}

/// Whether a URL means a bus, so that a configuration can be refused before
/// anything is connected.
///
/// # Errors
/// When it means none.
pub fn check(url: &str) -> Result<(), InvalidBusUrl> {
    parse(url).map(|_| ())
}

fn parse(url: &str) -> Result<Option<Misbehaviour>, InvalidBusUrl> {
    if url.starts_with("nats:") {
        return Err(InvalidBusUrl::Nats);
    }
    let rest = url
        .strip_prefix("memory:")
        .ok_or_else(|| InvalidBusUrl::Scheme(url.to_owned()))?;
    if rest.is_empty() {
        return Ok(None);
    }
    let query = rest
        .strip_prefix('?')
        .ok_or_else(|| InvalidBusUrl::Scheme(url.to_owned()))?;
    let mut plan = Misbehaviour {
        drop: 0.0,
        double: 0.0,
        reorder: 0.0,
        delay: Duration::ZERO,
        seed: 0,
    };
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "drop" => plan.drop = share(key, value)?,
            "double" => plan.double = share(key, value)?,
            "reorder" => plan.reorder = share(key, value)?,
            "delay_ms" => plan.delay = Duration::from_millis(number(key, value)?.into()),
            "seed" => plan.seed = number(key, value)?.into(),
            _ => return Err(InvalidBusUrl::Key(key.to_owned())),
        }
    }
    Ok(Some(plan))
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
    use super::*;

    #[test]
    fn a_url_says_how_to_misbehave() {
        assert_eq!(parse("memory:"), Ok(None));
        assert_eq!(
            parse("memory:?drop=0.2&double=0.1&delay_ms=50&reorder=0.3&seed=7"),
            Ok(Some(Misbehaviour {
                drop: 0.2,
                double: 0.1,
                reorder: 0.3,
                delay: Duration::from_millis(50),
                seed: 7,
            }))
        );
    }

    #[test]
    fn a_wrong_url_is_refused_with_what_is_wrong() {
        for (url, named) in [
            ("nats://host", "nats:"),
            ("redis://host", "redis://host"),
            ("memory:x", "memory:x"),
            ("memory:?lose=1", "lose"),
            ("memory:?drop=2", "drop=2"),
            ("memory:?drop=NaN", "drop=NaN"),
            ("memory:?delay_ms=-1", "delay_ms=-1"),
            ("memory:?seed", "seed="),
        ] {
            let sentence = parse(url).map_err(|error| error.to_string());
            assert!(
                sentence.as_ref().is_err_and(|text| text.contains(named)),
                "{url}: {sentence:?}"
            );
        }
    }
}
