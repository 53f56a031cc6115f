//! Lines, boxes and dots on a frame, for previews.

use semblance_face::Frame;
use semblance_face::geometry::{Point, Rect};

/// Colours one pixel; outside the frame nothing happens.
pub fn pixel(frame: &mut Frame, x: i64, y: i64, rgb: [u8; 3]) {
    let (w, h) = (i64::from(frame.width()), i64::from(frame.height()));
    if (0..w).contains(&x) && (0..h).contains(&y) {
        let i = ((y * w + x) * 3) as usize;
        frame.rgb_mut()[i..i + 3].copy_from_slice(&rgb);
    }
}

/// A square dot of `2 radius + 1` pixels a side.
pub fn dot(frame: &mut Frame, p: Point, radius: i64, rgb: [u8; 3]) {
    let (cx, cy) = (p.x.floor() as i64, p.y.floor() as i64);
    for y in -radius..=radius {
        for x in -radius..=radius {
            pixel(frame, cx.saturating_add(x), cy.saturating_add(y), rgb);
        }
    }
}

/// A line one pixel wide. Lines of more than 20,000 pixels, or to nowhere, are not drawn.
pub fn line(frame: &mut Frame, from: Point, to: Point, rgb: [u8; 3]) {
    if ![from.x, from.y, to.x, to.y].iter().all(|v| v.is_finite()) {
        return;
    }
    let n = (to.x - from.x).abs().max((to.y - from.y).abs()).ceil();
    if !(0.0..=20_000.0).contains(&n) {
        return;
    }
    for i in 0..=n as i64 {
        let f = if n > 0.0 { i as f32 / n } else { 0.0 };
        let (x, y) = (from.x + f * (to.x - from.x), from.y + f * (to.y - from.y));
        pixel(frame, x.floor() as i64, y.floor() as i64, rgb);
    }
}

/// The outline of a box.
pub fn rect(frame: &mut Frame, r: &Rect, rgb: [u8; 3]) {
    let corners = [(r.x, r.y), (r.x + r.w, r.y), (r.x + r.w, r.y + r.h), (r.x, r.y + r.h)]
        .map(|(x, y)| Point::new(x, y));
    for i in 0..4 {
        line(frame, corners[i], corners[(i + 1) % 4], rgb);
    }
}

/// Copies `from` onto `onto` with its top left corner at `(x, y)`; what falls outside is cut off.
pub fn paste(onto: &mut Frame, from: &Frame, x: i64, y: i64) {
    for row in 0..i64::from(from.height()) {
        for column in 0..i64::from(from.width()) {
            let i = ((row * i64::from(from.width()) + column) * 3) as usize;
            let rgb = [from.rgb()[i], from.rgb()[i + 1], from.rgb()[i + 2]];
            pixel(onto, x + column, y + row, rgb);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn drawing_beyond_the_frame_is_cut_off() {
        let mut f = Frame::black(20, 10).unwrap();
        rect(&mut f, &Rect::new(-5.0, 2.0, 40.0, 4.0), [255, 0, 0]);
        dot(&mut f, Point::new(19.5, 9.5), 2, [0, 255, 0]);
        line(&mut f, Point::new(f32::NAN, 0.0), Point::new(3.0, 3.0), [0, 0, 255]);
        let lit = |x: usize, y: usize| f.rgb()[(y * 20 + x) * 3..][..3].to_vec();
        assert_eq!(lit(0, 2), [255, 0, 0]);
        assert_eq!(lit(19, 6), [255, 0, 0]);
        assert_eq!(lit(18, 8), [0, 255, 0]);
        assert!(!f.rgb().chunks(3).any(|p| p == [0, 0, 255]));
    }
}
