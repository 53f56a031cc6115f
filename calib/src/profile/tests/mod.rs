//! Profiles on a real disk; [`faults`] has those on one that fails.

#![allow(clippy::unwrap_used)]

mod faults;
mod memory;

use super::*;
use crate::adapt::Correction;
use crate::dataset::{Dataset, Label, Moment};
use crate::heads::{HeadKind, Heads, LinearHead, MAX_LABELS};
use memory::MemoryDisk;

const ROOT: &str = "/profiles";
const DIM: usize = 3;

fn alice() -> UserName {
    "alice".parse().unwrap()
}

fn heads(dim: usize, rows: usize, value: f32) -> Heads {
    let labels = |rows: usize| (0..rows).map(|i| format!("label-{i}")).collect();
    let head = |rows: usize| {
        LinearHead::new("h", labels(rows), dim, vec![value; rows * dim], vec![-value; rows]).unwrap()
    };
    Heads::new(dim, [(HeadKind::Expression, head(rows)), (HeadKind::ActionUnits, head(rows))]).unwrap()
}

/// A small state that differs from those of other numbers in every part.
fn state(number: u64) -> State {
    let value = number as f32 + 0.25;
    let mut labelled = Dataset::new(DIM);
    let labels = [
        Label { expression: Some(number as u8 % 8), ..Label::default() },
        Label { valence_arousal: Some([0.5, -0.5]), ..Label::default() },
        Label { action_units: Some([0.5; MAX_LABELS]), ..Label::default() },
    ];
    for (i, label) in labels.into_iter().enumerate() {
        labelled.push(Moment { t_secs: i as f64, block: number as u32, label }, &[value; DIM]).unwrap();
    }
    State {
        bundle: "b1".into(),
        heads: heads(DIM, 2, value),
        correction: Some(Correction::new(1, vec![value; DIM], vec![0.1; DIM], vec![value; DIM]).unwrap()),
        labelled: Some(labelled),
        saved_unix_secs: number,
        reason: format!("state {number}"),
        report: format!("{{\"n\":{number}}}"),
    }
}

fn real() -> (tempfile::TempDir, Profiles) {
    let dir = tempfile::tempdir().unwrap();
    let profiles = Profiles::new(dir.path().join("profiles"));
    (dir, profiles)
}

#[test]
fn states_come_back_and_users_are_listed() {
    let (_dir, profiles) = real();
    assert_eq!((profiles.open(&alice()).unwrap(), profiles.users().unwrap()), (None, vec![]));
    assert_eq!(profiles.save(&alice(), &state(1), Some(0)).unwrap(), 1);
    assert_eq!(profiles.save(&"bob".parse().unwrap(), &state(2), None).unwrap(), 1);
    let opened = profiles.open(&alice()).unwrap().unwrap();
    assert_eq!(opened, Opened { serial: 1, state: state(1), damaged: vec![] });
    assert_eq!(profiles.users().unwrap(), ["alice", "bob"].map(|name| name.parse().unwrap()));
    let stale = profiles.save(&alice(), &state(3), Some(0)).unwrap_err();
    assert!(matches!(stale, ProfileError::Changed { found: 1, expected: 0 }));
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_what_is_written() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, profiles) = real();
    profiles.save(&alice(), &state(1), None).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&profiles.root), 0o700);
    assert_eq!(mode(&profiles.dir(&alice())), 0o700);
    assert_eq!(mode(&profiles.path(&alice(), 1)), 0o600);
}

