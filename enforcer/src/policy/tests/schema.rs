//! `docs/policy.schema.json`, by which editors complete policy files: generated from the types here, which mirror those of
//! the document. The tests hold the two together.
//!
//! A schema knows the types and names of values, and what cannot be without what; the rest is for `enforcer check`.

use std::{collections::BTreeSet, fs, path::Path};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::super::{Policy, document};

const FILE: &str = "../docs/policy.schema.json";

/// A policy of enforcer: which IPv6 connects of which workloads are allowed, rejected or redirected.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only the schema is used")]
struct PolicyFile {
    /// Version of the format: 1.
    #[schemars(extend("const" = 1))]
    version: i64,
    /// What rules and targets do not say themselves.
    defaults: Option<Defaults>,
    /// The workloads.
    target: Option<Vec<Target>>,
    /// The rules; their order never matters.
    rule: Option<Vec<Rule>>,
}

/// What rules and targets do not say themselves.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only the schema is used")]
struct Defaults {
    /// Whether the rules act, or events only say what they would have done. Default: enforce.
    mode: Option<Mode>,
    /// What `connect` ends with where a rule names nothing else. Default: ENETUNREACH.
    errno: Option<Errno>,
}

/// A workload.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(extend("oneOf" = one_of(&["cgroup", "pid", "container"])))]
#[expect(dead_code, reason = "only the schema is used")]
struct Target {
    /// What events and summaries call it; each target has its own.
    #[schemars(length(min = 1, max = 128))]
    name: String,
    /// Path of a cgroup, counted from the cgroup v2 mount.
    #[schemars(regex(pattern = "^/"))]
    cgroup: Option<String>,
    /// The cgroup that this process is in, with everyone else in it.
    #[schemars(range(min = 1))]
    pid: Option<i64>,
    /// Name or identifier of a running Docker or Podman container.
    container: Option<String>,
    /// Groups whose rules apply. Default: `default`.
    #[schemars(length(min = 1))]
    r#use: Option<Vec<String>>,
}

/// A rule: which connects it covers, and what it does to them.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(extend("oneOf" = one_of(&["prefix", "prefixes", "prefixes_file", "host"])))]
#[schemars(extend("anyOf" = one_of(&["action", "host"])))]
#[schemars(extend("dependencies" = needs(&[("rollout", "name"), ("by", "rollout"), ("canary", "rollout"),
    ("allow_private", "resolve")])))]
