//! Adaptation as a whole, on made-up people: an embedding is a place that all share, plus what the expression, the
//! person, the moment (light, pose) and chance add.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::heads::{HeadKind, argmax, softmax_in_place};
use rand::RngExt;

const DIM: usize = 48;
const CLASSES: usize = 8;
const FPS: f64 = 10.0;

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // Irwin and Hall: the sum of twelve uniform numbers has variance 1.
    (0..12).map(|_| rng.random_range(-0.5..0.5)).sum()
}

fn normals(rng: &mut ChaCha8Rng, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|_| scale * normal(rng)).collect()
}

fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

struct World {
    common: Vec<f32>,
    classes: Vec<Vec<f32>>,
    nuisance: Vec<Vec<f32>>,
    heads: Heads,
}

impl World {
    /// Its heads tell the nearest class, as fitted over many people.
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let common = normals(&mut rng, DIM, 0.4);
        let classes: Vec<_> = (0..CLASSES).map(|_| normals(&mut rng, DIM, 0.2)).collect();
        let nuisance = (0..4).map(|_| normals(&mut rng, DIM, 0.12)).collect();
        let labels = (0..CLASSES).map(|i| if i == 0 { NEUTRAL.into() } else { format!("e{i}") }).collect();
        let variance = 0.15;
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for class in &classes {
            let row: Vec<f32> = class.iter().map(|v| v / variance).collect();
            let from = |x: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
            bias.push(-from(class) / 2.0 - from(&common));
            weight.extend(row);
        }
        let head = LinearHead::new("expression", labels, DIM, weight, bias).unwrap();
        Self { common, classes, nuisance, heads: Heads::new(DIM, [(HeadKind::Expression, head)]).unwrap() }
    }

    fn neutral(&self) -> Vec<f32> {
        add(&self.common, &self.classes[0])
    }
}

/// A person's way to look, and the moment.
struct Person<'a> {
    world: &'a World,
    rng: ChaCha8Rng,
    own: Vec<f32>,
    strength: [f32; CLASSES],
    slow: [f32; 4],
}

impl<'a> Person<'a> {
    fn new(world: &'a World, seed: u64, shift: f32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let own = normals(&mut rng, DIM, shift);
        let strength = std::array::from_fn(|i| if i == 0 { 1.0 } else { rng.random_range(0.6..1.2) });
        Self { world, rng, own, strength, slow: [0.0; 4] }
    }

    fn frame(&mut self, class: usize) -> Vec<f32> {
        let keep: f32 = 1.0 - 1.0 / (10.0 * FPS as f32);
        let (rng, world) = (&mut self.rng, self.world);
        self.slow.iter_mut().for_each(|v| *v = keep * *v + (1.0 - keep * keep).sqrt() * normal(rng));
        let mut x = add(&add(&world.common, &self.own), &normals(rng, DIM, 0.12));
        let neutral = world.classes[0].iter().zip(&world.classes[class]);
        let strength = self.strength[class];
        x.iter_mut().zip(neutral).for_each(|(x, (n, c))| *x += n + strength * (c - n));
        for (slow, direction) in self.slow.iter().zip(&world.nuisance) {
            vector::add_scaled(&mut x, *slow, direction);
        }
        x
    }

    /// Accuracy of heads on frames of all expressions alike, and the entropy of their mean prediction.
    fn judge(&mut self, heads: &Heads) -> (f64, f32) {
        let (mut right, mut mean) = (0, [0.0; CLASSES]);
        let frames = 60 * CLASSES;
        for i in 0..frames {
            // Each frame at a moment of its own.
            self.slow = std::array::from_fn(|_| normal(&mut self.rng));
            let p = predict(heads, &self.frame(i % CLASSES));
            right += usize::from(argmax(&p) == i % CLASSES);
            mean.iter_mut().zip(&p).for_each(|(mean, p)| *mean += p / frames as f32);
        }
        (right as f64 / frames as f64, -mean.iter().map(|p| p * p.max(1e-30).ln()).sum::<f32>())
    }
}

fn predict(heads: &Heads, x: &[f32]) -> [f32; CLASSES] {
    let mut p = [0.0; CLASSES];
    heads.expression().unwrap().logits_into(x, &mut p);
    softmax_in_place(&mut p);
    p
}

