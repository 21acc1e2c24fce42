//! Callers that are known by their certificates.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tempfile::TempDir;

use super::*;
use crate::{
    client::{ClientConfig, Credentials},
    tls::{MutualTls, PeerName},
};

const GATEWAY: &str = "spiffe://drivers.uz/gateway";
const SERVICE: &str = "spiffe://drivers.uz/user-svc";

/// An authority, and what it has issued.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// Writes a certificate for these names over what was in the files of this name; valid
    /// until this year.
    fn issue(&self, file: &str, names: &[&str], until: i32) -> MutualTls {
        let mut params = CertificateParams::default();
        params.subject_alt_names = (names.iter())
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into().unwrap()),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.folder.path().join(format!("{file}{end}"));
        std::fs::write(at(".pem"), certificate.pem()).unwrap();
        std::fs::write(at(".key"), key.serialize_pem()).unwrap();
        MutualTls {
            certificate: at(".pem"),
            key: at(".key"),
            ca: self.folder.path().join("ca.pem"),
        }
    }
}

/// A service that lets gateways in, and who administers.
async fn rig(own: &MutualTls) -> Rig {
    let callers = format!("'{GATEWAY}' = ['gateway']\n'admin.drivers.uz' = ['*']");
    let callers = Arc::new(toml::from_str(&callers).unwrap());
    let gate = Gate::Certificate(own.load().unwrap(), callers);
    Rig::behind(gate, ServerConfig::default(), Duration::from_secs(5)).await
}

/// A client with this certificate, which expects this name of the service.
fn client(rig: &Rig, own: &MutualTls, service: Option<&str>) -> Channel {
    let credentials = Credentials::Certificate {
        own: own.load().unwrap(),
        service: service.map(|name| name.parse::<PeerName>().unwrap()),
    };
    let url = format!("https://{}", rig.address);
    once(Channel::to("tests", &url.parse().unwrap(), credentials).unwrap())
}

/// Without retries.
fn once(channel: Channel) -> Channel {
    channel.with_limits(&ClientConfig {
        retries_per_second: 0,
        retries_per_call: 0.0,
        ..ClientConfig::default()
    })
}

/// What a method answers to an empty message, however busy the machine is.
async fn answered(channel: &Channel, method: &Method) -> Status {
    let begun = Instant::now();
    loop {
        let answer = called(channel, method).await;
        if answer.code() != Code::Unavailable || begun.elapsed() > LIMIT {
            return answer;
        }
    }
}

/// Calls a method with an empty message, once.
async fn called(channel: &Channel, method: &Method) -> Status {
    let mut request = http::Request::new(Body::new(http_body_util::Full::from(vec![0; 5])));
    *request.uri_mut() = format!("/{}/{}", method.service, method.name)
        .parse()
        .unwrap();
    *request.method_mut() = http::Method::POST;
    request.extensions_mut().insert(Call::within(LIMIT));
    let answer = channel.clone().oneshot(request).await.unwrap();
    Status::from_header_map(answer.headers()).unwrap_or_else(|| Status::ok(""))
}

#[tokio::test]
async fn each_caller_may_call_what_he_is_listed_with() {
    let authority = Authority::new();
    let rig = rig(&authority.issue("service", &[SERVICE], 2100)).await;
    let caller = |file, name| client(&rig, &authority.issue(file, &[name], 2100), Some(SERVICE));
    let gateway = caller("gateway", GATEWAY);
    let admin = caller("admin", "admin.drivers.uz");
    let unlisted = caller("unlisted", "spiffe://drivers.uz/another");
    // SPIFFE knows one URI in a certificate: with two it is nobody's.
    let two = authority.issue("two", &[GATEWAY, "spiffe://drivers.uz/another"], 2100);
    let two = client(&rig, &two, Some(SERVICE));
    rig.go_on.notify_waiters();
    for method in methods::all() {
        for stranger in [&unlisted, &two] {
            let refused = answered(stranger, method).await;
            assert_eq!(refused.code(), Code::PermissionDenied, "{method:?}");
            let why = status::reason(&refused);
            assert_eq!(why.as_deref(), Some("CALLER_NOT_LISTED"));
        }
        let is_gateways = ["SignUp", "SendMessages", "OpenSession"].contains(&method.name.as_str());
        let is_internal = ["RevokeTokens", "CreateRoom"].contains(&method.name.as_str());
        if is_gateways {
            let answer = answered(&gateway, method).await;
            assert_eq!(answer.code(), Code::Unimplemented, "{method:?}");
        }
        if is_internal {
            let why = status::reason(&answered(&gateway, method).await);
            assert_eq!(why.as_deref(), Some("METHOD_NOT_GRANTED"), "{method:?}");
            let answer = answered(&admin, method).await;
            assert_eq!(answer.code(), Code::Unimplemented, "{method:?}");
        }
    }
}

