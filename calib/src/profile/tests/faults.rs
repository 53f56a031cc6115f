//! Power cuts at every byte and every operation, and errors of the disk at every operation.

use super::memory::{Fault, MemoryDisk};
use super::*;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// A disk with so many states of a user.
fn filled(states: u64) -> MemoryDisk {
    let disk = MemoryDisk::default();
    let profiles = Profiles::on(disk.clone(), ROOT);
    for i in 0..states {
        profiles.save(&alice(), &state(i), None).unwrap();
    }
    disk.copy()
}

fn opened(disk: &MemoryDisk) -> Option<State> {
    let opened = Profiles::on(disk.clone(), ROOT).open(&alice()).unwrap();
    opened.map(|opened| {
        assert_eq!(opened.damaged, [], "nothing damaged is ever in the way");
        opened.state
    })
}

/// What was found after the faults.
#[derive(Debug, Default)]
struct Found {
    before: usize,
    after: usize,
}

/// Lets the power go at every operation of `work`, and in writes at every byte. What is found is the state of before or
/// the one that `work` makes; and once `work` has returned, the latter.
fn cut_everywhere(disk: &MemoryDisk, work: impl Fn(&Profiles<MemoryDisk>)) -> Found {
    let before = opened(disk);
    let done = disk.copy();
    work(&Profiles::on(done.clone(), ROOT));
    let after = opened(&done);
    let mut found = Found::default();
    let mut look = |disk: &MemoryDisk, finished: bool, thoroughly: bool| {
        for left in disk.after_cut() {
            let state = opened(&left);
            assert!(state == after || !finished && state == before, "{state:?}");
            if state == after {
                found.after += 1;
            } else {
                found.before += 1;
            }
            if !thoroughly {
                continue;
            }
            // The history of it is whole, and work goes on.
            let profiles = Profiles::on(left, ROOT);
            assert!(profiles.history(&alice()).unwrap().iter().all(|(_, state)| state.is_ok()));
            profiles.save(&alice(), &super::state(99), None).unwrap();
            assert_eq!(profiles.open(&alice()).unwrap().unwrap().state, super::state(99));
        }
    };
    look(&done, true, true);
    for operation in 0..done.operations() {
        let mut byte = 0;
        loop {
            let disk = disk.copy();
            disk.fail(operation, Fault::Cut(byte));
            work(&Profiles::on(disk.clone(), ROOT));
            look(&disk, false, byte % 32 == 0);
            byte += 1;
            if disk.met_bytes().is_none_or(|bytes| byte > bytes) {
                break;
            }
        }
    }
    found
}

fn errors_everywhere(disk: &MemoryDisk, work: impl Fn(&Profiles<MemoryDisk>) -> bool) -> usize {
    let before = opened(disk);
    let done = disk.copy();
    assert!(work(&Profiles::on(done.clone(), ROOT)));
    let after = opened(&done);
    let mut failures = 0;
    for (operation, code) in (0..done.operations()).flat_map(|o| [(o, ENOSPC), (o, EIO)]) {
        let disk = disk.copy();
        disk.fail(operation, Fault::Error(code));
        let succeeded = work(&Profiles::on(disk.clone(), ROOT));
        let state = opened(&disk);
        assert!(state == after || !succeeded && state == before, "operation {operation}: {state:?}");
        failures += usize::from(!succeeded);
        // What was said to be saved is durable, even if old states could not be thinned out.
        assert!(
            !succeeded || disk.after_cut().iter().all(|left| opened(left) == after),
            "operation {operation}"
        );
        // Once the disk is well again, so is the profile.
        let profiles = Profiles::on(disk.clone(), ROOT);
        profiles.save(&alice(), &super::state(99), None).unwrap();
        assert_eq!(opened(&disk), Some(super::state(99)));
        assert!(disk.paths().iter().all(|path| path.extension().is_some_and(|e| e == "profile")));
    }
    failures
}

