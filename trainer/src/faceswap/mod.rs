//! FaceSwap (SSLFER 3.2.2): the brows, eyes, nose and mouth of one face pasted on another, in that one's colours.
//!
//! 1. The similarity (Procrustes without reflection, Umeyama 1991) that best carries the expression's brows, eyes, nose and
//!    outer lips onto the identity's.
//! 2. The mask: two convex hulls (brows with eyes, nose with mouth), each of the expression's landmarks as carried over and
//!    of the identity's. So the expression's features are shown wholly, and the identity's own are covered (no second brow
//!    beside the pasted one), but with nothing from beside the expression's face.
//! 3. The expression's picture sampled under the similarity, bilinear.
//! 4. Colour correction: times the ratio of the identity's colours and the sample's own, both blurred by a Gaussian of as
//!    many taps as 0.6 times the distance of the identity's eyes.
//! 5. The mask's edge is feathered: the hulls are grown by [`FEATHER`] and blurred as far, so that the mask is 1 within the
//!    hulls, but for sharp corners, and 0 from twice that reach on. Pixels where it is 0 are the identity's to the last bit.
//!
//! The paper tells the steps, its authors' program the landmarks of 1, the hulls and the taps. The bounds that the hulls and
//! the ratio are held within, the feather's width and the limits beyond which a pair is refused ([`SwapError`]) are ours, chosen
//! by looking at swaps of 400 pairs of people of YouTube Faces. Of all such pairs there, one in seven is refused, nearly all for
//! [`SwapError::Misfit`].

mod blur;
mod hull;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::ops::RangeInclusive;

use semblance_face::{Point, Similarity};
use thiserror::Error;

use blur::Gaussian;
use hull::ConvexPolygon;
use window::Window;

/// Of the iBUG scheme.
const LANDMARKS: usize = 68;
const BROWS: RangeInclusive<usize> = 17..=26;
const LEFT_EYE: RangeInclusive<usize> = 36..=41;
const RIGHT_EYE: RangeInclusive<usize> = 42..=47;
const NOSE: RangeInclusive<usize> = 27..=35;
/// The outer lips and one corner of the inner ones, as the method's authors have it.
const MOUTH: RangeInclusive<usize> = 48..=60;
/// Brows, nose, eyes and mouth.
const ALIGNED: RangeInclusive<usize> = 17..=60;
/// The first landmark that is not of the jaw.
const FIRST_FEATURE: usize = 17;

/// Taps of the blur that colours are corrected by, in multiples of the distance of the eyes (the method's authors').
const COLOUR_BLUR: f32 = 0.6;
/// What the colour correction may amplify contrasts by. Without a limit, dark hair beside the face turns to bright specks.
const GAINS: RangeInclusive<f32> = 0.5..=2.0;
/// How far the hulls are grown, and then blurred, in multiples of the distance of the eyes.
pub const FEATHER: f32 = 0.06;

/// A face crop and where its features lie.
#[derive(Clone, Copy, Debug)]
pub struct FacePicture<'a> {
    /// `S * S` RGB triples, by rows from the top.
    pub rgb: &'a [u8],
    /// iBUG order, `[x0, y0, x1, ..]` in shares of the picture's sides.
    pub landmarks: &'a [f32; 136],
}

/// One of the two faces of a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// The one that is pasted on.
    Identity,
    /// The one whose features are pasted.
    Expression,
}

impl fmt::Display for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Expression => "expression",
        })
    }
}

