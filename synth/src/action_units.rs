//! Action units: what each moves, which of them make an expression, and how pleasant and aroused they look.
//!
//! The units are those of the Facial Action Coding System (Ekman & Friesen 1978; Ekman, Friesen & Hager 2002), in the
//! order of [`ACTION_UNITS`]; 1.0 is the strongest movement of the average adult (FACS intensity E).

use crate::head::{MOUTH_CORNER_X, SEAM, brow_line, lower_lip_border, upper_lip_border};
use crate::math::{Vec3, bump, bump2, pow, smoothstep, v3};
use semblance_face::labels::{ACTION_UNITS, Expression};

/// How many action units there are.
pub const N: usize = ACTION_UNITS.len();

/// One intensity in `[0, 1]` for each of [`ACTION_UNITS`].
pub type Intensities = [f32; N];

/// The place of a FACS number in [`ACTION_UNITS`].
///
/// # Panics
/// At compile time, where it is used in constants, for a number that is not in the list.
pub(crate) const fn index(number: u8) -> usize {
    let mut i = 0;
    while ACTION_UNITS[i] != number {
        i += 1;
    }
    i
}

pub(crate) const AU1: usize = index(1);
pub(crate) const AU2: usize = index(2);
pub(crate) const AU4: usize = index(4);
pub(crate) const AU5: usize = index(5);
pub(crate) const AU6: usize = index(6);
pub(crate) const AU7: usize = index(7);
pub(crate) const AU9: usize = index(9);
pub(crate) const AU10: usize = index(10);
pub(crate) const AU12: usize = index(12);
pub(crate) const AU14: usize = index(14);
pub(crate) const AU15: usize = index(15);
pub(crate) const AU17: usize = index(17);
pub(crate) const AU20: usize = index(20);
pub(crate) const AU23: usize = index(23);
pub(crate) const AU24: usize = index(24);
pub(crate) const AU25: usize = index(25);
pub(crate) const AU26: usize = index(26);
pub(crate) const AU43: usize = index(43);

/// Rotation of the lower jaw at AU26 = 1, in degrees.
pub(crate) const JAW_DROP_DEG: f32 = 11.5;

/// A prototype of an expression: the action units that EMFACS and the FACS Investigator's Guide (Ekman, Friesen &
/// Hager 2002, table 10-1) give for it, at the strength seen when it is shown fully. Contempt is shown on one side.
///
/// | expression | action units |
/// |---|---|
/// | happy | 6 + 12 (25) |
/// | sad | 1 + 4 + 15 (17) |
/// | surprise | 1 + 2 + 5 + 25 + 26 |
/// | fear | 1 + 2 + 4 + 5 + 7 + 20 + 25 (26) |
/// | disgust | 9 + 10 + 17 (4, 7, 25) |
/// | angry | 4 + 5 + 7 + 23 or 24 (10, 17) |
/// | contempt | 14 (12, 10), unilateral |
pub fn prototype(expression: Expression) -> Intensities {
    let parts: &[(usize, f32)] = match expression {
        Expression::Neutral => &[],
        Expression::Happy => &[(AU6, 0.8), (AU12, 0.9), (AU25, 0.6), (AU7, 0.15)],
        Expression::Sad => &[(AU1, 0.9), (AU4, 0.6), (AU15, 0.8), (AU17, 0.45), (AU7, 0.1), (AU43, 0.12)],
        Expression::Surprise => &[(AU1, 0.9), (AU2, 0.9), (AU5, 0.8), (AU25, 0.7), (AU26, 0.85)],
        Expression::Fear => &[
            (AU1, 0.8),
            (AU2, 0.55),
            (AU4, 0.6),
            (AU5, 0.9),
            (AU7, 0.4),
            (AU20, 0.85),
            (AU25, 0.7),
            (AU26, 0.3),
        ],
        Expression::Disgust => {
            &[(AU9, 0.9), (AU10, 0.7), (AU17, 0.4), (AU4, 0.4), (AU7, 0.45), (AU25, 0.25), (AU6, 0.2)]
        }
        Expression::Angry => {
            &[(AU4, 0.95), (AU5, 0.45), (AU7, 0.65), (AU23, 0.75), (AU24, 0.45), (AU17, 0.35)]
        }
        Expression::Contempt => &[(AU14, 0.9), (AU12, 0.35), (AU10, 0.1)],
    };
    let mut au = [0.0; N];
    for &(i, strength) in parts {
        au[i] = strength;
    }
    au
}

