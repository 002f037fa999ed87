//! Text to [`Document`], with every problem on the way: syntax, unknown keys, types.
//!
//! serde alone would stop at the first problem. So the syntax tree is walked here, table by table, and serde
//! gets each value by itself.

use std::{collections::HashSet, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    MAX_DIAGNOSTICS,
    diagnostic::{Diagnostic, Severity},
    document::{DefaultsTable, Document, Field, Leaf, RuleTable, TargetTable},
    source::Source,
    value::{Problem, nearest, quote, suggest},
};

/// The problems found so far, as many as are told one by one.
#[derive(Default)]
pub(super) struct Report {
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    /// Lines with a syntax error. What else is found there is only its echo.
    broken_lines: HashSet<usize>,
}

impl Report {
    /// Adds a problem of the file.
    pub(super) fn error(&mut self, source: &Source, span: &Range<usize>, problem: Problem) {
        if self.broken_lines.contains(&source.line(span.start)) {
            return;
        }
        if self.room(Severity::Error) {
            self.diagnostics
                .push(problem.at(Severity::Error, source.place(span)));
        }
    }

    /// Adds the problem that something is not there, or not where it belongs, unless a syntax error can be
    /// what makes it seem so.
    pub(super) fn missing(&mut self, source: &Source, span: &Range<usize>, problem: Problem) {
        if self.broken_lines.is_empty() {
            self.error(source, span, problem);
        }
    }

    /// Adds something of the file that is no mistake, but seldom what was meant.
    pub(super) fn warning(&mut self, source: &Source, span: &Range<usize>, problem: Problem) {
        if self.room(Severity::Warning) {
            self.diagnostics
                .push(problem.at(Severity::Warning, source.place(span)));
        }
    }

    /// Adds a problem whose place is known.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        if self.room(diagnostic.severity) {
            self.diagnostics.push(diagnostic);
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Errors so far.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    pub(super) fn has_syntax_errors(&self) -> bool {
        !self.broken_lines.is_empty()
    }

    /// Counts a problem; true if it is to be described.
    fn room(&mut self, severity: Severity) -> bool {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        *count <= MAX_DIAGNOSTICS
    }

    /// All problems in the order of the file, and how many more there are.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_cached_key(Diagnostic::sort_key);
        for (severity, count) in [(Severity::Error, self.errors), (Severity::Warning, self.warnings)] {
            if let more @ 1.. = count.saturating_sub(MAX_DIAGNOSTICS) {
                let message = format!("{more} more {severity}s are not shown");
                self.diagnostics.push(Diagnostic::new(severity, message, None));
            }
        }
        self.diagnostics
    }
}

/// Reads a document. What is wrong goes to the report, what is right into the document.
pub(super) fn parse<'text>(source: &'text Source, report: &mut Report) -> Document<'text> {
    let (root, errors) = DeTable::parse_recoverable(source.text());
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        // One syntax error brings forth others; what is on its own line is hardly ever another mistake.
        if !report.broken_lines.contains(&source.line(span.start)) {
            let problem = syntax_problem(source.text(), error.message());
            report.error(source, &span, problem);
            report.broken_lines.insert(source.line(span.start));
        }
    }
    let mut root = Keys::new(root.into_inner(), "a policy file", Document::KEYS, source, report);
    let version = root.take("version");
    let defaults = root.take_table("defaults");
    let targets = root.take_tables("target");
    let rules = root.take_tables("rule");
    Document {
        version,
        defaults: defaults_table(defaults.unwrap_or_default(), source, report),
        targets: targets
            .into_iter()
            .map(|table| target(table, source, report))
            .collect(),
        rules: rules
            .into_iter()
            .map(|table| rule(table, source, report))
            .collect(),
    }
}

fn defaults_table(table: DeTable<'_>, source: &Source, report: &mut Report) -> DefaultsTable {
    let mut keys = Keys::new(table, "`[defaults]`", DefaultsTable::KEYS, source, report);
    DefaultsTable {
        mode: keys.take("mode"),
        errno: keys.take("errno"),
    }
}