/// Why two faces could not be joined.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SwapError {
    /// The pictures are too small or too large.
    #[error("cannot swap faces of {side_px} px a side: give {MIN_SIDE_PX} to {MAX_SIDE_PX}")]
    Side {
        /// The side given, in pixels.
        side_px: u32,
    },
    /// A buffer does not hold a picture of this side.
    #[error("the buffer of the {buffer} has {actual} bytes: a picture of {side_px} px a side has {expected}")]
    Length {
        /// Which one.
        buffer: &'static str,
        /// The side given, in pixels.
        side_px: u32,
        /// The bytes of such a picture.
        expected: usize,
        /// The bytes given.
        actual: usize,
    },
    /// A landmark is not finite, or so far away that it is not in shares of the picture's sides.
    #[error(
        "landmark {point} of the {face} lies at ({x}, {y}): give shares of the picture's sides, within +-{MAX_SHARE}"
    )]
    Landmark {
        /// Whose it is.
        face: Face,
        /// Its number in iBUG order.
        point: usize,
        /// In shares of the picture's side.
        x: f32,
        /// As `x`.
        y: f32,
    },
    /// The eyes lie too close together for a face to be seen, or too far apart, or the features lie on a line.
    #[error(
        "the features of the {face} have no face's extent: eyes {eyes_px:.1} px apart ({MIN_EYES_PX} to the picture's side is \
         needed), hulls of {area_px:.1} square px"
    )]
    Degenerate {
        /// Whose they are.
        face: Face,
        /// Distance of the middles of the eyes, in pixels.
        eyes_px: f32,
        /// Area of the hulls, in square pixels.
        area_px: f64,
    },
    /// Features lie beyond their picture, so there is nothing to paste, or nowhere to paste it.
    #[error("{count} of the {total} features lie outside of the picture of the {face}: at most {MAX_OUTSIDE} may",
        total = LANDMARKS - FIRST_FEATURE)]
    Outside {
        /// In whose picture.
        face: Face,
        /// Landmarks that lie outside of it.
        count: usize,
    },
    /// One face is much larger than the other, so that the result would be blurred or aliased.
    #[error(
        "the expression's face has to be scaled by {scale:.2}: {least} to {greatest} is allowed",
        least = SCALES.start(), greatest = SCALES.end()
    )]
    Scale {
        /// What its picture would be scaled by.
        scale: f32,
    },
    /// One face is tilted against the other, so that the light would come from another side.
    #[error(
        "the expression's face has to be turned by {degrees:.0} degrees: up to {MAX_TURN_DEG} is allowed"
    )]
    Turn {
        /// What its picture would be turned by.
        degrees: f32,
    },
    /// The features do not lie as the other face's do: mostly, the heads are turned differently.
    #[error(
        "the features lie {misfit:.2} distances of the eyes apart (root mean square): up to {MAX_MISFIT} is allowed"
    )]
    Misfit {
        /// Root mean square distance of the aligned landmarks, over the distance of the identity's eyes.
        misfit: f32,
    },
}

/// Least side of a picture, in pixels.
pub const MIN_SIDE_PX: u32 = 16;
/// Greatest side of a picture, in pixels.
pub const MAX_SIDE_PX: u32 = 4096;
/// How far from the picture's top left corner a landmark may lie, in shares of its sides.
pub const MAX_SHARE: f32 = 4.0;
/// Least distance of the eyes, in pixels.
pub const MIN_EYES_PX: f32 = 4.0;
/// Least area of the hulls, in squares over the distance of the eyes; faces of YouTube Faces have 0.8 to 3.3.
const MIN_AREA: f64 = 0.1;
/// Landmarks of brows, eyes, nose and mouth that may lie outside of a picture: a brow that a tight crop cuts off.
pub const MAX_OUTSIDE: usize = 5;
/// What the expression's picture may be scaled by.
pub const SCALES: RangeInclusive<f32> = 0.5..=2.0;
/// What the expression's picture may be turned by, either way, in degrees. Aligned crops stay far below; of pairs of people
/// as they were filmed, 1 in 300 is beyond.
pub const MAX_TURN_DEG: f32 = 30.0;
/// How far the aligned landmarks may lie apart, root mean square, in distances of the identity's eyes. Beyond, one head is
/// turned so much further than the other that a second mouth or nose shows.
pub const MAX_MISFIT: f32 = 0.16;

