//! A few words over a connection: whether data comes through, which a connect does not show. Packets of a connect are short,
//! and a way that loses long ones, or a middle box that answers for a host behind it, lets them pass.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{self, CryptoProvider},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use super::{
    connect::micros,
    findings::{End, Exchange, Protocol},
};

/// Ports where servers wait for a TLS handshake.
const TLS_PORTS: [u16; 16] = [
    443, 465, 563, 636, 853, 989, 990, 993, 995, 2376, 5061, 5671, 6443, 6514, 8443, 8883,
];

/// Ports where servers wait for a request of HTTP.
const HTTP_PORTS: [u16; 3] = [80, 8000, 8080];

/// Octets that make a request longer than one packet of any usual link.
const PADDING: usize = 3000;

/// What a port suggests to say; nothing where nobody can tell.
pub(super) fn suggested(port: u16) -> Option<Protocol> {
    if TLS_PORTS.contains(&port) {
        Some(Protocol::Tls)
    } else if HTTP_PORTS.contains(&port) {
        Some(Protocol::Http)
    } else {
        None
    }
}

/// Says it, and waits for the answer.
pub(super) async fn exchange(protocol: Protocol, host: &str, stream: TcpStream, limit: Duration) -> Exchange {
    let start = Instant::now();
    let talk = async {
        match protocol {
            Protocol::Tls => handshake(host, stream).await,
            Protocol::Http => request(host, stream).await,
        }
    };
    let (end, detail) = match tokio::time::timeout(limit, talk).await {
        Ok(Ok(detail)) => (End::Done, detail),
        Ok(Err(error)) => (End::Failed, error.to_string()),
        Err(_elapsed) => (End::Silent, "nothing came back".to_owned()),
    };
    Exchange {
        protocol,
        end,
        detail,
        time_us: micros(start),
    }
}

async fn handshake(host: &str, stream: TcpStream) -> io::Result<String> {
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let version = stream.get_ref().1.protocol_version();
    Ok(version
        .and_then(|version| version.as_str())
        .unwrap_or("TLS")
        .to_owned())
}

/// Whoever answers will do: that data goes both ways is what is asked, not who is there, and nothing is sent that
/// anybody should not see.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A HEAD request of more than one packet: whether the way carries long ones shows on the way there.
async fn request(host: &str, mut stream: TcpStream) -> io::Result<String> {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let padding = "x".repeat(PADDING);
    let text = format!(
        "HEAD / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: enforcer-probe\r\nX-Padding: {padding}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).await?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    match answer.lines().next() {
        Some(status) if status.starts_with("HTTP/") => Ok(status.trim_end().to_owned()),
        Some(_) => Ok("an answer that is not HTTP".to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, pki_types::PrivateKeyDer},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn connected() -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener, stream)
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_stalls_and_one_that_hangs_up_fails() {
        for protocol in [Protocol::Tls, Protocol::Http] {
            let (listener, stream) = connected().await;
            let (server, _) = listener.accept().await.unwrap();
            let found = exchange(protocol, "shop.example", stream, Duration::from_millis(20)).await;
            assert_eq!(found.end, End::Silent);
            drop(server);
            let (listener, stream) = connected().await;
            let hang_up = async { drop(listener.accept().await.unwrap()) };
            let (found, ()) = tokio::join!(exchange(protocol, "shop.example", stream, LONG), hang_up);
            assert_eq!(found.end, End::Failed, "{found:?}");
        }
    }

    #[tokio::test]
    async fn a_request_is_answered_with_a_status() {
        let (listener, stream) = connected().await;
        let serve = async {
            let (mut server, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                server.read_buf(&mut request).await.unwrap();
            }
            server.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let (found, request) = tokio::join!(exchange(Protocol::Http, "2001:db8::1", stream, LONG), serve);
        assert_eq!((found.end, found.detail.as_str()), (End::Done, "HTTP/1.0 200 OK"));
        assert!(request.contains("\r\nHost: [2001:db8::1]\r\n"), "{request}");
        assert!(request.len() > PADDING);
    }

    /// A certificate that nobody knows, of somebody else.
    #[tokio::test]
    async fn a_handshake_is_one_whoever_the_server_is() {
        let made = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        for host in ["shop.example", "2001:db8::1", "192.0.2.1"] {
            let (listener, stream) = connected().await;
            let serve = async {
                acceptor
                    .accept(listener.accept().await.unwrap().0)
                    .await
                    .map(drop)
            };
            let (found, served) = tokio::join!(exchange(Protocol::Tls, host, stream, LONG), serve);
            assert_eq!(
                (found.end, found.detail.as_str()),
                (End::Done, "TLSv1_3"),
                "{host}"
            );
            served.unwrap();
        }
        // One that speaks another protocol.
        let (listener, stream) = connected().await;
        let serve = async {
            let (mut server, _) = listener.accept().await.unwrap();
            server.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
            server
        };
        let (found, _server) = tokio::join!(exchange(Protocol::Tls, "shop.example", stream, LONG), serve);
        assert_eq!(found.end, End::Failed, "{found:?}");
    }

    #[test]
    fn a_port_suggests_one_protocol_at_most() {
        assert!(TLS_PORTS.iter().all(|port| !HTTP_PORTS.contains(port)));
        assert_eq!(suggested(5432), None);
    }
}