fn target(table: Spanned<DeTable<'_>>, source: &Source, report: &mut Report) -> TargetTable {
    let header = table.span();
    let mut keys = Keys::new(
        table.into_inner(),
        "a `[[target]]`",
        TargetTable::KEYS,
        source,
        report,
    );
    TargetTable {
        header,
        name: keys.take("name"),
        cgroup: keys.take("cgroup"),
        pid: keys.take("pid"),
        container: keys.take("container"),
        groups: keys.take_array("use"),
    }
}

fn rule<'text>(
    table: Spanned<DeTable<'text>>,
    source: &'text Source,
    report: &mut Report,
) -> RuleTable<'text> {
    let header = table.span();
    let mut keys = Keys::new(
        table.into_inner(),
        "a `[[rule]]`",
        RuleTable::KEYS,
        source,
        report,
    );
    RuleTable {
        header,
        name: keys.take("name"),
        groups: keys.take_array("groups"),
        prefix: keys.take("prefix"),
        prefixes: keys.take_array("prefixes"),
        prefixes_file: keys.take("prefixes_file"),
        host: keys.take("host"),
        resolve: keys.take("resolve"),
        allow_private: keys.take("allow_private"),
        action: keys.take("action"),
        errno: keys.take("errno"),
        to: keys.take("to"),
        to_host: keys.take("to_host"),
        without_twin: keys.take("without_twin"),
        transparent: keys.take("transparent"),
        ports: keys.take_array("ports"),
        proto: keys.take("proto"),
        uid: keys.take_one_or_array("uid"),
        reason: keys.take("reason"),
        enabled: keys.take("enabled"),
        mode: keys.take("mode"),
        expires: keys.take("expires"),
        rollout: keys.take("rollout"),
        by: keys.take("by"),
        canary: keys.take_array("canary"),
    }
}

fn syntax_problem(text: &str, message: &str) -> Problem {
    let problem = Problem::new(format!("syntax: {message}"));
    if text.trim_start().starts_with(['{', '<']) {
        problem.hint("policy files are TOML")
    } else {
        problem
    }
}

/// The keys of one table, each to be taken once.
struct Keys<'a, 'text> {
    table: DeTable<'text>,
    /// Known keys that are absent because they are misspelt.
    misspelt: Vec<&'static str>,
    source: &'text Source,
    report: &'a mut Report,
}

