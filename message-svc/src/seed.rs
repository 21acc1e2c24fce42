//! The seed file: the rooms and topics that a new deployment holds.
//!
//! ```toml
//! [[rooms]]
//! id = 1
//! title = "Drivers"
//!
//! [[rooms.topics]]
//! id = 1
//! title = "General"
//! visibility = "open"   # or "private"
//! default = true        # whether new users become members; false when left out
//! ```
//!
//! At each start what is missing is made; what is there is never changed, so that
//! a change made by a call is not undone, and replicas may start at once.

use std::{collections::HashSet, fs, io, ops::Range, path::PathBuf};

use chassis::{
    clock::now_ms,
    id::{RoomId, TopicId},
};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    directory::title_fault,
    store::{DirectoryStore, FIRST_FREE_ID, Room, StoreError, Topic, Visibility},
};

/// Why the seed could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file can't be read.
    #[error("the seed file {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error("the seed file {} is wrong in line {line}: {key}: {fault}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Path of the key, for example `rooms[0].topics[2].title`; `.` for the file as a whole.
        key: String,
        /// What is wrong.
        fault: String,
    },
    /// The store failed.
    #[error("the seed can't be applied: {0}")]
    Store(#[from] StoreError),
}

/// Rooms with their topics, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    rooms: Vec<Room>,
    topics: Vec<Topic>,
}

impl Seed {
    /// One room, "Drivers", with one open default topic, "General"; both have id 1.
    ///
    /// # Errors
    /// None in practice: its text is part of the program.
    pub fn of_new_deployment() -> Result<Self, SeedError> {
        Self::parse(
            include_str!("seed/default.toml"),
            PathBuf::from("(built in)"),
        )
    }

    /// Reads a seed file.
    ///
    /// # Errors
    /// `Unreadable`; `Wrong`.
    pub fn read(path: PathBuf) -> Result<Self, SeedError> {
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, path),
            Err(source) => Err(SeedError::Unreadable { path, source }),
        }
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// `Store`.
    pub async fn apply(&self, store: &dyn DirectoryStore) -> Result<(), SeedError> {
        let create_time_ms = now_ms();
        for room in &self.rooms {
            let room = Room {
                create_time_ms,
                ..room.clone()
            };
            if store.seed_room(&room).await? {
                tracing::info!(room = room.id.get(), "made a room of the seed");
            }
        }
        for topic in &self.topics {
            let topic = Topic {
                create_time_ms,
                ..topic.clone()
            };
            if store.seed_topic(&topic).await? {
                tracing::info!(topic = topic.id.get(), "made a topic of the seed");
            }
        }
        Ok(())
    }

    fn parse(text: &str, path: PathBuf) -> Result<Self, SeedError> {
        let wrong = |fault: Fault| SeedError::Wrong {
            line: text
                .get(..fault.at.start)
                .map_or(1, |before| before.matches('\n').count() + 1),
            key: fault.key,
            fault: fault.fault,
            path,
        };
        match deserialize(text).and_then(check) {
            Ok(seed) => Ok(seed),
            Err(fault) => Err(wrong(fault)),
        }
    }
}

