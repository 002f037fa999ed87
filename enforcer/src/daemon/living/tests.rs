//! Living with names from a `hosts` file, on a clock that goes on when nothing else does.

use std::{fs, net::Ipv4Addr, path::Path};

use tokio::time::timeout;

use super::*;
use crate::policy::Policy;

const NAMES: usize = 60;

fn said(count: usize) -> Vec<Said> {
    (0..count)
        .map(|number| Said {
            message: number.to_string(),
            hint: None,
        })
        .collect()
}

#[test]
fn what_is_said_at_once_has_an_end() {
    assert_eq!(capped(said(16)), said(16));
    let lines = capped(said(28));
    assert_eq!(lines.len(), 17);
    assert_eq!(lines[..16], said(16));
    assert_eq!(lines[16].message, "… and 12 more such lines");
}

#[tokio::test(start_paused = true)]
async fn many_changes_go_into_force_together() {
    let folder = tempfile::tempdir().unwrap();
    let write = |last: u8| {
        let lines: String = (0..NAMES)
            .map(|name| format!("2001:db8::{name:x} n{name}.example\n192.0.2.{last} n{name}.example\n"))
            .collect();
        fs::write(folder.path().join("made"), lines).unwrap();
        fs::rename(folder.path().join("made"), folder.path().join("hosts")).unwrap();
    };
    write(1);
    let options = Options {
        resolv_conf: folder.path().join("resolv.conf"),
        hosts: folder.path().join("hosts"),
        helper: folder.path().join("helper"),
    };
    let rules: String = (0..NAMES)
        .map(|name| format!("[[rule]]\nhost = \"n{name}.example\"\naction = \"redirect\"\n"))
        .collect();
    let (policy, _) = Policy::from_text(
        Path::new("policy.toml"),
        format!("version = 1\n{rules}"),
        Vec::new(),
    )
    .unwrap();
    let (mut living, _) = Living::new(policy.rules.into(), folder.path(), options).unwrap();
    let target = NamedTarget {
        name: "web".to_owned(),
        groups: vec!["default".to_owned()],
        cgroups: Vec::new(),
    };
    living.set_targets(vec![target]).unwrap();
    living.settle().await;
    write(2);
    // What `hosts` says counts for ten seconds, of which chance takes one at most: that is when all change, one by one.
    timeout(Duration::from_secs(11), living.changed()).await.unwrap();
    let mut changes = 1;
    while timeout(Duration::from_secs(3), living.changed()).await.is_ok() {
        changes += 1;
    }
    assert!((2..=11).contains(&changes), "{changes}");
    let expected = [Ipv4Addr::new(192, 0, 2, 2)];
    let now = living.follower.answers().map(|(_, answers)| answers.current_a());
    assert_eq!(now.filter(|current| *current == expected).count(), NAMES);
}