/// What a run told.
#[derive(Default)]
struct Run {
    steps: usize,
    returns: Vec<(Alarm, Return)>,
}

/// Shows so many seconds of `next` (the expression's number is up to it), with a slice every second. Whatever is in force
/// keeps the bounds on held-out frames.
fn watch(adapter: &mut Adapter, seconds: f64, mut next: impl FnMut(f64) -> Vec<f32>) -> Run {
    let mut run = Run::default();
    let mut budget = Budget::new("100%".parse().unwrap());
    for i in 0..(seconds * FPS) as usize {
        let t_secs = i as f64 / FPS;
        let x = next(t_secs);
        adapter.observe(1, t_secs, &x).unwrap();
        if i % FPS as usize == 0 {
            let report = adapter.slice(&mut budget, || Duration::from_secs_f64(t_secs));
            assert_eq!(report.check.alarm(&adapter.config.bounds), None, "what is in force keeps the bounds");
            run.steps += report.steps;
            run.returns.extend(report.returned);
        }
    }
    run
}

/// Expressions that last two to five seconds each, this share of them neutral.
fn moods(seed: u64, neutral_share: f64) -> impl FnMut(f64) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut until, mut class) = (0.0, 0);
    move |t_secs| {
        if t_secs >= until {
            until = t_secs + rng.random_range(2.0..5.0);
            class = if rng.random_bool(neutral_share) { 0 } else { rng.random_range(1..CLASSES) };
        }
        class
    }
}

fn config(neutral: bool, projection: bool) -> AdaptConfig {
    let projection = projection.then(ProjectionConfig::default);
    AdaptConfig { neutral, projection, ..AdaptConfig::default() }
}

fn adapter(world: &World, config: AdaptConfig) -> Adapter {
    Adapter::new(world.heads.clone().with_neutral(Some(world.neutral().into())).unwrap(), config).unwrap()
}

#[test]
fn people_who_look_unlike_others_are_read_better() {
    let people: u64 = 16;
    let world = World::new(1);
    let mut rows = Vec::new();
    for (name, config) in
        [("neutral", config(true, false)), ("projection", config(false, true)), ("both", config(true, true))]
    {
        let (mut before, mut after, mut worst, mut alarms) = (0.0, 0.0, f64::INFINITY, 0);
        for seed in 0..people {
            let mut adapter = adapter(&world, config);
            let (mut person, mut mood) = (Person::new(&world, 100 + seed, 0.25), moods(seed, 0.6));
            alarms += watch(&mut adapter, 300.0, |t| person.frame(mood(t))).returns.len();
            let judge = |heads: &Heads| Person::new(&world, 100 + seed, 0.25).judge(heads).0;
            let (was, is) = (judge(&world.heads), judge(&adapter.folded().unwrap()));
            before += was / people as f64;
            after += is / people as f64;
            worst = f64::min(worst, is - was);
        }
        println!("{name:>10}: accuracy {before:.3} -> {after:.3}, worst {worst:+.3}, {alarms} alarms");
        rows.push((before, after));
    }
    let gain = |(before, after): (f64, f64)| after - before;
    assert!(gain(rows[0]) > 0.03 && gain(rows[2]) > 0.03, "{rows:?}");
    assert!(gain(rows[1]) > 0.0, "{rows:?}");
}

#[test]
fn a_stream_that_is_neutral_nine_tenths_of_the_time_does_not_collapse() {
    let world = World::new(2);
    for seed in 0..6 {
        let mut adapter = adapter(&world, config(true, true));
        let (mut person, mut mood) = (Person::new(&world, seed, 0.16), moods(seed, 0.9));
        let run = watch(&mut adapter, 600.0, |t| person.frame(mood(t)));
        assert!(run.steps > 500, "it did learn: {}", run.steps);
        let judge = |heads: &Heads| Person::new(&world, seed, 0.16).judge(heads);
        let (before, after) = (judge(&world.heads), judge(&adapter.folded().unwrap()));
        println!(
            "person {seed}: entropy {:.3} -> {:.3}, accuracy {:.3} -> {:.3}",
            before.1, after.1, before.0, after.0
        );
        assert!(after.1 > 0.9 * before.1, "{before:?} {after:?}");
    }
}

