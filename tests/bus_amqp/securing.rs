//! TLS towards a broker that wants certificates: who is trusted, who is let in, and what a refusal says.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions, IdentityFiles, Login, Node, TlsOptions, Transport};
use sidebus::broker::{Broker, BrokerError, LaneRole, SessionId, TlsFault};
use tokio::time::{Instant, timeout};

use crate::connecting::greeting;
use crate::lab::PATIENCE;
use crate::support::identity::{Authority, Pair, Valid};
use crate::support::mount::Mount;
use crate::support::nodes::{self, SECURED_NAME};
use crate::support::rabbitmq;
use crate::support::rabbitmq::SharedBroker;

fn identity(mount: &Mount, pair: &Pair) -> IdentityFiles {
    IdentityFiles { cert_file: mount.file("cert.pem", &pair.certificate), key_file: mount.file("key.pem", &pair.key) }
}

/// TLS that trusts this authority and shows this certificate to the broker's name.
fn tls(mount: &Mount, authority: &Authority, pair: Option<&Pair>) -> TlsOptions {
    TlsOptions {
        ca_file: Some(mount.file("ca.pem", &authority.certificate)),
        identity: pair.map(|pair| identity(mount, pair)),
        server_name: Some(SECURED_NAME.to_owned()),
    }
}

async fn options(tls: TlsOptions) -> AmqpOptions {
    let shared = rabbitmq::shared().await.options();
    let nodes = vec![Node { host: "127.0.0.1".to_owned(), port: nodes::secured().await.node.tls_port }];
    let login = Login::Password { username: SecretString::from("guest"), password: SecretString::from("guest") };
    AmqpOptions { nodes, transport: Transport::Tls(tls), login, vhost: "/".to_owned(), ..shared }
}

async fn connect(options: AmqpOptions) -> Result<(), BrokerError> {
    let broker = AmqpBroker::new(options);
    let session = timeout(PATIENCE, broker.connect(SessionId(1))).await.expect("connecting has a deadline")?;
    // Pooled connections go the same way.
    session.lane(LaneRole::Publish).await.expect("a pooled connection");
    Ok(())
}

/// What there is no TLS for, and its hint.
async fn refusal(tls: TlsOptions) -> (TlsFault, String, &'static str) {
    told(connect(options(tls).await).await.expect_err("there is no session"))
}

fn told(error: BrokerError) -> (TlsFault, String, &'static str) {
    let hint = error.hint();
    let BrokerError::Tls { fault, reason, endpoint } = error else { panic!("{error:?}") };
    assert!(endpoint.starts_with("amqps://127.0.0.1:"), "{endpoint}");
    (fault, reason, hint)
}

#[tokio::test]
async fn an_authority_a_name_and_a_client_certificate_carry_a_session() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    let pair = secured.authority.client("anybody", Valid::Now);
    connect(options(tls(&mount, &secured.authority, Some(&pair))).await).await.expect("a session");
}

/// failures.md L10.
#[tokio::test]
async fn another_authority_is_named_with_the_way_to_trust_it() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    let pair = secured.authority.client("anybody", Valid::Now);
    let (fault, reason, hint) = refusal(tls(&mount, &Authority::new(), Some(&pair))).await;
    assert_eq!(fault, TlsFault::UnknownAuthority, "{reason}");
    assert!(hint.contains("bus.amqp.tls.ca_file"), "{hint}");
    // Without a file this host's own authorities are asked, which do not know it either.
    let own = TlsOptions { ca_file: None, ..tls(&mount, &secured.authority, Some(&pair)) };
    assert_eq!(refusal(own).await.0, TlsFault::UnknownAuthority);
}

/// failures.md L10.
#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_the_name_told() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    let pair = secured.authority.client("anybody", Valid::Now);
    let tls = tls(&mount, &secured.authority, Some(&pair));
    for (name, looked_for) in [(None, "127.0.0.1"), (Some("other.test".to_owned()), "other.test")] {
        let (fault, reason, hint) = refusal(TlsOptions { server_name: name, ..tls.clone() }).await;
        assert_eq!(fault, TlsFault::WrongName, "{reason}");
        assert!(reason.contains(looked_for) && reason.contains(SECURED_NAME), "{reason}");
        assert!(hint.contains("bus.amqp.tls.server_name"), "{hint}");
    }
}

/// failures.md L10.
#[tokio::test]
async fn a_client_certificate_that_is_missing_expired_or_of_another_authority_is_told_apart() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    // Many times: the reset of our hello may overtake what the broker says.
    for _ in 0..20 {
        let (fault, reason, hint) = refusal(tls(&mount, &secured.authority, None)).await;
        assert_eq!(fault, TlsFault::ClientCertificate, "{reason}");
        assert!(reason.contains("client certificate"), "{reason}");
        assert!(hint.contains("bus.amqp.tls.cert_file"), "{hint}");
    }

    let expired = secured.authority.client("anybody", Valid::InThePast);
    let (fault, reason, _) = refusal(tls(&mount, &secured.authority, Some(&expired))).await;
    assert_eq!(fault, TlsFault::ClientCertificate, "{reason}");
    assert!(reason.contains("expired"), "{reason}");

    let strange = Authority::new().client("anybody", Valid::Now);
    let (fault, reason, _) = refusal(tls(&mount, &secured.authority, Some(&strange))).await;
    assert_eq!(fault, TlsFault::ClientCertificate, "{reason}");
    assert!(reason.contains("authority"), "{reason}");
}

