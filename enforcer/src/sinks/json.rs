//! One JSON object a line, for programs. `docs/events.md` documents every field, and a test here compares.
//!
//! The objects are this room's own types: an internal type can change without changing what others parse.

use std::io;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use self::object::{Harmless, Object, Plain, Times};
use super::{Render, text::Word};
use crate::events::{event::Event, hub::Item};

mod object;

/// Renders items as JSON lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json {
    times: Times,
}

impl Render for Json {
    fn render(&mut self, item: &Item, block: &mut Vec<u8>) -> io::Result<()> {
        match item {
            Item::Connect(event) => self.connect(event, block),
            Item::Lost { time, count } => self.lost(*time, *count, block),
        }
        block.push(b'\n');
        Ok(())
    }
}

impl Json {
    /// The line of a connect. The order of the fields is part of the documentation.
    fn connect(&mut self, event: &Event, block: &mut Vec<u8>) {
        let would = event.would.as_ref();
        let comm = event.comm.to_text();
        Object::new(block)
            .field("time", self.times.at(event.time))
            .field("verdict", Word::action(event.verdict))
            .field("would", would.map(|would| Word::action(would.action)))
            .field("would_rule", would.and_then(|would| would.rule.as_ref()))
            .field("mode", Word::mode(event.mode))
            .field("errno", event.errno.map(Word::errno))
            .field("errno_caller", event.errno_caller)
            .field("daddr", event.daddr)
            .field("dport", event.dport)
            .field("proto", Word::protocol(event.protocol))
            .field("socket_type", Word::socket_type(event.socket_type))
            .field("redirect_to", event.redirect_to.map(Plain))
            .field("rule", event.rule.as_ref())
            .field("prefix", event.prefix)
            .field("target", event.target.as_deref())
            .field("pid", event.pid)
            .field("tid", event.tid)
            .field("uid", event.uid)
            .field("comm", comm.as_deref())
            .field("cgroup_id", event.cgroup_id)
            .field("cgroup", event.cgroup.as_deref())
            .field("task_cgroup_id", event.task_cgroup_id)
            .field("unmovable", event.unmovable.map(Word::unmovable))
            .field("hook", Word::hook(event.hook))
            .field("datagrams", event.datagrams)
            .field("left_out", event.left_out.as_ref())
            .end();
    }

    /// The line of a loss.
    fn lost(&mut self, time: Timestamp, count: u64, block: &mut Vec<u8>) {
        Object::new(block)
            .field("time", self.times.at(time))
            .field("lost", count)
            .end();
    }
}

/// A time in an object that serde writes, as events have it.
pub(super) fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&object::TIME.timestamp_to_string(time))
}

/// Any object, written as events are: nothing in it moves a terminal.
pub(super) fn append(object: &impl Serialize, block: &mut Vec<u8>) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(block, Harmless);
    object.serialize(&mut serializer).map_err(io::Error::from)
}

