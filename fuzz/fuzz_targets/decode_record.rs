//! Any bytes as a record of the ring buffer: decoding, naming and rendering them must neither panic nor let a
//! control character through, and each event is one line.
#![no_main]

use std::num::NonZeroUsize;

use enforcer::{
    events::{
        decode::decode,
        enrich::{CallerErrno, Catalog},
        hub::Hub,
    },
    sinks::{
        Render,
        json::Json,
        live::{Colour, Live},
    },
};
use jiff::{Timestamp, tz::TimeZone};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = decode(bytes) else {
        return;
    };
    let catalog = Catalog::new(CallerErrno::AsRuled);
    let mut hub = Hub::new(NonZeroUsize::MIN);
    let mut subscription = hub.subscribe();
    hub.publish(catalog.event(&record, Timestamp::UNIX_EPOCH));
    let item = subscription.try_next().expect("what was just published");

    let sinks: [&mut dyn Render; 2] = [&mut Json::default(), &mut Live::new(Colour::Never, TimeZone::UTC)];
    for sink in sinks {
        let mut block = Vec::new();
        sink.render(&item, &mut block).expect("memory takes everything");
        let text = String::from_utf8(block).expect("lines are UTF-8");
        let line = text.strip_suffix('\n').expect("a line ends");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
});
