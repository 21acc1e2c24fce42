//! What of the message service can be configured.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{directory::Limits, log::LogConfig};

/// Configuration of the message service; each value has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// File of the rooms and topics that a new deployment holds; none means one
    /// room with one open topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed_file: Option<PathBuf>,
    /// Slots of a log segment that is made from now on: 1 to 1024.
    #[serde(deserialize_with = "within::<_, 1, 1024>")]
    pub segment_capacity: u64,
    /// Most messages of one append: 1 to 256.
    #[serde(deserialize_with = "within::<_, 1, 256>")]
    pub batch_entries: u64,
    /// Most bytes of one append: 32 KiB, so that the longest message fits, to 256 KiB.
    #[serde(deserialize_with = "within::<_, 32_768, 262_144>")]
    pub batch_bytes: u64,
    /// Most messages that wait for one topic; past that they are refused: 256, so
    /// that one call fits, to 65,536.
    #[serde(deserialize_with = "within::<_, 256, 65_536>")]
    pub queue_entries: u64,
    /// Most bytes of what is known of topics (heads, stamps, filters): 1 MiB to 64 GiB.
    #[serde(deserialize_with = "within::<_, 1_048_576, 68_719_476_736>")]
    pub knowledge_bytes: u64,
    /// Most topics whose logs are loaded from the store at a time: 1 to 1,024.
    #[serde(deserialize_with = "within::<_, 1, 1024>")]
    pub loads: u64,
    /// Most topics that are written to the store at a time: 1 to 10,000. More than the
    /// store can do at once only makes each write slower.
    #[serde(deserialize_with = "within::<_, 1, 10_000>")]
    pub writes: u64,
    /// For how many days a message's stamp is known: 30, which is promised, to 3,650.
    #[serde(deserialize_with = "within::<_, 30, 3_650>")]
    pub stamp_days: u64,
    /// Most topics that are kept in memory: 1 to 10,000,000.
    #[serde(deserialize_with = "within::<_, 1, 10_000_000>")]
    pub kept_topics: u64,
    /// Most memberships that are kept in memory: 1 to 100,000,000.
    #[serde(deserialize_with = "within::<_, 1, 100_000_000>")]
    pub kept_memberships: u64,
    /// For how many milliseconds a kept topic or membership is trusted: 1 to 2,000,
    /// for delivery to a removed member ends within five seconds.
    #[serde(deserialize_with = "within::<_, 1, 2_000>")]
    pub kept_for_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed_file: None,
            segment_capacity: 1_024,
            batch_entries: 256,
            batch_bytes: 256 * 1024,
            queue_entries: 4_096,
            knowledge_bytes: 256 * 1024 * 1024,
            loads: 64,
            writes: 128,
            stamp_days: 31,
            kept_topics: 100_000,
            kept_memberships: 1_000_000,
            kept_for_ms: 2_000,
        }
    }
}

impl Config {
    pub(crate) fn log(&self) -> LogConfig {
        LogConfig {
            segment_capacity: u32::try_from(self.segment_capacity).unwrap_or(u32::MAX),
            batch_entries: size(self.batch_entries),
            batch_bytes: size(self.batch_bytes),
            queue_entries: size(self.queue_entries),
            knowledge_bytes: self.knowledge_bytes,
            loads: size(self.loads),
            writes: size(self.writes),
            stamp_memory: Duration::from_hours(24)
                .saturating_mul(u32::try_from(self.stamp_days).unwrap_or(u32::MAX)),
        }
    }

    pub(crate) fn directory(&self) -> Limits {
        Limits {
            topics: self.kept_topics,
            memberships: self.kept_memberships,
            kept_for: Duration::from_millis(self.kept_for_ms),
        }
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Reads an integer from `LOW` to `HIGH`; the error says so.
fn within<'de, D, const LOW: u64, const HIGH: u64>(deserializer: D) -> Result<u64, D::Error>
where
    D: Deserializer<'de>,
{
    let number = u64::deserialize(deserializer)?;
    if (LOW..=HIGH).contains(&number) {
        Ok(number)
    } else {
        let expected = format!("an integer from {LOW} to {HIGH}");
        Err(de::Error::invalid_value(
            de::Unexpected::Unsigned(number),
            &expected.as_str(),
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;

    #[test]
    fn every_default_is_a_value_that_may_be_configured() {
        let text = toml::to_string(&Config::default()).expect("serializes");
        assert_eq!(toml::from_str(&text), Ok(Config::default()));
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_was_expected() {
        for (text, expected) in [
            ("segment_capacity = 0", "an integer from 1 to 1024"),
            ("segment_capacity = 1025", "an integer from 1 to 1024"),
            ("stamp_days = 29", "an integer from 30 to 3650"),
            ("kept_for_ms = 2001", "an integer from 1 to 2000"),
            ("loads = \"many\"", "u64"),
            ("segments = 1", "unknown field `segments`"),
        ] {
            let error = toml::from_str::<Config>(text).expect_err(text);
            assert!(error.message().contains(expected), "{error}");
        }
    }
}