/// Buffers that are kept from swap to swap; one a thread.
#[derive(Debug, Default)]
pub struct SwapScratch {
    identity: Vec<f32>,
    identity_blurred: Vec<f32>,
    warped: Vec<f32>,
    warped_blurred: Vec<f32>,
    hard_mask: Vec<f32>,
    mask: Vec<f32>,
    across: Vec<f32>,
}

/// Pastes the brows, eyes, nose and mouth of `expression` onto `identity` and writes the picture, `side_px * side_px` RGB
/// triples, to `out`.
///
/// Returns the result's landmarks in the order and unit of [`FacePicture::landmarks`]: the jaw is the identity's, the rest
/// the expression's as carried over.
///
/// # Errors
/// [`SwapError`] where the two do not make a face; `out` is then as it was.
pub fn face_swap(
    identity: FacePicture<'_>,
    expression: FacePicture<'_>,
    side_px: u32,
    scratch: &mut SwapScratch,
    out: &mut [u8],
) -> Result<[f32; 136], SwapError> {
    check_buffers(&identity, &expression, side_px, out)?;
    let plan = Plan::new(identity.landmarks, expression.landmarks, side_px as f32)?;
    out.copy_from_slice(identity.rgb);
    if let Some(window) = plan.window(side_px as usize) {
        plan.paint(&identity, &expression, side_px as usize, window, scratch, out);
    }
    Ok(plan.landmarks(identity.landmarks, side_px as f32))
}

fn check_buffers(
    identity: &FacePicture<'_>,
    expression: &FacePicture<'_>,
    side_px: u32,
    out: &[u8],
) -> Result<(), SwapError> {
    if !(MIN_SIDE_PX..=MAX_SIDE_PX).contains(&side_px) {
        return Err(SwapError::Side { side_px });
    }
    let expected = side_px as usize * side_px as usize * 3;
    let lengths =
        [("identity", identity.rgb.len()), ("expression", expression.rgb.len()), ("result", out.len())];
    match lengths.into_iter().find(|(_, length)| *length != expected) {
        Some((buffer, actual)) => Err(SwapError::Length { buffer, side_px, expected, actual }),
        None => Ok(()),
    }
}

/// Where the features of a face lie, in pixels of its picture.
struct Features {
    points: [Point; LANDMARKS],
    eyes_px: f32,
    hulls: [ConvexPolygon; 2],
}

impl Features {
    fn new(landmarks: &[f32; 136], side_px: f32, face: Face) -> Result<Self, SwapError> {
        let places = landmarks.as_chunks::<2>().0;
        let near = |v: &f32| v.abs() <= MAX_SHARE;
        if let Some(point) = places.iter().position(|place| !place.iter().all(near)) {
            let [x, y] = places[point];
            return Err(SwapError::Landmark { face, point, x, y });
        }
        let points: [Point; LANDMARKS] =
            std::array::from_fn(|i| Point::new(places[i][0] * side_px, places[i][1] * side_px));
        let features = Self { eyes_px: eye_distance(&points), hulls: feature_hulls(&points), points };
        let area_px: f64 = features.hulls.iter().map(ConvexPolygon::area).sum();
        let eyes_px = features.eyes_px;
        if !((MIN_EYES_PX..=side_px).contains(&eyes_px) && area_px >= MIN_AREA * f64::from(eyes_px).powi(2)) {
            return Err(SwapError::Degenerate { face, eyes_px, area_px });
        }
        let inside = |p: &&Point| (0.0..=side_px).contains(&p.x) && (0.0..=side_px).contains(&p.y);
        let count = points[FIRST_FEATURE..].iter().filter(|p| !inside(p)).count();
        if count > MAX_OUTSIDE {
            return Err(SwapError::Outside { face, count });
        }
        Ok(features)
    }
}

