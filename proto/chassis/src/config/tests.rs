#![allow(clippy::unwrap_used)]

use std::{io::Write as _, net::SocketAddr};

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    name: String,
    secret: Option<String>,
    grpc: Grpc,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Grpc {
    listen: SocketAddr,
    streams: u16,
    limits: Switch,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Switch {
    On,
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "drivers".to_owned(),
            secret: None,
            grpc: Grpc::default(),
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8081).into(),
            streams: 100,
            limits: Switch::On,
        }
    }
}

fn flag(key: &'static str, value: &str) -> Flag {
    Flag {
        name: "--flag",
        key,
        value: value.to_owned(),
    }
}

fn loaded(file: &str, env: &[(&str, &str)], flags: &[Flag]) -> Result<Config, String> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(on_disk.path()), env, flags).map_err(|error| {
        error
            .to_string()
            .replace(on_disk.path().to_str().unwrap(), "drivers.toml")
    })
}

#[test]
fn nothing_set_means_the_defaults() {
    let config: Config = load(None, [], &[]).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn the_later_source_wins() {
    let file = "name = 'file'\n[grpc]\nstreams = 1\nlimits = 'off'\n";
    let env = [
        ("DRIVERS_NAME", "environment"),
        ("DRIVERS_GRPC__STREAMS", "2"),
        ("PATH", "/bin"),
    ];
    let config = loaded(file, &env, &[flag("grpc.streams", "3")]).unwrap();
    assert_eq!(config.name, "environment");
    assert_eq!(config.grpc.streams, 3);
    assert_eq!(config.grpc.limits, Switch::Off);
    assert_eq!(config.grpc.listen, Grpc::default().listen);
}

#[test]
fn a_variable_is_text_where_text_is_wanted() {
    for text in ["12345", "true", "1979-05-27", "a\nb = 1", "\"quoted", ""] {
        let env = [("DRIVERS_NAME", text), ("DRIVERS_SECRET", text)];
        let config = loaded("", &env, &[flag("grpc.listen", "[::1]:1")]).unwrap();
        assert_eq!(config.name, text);
        assert_eq!(config.secret.as_deref(), Some(text));
        assert_eq!(config.grpc.listen, "[::1]:1".parse().unwrap());
    }
}

#[test]
fn a_variable_names_the_file() {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(b"name = 'file'").unwrap();
    let path = on_disk.path().to_str().unwrap().to_owned();
    let config: Config = load(None, [(FILE_VARIABLE.to_owned(), path)], &[]).unwrap();
    assert_eq!(config.name, "file");
}

#[test]
fn an_error_names_key_source_and_what_was_expected() {
    for (file, env, flags, sentence) in [
        (
            "name = 'a'\n\nnam = 'b'\n",
            None,
            None,
            "the configuration key `nam`, set by drivers.toml line 3, is wrong: \
             there is no such key; one of name, secret, grpc is expected",
        ),
        (
            "[grpc]\nlisten = '127.0.0.1:1'\nport = 1\n",
            Some(("DRIVERS_GRPC__STREAMS", "5")),
            None,
            "the configuration key `grpc.port`, set by drivers.toml line 3, is wrong: \
             there is no such key; one of listen, streams, limits is expected",
        ),
        (
            "[grpc]\nstreams = 65536\n",
            None,
            None,
            "the configuration key `grpc.streams`, set by drivers.toml line 2, is wrong: \
             found signed int `65536`, expected an integer from 0 to 65535",
        ),
        (
            "",
            Some(("DRIVERS_GRPC__STREAMS", "many")),
            None,
            "the configuration key `grpc.streams`, set by the environment variable \
             DRIVERS_GRPC__STREAMS, is wrong: found string \"many\", expected an integer from \
             0 to 65535",
        ),
        (
            "",
            Some(("DRIVERS_GRPC__STREAMS", "1.5")),
            None,
            "the configuration key `grpc.streams`, set by the environment variable \
             DRIVERS_GRPC__STREAMS, is wrong: found float `1.5`, expected an integer from \
             0 to 65535",
        ),
        (
            "",
            Some(("DRIVERS_GRPC", "1")),
            None,
            "the configuration key `grpc`, set by the environment variable DRIVERS_GRPC, \
             is wrong: found signed int `1`, expected a table of keys",
        ),
        (
            "[grpc]\nlimits = 'on'",
            Some(("DRIVERS_GRPC__LIMITS", "off")),
            Some(flag("grpc.limits", "maybe")),
            "the configuration key `grpc.limits`, set by the flag --flag, is wrong: \
             found `maybe`, expected one of on, off",
        ),
        (
            "",
            None,
            Some(flag("grpc.listen", "8081")),
            "the configuration key `grpc.listen`, set by the flag --flag, is wrong: \
             found signed int `8081`, expected socket address",
        ),
        (
            "name = 'a'\nname = \n",
            None,
            None,
            "the configuration file drivers.toml is no TOML in line 2: ",
        ),
    ] {
        let env: Vec<_> = env.into_iter().collect();
        let flags: Vec<_> = flags.into_iter().collect();
        let said = loaded(file, &env, &flags).unwrap_err();
        assert!(
            said.starts_with(sentence),
            "\n said {said}\n want {sentence}"
        );
    }
}

#[test]
fn a_file_that_is_named_has_to_be_there() {
    let error = load::<Config>(Some(Path::new("/nowhere/drivers.toml")), [], &[]).unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/drivers.toml"),
        "{error}"
    );
}
