//! What a rule of the file does: its action, where a redirect goes, and the names that it has to do with.
//!
//! Of keys that do not go together, each that is too much is named, with what would make it right.

use std::ops::Range;

use ipnet::Ipv6Net;

use super::{
    check_rule::checked,
    destination::{check_fit, parse_host, parse_redirect_to, parse_to_host},
    document::{ActionName, Field, ResolveName, RuleTable, WithoutTwinName},
    parse::Report,
    rule::{HostClause, RedirectTo, Resolve, RuleAction, WithoutTwin},
    source::Source,
    value::Problem,
};

/// The name that a rule has instead of prefixes.
pub(super) fn host(table: &RuleTable<'_>, source: &Source, report: &mut Report) -> Option<HostClause> {
    let name = checked(&table.host, source, report, |text| parse_host(text))?;
    let without_twin = match table.without_twin.good().map(toml::Spanned::get_ref) {
        Some(WithoutTwinName::Allow) => WithoutTwin::Allow,
        Some(WithoutTwinName::Reject) | None => WithoutTwin::Reject,
    };
    Some(HostClause { name, without_twin })
}

/// Who answers for the names of a rule; `None` if that cannot be told.
pub(super) fn resolve(table: &RuleTable<'_>, source: &Source, report: &mut Report) -> Option<Resolve> {
    let has_name = !(table.host.is_absent() && table.to_host.is_absent());
    let resolve = match &table.resolve {
        Field::Absent => Some(Resolve::Host),
        Field::Bad => None,
        Field::Good(resolve) => Some(match resolve.get_ref() {
            ResolveName::Host => Resolve::Host,
            ResolveName::Target => Resolve::Target,
        }),
    };
    if !has_name {
        let keys = [
            ("resolve", span(&table.resolve)),
            ("allow_private", span(&table.allow_private)),
        ];
        for (key, span) in keys {
            if let Some(span) = span {
                let problem = Problem::new(format!("the rule has `{key}`, and no name to look up"));
                let hint = format!("remove `{key}`, or name a `host` or a `to_host`");
                report.error(source, &span, problem.hint(hint));
            }
        }
    } else if let (Some(Resolve::Host), Some(span)) = (resolve, span(&table.allow_private)) {
        let problem = Problem::new("`allow_private` is about the answers of a target's own nameservers");
        let hint = "remove it, or add `resolve = \"target\"`: what the host's nameservers say is trusted";
        report.error(source, &span, problem.hint(hint));
    }
    resolve
}

/// The action of a rule that covers those prefixes, or a name.
pub(super) fn action(
    table: &RuleTable<'_>,
    prefixes: &[Ipv6Net],
    source: &Source,
    report: &mut Report,
) -> Option<RuleAction> {
    let has_host = !table.host.is_absent();
    let to = checked(&table.to, source, report, |text| {
        let to = parse_redirect_to(text)?;
        check_fit(&to, text, prefixes).map(|()| to)
    });
    let to_host = checked(&table.to_host, source, report, |text| parse_to_host(text));
    let (action, span) = match &table.action {
        Field::Good(action) => (*action.get_ref(), action.span()),
        // What names are for, mostly: the application is given the IPv4 addresses first.
        Field::Absent if has_host => (ActionName::Reject, table.header.clone()),
        Field::Absent => {
            let problem = Problem::new("the rule has no action");
            let hint = "add `action = \"reject\"`, `\"redirect\"` or `\"allow\"`";
            report.missing(source, &table.header, problem.hint(hint));
            return None;
        }
        Field::Bad => return None,
    };
    if action != ActionName::Redirect {
        not_of_a_redirect(table, source, report);
    } else if !has_host && let Some(span) = self::span(&table.without_twin) {
        let problem = Problem::new("`without_twin` is about the addresses of a `host`");
        let hint = "remove it: without a name there is no IPv4 address to look for";
        report.error(source, &span, problem.hint(hint));
    }
    match action {
        ActionName::Reject => Some(RuleAction::Reject),
        ActionName::Redirect if has_host => redirect_of_name(table, source, report),
        ActionName::Redirect => redirect(table, &span, to, to_host, source, report),
        ActionName::Allow => {
            if let Some(errno) = table.errno.good() {
                let problem = Problem::new("a rule that allows has no use for an `errno`");
                report.error(
                    source,
                    &errno.span(),
                    problem.hint("remove it, or write `action = \"reject\"`"),
                );
            }
            Some(RuleAction::Allow)
        }
    }
}

/// Refuses what only a redirect can have.
fn not_of_a_redirect(table: &RuleTable<'_>, source: &Source, report: &mut Report) {
    let keys = [
        ("to", span(&table.to), "only a redirect goes `to` an address"),
        ("to_host", span(&table.to_host), "only a redirect goes `to_host`"),
        (
            "without_twin",
            span(&table.without_twin),
            "only a redirect needs a twin, an IPv4 address of the same name",
        ),
        (
            "transparent",
            span(&table.transparent),
            "only a redirect can be `transparent` or not",
        ),
    ];
    for (key, span, message) in keys {
        if let Some(span) = span {
            let hint = format!("write `action = \"redirect\"`, or remove `{key}`");
            report.error(source, &span, Problem::new(message).hint(hint));
        }
    }
}

/// A redirect of a name goes to the name's own IPv4 addresses.
fn redirect_of_name(table: &RuleTable<'_>, source: &Source, report: &mut Report) -> Option<RuleAction> {
    for (key, span) in [("to", span(&table.to)), ("to_host", span(&table.to_host))] {
        if let Some(span) = span {
            let problem = Problem::new(format!(
                "a redirect of a `host` goes to the IPv4 addresses of that name, and has no `{key}`"
            ));
            let hint =
                format!("remove `{key}`, or write the `prefix` of the name's addresses instead of `host`");
            report.error(source, &span, problem.hint(hint));
        }
    }
    Some(RuleAction::Redirect(RedirectTo::Twin))
}

fn redirect(
    table: &RuleTable<'_>,
    action: &Range<usize>,
    to: Option<RedirectTo>,
    to_host: Option<RedirectTo>,
    source: &Source,
    report: &mut Report,
) -> Option<RuleAction> {
    if table.to.is_absent() && table.to_host.is_absent() {
        let problem = Problem::new("the redirect does not say where `to`");
        let hint =
            "add `to = \"192.0.2.1\"`, with `:PORT` if the port changes too, or a name: `to_host = \"…\"`";
        report.missing(source, action, problem.hint(hint));
    }
    if let (false, Some(span)) = (table.to.is_absent(), span(&table.to_host)) {
        let problem = Problem::new("the redirect has both `to` and `to_host`");
        report.error(source, &span, problem.hint("keep one of them"));
    }
    to.or(to_host).map(RuleAction::Redirect)
}

/// Where the value of a key stands, if it is there and of the right type.
fn span<T>(field: &Field<T>) -> Option<Range<usize>> {
    field.good().map(toml::Spanned::span)
}