/// The same as a line.
pub(crate) fn to_line(object: &impl Serialize) -> io::Result<String> {
    let mut line = Vec::new();
    append(object, &mut line)?;
    line.push(b'\n');
    String::from_utf8(line).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{fmt, net::IpAddr};

    use enforcer_common::record::ConnectRecord;
    use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
    use serde_json::Value;

    use super::*;
    use crate::events::{
        enrich::CallerErrno,
        fixture::{self, comm, event_of},
    };
    use crate::sinks::text::is_plain;

    const DOCS: &str = include_str!("../../../docs/events.md");

    fn line(event: Event) -> String {
        render(&Item::Connect(event.into()))
    }

    fn render(item: &Item) -> String {
        let mut block = Vec::new();
        Json::default().render(item, &mut block).unwrap();
        String::from_utf8(block).unwrap()
    }

    fn parsed(record: ConnectRecord) -> Value {
        serde_json::from_str(&line(event_of(record))).unwrap()
    }

    /// The keys of an object, in the order of the text.
    struct Keys(Vec<String>);

    impl<'de> Deserialize<'de> for Keys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Collect;
            impl<'de> Visitor<'de> for Collect {
                type Value = Keys;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                    let mut keys = Vec::new();
                    while let Some((key, IgnoredAny)) = map.next_entry()? {
                        keys.push(key);
                    }
                    Ok(Keys(keys))
                }
            }
            deserializer.deserialize_map(Collect)
        }
    }

    fn keys(line: &str) -> Vec<String> {
        serde_json::from_str::<Keys>(line).unwrap().0
    }

    #[test]
    fn the_documented_fields_are_the_fields_in_the_same_order() {
        let (_, section) = DOCS.split_once("\n## Fields\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let documented: Vec<_> = section
            .lines()
            .filter_map(|row| row.strip_prefix("| `")?.split_once('`'))
            .map(|(field, _)| field)
            .collect();
        assert_eq!(keys(&line(event_of(fixture::rejected()))), documented);
    }

    #[test]
    fn the_documented_examples_are_what_is_printed() {
        for record in [
            fixture::rejected(),
            fixture::redirected(),
            fixture::allowed(),
            fixture::audited(),
            fixture::sent(),
        ] {
            let line = line(event_of(record));
            assert!(DOCS.contains(&line), "docs/events.md lacks {line}");
        }
        assert!(DOCS.contains("\n{\"time\":\"2026-03-01T02:59:59.000000000Z\",\"lost\":12}\n"));
    }

    #[test]
    fn a_rejected_connect_has_every_field() {
        let expected = concat!(
            r#"{"time":"2026-03-01T02:59:58.417000123Z","verdict":"reject","would":null,"would_rule":null,"#,
            r#""mode":"enforce","errno":"ENETUNREACH","errno_caller":101,"daddr":"2406:da1a:7::5","dport":5432,"#,
            r#""proto":"tcp","socket_type":"stream","redirect_to":null,"#,
            r#""rule":"aws-apse1-has-no-route-here","prefix":"2406:da1a::/32","target":"web","pid":4242,"#,
            r#""tid":4243,"uid":1000,"comm":"psql","cgroup_id":4711,"cgroup":"/system.slice/web.service","#,
            r#""task_cgroup_id":4712,"unmovable":null,"hook":"connect","datagrams":null,"left_out":null}"#,
            "\n",
        );
        assert_eq!(line(event_of(fixture::rejected())), expected);
    }

    #[test]
    fn a_loss_is_a_time_and_a_number() {
        let time = "2026-03-01T02:59:59Z".parse().unwrap();
        assert_eq!(
            render(&Item::Lost { time, count: 12 }),
            "{\"time\":\"2026-03-01T02:59:59.000000000Z\",\"lost\":12}\n"
        );
    }

    #[test]
    fn absent_values_are_null_and_never_missing() {
        let full = keys(&line(event_of(fixture::rejected())));
        let empty = ConnectRecord {
            target: 99,
            cgroup_id: 98,
            comm: [0; 16],
            ..fixture::allowed()
        };
        assert_eq!(keys(&line(event_of(empty))), full);
        let value = parsed(empty);
        let nulls: Vec<_> = full.iter().filter(|key| value[key.as_str()].is_null()).collect();
        assert_eq!(
            nulls,
            [
                "would",
                "would_rule",
                "errno",
                "errno_caller",
                "redirect_to",
                "rule",
                "prefix",
                "target",
                "comm",
                "cgroup",
                "unmovable",
                "datagrams",
                "left_out",
            ]
        );
    }

    #[test]
    fn numbers_without_a_name_stay_numbers() {
        let value = parsed(ConnectRecord {
            verdict: 9,
            would: 8,
            mode: 7,
            unmovable: 6,
            hook: 4,
            socket_type: 5,
            protocol: 262,
            errno: 333,
            ..fixture::rejected()
        });
        for (field, number) in [
            ("verdict", 9),
            ("would", 8),
            ("mode", 7),
            ("unmovable", 6),
            ("hook", 4),
            ("socket_type", 5),
            ("proto", 262),
            ("errno", 333),
        ] {
            assert_eq!(value[field], number, "{field}");
        }
    }

    #[test]
    fn a_hostile_comm_stays_one_harmless_line_and_parses_back() {
        let hostile = "\x1b]0;\n\u{9b}\u{202e}\"\\";
        let text = line(event_of(ConnectRecord {
            comm: comm(hostile.as_bytes()),
            ..fixture::rejected()
        }));
        assert!(text.trim_end_matches('\n').chars().all(is_plain), "{text:?}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["comm"], hostile);
    }

    #[test]
    fn a_comm_that_is_not_utf8_is_replaced_where_it_is_not() {
        let value = parsed(ConnectRecord {
            comm: comm(b"a\xff\xfeb"),
            ..fixture::rejected()
        });
        assert_eq!(value["comm"], "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn an_old_kernel_shows_the_rules_errno_and_the_callers() {
        let catalog = fixture::catalog(CallerErrno::AlwaysEperm);
        let text = line(fixture::event_with(&catalog, fixture::rejected()));
        assert!(
            text.contains(r#""errno":"ENETUNREACH","errno_caller":1,"#),
            "{text}"
        );
    }

    #[test]
    fn a_redirect_that_could_not_be_done_says_why_and_where_it_would_have_gone() {
        let value = parsed(ConnectRecord {
            verdict: 1,
            errno: 101,
            unmovable: 3,
            redirect_port: 6432,
            ..fixture::redirected()
        });
        assert_eq!(value["verdict"], "reject");
        assert_eq!(value["unmovable"], "v6only");
        assert_eq!(value["redirect_to"], "10.77.0.1:6432");
    }

    #[test]
    fn addresses_are_written_as_people_write_them() {
        let value = parsed(ConnectRecord {
            redirect_be: fixture::words("2001:db8::7"),
            redirect_port: 8443,
            ..fixture::redirected()
        });
        assert_eq!(value["redirect_to"], "[2001:db8::7]:8443");
        let to: IpAddr = parsed(fixture::redirected())["redirect_to"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(to.is_ipv4());
    }
}
