//! A JVM makes every connect on an IPv6 socket, also one to an IPv4 address, which it writes as IPv6. A rule that
//! covers all of IPv6 must not take its IPv4 away, nor its own machine.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use enforcer_tests::{
    kernel::caller_sees,
    need::{Need, need},
    place::Place,
    process::Running,
    scene::{A, IPV4, Scene},
    server::Server,
    wait::PATIENCE,
};
use tempfile::TempDir;

/// Connects to each address and port that it is given, and prints what came of it.
const PROGRAM: &str = r#"
import java.net.InetSocketAddress;
import java.net.Socket;

public class Client {
    public static void main(String[] arguments) {
        for (int i = 0; i < arguments.length; i += 2) {
            try (Socket socket = new Socket()) {
                int port = Integer.parseInt(arguments[i + 1]);
                socket.connect(new InetSocketAddress(arguments[i], port), 10_000);
                System.out.println("ok");
            } catch (Exception failure) {
                System.out.println(failure.getMessage());
            }
        }
    }
}
"#;

/// A JVM compiles and starts in seconds, in many of them on a busy machine.
const JVM_PATIENCE: std::time::Duration = PATIENCE.saturating_mul(3);

struct Jvm {
    _directory: TempDir,
    source: PathBuf,
}

impl Jvm {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("Client.java");
        fs::write(&source, PROGRAM).unwrap();
        Self {
            _directory: directory,
            source,
        }
    }

    /// What came of each connect, in a JVM of its own.
    fn connect(&self, place: &Place<'_>, to: &[SocketAddr]) -> Vec<String> {
        let mut command = place.command("java").unwrap();
        // Options that the person has set for every JVM may prefer one family.
        for variable in ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"] {
            command.env_remove(variable);
        }
        command.arg::<&Path>(&self.source);
        for address in to {
            command.args([address.ip().to_string(), address.port().to_string()]);
        }
        let finished = Running::start(command).unwrap().finish(JVM_PATIENCE).unwrap();
        assert!(finished.status.success(), "{finished:?}");
        finished.stdout
    }
}

#[test]
fn a_jvm_keeps_ipv4_and_its_own_machine_when_all_of_ipv6_is_rejected() {
    if !need(
        "a_jvm_keeps_ipv4_and_its_own_machine_when_all_of_ipv6_is_rejected",
        Need::Java,
    ) {
        return;
    }
    let scene = Scene::new("java").unwrap();
    let own = Server::echo(&scene.netns, [SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)]).unwrap();
    let jvm = Jvm::new();
    let place = scene.inside();
    let to = [scene.to(IPV4), own.address(), scene.to(A)];
    assert_eq!(jvm.connect(&place, &to), ["ok", "ok", "ok"], "before");

    let enforcer = scene.govern(["--reject", "::/0,errno=EHOSTDOWN"]).unwrap();
    let said = jvm.connect(&place, &to);
    let refusal = match caller_sees("EHOSTDOWN") {
        "EPERM" => "Operation not permitted",
        _ => "Host is down",
    };
    assert_eq!(said, ["ok", "ok", refusal]);

    let events = enforcer.wait_for_events(3).unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["daddr"].as_str().unwrap(),
                event["verdict"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            // It was an IPv6 connect, in the notation for IPv4 (RFC 4291 section 2.5.5.2).
            ("::ffff:192.0.2.1", "allow"),
            ("::1", "allow"),
            ("2001:db8:a::1", "reject"),
        ]
    );
    assert!(events[0]["rule"].is_null(), "{}", events[0]);
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));

    assert_eq!(jvm.connect(&place, &to), ["ok", "ok", "ok"], "after");
}