#[test]
fn a_power_cut_at_any_byte_of_a_save_leaves_the_state_before_or_the_new_one() {
    // The first state; one with a state before it; one that makes another give up its labels; one that drops a state.
    for states in [0, 1, 2, KEPT as u64 + 1] {
        let found = cut_everywhere(&filled(states), |profiles| {
            let _ = profiles.save(&alice(), &state(50), None);
        });
        assert!(found.before > 500 && found.after > 5, "{states}: {found:?}");
    }
}

#[test]
fn a_power_cut_at_any_byte_of_a_rollback_or_an_import_does_no_harm() {
    let disk = filled(4);
    cut_everywhere(&disk, |profiles| _ = profiles.rollback(&alice(), Some(2), 7));
    let file = Profiles::on(filled(2), ROOT).export(&alice()).unwrap();
    cut_everywhere(&disk, |profiles| _ = profiles.import(&alice(), &file, DIM));
}

#[test]
fn a_power_cut_while_deleting_leaves_the_newest_state_or_nothing() {
    let disk = filled(4);
    let newest = opened(&disk);
    let work = |disk: &MemoryDisk| Profiles::on(disk.clone(), ROOT).delete(&alice());
    let done = disk.copy();
    assert_eq!(work(&done).unwrap(), Deletion { removed: 4, left: vec![] });
    for operation in 0..done.operations() {
        let disk = disk.copy();
        disk.fail(operation, Fault::Cut(0));
        let _ = work(&disk);
        // What a file system does in order it keeps in order here: names that go are not synced one by one.
        assert!([&newest, &None].contains(&&opened(&disk.copy())), "{operation}");
    }
    assert!(done.after_cut().iter().all(|left| left.paths().is_empty()), "it is durable");
}

#[test]
fn an_error_of_the_disk_at_any_operation_leaves_the_state_before_or_the_new_one() {
    for states in [0, 1, 2, KEPT as u64 + 1] {
        let save = |profiles: &Profiles<MemoryDisk>| profiles.save(&alice(), &state(50), None).is_ok();
        let failures = errors_everywhere(&filled(states), save);
        assert!(failures >= 8, "{states}: {failures}");
    }
    errors_everywhere(&filled(4), |profiles| profiles.rollback(&alice(), None, 7).is_ok());
}

#[test]
fn a_deletion_tells_what_it_could_not_delete() {
    let disk = filled(3);
    // The operations before are those that make the folder and take the lock.
    disk.fail(3, Fault::Error(EIO));
    let deletion = Profiles::on(disk.clone(), ROOT).delete(&alice()).unwrap();
    assert_eq!((deletion.removed, deletion.left.len()), (2, 2), "{deletion:?}");
    assert!(deletion.left[0].0.ends_with(format!("state-{:020}.profile", 2)));
    assert_eq!(Profiles::on(disk.clone(), ROOT).delete(&alice()).unwrap().left, []);
    assert!(disk.paths().is_empty());
}

#[test]
fn a_change_of_any_byte_is_noticed_and_the_state_before_is_taken() {
    let disk = filled(2);
    let newest = disk.paths().pop().unwrap();
    let len = {
        let mut len = 0;
        disk.tamper(&newest, |bytes| len = bytes.len());
        len
    };
    for byte in 0..len {
        disk.tamper(&newest, |bytes| bytes[byte] ^= 0x10);
        let opened = Profiles::on(disk.clone(), ROOT).open(&alice()).unwrap().unwrap();
        assert_eq!((opened.serial, &opened.state), (1, &state(0)), "byte {byte}");
        assert_eq!(opened.damaged[0].path, newest);
        disk.tamper(&newest, |bytes| bytes[byte] ^= 0x10);
    }
    for end in 0..len {
        let cut = disk.copy();
        cut.tamper(&newest, |bytes| bytes.truncate(end));
        assert_eq!(Profiles::on(cut, ROOT).open(&alice()).unwrap().unwrap().serial, 1, "cut at {end}");
    }
    assert_eq!(Profiles::on(disk, ROOT).open(&alice()).unwrap().unwrap().serial, 2);
}
