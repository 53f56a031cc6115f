//! What the frame path asks of adaptation allocates nothing.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use semblance_calib::adapt::{AdaptConfig, Adapter, Budget, ProjectionConfig};
use semblance_calib::temporal::{Buffers, TemporalBuffer};
use semblance_calib::{HeadKind, Heads, LinearHead};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `at` came from `alloc` above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIM: usize = 512;

/// A frame that differs from the one before, in place.
fn next(frame: &mut [f32], i: usize) {
    frame[i % DIM] += ((i * 7919) % 13) as f32 / 13.0 - 0.5;
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_million_frames_allocate_nothing() {
    assert!(allocations(|| drop(vec![0_u8; 9])) > 0, "the count counts");
    let (mut buffer, mut frame) = (TemporalBuffer::new(8), [0.0; 8]);
    let count = allocations(|| {
        for i in 0..1_000_000 {
            frame[i % 8] = i as f32;
            buffer.push(i as f64 / 30.0, &frame).unwrap();
        }
    });
    assert_eq!(count, 0);

    let mut buffers = Buffers::new(DIM);
    let mut frame = vec![0.0; DIM];
    let count = allocations(|| {
        for i in 0..20_000 {
            next(&mut frame, i);
            buffers.push(i as u64 / 1000, i as f64 / 30.0, &frame).unwrap();
        }
    });
    assert_eq!(count, 0, "faces come and go");
}

#[test]
fn an_adapter_observes_without_allocating() {
    let labels: Vec<String> = ["neutral", "a", "b", "c"].map(str::to_owned).into();
    let weight = (0..labels.len() * DIM).map(|i| ((i * 31) % 17) as f32 / 50.0 - 0.16).collect();
    let head = LinearHead::new("expression", labels, DIM, weight, vec![0.0; 4]).unwrap();
    let heads = Heads::new(DIM, [(HeadKind::Expression, head)]).unwrap();
    let config = AdaptConfig { projection: Some(ProjectionConfig::default()), ..AdaptConfig::default() };
    let mut adapter = Adapter::new(heads, config).unwrap();
    let mut frame = vec![0.0; DIM];
    let begin = Instant::now();
    let count = allocations(|| {
        for i in 0..20_000 {
            next(&mut frame, i);
            adapter.observe(i as u64 % 2, (i / 2) as f64 / 15.0, &frame).unwrap();
        }
    });
    println!("a frame: {:.1} us", begin.elapsed().as_secs_f64() * 1e6 / 20_000.0);
    assert_eq!(count, 0);

    let mut budget = Budget::new("100%".parse().unwrap());
    let begin = Instant::now();
    let mut steps = 0;
    for i in 20_000..20_020 {
        next(&mut frame, i);
        adapter.observe(0, i as f64 / 15.0, &frame).unwrap();
        steps += adapter.slice(&mut budget, || Duration::ZERO).steps;
    }
    println!("a slice: {:.2} ms, {steps} steps in 20", begin.elapsed().as_secs_f64() * 1e3 / 20.0);
    assert!(steps > 0, "it has something to learn from");
}