/// Action units that some showings of an expression have and others lack: unit, probability, strength up to.
pub(crate) fn optional_units(expression: Expression) -> &'static [(usize, f32, f32)] {
    match expression {
        Expression::Neutral => &[(AU25, 0.25, 0.35)],
        Expression::Happy => &[(AU26, 0.35, 0.55), (AU5, 0.05, 0.2), (AU2, 0.1, 0.4), (AU14, 0.1, 0.5)],
        Expression::Sad => &[(AU43, 0.25, 0.3), (AU24, 0.2, 0.4), (AU6, 0.2, 0.4), (AU25, 0.1, 0.3)],
        Expression::Surprise => &[(AU12, 0.1, 0.3)],
        Expression::Fear => &[(AU15, 0.1, 0.3), (AU26, 0.4, 0.6)],
        Expression::Disgust => &[(AU15, 0.4, 0.6), (AU43, 0.1, 0.3), (AU26, 0.15, 0.4)],
        Expression::Angry => &[(AU10, 0.25, 0.6), (AU25, 0.25, 0.6), (AU9, 0.15, 0.4), (AU15, 0.1, 0.3)],
        Expression::Contempt => &[(AU24, 0.2, 0.5), (AU4, 0.1, 0.3), (AU43, 0.1, 0.25), (AU2, 0.15, 0.4)],
    }
}

/// Valence and arousal that a combination of action units looks like, each in `[-1, 1]`.
///
/// Both are a weighted sum of intensities, squashed by `s / (1 + |s|^3)^(1/3)`, which keeps small sums as they are.
/// Smiling (12, more so with 6) is pleasant; frowning, nose wrinkling, raised upper lip, lowered corners, stretched or
/// tight lips and the oblique brow (1 with 4) are unpleasant; wide eyes, raised brows, open jaw and tension arouse, and
/// drooping lids, corners and brows calm. The weights put the prototypes where Russell's circumplex (1980) has the
/// words: happy at about (0.8, 0.4), surprise (0.1, 0.8), fear (-0.6, 0.8), angry (-0.6, 0.6), disgust (-0.7, 0.3), sad
/// (-0.7, -0.3), contempt (-0.4, 0.1), neutral (0, 0).
pub fn valence_arousal(au: &Intensities) -> (f32, f32) {
    let raw_valence = 0.75 * au[AU12] + 0.35 * au[AU12] * au[AU6] + 0.10 * (au[AU2] * (1.0 - au[AU4]))
        - 0.42 * au[AU4]
        - 0.42 * au[AU9]
        - 0.28 * au[AU10]
        - 0.60 * au[AU14]
        - 0.55 * au[AU15]
        - 0.10 * au[AU17]
        - 0.40 * au[AU20]
        - 0.15 * au[AU23]
        - 0.10 * au[AU24]
        - 0.30 * au[AU1] * au[AU4];
    let raw_arousal = 0.18 * au[AU1] * (1.0 - au[AU15])
        + 0.26 * au[AU2]
        + 0.42 * au[AU5]
        + 0.20 * au[AU4]
        + 0.12 * au[AU6]
        + 0.12 * au[AU7]
        + 0.16 * au[AU9]
        + 0.10 * au[AU10]
        + 0.22 * au[AU12]
        + 0.10 * au[AU14]
        - 0.45 * au[AU15]
        - 0.05 * au[AU17]
        + 0.30 * au[AU20]
        + 0.22 * au[AU23]
        + 0.05 * au[AU24]
        + 0.14 * au[AU25]
        + 0.26 * au[AU26]
        - 0.60 * au[AU43];
    (squash(raw_valence), squash(raw_arousal))
}

fn squash(s: f32) -> f32 {
    let a = s.abs();
    s / pow(1.0 + a * a * a, 1.0 / 3.0)
}

/// Where a vertex of the face lies, in the template, for [`displacement`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// Distance from the median plane, cm.
    pub(crate) ax: f32,
    /// Height, cm.
    pub(crate) y: f32,
    /// Above (+1) or below (-1) the mouth.
    pub(crate) side: f32,
    /// 1 on the front of the face, 0 on the sides and back.
    pub(crate) front: f32,
}