#[expect(dead_code, reason = "only the schema is used")]
struct Rule {
    /// What events call the rule; each rule has its own. Default: file and line.
    #[schemars(length(min = 1, max = 128))]
    name: Option<String>,
    /// Groups that it belongs to. Default: `default`.
    #[schemars(length(min = 1))]
    groups: Option<Vec<String>>,
    /// A prefix such as `2001:db8::/32`, an address, or `internet`.
    prefix: Option<String>,
    /// Several prefixes.
    #[schemars(length(min = 1))]
    prefixes: Option<Vec<String>>,
    /// Path of a file with one prefix a line, relative to the policy file's directory.
    prefixes_file: Option<String>,
    /// A name instead of prefixes: each IPv6 address that it is found to have.
    host: Option<String>,
    /// Whose nameservers are asked for names: the host's, or the target's own. Default: host.
    resolve: Option<Resolve>,
    /// Whether answers of the target's nameservers may be loopback, link-local or metadata addresses. Default: false.
    allow_private: Option<bool>,
    /// What it does. A rule with a `host` rejects where it does not say.
    action: Option<Action>,
    /// What `connect` ends with, of a rejection and of a redirect on a socket that cannot be moved.
    errno: Option<Errno>,
    /// Where a redirect goes: `192.0.2.1`, `192.0.2.1:6543`, `[2001:db8::1]:443`, a prefix as wide as the rule's such as
    /// `198.51.100.0/24`, or `embedded`.
    to: Option<String>,
    /// Where a redirect goes: a name such as `pooler.example.com:6543`, whose IPv4 addresses are followed.
    to_host: Option<String>,
    /// What a redirect of a `host` does while the name has no IPv4 address. Default: reject.
    without_twin: Option<WithoutTwin>,
    /// Whether a redirect hides where it went, as far as the kernel can. Default: true.
    transparent: Option<bool>,
    /// Destination ports: numbers, and ranges such as `8000-8999`. Default: every port.
    #[schemars(length(min = 1))]
    ports: Option<Vec<Port>>,
    /// Protocol. Default: every one.
    proto: Option<Proto>,
    /// Users as the host numbers them: a number, a range such as `1000-1999`, or an array of them. Default: every user.
    uid: Option<Uids>,
    /// Why it is there, for people.
    #[schemars(length(min = 1, max = 512))]
    reason: Option<String>,
    /// Whether it counts at all. Default: true.
    enabled: Option<bool>,
    /// Whether it acts, or events only say what it would have done. Default: enforce.
    mode: Option<Mode>,
    /// When it ends: a date with time and offset, or a duration such as `2h` from its first load.
    expires: Option<String>,
    /// How many percent it acts on. Default: all.
    #[schemars(range(min = 0, max = 100))]
    rollout: Option<i64>,
    /// What a rollout counts, and keeps together. Default: target.
    by: Option<By>,
    /// Names of targets that are always in a rollout.
    #[schemars(length(min = 1))]
    canary: Option<Vec<String>>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum Mode {
    Enforce,
    Audit,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum Action {
    Allow,
    Reject,
    Redirect,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum Proto {
    Tcp,
    Udp,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum Resolve {
    Host,
    Target,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum WithoutTwin {
    Reject,
    Allow,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum By {
    Target,
    Process,
    Destination,
}

/// An errno by name.
#[derive(JsonSchema)]
#[schemars(inline, extend("enum" = enforcer_common::errno::CHOICES.map(|errno| errno.name)))]
#[expect(dead_code, reason = "only the schema is used")]
struct Errno(String);

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum Port {
    Number(#[schemars(range(min = 1, max = 65535))] i64),
    Range(#[schemars(regex(pattern = "^[0-9]+(-[0-9]+)?$"))] String),
}

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum Uids {
    One(Uid),
    Several(#[schemars(length(min = 1))] Vec<Uid>),
}

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "only the schema is used")]
enum Uid {
    Number(#[schemars(range(min = 0, max = 4_294_967_294_u32))] i64),
    Range(#[schemars(regex(pattern = "^[0-9]+(-[0-9]+)?$"))] String),
}

/// For each key a schema that requires it.
fn one_of(keys: &[&str]) -> Value {
    keys.iter().map(|key| json!({ "required": [key] })).collect()
}

/// Keys that need another.
fn needs(keys: &[(&str, &str)]) -> Value {
    let needs = keys
        .iter()
        .map(|(key, other)| ((*key).to_owned(), json!([other])));
    Value::Object(needs.collect::<Map<_, _>>())
}

/// The schema as it is checked in.
fn schema() -> Value {
    // What editors for TOML read: they validate with draft 7, where unknown words do no harm.
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<PolicyFile>()
        .to_value();
    without_null(&mut schema);
    schema
}

/// TOML has no null: what may be left out is not required, and that is all.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|one| one != "null");
                if let [one] = &types[..] {
                    let one = one.clone();
                    object.insert("type".to_owned(), one);
                }
            }
            for list in ["enum", "anyOf"] {
                if let Some(Value::Array(values)) = object.get_mut(list) {
                    values.retain(|one| !one.is_null() && *one != json!({ "type": "null" }));
                }
            }
            if let Some(Value::Array(choices)) = object.get("anyOf")
                && let [Value::Object(only)] = &choices[..]
            {
                let only = only.clone();
                object.remove("anyOf");
                for (key, value) in only {
                    object.entry(key).or_insert(value);
                }
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(values) => values.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Whether the schema takes a policy. What is no TOML at all is not taken.
fn takes(validator: &jsonschema::Validator, text: &str) -> Result<(), String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let value = as_editors_see(toml::Value::Table(table));
    validator.validate(&value).map_err(|error| error.to_string())
}

/// TOML as JSON: a date is its text.
fn as_editors_see(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(values) => values.into_iter().map(as_editors_see).collect(),
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| (key, as_editors_see(value)));
            Value::Object(entries.collect())
        }
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
    }
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&schema()).unwrap()
}

fn strings(values: &Value) -> BTreeSet<&str> {
    values
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_str().unwrap())
        .collect()
}

#[test]
fn the_schema_that_is_checked_in_is_the_one_that_is_generated() {
    let generated = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("ENFORCER_BLESS").is_some() {
        fs::write(FILE, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(FILE).unwrap_or_default() == generated,
        "{FILE} is out of date: set ENFORCER_BLESS=1 to write it"
    );
}

#[test]
fn the_schema_has_every_key_that_the_parser_knows_and_no_other() {
    let schema = schema();
    let root = &schema["properties"];
    for (properties, known) in [
        (root, document::Document::KEYS),
        (&root["defaults"]["properties"], document::DefaultsTable::KEYS),
        (
            &root["target"]["items"]["properties"],
            document::TargetTable::KEYS,
        ),
        (&root["rule"]["items"]["properties"], document::RuleTable::KEYS),
    ] {
        let described: BTreeSet<&str> = properties
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(described, known.iter().copied().collect());
        for (key, property) in properties.as_object().unwrap() {
            assert!(
                property["description"].is_string(),
                "{key} says nothing of itself"
            );
        }
    }
}

#[test]
fn the_schema_has_every_name_of_a_value_that_the_parser_knows_and_no_other() {
    use document::{ActionName, ByName, Leaf, ModeName, ProtoName, ResolveName, WithoutTwinName};
    let schema = schema();
    let rule = &schema["properties"]["rule"]["items"]["properties"];
    for (key, names) in [
        ("action", ActionName::NAMES),
        ("proto", ProtoName::NAMES),
        ("mode", ModeName::NAMES),
        ("resolve", ResolveName::NAMES),
        ("without_twin", WithoutTwinName::NAMES),
        ("by", ByName::NAMES),
        ("errno", &enforcer_common::errno::CHOICES.map(|errno| errno.name)),
    ] {
        assert_eq!(
            strings(&rule[key]["enum"]),
            names.iter().copied().collect(),
            "{key}"
        );
    }
}

#[test]
fn every_example_is_taken() {
    let validator = validator();
    for file in super::examples::examples() {
        let text = fs::read_to_string(&file).unwrap();
        takes(&validator, &text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    for text in super::examples::policies() {
        takes(&validator, text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn whatever_is_usable_is_taken_and_whatever_has_a_wrong_type_is_not() {
    let validator = validator();
    let mut usable = 0;
    for file in fs::read_dir("../tests/cases/mistakes").unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let taken = takes(&validator, &fs::read_to_string(&file).unwrap());
        match Policy::load(Some(Path::new(&file)), Vec::new()) {
            Ok(_) => {
                usable += 1;
                assert_eq!(taken, Ok(()), "{}", file.display());
            }
            Err(error) => {
                let is_of_type = |text: &str| text.contains("must be") || text.contains("has no key");
                if error.to_string().lines().any(is_of_type) {
                    assert!(taken.is_err(), "{}", file.display());
                }
            }
        }
    }
    assert!(usable >= 2, "only {usable} files are usable");
}

#[test]
fn each_wrong_value_is_refused_by_the_schema_and_by_the_parser() {
    let validator = validator();
    let rule = |text: &str| format!("version = 1\n[[rule]]\nname = \"x\"\n{text}");
    let good = rule("prefix = \"2001:db8::/32\"\naction = \"reject\"\nrollout = 5\nuid = [0, \"5-9\"]\n");
    assert_eq!(takes(&validator, &good), Ok(()));
    let covers = "prefix = \"2001:db8::/32\"\n";
    let rejects = format!("{covers}action = \"reject\"\n");
    for text in [
        "rule = 5".to_owned(),
        "version = 2".to_owned(),
        "version = 1\ncolour = \"red\"".to_owned(),
        "version = 1\n[[target]]\nname = \"a\"\ncgroup = \"/a\"\npid = 1\n".to_owned(),
        "version = 1\n[[target]]\nname = \"a\"\n".to_owned(),
        "version = 1\n[[target]]\nname = \"a\"\ncgroup = \"a\"\n".to_owned(),
        rule(covers),
        rule("action = \"reject\"\n"),
        rule(&format!("{rejects}host = \"a.example\"\n")),
        rule(&format!("{covers}action = \"deny\"\n")),
        rule(&format!("{rejects}ports = 443\n")),
        rule(&format!("{rejects}ports = [0]\n")),
        rule(&format!("{rejects}ports = [\"http\"]\n")),
        rule(&format!("{rejects}ports = []\n")),
        rule(&format!("{rejects}uid = -1\n")),
        rule(&format!("{rejects}uid = 4294967295\n")),
        rule(&format!("{rejects}uid = \"root\"\n")),
        rule(&format!("{rejects}errno = \"EFOO\"\n")),
        rule(&format!("{rejects}enabled = \"yes\"\n")),
        rule(&format!("{rejects}expires = 3600\n")),
        rule(&format!("{rejects}rollout = 101\n")),
        rule(&format!("{rejects}rollout = 2.5\n")),
        rule(&format!("{rejects}by = \"process\"\n")),
        rule(&format!("{rejects}rollout = 5\nby = \"user\"\n")),
        rule(&format!("{rejects}canary = [\"a\"]\n")),
        rule(&format!("{rejects}rollout = 5\ncanary = \"a\"\n")),
        rule(&format!("{rejects}mode = \"shadow\"\n")),
        rule(&format!("{rejects}reason = \"\"\n")),
        rule("host = \"a.example\"\nresolve = \"nobody\"\n"),
        rule("host = \"a.example\"\nallow_private = true\n"),
        rejects.replace("prefix", "version = 1\n[[rule]]\nrollout = 5\nprefix"),
    ] {
        assert!(takes(&validator, &text).is_err(), "the schema takes {text}");
        assert!(super::check(&text).is_err(), "the parser takes {text}");
    }
}
