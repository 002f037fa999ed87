//! The Rust clients of `docs/clients.md`: one connect by each of the libraries that people use, as their first pages show
//! it. Says at which of its addresses the server says that it was reached, and in how long, by its own clock; what goes wrong
//! ends it.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// What is asked of a web server.
const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `LIBRARY HOST PORT`, and for reqwest the file with the certificate authority.
fn run(arguments: &[String]) -> Result<()> {
    let [library, host, port, rest @ ..] = arguments else {
        bail!("enforcer-rust-clients LIBRARY HOST PORT [CA]");
    };
    let bare = host.trim_matches(['[', ']']);
    let port: u16 = port.parse().context("understand the port")?;
    let start = Instant::now();
    let arrived = match library.as_str() {
        "std" => by_std(bare, port)?,
        "tokio" => asynchronously(by_tokio(bare, port))?,
        "hyper" => asynchronously(by_hyper(&format!("http://{host}:{port}/")))?,
        "reqwest" => {
            let authority = rest.first().context("reqwest needs the certificate authority")?;
            let pem = fs::read(authority).with_context(|| format!("read {authority}"))?;
            asynchronously(by_reqwest(&format!("https://{host}:{port}/"), &pem))?
        }
        _ => bail!("{library:?} is none of std, tokio, hyper and reqwest"),
    };
    anstream::println!("{} {}", arrived.trim(), start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn asynchronously<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(work)
}

fn by_std(host: &str, port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((host, port))?;
    stream.write_all(REQUEST.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    page(&answer)
}

async fn by_tokio(host: &str, port: u16) -> Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect((host, port)).await?;
    stream.write_all(REQUEST.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    page(&answer)
}

async fn by_hyper(url: &str) -> Result<String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.get(url.parse()?).await?;
    ensure!(response.status().is_success(), "{}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn by_reqwest(url: &str, authority: &[u8]) -> Result<String> {
    let client = reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(authority)?)
        .no_proxy()
        .build()?;
    Ok(client.get(url).send().await?.error_for_status()?.text().await?)
}

/// The page of a whole answer.
fn page(answer: &str) -> Result<String> {
    let page = answer.split_once("\r\n\r\n").map(|(_, page)| page.to_owned());
    page.with_context(|| format!("it answered {answer:?}"))
}