impl<'a, 'text> Keys<'a, 'text> {
    /// Reports every key that is not known.
    fn new(
        table: DeTable<'text>,
        what: &str,
        known: &'static [&'static str],
        source: &'text Source,
        report: &'a mut Report,
    ) -> Self {
        let mut misspelt = Vec::new();
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let absent = known.iter().copied().filter(|known| !table.contains_key(*known));
            misspelt.extend(nearest(name, absent));
            let problem = Problem::new(format!("{what} has no key {}", quote(name)));
            let problem = problem.hint(suggest(name, known));
            if known == Document::KEYS {
                // Keys beneath a header that is broken seem to stand outside of any table.
                report.missing(source, &key.span(), problem);
            } else {
                report.error(source, &key.span(), problem);
            }
        }
        Self {
            table,
            misspelt,
            source,
            report,
        }
    }

    /// The value of a key.
    fn take<T: Leaf<'text>>(&mut self, key: &'static str) -> Field<T> {
        match self.table.remove(key) {
            None => self.absent(key),
            Some(value) => match self.leaf(&format!("`{key}`"), value) {
                Some(value) => Field::Good(value),
                None => Field::Bad,
            },
        }
    }

    /// The elements of an array; those of a wrong type are reported and left out.
    fn take_array<T: Leaf<'text>>(&mut self, key: &'static str) -> Field<Vec<Spanned<T>>> {
        let Some(value) = self.table.remove(key) else {
            return self.absent(key);
        };
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(elements) => {
                let what = format!("each of `{key}`");
                let good = elements
                    .into_iter()
                    .filter_map(|element| self.leaf(&what, element))
                    .collect();
                Field::Good(Spanned::new(span, good))
            }
            other => {
                let problem = wrong_type(&format!("`{key}`"), "an array", &other);
                let problem = match &other {
                    DeValue::String(_) | DeValue::Integer(_) => {
                        problem.hint(format!("write `{key} = [{}]`", &self.source.text()[span.clone()]))
                    }
                    _ => problem,
                };
                self.report.error(self.source, &span, problem);
                Field::Bad
            }
        }
    }

    /// As [`take_array`](Self::take_array), of a key whose only element may stand by itself.
    fn take_one_or_array<T: Leaf<'text>>(&mut self, key: &'static str) -> Field<Vec<Spanned<T>>> {
        if matches!(
            self.table.get(key).map(Spanned::get_ref),
            None | Some(DeValue::Array(_))
        ) {
            return self.take_array(key);
        }
        match self.take(key) {
            Field::Absent => Field::Absent,
            Field::Bad => Field::Bad,
            Field::Good(one) => Field::Good(Spanned::new(one.span(), vec![one])),
        }
    }

    /// A table.
    fn take_table(&mut self, key: &'static str) -> Option<DeTable<'text>> {
        let value = self.table.remove(key)?;
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(table),
            other => {
                let problem = wrong_type(&format!("`{key}`"), "a table", &other);
                self.report
                    .error(self.source, &span, problem.hint(format!("write `[{key}]`")));
                None
            }
        }
    }

    /// An array of tables.
    fn take_tables(&mut self, key: &'static str) -> Vec<Spanned<DeTable<'text>>> {
        let Some(value) = self.table.remove(key) else {
            return Vec::new();
        };
        let span = value.span();
        let elements = match value.into_inner() {
            DeValue::Array(elements) => elements.into_iter().collect(),
            other => {
                let problem = wrong_type(&format!("`{key}`"), "an array of tables", &other);
                self.report
                    .error(self.source, &span, problem.hint(format!("write `[[{key}]]`")));
                // What a lone table says is still looked at.
                match other {
                    DeValue::Table(_) => vec![Spanned::new(span, other)],
                    _ => Vec::new(),
                }
            }
        };
        let mut tables = Vec::with_capacity(elements.len());
        for element in elements {
            let span = element.span();
            match element.into_inner() {
                DeValue::Table(table) => tables.push(Spanned::new(span, table)),
                other => {
                    let problem = wrong_type(&format!("each of `{key}`"), "a table", &other);
                    let problem = problem.hint(format!("write `[[{key}]]`"));
                    self.report.error(self.source, &span, problem);
                }
            }
        }
        tables
    }

    fn absent<T>(&self, key: &str) -> Field<T> {
        if self.misspelt.contains(&key) {
            Field::Bad
        } else {
            Field::Absent
        }
    }

    fn leaf<T: Leaf<'text>>(&mut self, what: &str, value: Spanned<DeValue<'text>>) -> Option<Spanned<T>> {
        let span = value.span();
        // Cheap: text is borrowed.
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(value) => Some(Spanned::new(span, value)),
            // serde's error names neither the key nor a way out.
            Err(_) => {
                let problem = match value.get_ref() {
                    DeValue::String(text) if !T::NAMES.is_empty() => {
                        Problem::new(format!("{what} cannot be {}", quote(text)))
                            .hint(suggest(text, T::NAMES))
                    }
                    other => wrong_type(what, T::EXPECTED, other),
                };
                self.report.error(self.source, &span, problem);
                None
            }
        }
    }
}

fn wrong_type(what: &str, expected: &str, found: &DeValue<'_>) -> Problem {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    if expected.starts_with(found) {
        // Only an integer can be of the right type and yet not deserialize.
        return Problem::new(format!("{what} is out of range"));
    }
    Problem::new(format!("{what} must be {expected}, not {found}"))
}
