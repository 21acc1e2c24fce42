//! Who may call what.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tonic::Code;

use super::Names;
use crate::{
    methods::{self, Method},
    status::Refusal,
};

/// What the gateway calls: all that phones need, and nothing that hands out tokens,
/// revokes them, or makes and changes rooms.
const GATEWAY: [(&str, &[&str]); 3] = [
    (
        "drivers.user.v1.UserService",
        &["SignUp", "Authenticate", "BatchCheckTokens"],
    ),
    (
        "drivers.message.v1.MessageService",
        &[
            "SendMessages",
            "ListEntries",
            "BatchGetHeads",
            "GetTopic",
            "EnrolUser",
            "ListMemberships",
            "BatchGetMembershipVersions",
        ],
    ),
    (
        "drivers.presence.v1.PresenceService",
        &[
            "RenewLease",
            "ReleaseLease",
            "OpenSession",
            "CloseSession",
            "ReportTyping",
        ],
    ),
];

/// What each caller may call, by a name in his certificate: a SPIFFE id or a DNS name.
/// Who is not listed may call nothing.
///
/// Who may call a method may do so for any user: that he acts for one travels in
/// metadata, and is as good as the certificate of who says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Callers(BTreeMap<String, Vec<Grant>>);

/// Methods that somebody may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// `*`: all.
    All,
    /// `gateway`: those that the gateway calls.
    Gateway,
    /// `drivers.user.v1.UserService`: those of a service.
    Service(String),
    /// `drivers.user.v1.UserService/GetUser`: this one.
    Method(String, String),
}

impl Callers {
    /// Whether nobody is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a caller with these names who may not call this method. `None` is a method
    /// that nobody has.
    pub(crate) fn check(&self, names: &Names, method: Option<&Method>) -> Result<(), Refusal> {
        let granted = || names.0.iter().filter_map(|name| self.0.get(name)).flatten();
        if granted().any(|grant| grant.covers(method)) {
            return Ok(());
        }
        if granted().next().is_none() {
            return Err(denied(
                "CALLER_NOT_LISTED",
                "no name of the caller's certificate is listed in `callers`",
            ));
        }
        Err(denied(
            "METHOD_NOT_GRANTED",
            "the caller is listed in `callers`, but not for this method",
        ))
    }
}

impl Grant {
    fn covers(&self, method: Option<&Method>) -> bool {
        let Some(method) = method else {
            return *self == Self::All;
        };
        match self {
            Self::All => true,
            Self::Gateway => GATEWAY.iter().any(|(service, names)| {
                *service == method.service && names.contains(&method.name.as_str())
            }),
            Self::Service(service) => *service == method.service,
            Self::Method(service, name) => *service == method.service && *name == method.name,
        }
    }
}

fn denied(reason: &'static str, message: &str) -> Refusal {
    Refusal::of_layer(Code::PermissionDenied, reason, message)
}

/// A text that grants nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing that can be called: `*`, `gateway`, a service as in drivers.user.v1.UserService, or one of its methods as in drivers.user.v1.UserService/GetUser is expected"
)]
pub struct InvalidGrant(String);

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        let grant = match (text, text.split_once('/')) {
            ("*", _) => Self::All,
            ("gateway", _) => Self::Gateway,
            (service, None) => Self::Service(service.to_owned()),
            (_, Some((service, name))) => Self::Method(service.to_owned(), name.to_owned()),
        };
        if methods::all().any(|method| grant.covers(Some(method))) {
            Ok(grant)
        } else {
            Err(InvalidGrant(text.to_owned()))
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Gateway => f.write_str("gateway"),
            Self::Service(service) => f.write_str(service),
            Self::Method(service, name) => write!(f, "{service}/{name}"),
        }
    }
}

impl Serialize for Grant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const GATEWAY_ID: &str = "spiffe://drivers.uz/gateway";

    fn callers(text: &str) -> Callers {
        toml::from_str(text).unwrap()
    }

    fn reason(callers: &Callers, name: &str, method: Option<&Method>) -> Option<&'static str> {
        let checked = callers.check(&Names([name.to_owned()].into()), method);
        checked.err().map(|refusal| {
            assert_eq!(refusal.code, Code::PermissionDenied);
            refusal.reason
        })
    }

    /// What the gateway may call, said a second time, by its effect.
    #[test]
    fn every_method_is_for_gateways_or_for_internal_services_alone() {
        let callers = callers(&format!("'{GATEWAY_ID}' = ['gateway']\n'admin' = ['*']"));
        let internal = [
            "UserService/GetUser",
            "UserService/BatchGetUsers",
            "UserService/IssueToken",
            "UserService/RevokeTokens",
            "MessageService/SendMessage",
            "MessageService/CreateRoom",
            "MessageService/ListRooms",
            "MessageService/CreateTopic",
            "MessageService/UpdateTopic",
            "MessageService/ListTopics",
            "MessageService/JoinTopic",
            "MessageService/LeaveTopic",
            "MessageService/RemoveMember",
            "MessageService/ListMembers",
            "PresenceService/BatchGetPresence",
        ];
        let mut refused = Vec::new();
        for method in methods::all() {
            assert_eq!(reason(&callers, "admin", Some(method)), None);
            let stranger = reason(&callers, "spiffe://drivers.uz/gateways", Some(method));
            assert_eq!(stranger, Some("CALLER_NOT_LISTED"));
            match reason(&callers, GATEWAY_ID, Some(method)) {
                None => {}
                Some(why) => {
                    assert_eq!(why, "METHOD_NOT_GRANTED");
                    let service = method.service.rsplit('.').next().unwrap();
                    refused.push(format!("{service}/{}", method.name));
                }
            }
        }
        refused.sort();
        let mut internal = internal.map(str::to_owned);
        internal.sort();
        assert_eq!(refused, internal);
    }

    #[test]
    fn a_service_a_method_and_what_is_not_there() {
        let callers = callers(
            "one = ['drivers.user.v1.UserService/GetUser']\nall = ['drivers.user.v1.UserService']\nany = ['*']",
        );
        let find = |path| methods::find(path).unwrap();
        let get_user = find("/drivers.user.v1.UserService/GetUser");
        let issue = find("/drivers.user.v1.UserService/IssueToken");
        let get_topic = find("/drivers.message.v1.MessageService/GetTopic");
        for (caller, method, refused) in [
            ("one", Some(get_user), None),
            ("one", Some(issue), Some("METHOD_NOT_GRANTED")),
            ("all", Some(issue), None),
            ("all", Some(get_topic), Some("METHOD_NOT_GRANTED")),
            ("all", None, Some("METHOD_NOT_GRANTED")),
            ("any", None, None),
        ] {
            assert_eq!(reason(&callers, caller, method), refused, "{caller}");
        }
    }

    #[test]
    fn a_grant_of_nothing_is_refused() {
        for text in [
            "",
            "gateways",
            "drivers.user.v1.UserService/Get",
            "UserService",
            "/",
        ] {
            let error = text.parse::<Grant>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        for text in ["*", "gateway", "drivers.user.v1.UserService"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
    }
}
