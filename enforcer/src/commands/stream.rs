//! Events to a stream, in the format that was asked for.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use super::cli::Output;
use crate::{
    daemon::{Governing, Report},
    sinks::{
        json::Json,
        live::{Colour, Live},
        summary::Summary,
        writer::{End, Writer},
    },
};

/// How long the end waits for a stream that takes nothing.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Begins to write events.
pub(crate) fn start<W: Write + Send + 'static>(
    governing: &Governing,
    output: Output,
    name: &str,
    prefix: &str,
    colour: Colour,
    out: W,
) -> anyhow::Result<Writer> {
    let subscription = governing.subscribe();
    match output {
        Output::Json => Writer::start(name, subscription, Json::default(), prefix, out),
        Output::Human => Writer::start(
            name,
            subscription,
            Live::new(colour, TimeZone::system()),
            prefix,
            out,
        ),
    }
    .with_context(|| format!("cannot start writing events to {name}"))
}

/// Events on stdout.
pub(crate) fn to_stdout(governing: &Governing, output: Output) -> anyhow::Result<Writer> {
    let stdout = io::stdout();
    let colour = Colour::for_stream(&stdout);
    start(governing, output, "stdout", "", colour, stdout)
}

/// Waits for the last events to be written, once the hub is gone, as long as the stream takes any. A reader that
/// went away is no error.
pub(crate) async fn end(writer: &mut Writer) -> anyhow::Result<()> {
    loop {
        let before = writer.written();
        if let Ok(end) = tokio::time::timeout(END_LIMIT, writer.ended()).await {
            return match end {
                End::Drained | End::Closed => Ok(()),
                End::Failed(error) => Err(anyhow::anyhow!("{}", with_causes(error))),
            };
        }
        // A busy machine, or a slow terminal, is not the end: a queue that nobody fills any more gets empty.
        if writer.written() == before {
            return Err(anyhow::anyhow!(
                "the last events could not be written: for {} seconds the stream took nothing",
                END_LIMIT.as_secs()
            ));
        }
    }
}

/// An error that is only lent, with its causes, as anyhow shows one that it owns.
fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// The account at the end.
pub(crate) fn summary(report: &Report, writer: &Writer) -> String {
    let mut total = report.unconfigured;
    let mut targets = Vec::new();
    for target in &report.targets {
        total.add(&target.counters);
        targets.push((target.name.as_str(), target.counters));
    }
    let delivered = writer.written().events;
    let lost = report.wanted.saturating_sub(delivered);
    Summary {
        total,
        targets: &targets,
        delivered,
        lost,
    }
    .to_string()
}