#[test]
fn a_projection_that_runs_wild_is_caught_by_the_guard() {
    let world = World::new(2);
    let wild = ProjectionConfig { anchor: 0.0, rate: 0.1, ..ProjectionConfig::default() };
    let mut adapter = adapter(&world, AdaptConfig { projection: Some(wild), ..AdaptConfig::default() });
    let (mut person, mut mood) = (Person::new(&world, 1, 0.16), moods(1, 0.9));
    let run = watch(&mut adapter, 600.0, |t| person.frame(mood(t)));
    assert!(run.returns.iter().any(|(_, how)| matches!(how, Return::Decayed { .. })), "{:?}", run.returns);
    assert!(run.returns.iter().any(|(_, how)| *how == Return::Reset), "{:?}", run.returns);
    let entropy = |heads: &Heads| Person::new(&world, 1, 0.16).judge(heads).1;
    assert!(entropy(&adapter.folded().unwrap()) > 0.7 * entropy(&world.heads));
}

#[test]
fn a_picture_that_stands_still_teaches_nothing() {
    let world = World::new(3);
    let mut adapter = adapter(&world, config(true, true));
    let frame = Person::new(&world, 1, 0.0).frame(3);
    let run = watch(&mut adapter, 120.0, |_| frame.clone());
    assert_eq!((run.steps, run.returns.len()), (0, 0));
    assert_eq!(adapter.correction().norm(), 0.0);
    assert!(adapter.correction().shift().iter().all(|v| *v == 0.0), "a smile is not rest");
}

#[test]
fn what_noise_has_taught_is_unlearned() {
    let world = World::new(4);
    let mut adapter = adapter(&world, config(true, true));
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let judge = |heads: &Heads| Person::new(&world, 1, 0.16).judge(heads);
    let shipped = judge(&world.heads);
    // Values far beyond those of faces, whatever they read as.
    watch(&mut adapter, 300.0, |_| normals(&mut rng, DIM, 3.0));
    let noisy = judge(&adapter.folded().unwrap());
    assert!(noisy.1 > 0.7 * shipped.1 && adapter.correction().norm() < 0.5, "{noisy:?}");
    adapter.restart();
    let (mut person, mut mood) = (Person::new(&world, 1, 0.16), moods(1, 0.6));
    watch(&mut adapter, 600.0, |t| person.frame(mood(t)));
    let healed = judge(&adapter.folded().unwrap());
    println!("accuracy {:.3}, after noise {:.3}, after faces again {:.3}", shipped.0, noisy.0, healed.0);
    assert!(healed.0 > shipped.0 - 0.02, "{shipped:?} {noisy:?} {healed:?}");
}

#[test]
fn what_was_learned_can_be_resumed_and_other_heads_start_anew() {
    let world = World::new(5);
    let mut first = adapter(&world, config(true, true));
    let (mut person, mut mood) = (Person::new(&world, 1, 0.25), moods(1, 0.6));
    watch(&mut first, 120.0, |t| person.frame(mood(t)));
    let learned = first.correction().clone();
    assert!(learned.norm() > 0.0 && learned.shift().iter().any(|v| *v != 0.0));
    let mut second = adapter(&world, config(true, true));
    second.resume(learned.clone()).unwrap();
    assert_eq!(second.folded().unwrap(), first.folded().unwrap());
    first.rebase(learned.fold(&world.heads).unwrap(), None).unwrap();
    assert_eq!(first.correction(), &Correction::new(0, vec![0.0; DIM], vec![], vec![]).unwrap());
    let mut budget = Budget::new(Share::DEFAULT);
    first.slice(&mut budget, || Duration::ZERO);
    let moved = vector::dot(first.correction().shift(), first.correction().shift()).sqrt();
    assert!(moved < 0.05, "the neutral place of now is the new heads' own: {moved}");
    // Heads that know where the population rests read relative to the user's face, as the ones before.
    let own = second.heads.clone();
    second.rest(std::iter::repeat_n(person.frame(0).as_slice(), 8));
    second.rebase(own, None).unwrap();
    second.held_out = first.held_out;
    second.slice(&mut Budget::new(Share::DEFAULT), || Duration::ZERO);
    let shift = second.correction().shift();
    assert!(vector::dot(shift, shift).sqrt() > 0.2, "{shift:?}");
}