#[test]
fn a_rollback_brings_back_the_same_bits_and_keeps_the_labels() {
    let (_dir, profiles) = real();
    (0..5).for_each(|i| _ = profiles.save(&alice(), &state(i), None).unwrap());
    let back = profiles.rollback(&alice(), Some(2), 77).unwrap();
    let opened = profiles.open(&alice()).unwrap().unwrap();
    assert_eq!(opened, back);
    assert_eq!((opened.serial, opened.state.saved_unix_secs), (6, 77));
    let bits = |heads: &Heads| -> Vec<u32> {
        heads.expression().unwrap().weight().iter().map(|v| v.to_bits()).collect()
    };
    assert_eq!(bits(&opened.state.heads), bits(&state(1).heads));
    assert_eq!((&opened.state.heads, &opened.state.correction), (&state(1).heads, &state(1).correction));
    assert_eq!(opened.state.labelled, state(4).labelled);
    assert_eq!(opened.state.reason, "rolled back to state 2: state 1");
    assert_eq!(profiles.rollback(&alice(), None, 78).unwrap().state.heads, state(4).heads);
    assert!(matches!(profiles.rollback(&alice(), Some(99), 79), Err(ProfileError::Missing(_))));
    assert!(matches!(profiles.rollback(&"bob".parse().unwrap(), None, 79), Err(ProfileError::Missing(_))));
}

#[test]
fn a_history_is_bounded_and_only_the_last_two_keep_labels() {
    let (_dir, profiles) = real();
    (0..20).for_each(|i| _ = profiles.save(&alice(), &state(i), None).unwrap());
    let history = profiles.history(&alice()).unwrap();
    assert_eq!(history.len(), KEPT);
    for (place, (serial, found)) in history.iter().enumerate() {
        let (found, expected) = (found.as_ref().unwrap(), state(serial - 1));
        assert_eq!(*serial, 20 - place as u64);
        assert_eq!(found.labelled.is_some(), place < 2);
        assert_eq!((&found.heads, &found.report), (&expected.heads, &expected.report));
    }
}

#[test]
fn an_export_is_imported_elsewhere() {
    let (dir, profiles) = real();
    profiles.save(&alice(), &state(1), None).unwrap();
    let path = dir.path().join("alice.profile");
    profiles.export_to(&alice(), &path).unwrap();
    let file = std::fs::read(&path).unwrap();
    let (_other, elsewhere) = real();
    assert_eq!(elsewhere.import(&alice(), &file, DIM).unwrap(), 1);
    assert_eq!(elsewhere.open(&alice()).unwrap().unwrap().state, state(1));

    assert!(matches!(
        elsewhere.import(&alice(), &file, 512),
        Err(ProfileError::Dim { found: DIM, expected: 512, .. })
    ));
    let newer = state::with_head(FORMAT + 1, &file[56..]);
    assert!(matches!(elsewhere.import(&alice(), &newer, DIM), Err(ProfileError::Newer { found: 2, .. })));
    for end in 0..file.len() {
        let cut = elsewhere.import(&alice(), &file[..end], DIM);
        assert!(matches!(cut, Err(ProfileError::Damaged { .. })), "cut at {end}");
    }
    // With a checksum that fits, what is inside is still looked at.
    for end in 56..file.len() {
        let cut = elsewhere.import(&alice(), &state::with_head(FORMAT, &file[56..end]), DIM);
        assert!(matches!(cut, Err(ProfileError::Damaged { .. })), "body cut at {end}");
    }
    assert_eq!(elsewhere.history(&alice()).unwrap().len(), 1);
}

#[test]
fn a_newer_version_is_neither_read_nor_overwritten() {
    let (_dir, profiles) = real();
    (0..2).for_each(|i| _ = profiles.save(&alice(), &state(i), None).unwrap());
    let newer = state::with_head(7, b"whatever comes");
    std::fs::write(profiles.path(&alice(), 2), &newer).unwrap();
    let error = profiles.open(&alice()).unwrap_err().to_string();
    assert!(error.contains("format 7") && error.contains("update Semblance"), "{error}");
    assert!(matches!(profiles.save(&alice(), &state(3), None), Err(ProfileError::Newer { .. })));
    assert_eq!(std::fs::read(profiles.path(&alice(), 2)).unwrap(), newer);
}

