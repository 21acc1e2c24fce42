//! What is measured: a TOML file each.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Those that come with the tool.
const KNOWN: [(&str, &str); 10] = [
    ("a", include_str!("scenarios/a.toml")),
    ("b", include_str!("scenarios/b.toml")),
    ("c", include_str!("scenarios/c.toml")),
    ("d", include_str!("scenarios/d.toml")),
    ("e", include_str!("scenarios/e.toml")),
    ("e-few", include_str!("scenarios/e-few.toml")),
    ("e-zipf", include_str!("scenarios/e-zipf.toml")),
    ("f", include_str!("scenarios/f.toml")),
    ("g", include_str!("scenarios/g.toml")),
    ("i", include_str!("scenarios/i.toml")),
];

/// So many connections in so many topics, and what they do.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// One line for people.
    pub(crate) what: String,
    /// Connections, each of a user of its own.
    pub(crate) connections: usize,
    /// Topics.
    pub(crate) topics: usize,
    /// Members of each topic, who all listen. Topic `t` has the connections from
    /// `t * members` on, again from the first one behind the last.
    pub(crate) members: usize,
    /// Those of a topic's members who send, in turn.
    pub(crate) senders: usize,
    /// Characters of a message.
    #[serde(default = "default_body")]
    pub(crate) body: usize,
    /// When the next message is due.
    pub(crate) load: Load,
    /// How uneven the topics are: the exponent of Zipf's law, 0 for all alike.
    #[serde(default)]
    pub(crate) skew: f64,
}

fn default_body() -> usize {
    100
}

/// When messages are due.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Load {
    /// Nothing is sent.
    Idle,
    /// So many are under way at any time: the next one follows when all members have one.
    Outstanding(usize),
    /// So many a second, whatever becomes of those before.
    PerSecond(f64),
    /// Nothing is sent, and so many a second are told to be typing.
    TypingPerSecond(f64),
}

impl Scenario {
    /// One that comes with the tool, by its letter, or a file.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        let known = KNOWN.iter().find(|(known, _)| *known == name);
        let text = match known {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(Path::new(name)).map_err(|error| {
                let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
                format!(
                    "{name}: {error}; scenarios that come with this are {}",
                    names.join(", ")
                )
            })?,
        };
        let scenario: Self = toml::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
        scenario.check().map_err(|why| format!("{name}: {why}"))?;
        Ok(scenario)
    }

    /// The same with so many messages a second.
    pub(crate) fn at(self, per_second: f64) -> Result<Self, String> {
        let scenario = Self {
            what: format!("{}, but {per_second} messages a second", self.what),
            load: Load::PerSecond(per_second),
            ..self
        };
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let counts = [
            ("connections", self.connections),
            ("topics", self.topics),
            ("members", self.members),
            ("senders", self.senders),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("`{name}` has to be 1 at least"));
        }
        if self.members > self.connections {
            return Err("`members` are more than `connections`".to_owned());
        }
        if self.senders > self.members {
            return Err("`senders` are more than `members`".to_owned());
        }
        if !(self.skew.is_finite() && self.skew >= 0.0) {
            return Err("`skew` is a number from 0 on".to_owned());
        }
        match self.load {
            Load::Outstanding(0) => Err("`outstanding` has to be 1 at least".to_owned()),
            Load::PerSecond(rate) | Load::TypingPerSecond(rate)
                if !(rate.is_finite() && rate > 0.0) =>
            {
                Err("a rate has to be more than 0".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The connections of a topic's members.
    pub(crate) fn members_of(&self, topic: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.members).map(move |place| (topic * self.members + place) % self.connections)
    }
}
