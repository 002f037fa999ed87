//! Golden tests: what a person reads about each file of `tests/cases/mistakes`.

use std::{fmt::Write, fs, path::Path};

use super::super::{Policy, diagnostic};

/// Relative, because it shows in the diagnostics: cargo runs tests in the package's directory.
const CASES: &str = "../tests/cases/mistakes";

/// Says what there is to say about a file, in both forms.
fn say(file: &Path) -> String {
    let (outcome, diagnostics) = match Policy::load(Some(file), Vec::new()) {
        Ok((_, warnings)) => ("usable", warnings),
        Err(error) => {
            assert!(error.is_about_file());
            ("refused", error.diagnostics().to_vec())
        }
    };
    let mut said = format!("{outcome}, {} diagnostics\n\n", diagnostics.len());
    said += &diagnostic::render(&diagnostics, false);
    for diagnostic in &diagnostics {
        writeln!(said, "{diagnostic}").unwrap();
    }
    said.replace(&format!("{CASES}/"), "")
}

#[test]
fn every_file_of_mistakes_is_answered_as_expected() {
    let bless = std::env::var_os("ENFORCER_BLESS").is_some();
    let mut seen = 0;
    let mut different = Vec::new();
    for file in fs::read_dir(CASES).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let expected_file = file.with_extension("expected");
        let said = say(&file);
        if bless {
            fs::write(&expected_file, &said).unwrap();
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if said != expected {
            different.push(format!(
                "{}: expected\n{expected}\nbut found\n{said}",
                file.display()
            ));
        }
    }
    assert!(seen >= 12, "only {seen} files in {CASES}");
    assert!(
        different.is_empty(),
        "{}\nset ENFORCER_BLESS=1 to take what was found as expected",
        different.join("\n")
    );
}

#[test]
fn ten_different_mistakes_give_ten_diagnostics() {
    let error = Policy::load(Some(&Path::new(CASES).join("ten.toml")), Vec::new()).unwrap_err();
    assert_eq!(error.diagnostics().len(), 10, "{error}");
    for diagnostic in error.diagnostics() {
        let Some(diagnostic::Place::At(at)) = &diagnostic.place else {
            panic!("no position: {diagnostic}")
        };
        assert!(
            at.line > 1 && at.column > 0 && at.excerpt.is_some(),
            "{diagnostic}"
        );
        assert!(
            diagnostic.is_error() && (diagnostic.hint.is_some()),
            "{diagnostic}"
        );
    }
}