/// Between the middles of the eyes.
fn eye_distance(points: &[Point; LANDMARKS]) -> f32 {
    let middle = |eye: RangeInclusive<usize>| {
        let eye = &points[eye];
        let n = eye.len() as f32;
        (eye.iter().map(|p| p.x).sum::<f32>() / n, eye.iter().map(|p| p.y).sum::<f32>() / n)
    };
    let ((lx, ly), (rx, ry)) = (middle(LEFT_EYE), middle(RIGHT_EYE));
    (lx - rx).hypot(ly - ry)
}

/// Brows with eyes, nose with mouth.
fn feature_hulls(points: &[Point; LANDMARKS]) -> [ConvexPolygon; 2] {
    [[BROWS, *LEFT_EYE.start()..=*RIGHT_EYE.end()], [NOSE, MOUTH]]
        .map(|parts| ConvexPolygon::hull(parts.into_iter().flat_map(|part| points[part].iter().copied())))
}

/// What is pasted where.
struct Plan {
    /// From the identity's picture to the expression's.
    to_expression: Similarity,
    /// The expression's landmarks in the identity's picture, in pixels.
    carried: [Point; LANDMARKS],
    /// What the mask's edge is grown by, and blurred by, in whole pixels.
    feather_px: usize,
    /// Taps on either side of the middle of the blur that colours are corrected by.
    colour_reach_px: usize,
    /// Grown, in the identity's picture.
    identity_hulls: [ConvexPolygon; 2],
    /// As `identity_hulls`.
    expression_hulls: [ConvexPolygon; 2],
    /// The expression's whole face, in the identity's picture.
    expression_outline: ConvexPolygon,
}

impl Plan {
    fn new(identity: &[f32; 136], expression: &[f32; 136], side_px: f32) -> Result<Self, SwapError> {
        let identity = Features::new(identity, side_px, Face::Identity)?;
        let expression = Features::new(expression, side_px, Face::Expression)?;
        let to_identity = Similarity::fit(&expression.points[ALIGNED], &identity.points[ALIGNED])
            .ok_or(SwapError::Scale { scale: 0.0 })?;
        let scale = to_identity.scale();
        let usable = to_identity.invert().filter(|_| SCALES.contains(&scale));
        let to_expression = usable.ok_or(SwapError::Scale { scale })?;
        let degrees = to_identity.b.atan2(to_identity.a).to_degrees();
        if degrees.abs() > MAX_TURN_DEG {
            return Err(SwapError::Turn { degrees });
        }
        let carried = expression.points.map(|p| to_identity.apply(p));
        let misfit =
            root_mean_square_distance(&carried[ALIGNED], &identity.points[ALIGNED]) / identity.eyes_px;
        if misfit > MAX_MISFIT {
            return Err(SwapError::Misfit { misfit });
        }
        let feather_px = (FEATHER * identity.eyes_px).round().max(1.0) as usize;
        Ok(Self {
            to_expression,
            carried,
            feather_px,
            colour_reach_px: (COLOUR_BLUR / 2.0 * identity.eyes_px).round().max(1.0) as usize,
            identity_hulls: identity.hulls.map(|h| h.grown(feather_px as f32)),
            expression_hulls: feature_hulls(&carried).map(|h| h.grown(feather_px as f32)),
            expression_outline: ConvexPolygon::hull(carried),
        })
    }

    /// The pixels that the mask may touch; `None` where it lies outside of the picture.
    fn window(&self, side_px: usize) -> Option<Window> {
        let start = [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let bounds = self
            .identity_hulls
            .iter()
            .chain(&self.expression_hulls)
            .map(ConvexPolygon::bounds)
            .fold(start, |a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]);
        let reach = self.feather_px as f32;
        let [left, top, right, bottom] = bounds;
        Window::within([left - reach, top - reach, right + reach, bottom + reach], side_px)
    }