#[test]
fn another_bundle_is_named_and_the_profile_is_kept() {
    let (_dir, profiles) = real();
    profiles.save(&alice(), &state(1), None).unwrap();
    let opened = profiles.open(&alice()).unwrap().unwrap();
    assert_eq!(opened.for_bundle("b1").unwrap(), &state(1));
    let error = opened.for_bundle("b2").unwrap_err().to_string();
    assert!(error.contains("b1") && error.contains("b2"), "{error}");
    assert!(profiles.open(&alice()).unwrap().is_some());
}

#[test]
fn a_deletion_leaves_nothing() {
    let (_dir, profiles) = real();
    (0..3).for_each(|i| _ = profiles.save(&alice(), &state(i), None).unwrap());
    profiles.save(&"bob".parse().unwrap(), &state(1), None).unwrap();
    let dir = profiles.dir(&alice());
    std::fs::write(dir.join(NEXT), b"half a state").unwrap();
    assert_eq!(profiles.delete(&alice()).unwrap(), Deletion { removed: 4, left: vec![] });
    assert!(!dir.exists());
    assert_eq!(profiles.users().unwrap(), ["bob".parse().unwrap()]);
    assert!(matches!(profiles.delete(&alice()), Err(ProfileError::Missing(_))));

    let dir = profiles.dir(&"bob".parse().unwrap());
    std::fs::create_dir(dir.join("mine")).unwrap();
    let left = profiles.delete(&"bob".parse().unwrap()).unwrap().left;
    assert_eq!(left.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), [dir.join("mine"), dir]);
}

#[test]
fn two_processes_do_not_write_at_once() {
    let (_dir, profiles) = real();
    profiles.save(&alice(), &state(1), None).unwrap();
    let held = profiles.lock().unwrap();
    assert!(matches!(profiles.save(&alice(), &state(2), None), Err(ProfileError::Locked { .. })));
    assert_eq!(profiles.open(&alice()).unwrap().unwrap().serial, 1, "reading needs no lock");
    drop(held);
    assert_eq!(profiles.save(&alice(), &state(2), None).unwrap(), 2);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let (_dir, profiles) = real();
    let wrong = [
        State { correction: Some(Correction::identity(DIM + 1)), ..state(1) },
        State { labelled: Some(Dataset::new(DIM + 1)), ..state(1) },
        State { report: "x".repeat(MAX_REPORT + 1), ..state(1) },
        State { reason: "x".repeat(MAX_REASON + 1), ..state(1) },
    ];
    for wrong in wrong {
        let refused = profiles.save(&alice(), &wrong, None);
        assert!(matches!(refused, Err(ProfileError::Dim { .. } | ProfileError::TooLarge { .. })));
    }
    assert!(!profiles.root.exists());
}

#[test]
fn a_user_takes_less_than_two_megabytes() {
    let (dim, disk) = (512, MemoryDisk::default());
    let profiles = Profiles::on(disk.clone(), ROOT);
    let mut labelled = Dataset::new(dim);
    let label =
        Label { expression: Some(1), valence_arousal: Some([0.5; 2]), action_units: Some([0.5; MAX_LABELS]) };
    for i in 0..CAPACITY {
        labelled.push(Moment { t_secs: i as f64, block: 0, label }, &vec![0.5; dim]).unwrap();
    }
    let rank = 8 * dim;
    let full = State {
        heads: heads(dim, 15, 0.5),
        correction: Some(Correction::new(8, vec![0.5; dim], vec![0.5; rank], vec![0.5; rank]).unwrap()),
        labelled: Some(labelled),
        report: "x".repeat(MAX_REPORT),
        ..state(1)
    };
    (0..KEPT + 2).for_each(|_| _ = profiles.save(&alice(), &full, None).unwrap());
    println!("{} bytes", disk.bytes_used());
    assert!((1_500_000..2_000_000).contains(&disk.bytes_used()), "{}", disk.bytes_used());
    let mut over = full.labelled.clone().unwrap();
    over.push(Moment { t_secs: 0.0, block: 0, label }, &vec![0.5; dim]).unwrap();
    let refused = profiles.save(&alice(), &State { labelled: Some(over), ..full }, None);
    assert!(matches!(refused, Err(ProfileError::TooLarge { .. })));
}