/// How far a site moves with one action unit at intensity 1, cm; `x` outwards from the median plane.
///
/// Lids (5, 7, 43 and the lower lid of 6) and the jaw (26) are not displacements: `rig` turns them.
pub(crate) fn displacement(unit: usize, site: Site) -> Vec3 {
    let Site { ax, y, side, front } = site;
    let (upper, lower) = ((0.5 + 0.5 * side).clamp(0.0, 1.0), (0.5 - 0.5 * side).clamp(0.0, 1.0));
    let q = (ax / MOUTH_CORNER_X).min(1.3);
    let corner = bump2(ax - 2.6, 1.0, y - SEAM, 1.0);
    // Along the lips, rising from 0 at the middle to 1 at the corner, then down the cheek.
    let along = smoothstep(0.0, 1.0, q) * bump2((ax - 2.6).max(0.0), 1.15, y - SEAM, 1.15);
    let upper_lip = upper * bump((y - SEAM - 0.5).max(0.0), 0.85) * bump((ax - 1.3).max(0.0), 1.0);
    let lower_lip = lower * bump((SEAM - y - 0.7).max(0.0), 0.9) * bump((ax - 1.2).max(0.0), 1.1);
    // The red of the lips alone, and how far into it the site lies (0 at the seam, 1 at the border).
    let (red_upper, into_upper) = {
        let h = (y - SEAM) / upper_lip_border(ax).max(0.12);
        (upper * smoothstep(1.7, 0.9, h) * smoothstep(1.05, 0.75, q), h.clamp(0.0, 1.4))
    };
    let (red_lower, into_lower) = {
        let h = (SEAM - y) / lower_lip_border(ax).max(0.12);
        (lower * smoothstep(1.7, 0.9, h) * smoothstep(1.05, 0.75, q), h.clamp(0.0, 1.4))
    };
    let brow = y - brow_line(ax);
    let above_brow = |x: f32, s: f32, rise: f32| {
        bump(ax - x, s) * if brow > 0.0 { bump(brow, 2.3) } else { bump(brow, 0.85) } * rise
    };
    let d = match unit {
        AU1 => v3(-0.05, 1.0, 0.02) * above_brow(1.2, 1.75, 0.80),
        AU2 => v3(0.02, 1.0, 0.02) * above_brow(4.3, 1.6, 0.72),
        AU4 => {
            let down = above_brow(1.4, 2.5, 0.62) * if brow > 0.0 { 0.9 } else { 1.0 };
            let knit = bump2(ax - 1.7, 1.1, brow, 0.9);
            v3(-0.36 * knit, -down, 0.14 * bump2(ax - 1.0, 0.8, brow + 0.1, 0.7) + 0.10 * down)
        }
        AU6 => {
            let pad = bump2(ax - 3.5, 1.7, y + 2.6, 1.4);
            let outer = bump2(ax - 4.9, 0.9, y + 0.4, 1.2);
            v3(-0.12 * outer, 0.50 * pad + 0.10 * outer, 0.30 * pad)
        }
        AU7 => v3(0.0, 0.10 * bump2(ax - 3.1, 1.5, y + 1.0, 0.5), 0.05 * bump2(ax - 3.1, 1.3, y + 0.8, 0.4)),
        AU9 => {
            let wing = bump2(ax - 1.3, 0.9, y + 4.2, 1.1);
            let cheek = bump2(ax - 2.1, 1.1, y + 2.6, 1.5);
            let root = bump2(ax, 1.2, y - 1.1, 1.0);
            let lip = upper_lip * bump(ax - 1.2, 1.3);
            v3(
                0.12 * wing - 0.10 * root,
                0.42 * wing + 0.26 * cheek + 0.34 * lip
                    - 0.32 * bump2(ax - 0.9, 1.4, brow, 0.9)
                    - 0.12 * root,
                0.22 * cheek + 0.06 * wing + 0.10 * root,
            )
        }
        AU10 => {
            let lip = upper_lip * (0.55 + 0.45 * bump(ax - 1.3, 0.9));
            let fold = bump2(ax - 2.2, 1.0, y + 4.6, 1.2);
            v3(
                0.08 * fold,
                0.62 * lip + 0.26 * fold + 0.14 * bump2(ax - 1.4, 0.8, y + 4.1, 0.9),
                0.10 * lip + 0.22 * bump2(ax - 2.7, 1.0, y + 4.4, 1.1),
            )
        }
        AU12 => {
            let cheek = bump2(ax - 3.5, 1.4, y + 4.2, 1.6);
            let thin = 0.14 * (red_upper * into_upper - red_lower * -into_lower);
            let mid_lift = 0.10 * lower_lip + 0.14 * upper_lip;
            v3(
                0.78 * along,
                0.80 * along * (0.55 + 0.45 * q.min(1.0)) + 0.40 * cheek + mid_lift
                    - 0.6 * thin.min(0.2) * upper,
                -0.62 * along + 0.46 * cheek - 0.14 * (upper_lip + lower_lip) * (1.0 - along),
            )
        }
        AU14 => {
            let pinch = bump2(ax - 2.85, 0.55, y - SEAM, 0.75);
            v3(
                0.34 * along - 0.10 * bump2(ax - 3.4, 0.5, y - SEAM, 0.8),
                0.12 * along,
                -0.30 * along - 0.26 * pinch + 0.16 * bump2(ax - 3.5, 0.5, y - SEAM, 1.0),
            )
        }
        AU15 => {
            let below = bump2(ax - 2.7, 1.0, y + 8.2, 1.2);
            v3(0.08 * corner, -0.66 * along - 0.22 * below, -0.06 * along - 0.10 * below)
        }
        AU17 => {
            let boss = bump2(ax, 1.6, y + 10.0, 1.1);
            v3(
                0.0,
                0.46 * boss + 0.36 * lower_lip * bump(ax, 1.9) + 0.16 * upper_lip * bump(ax, 1.3)
                    - 0.10 * corner,
                0.26 * boss + 0.20 * lower_lip * bump(ax, 1.7),
            )
        }
        AU20 => v3(
            0.74 * along,
            -0.20 * along - 0.12 * lower_lip,
            -0.42 * along - 0.10 * (upper_lip + lower_lip) * (1.0 - along),
        ),
        AU23 => v3(
            -0.20 * along,
            -0.42 * red_upper * into_upper * upper_lip_border(ax)
                + 0.40 * red_lower * into_lower * lower_lip_border(ax),
            -0.16 * (red_upper + red_lower)
                + 0.10 * bump2(ax, 2.2, y + 5.9, 0.5)
                + 0.08 * bump2(ax, 2.0, y + 8.6, 0.5),
        ),
        AU24 => v3(
            -0.08 * along,
            -0.55 * red_upper * into_upper * upper_lip_border(ax)
                + 0.52 * red_lower * into_lower * lower_lip_border(ax)
                + 0.08 * lower_lip,
            -0.20 * (red_upper + red_lower)
                + 0.16 * bump2(ax, 2.0, y + 5.9, 0.5)
                + 0.14 * bump2(ax, 1.8, y + 8.7, 0.5),
        ),
        AU25 => {
            let open = (1.0 - q * q).max(0.0);
            v3(0.0, 0.16 * upper_lip * open - 0.46 * lower_lip * open, 0.04 * lower_lip)
        }
        AU26 => v3(-0.26 * along, -0.05 * upper_lip * bump(ax, 1.2), 0.05 * along),
        _ => Vec3::ZERO,
    };
    d * front
}