    /// Lays the expression's features over the identity's picture, which `out` holds.
    fn paint(
        &self,
        identity: &FacePicture<'_>,
        expression: &FacePicture<'_>,
        side_px: usize,
        window: Window,
        scratch: &mut SwapScratch,
        out: &mut [u8],
    ) {
        self.mask(window, scratch);
        let colour = Gaussian::of_reach(self.colour_reach_px);
        let padded = window.padded(self.colour_reach_px);
        padded.copy(identity.rgb, side_px, &mut scratch.identity);
        padded.warp(expression.rgb, side_px, &self.to_expression, &mut scratch.warped);
        let values = 3 * window.area_px();
        scratch.identity_blurred.resize(values, 0.0);
        scratch.warped_blurred.resize(values, 0.0);
        let SwapScratch { identity, identity_blurred, warped, warped_blurred, across, mask, .. } = scratch;
        colour.blur::<3>(identity, window.width_px, across, identity_blurred);
        colour.blur::<3>(warped, window.width_px, across, warped_blurred);
        let row = 3 * window.width_px;
        let padded_row = 3 * padded.width_px;
        let [left, top] = window.origin.map(|v| v as usize);
        for y in 0..window.height_px {
            let warped = &warped[(y + self.colour_reach_px) * padded_row + 3 * self.colour_reach_px..][..row];
            let target = &mut out[3 * ((top + y) * side_px + left)..][..row];
            let pixels = mask[y * window.width_px..][..window.width_px].iter();
            let wanted = identity_blurred[y * row..][..row].as_chunks::<3>().0;
            let present = warped_blurred[y * row..][..row].as_chunks::<3>().0;
            for ((((&share, sample), want), have), pixel) in pixels
                .zip(warped.as_chunks::<3>().0)
                .zip(wanted)
                .zip(present)
                .zip(target.as_chunks_mut::<3>().0)
            {
                if share > 0.0 {
                    for c in 0..3 {
                        let coloured = corrected(sample[c], want[c], have[c]);
                        let own = f32::from(pixel[c]);
                        pixel[c] = (own + share * (coloured - own) + 0.5) as u8;
                    }
                }
            }
        }
    }

    /// Draws the feathered mask of a window, `[0, 1]` a pixel.
    fn mask(&self, window: Window, scratch: &mut SwapScratch) {
        let padded = window.padded(self.feather_px);
        let SwapScratch { hard_mask, mask, across, .. } = scratch;
        hard_mask.clear();
        hard_mask.resize(padded.area_px(), 0.0);
        for hull in &self.expression_hulls {
            hull.fill(None, hard_mask, padded.width_px, padded.origin);
        }
        for hull in &self.identity_hulls {
            hull.fill(Some(&self.expression_outline), hard_mask, padded.width_px, padded.origin);
        }
        mask.resize(window.area_px(), 0.0);
        Gaussian::of_reach(self.feather_px).blur::<1>(hard_mask, window.width_px, across, mask);
    }

    /// The result's landmarks, in shares of the picture's side.
    fn landmarks(&self, identity: &[f32; 136], side_px: f32) -> [f32; 136] {
        let mut landmarks = *identity;
        let features = landmarks.as_chunks_mut::<2>().0[FIRST_FEATURE..].iter_mut();
        for (out, p) in features.zip(&self.carried[FIRST_FEATURE..]) {
            *out = [p.x / side_px, p.y / side_px];
        }
        landmarks
    }
}

/// A sample of the expression's picture as it would be where the colours about it are `wanted` on average and not `present`:
/// times the ratio of the two, as long as that is within [`GAINS`]; beyond, what sets the sample apart from its surroundings
/// is amplified no further.
fn corrected(sample: f32, wanted: f32, present: f32) -> f32 {
    let gain = (wanted / present.max(1.0)).clamp(*GAINS.start(), *GAINS.end());
    (wanted + gain * (sample - present)).clamp(0.0, 255.0)
}

fn root_mean_square_distance(a: &[Point], b: &[Point]) -> f32 {
    let squares = a.iter().zip(b).map(|(p, q)| (p.x - q.x).powi(2) + (p.y - q.y).powi(2));
    (squares.sum::<f32>() / a.len() as f32).sqrt()
}
