//! Which frames a step takes: as many of each predicted expression, however common it is.

use rand::Rng;

use super::projection::{NEGATIVES, Set};
use crate::heads::{LinearHead, MAX_LABELS, softmax_in_place};
use crate::temporal::{Buffers, FRAMES, TRACKS, TemporalBuffer, draw};

/// Hard negatives of an anchor at most; the rest are frames of other faces.
const HARD: usize = 8;

/// What the frames of all buffers read as, by the heads as they were shipped.
///
/// A stream that is neutral nine tenths of the time would fill every batch with neutral faces, and push them apart. So a
/// frame weighs one over the number of frames that read the same. And what reads as the anchor does is no negative of
/// it (SSLFER 3.4 cancels such false negatives by the likeness of eyes and mouths; here it is the head that tells).
#[derive(Debug)]
pub(super) struct Classes {
    of: [[u8; FRAMES]; TRACKS],
    counts: [u32; MAX_LABELS],
}

impl Classes {
    pub(super) fn new() -> Self {
        Self { of: [[0; FRAMES]; TRACKS], counts: [0; MAX_LABELS] }
    }

    /// Reads every frame anew.
    pub(super) fn read(&mut self, buffers: &Buffers, head: &LinearHead) {
        self.counts = [0; MAX_LABELS];
        for (track, buffer) in buffers.iter().enumerate() {
            for frame in buffer.frames() {
                let class = head.classify(buffer.embedding(frame)) as u8;
                self.of[track][frame] = class;
                self.counts[usize::from(class)] += 1;
            }
        }
    }

    /// Expressions that occur.
    pub(super) fn distinct(&self) -> usize {
        self.counts.iter().filter(|&&count| count > 0).count()
    }

    fn weight(&self, track: usize, frame: usize) -> f64 {
        1.0 / f64::from(self.counts[usize::from(self.of[track][frame])].max(1))
    }

    /// Draws an anchor, its positive, its hard negatives and frames of other faces into `set`; whether there were enough.
    pub(super) fn draw(&self, buffers: &Buffers, shift: &[f32], set: &mut Set, rng: &mut impl Rng) -> bool {
        set.clear();
        let everywhere = || {
            let tracks = buffers.iter().enumerate();
            tracks.flat_map(|(track, buffer)| buffer.frames().map(move |frame| (track, buffer, frame)))
        };
        let Some((track, buffer, anchor)) = draw(everywhere(), |&(t, _, f)| self.weight(t, f), rng) else {
            return false;
        };
        let Some(positive) = buffer.positive(anchor, rng) else { return false };
        set.push(buffer.embedding(anchor), shift);
        set.push(buffer.embedding(positive), shift);
        let class = self.of[track][anchor];
        let differs = |t: usize, f: usize| self.of[t][f] != class;
        let hard = |frame: usize| buffer.far(anchor, frame) && differs(track, frame);
        let mut negatives = 0;
        let mut push = |found: Option<(usize, &TemporalBuffer, usize)>| {
            if let Some((_, buffer, frame)) = found {
                set.push(buffer.embedding(frame), shift);
                negatives += 1;
            }
        };
        for i in 0..NEGATIVES {
            push(draw(
                everywhere(),
                |&(t, _, f)| {
                    let allowed = if i < HARD { t == track && hard(f) } else { t != track && differs(t, f) };
                    if allowed { self.weight(t, f) } else { 0.0 }
                },
                rng,
            ));
        }
        negatives > 0
    }
}

/// The probability of one expression, by its row.
pub(super) fn probability(head: &LinearHead, embedding: &[f32], row: usize) -> f32 {
    let mut p = [0.0; MAX_LABELS];
    let p = &mut p[..head.bias().len()];
    head.logits_into(embedding, p);
    softmax_in_place(p);
    p[row]
}
