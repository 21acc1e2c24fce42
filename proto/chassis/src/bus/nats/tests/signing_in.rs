//! Every way to sign in, to servers that insist on it.

use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair as TlsKey};

use super::*;

/// Whether it connects by these keys, and events pass.
async fn lets_in(broker: &Broker, keys: &str) {
    let bus = broker.connect_with(keys).await;
    let mut subscription = bus.subscribe(topic(1)).await.unwrap();
    bus.flush(LIMIT).await.unwrap();
    bus.publish(topic(1), Bytes::from_static(b"signed in"));
    assert_eq!(next(&mut subscription).await, event("signed in"));
}

/// Never connects, and never gives up either: what is wrong may be mended there.
async fn keeps_out(broker: &Broker, keys: &str) {
    let bus = broker.connect_with(keys).await;
    let flushed = bus.flush(Duration::from_secs(1)).await;
    assert!(matches!(flushed, Err(BusError::TimedOut(_))), "{flushed:?}");
}

fn write(broker: &Broker, name: &str, text: &str) -> String {
    let path = broker.path(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn by_a_password_which_may_change() {
    let broker = Broker::start("authorization { user: drivers, password: \"s:@/\" }").await;
    let file = write(&broker, "password", "wrong\n");
    let keys = format!("user=drivers&password_file={file}");
    keeps_out(&broker, &keys).await;
    keeps_out(&broker, "").await;

    let bus = broker.connect_with(&keys).await;
    let later = bus.flush(LIMIT);
    write(&broker, "password", "s:@/\n");
    later.await.unwrap();
    lets_in(&broker, &keys).await;
    let url = format!("nats://drivers:s%3A%40%2F@{}", broker.address);
    let bus = bus::connect(&url).await.unwrap();
    bus.flush(LIMIT).await.unwrap();
}

#[tokio::test]
async fn by_a_password_that_allows_no_more_than_the_prefix() {
    let subjects = "\"drivers.v1.>\"";
    let broker = Broker::start(&format!(
        "authorization {{ users: [ {{ user: u, password: p, permissions: {{ publish: {subjects}, subscribe: {subjects} }} }} ] }}"
    ))
    .await;
    let file = write(&broker, "password", "p");
    lets_in(&broker, &format!("user=u&password_file={file}")).await;
    keeps_out(
        &broker,
        &format!("user=u&password_file={file}&prefix=other"),
    )
    .await;
}

#[tokio::test]
async fn by_a_token() {
    let broker = Broker::start("authorization { token: \"s3cret\" }").await;
    let file = write(&broker, "token", "s3cret\n");
    lets_in(&broker, &format!("token_file={file}")).await;
    keeps_out(&broker, "").await;
}

#[tokio::test]
async fn by_a_key() {
    let ours = KeyPair::new_user();
    let users = format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        ours.public_key()
    );
    let broker = Broker::start(&users).await;
    let file = write(&broker, "ours.nk", &ours.seed().unwrap());
    lets_in(&broker, &format!("nkey_file={file}")).await;
    let other = KeyPair::new_user().seed().unwrap();
    let file = write(&broker, "other.nk", &other);
    keeps_out(&broker, &format!("nkey_file={file}")).await;
}

/// An authority and what it signed for 127.0.0.1, in files of the folder.
fn certificates(folder: &Path) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, TlsKey::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = TlsKey::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned(), name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn by_a_certificate_and_only_to_who_has_one() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let broker = Broker::start(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        at("server.pem"),
        at("server.key"),
        at("ca.pem"),
    ))
    .await;
    let identity = format!("certificate={}&key={}", at("client.pem"), at("client.key"));
    lets_in(&broker, &format!("ca={}&{identity}", at("ca.pem"))).await;
    keeps_out(&broker, &format!("ca={}", at("ca.pem"))).await;

    let others = tempfile::tempdir().unwrap();
    certificates(others.path());
    let other = others.path().join("ca.pem").display().to_string();
    keeps_out(&broker, &format!("ca={other}&{identity}")).await;
    // The scheme says the same.
    let url = format!("tls://{}?ca={}&{identity}", broker.address, at("ca.pem"));
    let bus = bus::connect(&url).await.unwrap();
    bus.flush(LIMIT).await.unwrap();
}