#[tokio::test]
async fn files_that_are_no_certificates_or_no_pair_are_named() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    let (pair, other) = (secured.authority.client("a", Valid::Now), secured.authority.client("b", Valid::Now));
    let tls = tls(&mount, &secured.authority, Some(&pair));
    let with =
        |cert_file, key_file| TlsOptions { identity: Some(IdentityFiles { cert_file, key_file }), ..tls.clone() };
    let (cert, key) = (mount.file("cert.pem", &pair.certificate), mount.file("key.pem", &pair.key));
    let junk = mount.file("junk.pem", "canary");
    for (tls, named) in [
        (TlsOptions { ca_file: Some(junk.clone()), ..tls.clone() }, "bus.amqp.tls.ca_file"),
        (TlsOptions { ca_file: Some("/gone/ca.pem".into()), ..tls.clone() }, "/gone/ca.pem"),
        (with(junk.clone(), key.clone()), "bus.amqp.tls.cert_file"),
        (with(cert.clone(), junk.clone()), "bus.amqp.tls.key_file"),
        (with(cert.clone(), mount.file("other.pem", &other.key)), "do not go together"),
    ] {
        let (fault, reason, _) = refusal(tls).await;
        assert_eq!(fault, TlsFault::OwnFiles, "{reason}");
        assert!(reason.contains(named) && !reason.contains("canary"), "{named}: {reason}");
    }
}

#[tokio::test]
async fn a_certificate_is_a_login_where_the_broker_has_such_a_user() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    let user = rabbitmq::prefix();
    secured.node.ctl(&["add_user", &user, "never used"]).await;
    secured.node.ctl(&["set_permissions", "-p", "/", &user, ".*", ".*", ".*"]).await;
    let pair = secured.authority.client(&user, Valid::Now);
    let tls = tls(&mount, &secured.authority, Some(&pair));
    connect(AmqpOptions { login: Login::Certificate, ..options(tls.clone()).await }).await.expect("a session");

    let stranger = secured.authority.client("nobody-here", Valid::Now);
    let tls = TlsOptions { identity: Some(identity(&mount, &stranger)), ..tls };
    let refused = connect(AmqpOptions { login: Login::Certificate, ..options(tls).await }).await;
    assert!(matches!(refused, Err(BrokerError::LoginRefused { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_broker_that_takes_no_certificate_as_login_is_told_so() {
    let shared: &SharedBroker = rabbitmq::shared().await;
    let refused = connect(AmqpOptions { login: Login::Certificate, ..shared.options() }).await;
    let Err(error @ BrokerError::LoginRefused { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("not by EXTERNAL"), "{error}");
}

/// failures.md L10.
/// A listener with an expired certificate, which no broker would start with for long.
#[tokio::test]
async fn an_expired_certificate_of_the_broker_is_refused() {
    let (mount, authority) = (Mount::new(), Authority::new());
    let config = server(authority.server(&["127.0.0.1"], Valid::InThePast));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        let mut connection = rustls::ServerConnection::new(config).expect("a server");
        connection.complete_io(&mut socket).expect_err("the client refuses")
    });
    let options = options_towards(&mount, &authority, port).await;

    let (fault, reason, hint) = told(connect(options).await.expect_err("there is no session"));

    assert_eq!(fault, TlsFault::Expired, "{reason}");
    assert!(reason.contains("expired") && hint.contains("renew"), "{reason} {hint}");
    server.join().expect("the listener ends");
}

/// Greets the preflight; then lets each handshake wait for so long and says nothing more.
fn greet_once_and_dawdle(listener: &std::net::TcpListener, config: &Arc<rustls::ServerConfig>, wait: Duration) {
    let mut threads = Vec::new();
    for (number, socket) in listener.incoming().take(3).enumerate() {
        let (mut socket, config) = (socket.expect("a client"), Arc::clone(config));
        threads.push(std::thread::spawn(move || {
            let mut connection = rustls::ServerConnection::new(config).expect("a server");
            if number > 0 {
                std::thread::park_timeout(wait);
            }
            let mut stream = rustls::Stream::new(&mut connection, &mut socket);
            let mut heard = [0; 8];
            if stream.read_exact(&mut heard).is_ok() && number == 0 {
                stream.write_all(&greeting()).expect("the client listens");
            }
            // Until the client hangs up, in whatever way.
            let _ = stream.read_to_end(&mut Vec::new());
        }));
    }
    for thread in threads {
        thread.join().expect("a conversation ends");
    }
}

#[tokio::test]
async fn one_connect_has_one_deadline_however_its_parts_share_it() {
    let (mount, authority) = (Mount::new(), Authority::new());
    let config = server(authority.server(&["127.0.0.1"], Valid::Now));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    let server = std::thread::spawn(move || greet_once_and_dawdle(&listener, &config, Duration::from_millis(1_500)));
    let options = options_towards(&mount, &authority, port).await;
    let options = AmqpOptions { connect_timeout: Duration::from_secs(2), ..options };

    let start = Instant::now();
    let error = connect(options).await.expect_err("there is no session");
    let elapsed = start.elapsed();

    // A TLS handshake of 1.5 s and then silence: with a deadline for each part it would be 3.5 s.
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    assert!(elapsed > Duration::from_millis(1_500), "{elapsed:?}: {error}");
    assert!(matches!(error, BrokerError::TimedOut { .. }), "{error:?}");
    server.join().expect("the listener ends");
}

fn server(Pair { certificate, key }: Pair) -> Arc<rustls::ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    Arc::new(config)
}

async fn options_towards(mount: &Mount, authority: &Authority, port: u16) -> AmqpOptions {
    let tls = TlsOptions { ca_file: Some(mount.file("ca.pem", &authority.certificate)), ..TlsOptions::default() };
    let nodes = vec![Node { host: "127.0.0.1".to_owned(), port }];
    AmqpOptions { nodes, transport: Transport::Tls(tls), ..rabbitmq::shared().await.options() }
}
