//! Any text at all, as a policy file: it is used or refused, never with a panic, and what is used compiles.
#![no_main]

use std::path::Path;

use enforcer::policy::{Policy, compile::compile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Other files would make the outcome depend on the machine.
    if text.contains("prefixes_file") {
        return;
    }
    match Policy::from_text(Path::new("policy.toml"), text.to_owned(), Vec::new()) {
        Ok((policy, warnings)) => {
            for target in &policy.targets {
                let compiled = compile(&policy.rules, &target.groups);
                assert!(compiled.is_ok(), "checked, and yet refused: {compiled:?}");
            }
            assert!(warnings.iter().all(|warning| !warning.is_error()));
            for warning in &warnings {
                let _shown = (warning.render(true), warning.to_string());
            }
        }
        Err(error) => {
            assert!(error.diagnostics().iter().any(|diagnostic| diagnostic.is_error()));
            let _shown = (error.render(true), error.to_string());
        }
    }
});