#[tokio::test]
async fn who_has_no_certificate_of_the_authority_is_refused_on_every_method() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut rig = rig(&authority.issue("service", &[SERVICE, "127.0.0.1"], 2100)).await;
    let mut foreign = other.issue("gateway", &[GATEWAY], 2100);
    // It trusts the service; the service does not trust it.
    foreign.ca = authority.folder.path().join("ca.pem");
    let expired = authority.issue("expired", &[GATEWAY], 2021);
    let plain = once(Channel::connect(&format!("http://{}", rig.address), secret()).unwrap());
    for (who, channel) in [
        ("foreign", client(&rig, &foreign, Some(SERVICE))),
        ("expired", client(&rig, &expired, Some(SERVICE))),
        ("plain", plain),
    ] {
        for method in methods::all() {
            let refused = called(&channel, method).await;
            assert_eq!(refused.code(), Code::Unavailable, "{who} {method:?}");
        }
    }
    assert!(rig.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_service_that_is_another_is_not_called() {
    let authority = Authority::new();
    let own = authority.issue("gateway", &[GATEWAY], 2100);
    let issue = |file, name, until| authority.issue(file, &[name], until);
    let other = Authority::new();
    let foreign = other.issue("service", &[SERVICE], 2100);
    for (served, expected, is_called) in [
        (issue("a", SERVICE, 2100), Some(SERVICE), true),
        (issue("b", "127.0.0.1", 2100), None, true),
        (issue("c", "user-svc", 2100), Some("user-svc"), true),
        (issue("d", "user-svc", 2100), None, false),
        (
            issue("e", "spiffe://drivers.uz/message-svc", 2100),
            Some(SERVICE),
            false,
        ),
        (issue("f", SERVICE, 2021), Some(SERVICE), false),
        (foreign, Some(SERVICE), false),
    ] {
        let served = MutualTls {
            ca: authority.folder.path().join("ca.pem"),
            ..served
        };
        let rig = rig(&served).await;
        let channel = client(&rig, &own, expected);
        let send = methods::find("/drivers.message.v1.MessageService/SendMessages").unwrap();
        if is_called {
            let answer = answered(&channel, send).await;
            assert_eq!(answer.code(), Code::Unimplemented, "{served:?}");
        } else {
            let refused = called(&channel, send).await;
            assert_eq!(refused.code(), Code::Unavailable, "{served:?}");
        }
    }
}

/// The authority itself is replaced, too, as it is when its own certificate is renewed.
#[tokio::test]
async fn renewed_certificates_and_authorities_are_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let both = [&old, &new].map(|it| it.issuer.pem()).concat();
    let own = old.issue("service", &[SERVICE], 2100);
    let rig = rig(&own).await;
    let send = methods::find("/drivers.message.v1.MessageService/SendMessages").unwrap();
    let by_old = || client(&rig, &old.issue("gateway", &[GATEWAY], 2100), Some(SERVICE));
    let trusting = |authority: &Authority, ca: &Path| MutualTls {
        ca: ca.to_owned(),
        ..authority.issue("gateway", &[GATEWAY], 2100)
    };
    let by_new = |ca: &Path| client(&rig, &trusting(&new, ca), Some(SERVICE));
    assert_eq!(answered(&by_old(), send).await.code(), Code::Unimplemented);
    assert_eq!(
        called(&by_new(&own.ca), send).await.code(),
        Code::Unavailable
    );

    std::fs::write(&own.ca, both).unwrap();
    let renewed = new.issue("service", &[SERVICE], 2100);
    std::fs::copy(renewed.certificate, &own.certificate).unwrap();
    std::fs::copy(renewed.key, &own.key).unwrap();
    let taken = async {
        loop {
            let answered = called(&by_new(&new.folder.path().join("ca.pem")), send).await;
            if answered.code() == Code::Unimplemented {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(LIMIT * 3, taken).await.unwrap();
}
