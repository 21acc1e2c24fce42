//! What the schemas say of each method: its names, whether it may be sent twice,
//! and whether it is one message for one message.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_types::{FileDescriptorSet, method_options::IdempotencyLevel};

/// A method of a service of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// Full name of its service, for example `drivers.user.v1.UserService`.
    pub(crate) service: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether sending it again does no harm.
    pub(crate) idempotent: bool,
    /// Whether it neither takes nor answers a stream.
    pub(crate) unary: bool,
}

static METHODS: LazyLock<HashMap<String, Method>> =
    LazyLock::new(|| read(proto::FILE_DESCRIPTOR_SET));

/// The method that is called by this path; `None` when the contract has none.
pub(crate) fn find(path: &str) -> Option<&'static Method> {
    METHODS.get(path)
}

/// All methods of the contract.
pub(crate) fn all() -> impl Iterator<Item = &'static Method> {
    METHODS.values()
}

fn read(descriptors: &[u8]) -> HashMap<String, Method> {
    let files = FileDescriptorSet::decode(descriptors)
        .unwrap_or_default()
        .file;
    let mut methods = HashMap::new();
    for file in files {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                let level = method.options.clone().unwrap_or_default();
                methods.insert(
                    format!("/{service_name}/{}", method.name()),
                    Method {
                        service: service_name.clone(),
                        name: method.name().to_owned(),
                        idempotent: level.idempotency_level()
                            != IdempotencyLevel::IdempotencyUnknown,
                        unary: !method.client_streaming() && !method.server_streaming(),
                    },
                );
            }
        }
    }
    methods
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn idempotency_is_what_the_schemas_say() {
        let path = "/drivers.message.v1.MessageService/";
        let find = |name: &str| find(&format!("{path}{name}")).unwrap();
        assert!(find("SendMessages").idempotent);
        assert!(find("ListEntries").idempotent);
        assert!(!find("CreateRoom").idempotent);
        assert!(find("CreateRoom").unary);
        assert_eq!(
            find("GetTopic").service,
            "drivers.message.v1.MessageService"
        );
        assert_eq!(
            super::find("/drivers.message.v1.MessageService/Nothing"),
            None
        );
    }
}