#[test]
fn a_place_that_is_known_is_kept_and_returned_to() {
    let world = World::new(8);
    let mut adapter = adapter(&world, config(true, false));
    // So far away that the heads read nothing rightly without it.
    let place: Vec<f32> = (0..DIM).map(|i| if i % 2 == 0 { 1.5 } else { -1.5 }).collect();
    let known = Correction::shift_by(place.clone()).unwrap();
    adapter.resume(known.clone()).unwrap();
    let (mut person, mut mood) = (Person::new(&world, 1, 0.16), moods(1, 0.8));
    let run = watch(&mut adapter, 200.0, |t| {
        person.frame(mood(t)).iter().zip(&place).map(|(v, place)| v + place).collect()
    });
    // Before anything but rest was seen, a guard may be too careful; nothing is given up.
    assert!(run.returns.iter().all(|(_, how)| *how != Return::Reset), "{:?}", run.returns);
    let away: f32 = adapter.correction().shift().iter().zip(&place).map(|(a, b)| (a - b) * (a - b)).sum();
    let far: f32 = place.iter().map(|v| v * v).sum();
    assert!(away > 0.0 && away < 0.1 * far, "it learned {away} beside {far}");
    adapter.reset();
    assert_eq!(adapter.correction(), &known);
    // Heads that are fitted relative to it are read relative to it.
    adapter.rebase(adapter.heads.clone(), Some(&known)).unwrap();
    assert_eq!(adapter.correction(), &known);
}

#[test]
fn another_person_is_not_read_relative_to_the_one_before() {
    let world = World::new(9);
    let anybody = AdaptConfig { one_person: false, ..config(true, false) };
    for (config, forgotten) in [(anybody, true), (config(true, false), false)] {
        let mut adapter = adapter(&world, config);
        let (mut person, mut mood) = (Person::new(&world, 1, 0.25), moods(1, 0.8));
        watch(&mut adapter, 120.0, |t| person.frame(mood(t)));
        assert!(adapter.correction().shift().iter().any(|v| *v != 0.0));
        adapter.observe(2, 120.0 + SILENT_SECS + 1.0, &person.frame(0)).unwrap();
        assert_eq!(adapter.correction().shift().iter().all(|v| *v == 0.0), forgotten);
    }
}

#[test]
fn a_slice_waits_for_its_budget() {
    let world = World::new(6);
    let mut adapter = adapter(&world, config(true, true));
    let mut budget = Budget::new(Share::DEFAULT);
    adapter.observe(1, 0.0, &Person::new(&world, 1, 0.0).frame(0)).unwrap();
    let mut clock = 0;
    let mut tick = || {
        clock += 10;
        Duration::from_millis(clock)
    };
    assert_eq!(adapter.slice(&mut budget, &mut tick).wait, Duration::from_millis(190));
    let report = adapter.slice(&mut budget, &mut tick);
    assert_eq!(report, SliceReport { wait: Duration::from_millis(180), ..SliceReport::default() });
    let idle = adapter.slice(&mut budget, || Duration::from_secs(9));
    assert_eq!(idle, SliceReport { wait: IDLE, ..SliceReport::default() }, "no frame has come");
}

#[test]
fn what_is_not_sound_is_refused() {
    let world = World::new(7);
    let mut adapter = adapter(&world, config(true, true));
    let frame = Person::new(&world, 1, 0.0).frame(0);
    adapter.observe(1, 5.0, &frame).unwrap();
    adapter.observe(1, 5.2, &frame).unwrap();
    assert!(matches!(adapter.observe(1, 6.0, &frame[1..]), Err(AdaptError::Size { .. })));
    assert!(matches!(adapter.observe(1, 9.0, &[f32::NAN; DIM]), Err(AdaptError::Frame(_))));
    for t_secs in [5.1, 1.0] {
        assert!(matches!(adapter.observe(1, t_secs, &frame), Err(AdaptError::Frame(_))));
    }
    adapter.restart();
    assert!(adapter.observe(1, 0.0, &frame).is_ok());
}

#[test]
fn an_adapter_takes_less_than_its_share_of_two_megabytes() {
    // Beside it a user has the labelled moments and the heads.
    let labelled = crate::labelled::Labelled::bytes(512, crate::labelled::CAPACITY);
    let heads = 2 * 66 * 512 * 4;
    assert!(Adapter::bytes(512, 8) + labelled + heads < 2_000_000, "{}", Adapter::bytes(512, 8));
}
