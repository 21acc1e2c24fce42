//! A database that lets in only who knows the password, over TLS.

use std::path::Path;
use std::process::Command;

use tests::cases;
use tests::cassandra::Cluster;
use tests::server::{Folder, Options, Server};
use tests::trial::World;

use super::GOES_ON;
use crate::traffic::probe::Probe;

cases! {
    Cluster:
        a_database_with_a_password_and_tls_is_signed_in_to;
}

/// Of the account that every new Cassandra has.
const PASSWORD: &str = "cassandra";

/// A key with a certificate that it signed itself, as the database and as we read it.
fn make_certificate(store: &Path, pem: &Path) {
    let keytool = |arguments: &[&str]| {
        let done = Command::new("keytool")
            .args(arguments)
            .args(["-alias", "node", "-storepass", "drivers", "-keystore"])
            .arg(store)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stdout)
        );
    };
    let (san, name) = ("san=ip:127.0.0.1", "CN=drivers-tests");
    keytool(&[
        "-genkeypair",
        "-storetype",
        "PKCS12",
        "-keyalg",
        "EC",
        "-ext",
        san,
        "-dname",
        name,
    ]);
    keytool(&["-exportcert", "-rfc", "-file", pem.to_str().unwrap()]);
}

async fn a_database_with_a_password_and_tls_is_signed_in_to(_: World) {
    let folder = Folder::new();
    let (store, ca) = (folder.file("node.p12"), folder.file("ca.pem"));
    make_certificate(&store, &ca);
    let yaml = format!(
        "authenticator: PasswordAuthenticator\n\
         client_encryption_options: {{enabled: true, optional: false, store_type: PKCS12, keystore: \"{}\", keystore_password: drivers}}",
        store.display()
    );
    let cluster = Cluster::start_with(1, &yaml).await;
    let password = folder.file("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let url = format!(
        "scylla://cassandra@{}/{}?replication=1&single_replica=accept&tls=true&ca={}&password_file={}",
        cluster.address(),
        folder.keyspace(),
        ca.display(),
        password.display()
    );
    let options = Options {
        store: Some(url),
        ..Options::default()
    };
    let server = Server::start_on(&folder, options).await;
    Probe::new(&server).await.goes_on_within(GOES_ON).await;
}
