//! Who may import whom: `proto` stands below everything, `chassis` below the services
//! and the gateway, and only the program that holds them all knows them all.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

const MAY_IMPORT: [(&str, &[&str]); 8] = [
    ("proto", &[]),
    ("chassis", &["proto"]),
    ("user-svc", &["chassis", "proto"]),
    ("message-svc", &["chassis", "proto"]),
    ("presence-svc", &["chassis", "proto"]),
    ("gateway", &["chassis", "proto"]),
    (
        "standalone",
        &[
            "chassis",
            "gateway",
            "message-svc",
            "presence-svc",
            "proto",
            "user-svc",
        ],
    ),
    ("tests", &["proto"]),
];

#[test]
fn a_crate_imports_only_what_it_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let imports: BTreeMap<String, Vec<String>> = packages
        .iter()
        .map(|package| {
            let ours = |it: &&Value| packages.iter().any(|other| other["name"] == it["name"]);
            // Dependencies of tests and of build scripts, too.
            let dependencies = package["dependencies"].as_array().unwrap();
            let imported = dependencies.iter().filter(ours).map(name).collect();
            (name(package), imported)
        })
        .collect();
    assert_eq!(
        imports.keys().map(String::as_str).collect::<Vec<_>>(),
        {
            let mut all: Vec<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
            all.sort_unstable();
            all
        },
        "each crate of the workspace has a rule"
    );
    for (name, may) in MAY_IMPORT {
        for imported in &imports[name] {
            assert!(
                may.contains(&imported.as_str()),
                "{name} imports {imported}, and may import only {may:?}"
            );
        }
    }
}