/// How far the jaw carries a site: 1 on the chin and the lower lip, 0 above the mouth and on the neck.
pub(crate) fn jaw_weight(ax: f32, y: f32, z: f32, side: f32, t: f32, u: f32) -> f32 {
    // From the mouth corner the boundary rises towards the joint in front of the ear, and blurs.
    let outward = smoothstep(MOUTH_CORNER_X, 6.6, ax);
    let line = SEAM + 4.6 * outward;
    let blur = 0.6 + 2.6 * smoothstep(MOUTH_CORNER_X * 0.9, 4.5, ax);
    let soft = ((y - line) / blur).clamp(-1.0, 1.0);
    let mix = smoothstep(0.85, 1.05, ax / MOUTH_CORNER_X);
    let side = side * (1.0 - mix) + soft * mix;
    let w = 0.5 - 0.5 * side;
    let w = w * w * (3.0 - 2.0 * w);
    w * smoothstep(-14.4, -11.6, t) * smoothstep(6.0, 4.6, u.abs()) * smoothstep(-1.5, 1.0, z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prototypes_lie_in_their_quadrant_of_the_circumplex() {
        let va = |e| valence_arousal(&prototype(e));
        assert_eq!(va(Expression::Neutral), (0.0, 0.0));
        let near = |e, v: f32, a: f32| {
            let (gv, ga) = va(e);
            assert!(
                (gv - v).abs() < 0.2 && (ga - a).abs() < 0.2,
                "{e:?}: ({gv:.2}, {ga:.2}), not ({v}, {a})"
            );
        };
        near(Expression::Happy, 0.8, 0.4);
        near(Expression::Surprise, 0.1, 0.8);
        near(Expression::Fear, -0.6, 0.8);
        near(Expression::Angry, -0.6, 0.6);
        near(Expression::Disgust, -0.7, 0.3);
        near(Expression::Sad, -0.7, -0.3);
        near(Expression::Contempt, -0.4, 0.1);
    }

    #[test]
    fn valence_and_arousal_never_leave_their_range() {
        for bits in 0..1u32 << 12 {
            let mut au = [0.0; N];
            for (i, a) in au.iter_mut().enumerate() {
                *a = f32::from((bits >> (i % 12)) as u8 & 1);
            }
            let (v, a) = valence_arousal(&au);
            assert!(v.abs() <= 1.0 && a.abs() <= 1.0);
        }
    }

    #[test]
    fn units_move_only_what_their_muscles_reach() {
        let at = |unit, ax, y, side| displacement(unit, Site { ax, y, side, front: 1.0 }).length();
        assert!(at(AU1, 1.2, 2.2, 1.0) > 0.5 && at(AU1, 0.5, SEAM, 1.0) < 0.01);
        assert!(at(AU12, 2.5, SEAM, 1.0) > 0.7 && at(AU12, 2.0, 2.5, 1.0) < 0.01);
        assert!(at(AU17, 0.0, -10.0, -1.0) > 0.4 && at(AU17, 3.0, 0.0, 1.0) < 0.01);
    }
}