/// What is wrong, and where in the text.
struct Fault {
    at: Range<usize>,
    key: String,
    fault: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedFile {
    rooms: Vec<SeedRoom>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedRoom {
    id: Spanned<i64>,
    title: Spanned<String>,
    #[serde(default)]
    topics: Vec<SeedTopic>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedTopic {
    id: Spanned<i64>,
    title: Spanned<String>,
    visibility: SeedVisibility,
    #[serde(default)]
    default: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SeedVisibility {
    Open,
    Private,
}

fn deserialize(text: &str) -> Result<SeedFile, Fault> {
    let fault = |key: String, error: &toml::de::Error| Fault {
        at: error.span().unwrap_or_default(),
        key,
        fault: error.message().replace('\n', ", "),
    };
    let deserializer =
        toml::Deserializer::parse(text).map_err(|error| fault(".".to_owned(), &error))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        // A value with its place is read through an inner key, which no one wrote.
        let key = path.split(".$__").next().unwrap_or_default();
        fault(key.to_owned(), error.inner())
    })
}

fn check(file: SeedFile) -> Result<Seed, Fault> {
    let mut seed = Seed {
        rooms: Vec::new(),
        topics: Vec::new(),
    };
    let mut room_ids = HashSet::new();
    let mut topic_ids = HashSet::new();
    for (place, room) in file.rooms.into_iter().enumerate() {
        let key = format!("rooms[{place}]");
        let room_id = check_id(&key, &room.id, &mut room_ids, RoomId::new)?;
        seed.rooms.push(Room {
            id: room_id,
            title: check_title(&key, room.title)?,
            create_time_ms: 0,
        });
        for (place, topic) in room.topics.into_iter().enumerate() {
            let key = format!("{key}.topics[{place}]");
            seed.topics.push(Topic {
                id: check_id(&key, &topic.id, &mut topic_ids, TopicId::new)?,
                room: room_id,
                title: check_title(&key, topic.title)?,
                visibility: match topic.visibility {
                    SeedVisibility::Open => Visibility::Open,
                    SeedVisibility::Private => Visibility::Private,
                },
                closed: false,
                is_default: topic.default,
                create_time_ms: 0,
            });
        }
    }
    Ok(seed)
}

fn check_id<I>(
    key: &str,
    number: &Spanned<i64>,
    taken: &mut HashSet<i64>,
    id: fn(i64) -> Option<I>,
) -> Result<I, Fault> {
    let fault = |fault: String| Fault {
        at: number.span(),
        key: format!("{key}.id"),
        fault,
    };
    let value = *number.get_ref();
    let id = id(value)
        .filter(|_| value < FIRST_FREE_ID)
        .ok_or_else(|| fault(format!("{value} is not from 1 to {}", FIRST_FREE_ID - 1)))?;
    if !taken.insert(value) {
        return Err(fault(format!("{value} is there twice")));
    }
    Ok(id)
}

fn check_title(key: &str, title: Spanned<String>) -> Result<String, Fault> {
    match title_fault(title.get_ref()) {
        None => Ok(title.into_inner()),
        Some(fault) => Err(Fault {
            at: title.span(),
            key: format!("{key}.title"),
            fault,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::panic)]

    use super::*;

    fn parse(text: &str) -> Result<Seed, String> {
        Seed::parse(text, PathBuf::from("seed.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_deployment_holds_one_open_default_topic() {
        let seed = Seed::of_new_deployment().expect("is well formed");
        let [room] = seed.rooms.as_slice() else {
            panic!("one room, not {:?}", seed.rooms)
        };
        assert_eq!((room.id.get(), room.title.as_str()), (1, "Drivers"));
        let [topic] = seed.topics.as_slice() else {
            panic!("one topic, not {:?}", seed.topics)
        };
        assert_eq!((topic.id.get(), topic.room), (1, room.id));
        assert_eq!(topic.title, "General");
        assert_eq!(topic.visibility, Visibility::Open);
        assert!(topic.is_default && !topic.closed);
    }

    #[test]
    fn what_is_wrong_is_named_by_key_and_line() {
        let room = "[[rooms]]\nid = 1\ntitle = \"A\"\n";
        let topic = "[[rooms.topics]]\nid = 1\ntitle = \"B\"\nvisibility = \"open\"\n";
        for (text, expected) in [
            (
                "[[rooms]]\nid = 1000\ntitle = \"A\"\n".to_owned(),
                "line 2: rooms[0].id: 1000 is not from 1 to 999",
            ),
            (
                "[[rooms]]\nid = \"1\"\ntitle = \"A\"\n".to_owned(),
                "line 2: rooms[0].id: invalid type: string \"1\", expected i64",
            ),
            (
                format!("{room}\n{room}"),
                "line 6: rooms[1].id: 1 is there twice",
            ),
            (
                format!("{room}{topic}{topic}"),
                "line 9: rooms[0].topics[1].id: 1 is there twice",
            ),
            (
                format!("{room}{topic}default = 1\n"),
                "line 8: rooms[0].topics[0].default: invalid type: integer `1`, expected a boolean",
            ),
            (
                format!("{room}{topic}defualt = true\n"),
                "line 8: rooms[0].topics[0].defualt: unknown field `defualt`",
            ),
            (
                format!("{room}{}", topic.replace("open", "secret")),
                "line 7: rooms[0].topics[0].visibility: unknown variant `secret`",
            ),
            (
                format!("{room}{}", topic.replace('B', " ")),
                "line 6: rooms[0].topics[0].title: is blank",
            ),
            (
                format!("{room}[[rooms.topics]]\nid = 1\ntitle = \"B\"\n"),
                "line 4: rooms[0].topics[0]: missing field `visibility`",
            ),
            ("rooms = [".to_owned(), "line 1: .: "),
            (String::new(), "line 1: .: missing field `rooms`"),
        ] {
            let error = parse(&text).expect_err(&text);
            let expected = format!("the seed file seed.toml is wrong in {expected}");
            assert!(
                error.starts_with(&expected),
                "{error}\ninstead of\n{expected}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_there_is_not_changed() {
        let store = crate::directory::double::Double::default();
        let seed = Seed::of_new_deployment().expect("is well formed");
        seed.apply(&store).await.expect("the store is there");
        let id = TopicId::new(1).expect("an id");
        let change = crate::store::TopicChange {
            closed: Some(true),
            ..Default::default()
        };
        let closed = store.update_topic(id, &change).await.expect("is there");
        seed.apply(&store).await.expect("the store is there");
        assert_eq!(store.topic(id).await.expect("is there"), closed);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Seed::read(PathBuf::from("/nowhere/seed.toml")).expect_err("no file");
        assert!(
            error
                .to_string()
                .starts_with("the seed file /nowhere/seed.toml can't be read: ")
        );
    }
}
