//! What is behind the head: walls, rooms, blurred lights, foliage, patterns.

use crate::identity::rgb_of_hue;
use crate::math::{Vec3, bump, bump2, fractal2, lerp, noise2, sin, smoothstep, v3};
use crate::picture::Picture;
use crate::random::Draw;
use rand::Rng;

/// A random muted or strong colour.
fn color(rng: &mut impl Rng, saturation: f32) -> Vec3 {
    let c = rgb_of_hue(rng.unit());
    let value = lerp(0.03, 0.75, rng.unit() * rng.between(0.4, 1.0));
    let s = saturation * rng.unit();
    v3(lerp(1.0, c[0], s), lerp(1.0, c[1], s), lerp(1.0, c[2], s)) * value
}

/// Draws a background of this size, in linear light about as bright as a white wall under the scene's light.
pub(crate) fn draw(rng: &mut impl Rng, width: usize, height: usize) -> Picture {
    let seed = rng.next_u32();
    let unit = 1.0 / height as f32;
    let aspect = width as f32 * unit;
    let kind = rng.weighted(&[3.0, 3.0, 3.0, 2.0, 2.0, 1.5, 1.0]);
    let mut picture = match kind {
        0 => wall(rng, width, height, unit, seed),
        1 => blobs(rng, width, height, unit, aspect),
        2 => room(rng, width, height, unit, aspect, seed),
        3 => outdoors(rng, width, height, unit, seed),
        4 => shelves(rng, width, height, unit, aspect, seed),
        5 => texture(rng, width, height, unit, seed),
        _ => stripes(rng, width, height, unit),
    };
    // Backgrounds are further away than the focus.
    let blur = match kind {
        1 => rng.between(0.01, 0.05),
        _ => rng.between(0.0, 0.03) * rng.unit(),
    };
    picture.soften((blur * height as f32) as usize, &mut Vec::new());
    let grain = rng.between(0.0, 0.03);
    let slope = v3(rng.between(-0.3, 0.3), rng.between(-0.3, 0.3), 0.0);
    let mut i = 0;
    for y in 0..height {
        for x in 0..width {
            let light = 1.0
                + slope.x * (x as f32 * unit - 0.5 * aspect)
                + slope.y * (y as f32 * unit - 0.5)
                + grain * noise2(x as f32 * 0.7, y as f32 * 0.7, seed ^ 0x33);
            picture.rgb[i] = picture.rgb[i].map(|c| (c * light).max(0.001));
            i += 1;
        }
    }
    picture
}

fn wall(rng: &mut impl Rng, width: usize, height: usize, unit: f32, seed: u32) -> Picture {
    let (a, b) = (color(rng, 0.6), color(rng, 0.6));
    let plain = rng.chance(0.5);
    let (cx, cy) = (rng.between(0.0, 1.2), rng.between(0.0, 0.8));
    let stain = rng.between(0.0, 0.15);
    Picture::from_fn(width, height, |x, y| {
        let (x, y) = (x * unit, y * unit);
        let f = if plain { bump2(x - cx, 0.8, y - cy, 0.8) * 0.3 } else { smoothstep(0.0, 1.0, y) };
        a.lerp(b, f) * (1.0 + stain * fractal2(x * 5.0, y * 5.0, 3, seed))
    })
}

fn blobs(rng: &mut impl Rng, width: usize, height: usize, unit: f32, aspect: f32) -> Picture {
    let base = color(rng, 0.6);
    let n = 6 + (rng.unit() * 22.0) as usize;
    let spots: Vec<(f32, f32, f32, Vec3, bool)> = (0..n)
        .map(|_| {
            let disc = rng.chance(0.5);
            let size = rng.between(0.03, if disc { 0.14 } else { 0.4 });
            (rng.between(0.0, aspect), rng.unit(), size, color(rng, 1.0) * rng.between(0.8, 2.2), disc)
        })
        .collect();
    Picture::from_fn(width, height, |x, y| {
        let (x, y) = (x * unit, y * unit);
        let mut c = base;
        for &(sx, sy, size, rgb, disc) in &spots {
            let k = if disc {
                let d = ((x - sx) * (x - sx) + (y - sy) * (y - sy)).sqrt();
                0.7 * smoothstep(size, size * 0.85, d)
            } else {
                0.8 * bump2(x - sx, size, y - sy, size)
            };
            c = c.lerp(rgb, k);
        }
        c
    })
}

/// A rectangle with its colour.
type Panel = (f32, f32, f32, f32, Vec3);

fn in_panel(p: &Panel, x: f32, y: f32) -> bool {
    x > p.0 && x < p.0 + p.2 && y > p.1 && y < p.1 + p.3
}

fn room(rng: &mut impl Rng, width: usize, height: usize, unit: f32, aspect: f32, seed: u32) -> Picture {
    let (left, right) = (color(rng, 0.5), color(rng, 0.5));
    let corner = rng.between(-0.2, aspect + 0.2);
    let floor_y = rng.between(0.75, 1.2);
    let floor = color(rng, 0.7);
    let slope = rng.between(-0.25, 0.25);
    let mut panels: Vec<Panel> = Vec::new();
    if rng.chance(0.55) {
        // A window: a bright rectangle with bars.
        let (x, y) = (rng.between(-0.1, aspect - 0.2), rng.between(-0.1, 0.3));
        let (w, h) = (rng.between(0.25, 0.55), rng.between(0.3, 0.6));
        let bright = v3(0.85, 0.92, 1.0) * rng.between(0.7, 2.0);
        panels.push((x - 0.02, y - 0.02, w + 0.04, h + 0.04, v3(0.6, 0.58, 0.55)));
        panels.push((x, y, w, h, bright));
        panels.push((x + w * 0.48, y, w * 0.04, h, v3(0.5, 0.48, 0.46)));
        panels.push((x, y + h * 0.45, w, h * 0.04, v3(0.5, 0.48, 0.46)));
    }
    for _ in 0..(rng.unit() * 4.0) as usize {
        let (w, h) = (rng.between(0.12, 0.4), rng.between(0.12, 0.4));
        let (x, y) = (rng.between(-0.1, aspect), rng.between(-0.05, 0.6));
        let (frame, inside) = (color(rng, 0.4) * 0.4, color(rng, 1.0));
        panels.push((x, y, w, h, frame));
        panels.push((x + 0.015, y + 0.015, w - 0.03, h - 0.03, inside));
    }
    if rng.chance(0.4) {
        // Door or cupboard.
        panels.push((
            rng.between(0.0, aspect),
            rng.between(0.0, 0.3),
            rng.between(0.2, 0.4),
            1.5,
            color(rng, 0.6),
        ));
    }
    Picture::from_fn(width, height, |x, y| {
        let (x, y) = (x * unit, y * unit);
        let shade = 0.75 + 0.35 * smoothstep(0.0, 0.5, (x - corner).abs());
        let mut c = if x < corner { left } else { right } * shade;
        if y > floor_y + slope * (x - corner) * if x < corner { 1.0 } else { -1.0 } {
            c = floor * (0.9 + 0.2 * noise2(x * 4.0, y * 30.0, seed));
        } else {
            for p in &panels {
                if in_panel(p, x, y) {
                    c = p.4;
                }
            }
        }
        c * (1.0 + 0.05 * fractal2(x * 7.0, y * 7.0, 2, seed ^ 5))
    })
}

fn outdoors(rng: &mut impl Rng, width: usize, height: usize, unit: f32, seed: u32) -> Picture {
    let sky = v3(0.35, 0.55, 0.95).lerp(v3(0.8, 0.8, 0.8), rng.unit()) * rng.between(0.5, 1.3);
    let leaf = v3(rng.between(0.08, 0.3), rng.between(0.14, 0.30), rng.between(0.04, 0.12));
    let ground = color(rng, 0.5) * 0.7;
    let (horizon, height_of_trees) = (rng.between(0.5, 1.0), rng.between(0.1, 0.9));
    let fine = rng.between(6.0, 20.0);
    Picture::from_fn(width, height, |x, y| {
        let (x, y) = (x * unit, y * unit);
        let edge = horizon - height_of_trees * (0.6 + 0.4 * fractal2(x * 2.5, 1.0, 3, seed));
        let leaves = fractal2(x * fine, y * fine, 4, seed ^ 7);
        let cloud =
            sky.lerp(v3(1.1, 1.1, 1.1), 0.5 * smoothstep(0.0, 0.6, fractal2(x * 2.0, y * 5.0, 4, seed ^ 9)));
        if y > horizon {
            ground * (1.0 + 0.3 * leaves)
        } else {
            cloud.lerp(
                leaf * (0.9 + 1.3 * leaves).max(0.08),
                smoothstep(edge - 0.03, edge + 0.05, y + 0.06 * leaves),
            )
        }
    })
}

fn shelves(rng: &mut impl Rng, width: usize, height: usize, unit: f32, aspect: f32, seed: u32) -> Picture {
    let wood = color(rng, 0.5) * 0.6;
    let rows = 2 + (rng.unit() * 4.0) as usize;
    let mut spines: Vec<Vec<(f32, f32, Vec3)>> = Vec::new();
    for _ in 0..rows {
        let (mut x, mut row) = (-0.05, Vec::new());
        while x < aspect {
            let w = rng.between(0.015, 0.06);
            row.push((
                x + w,
                rng.between(0.55, 0.95),
                color(rng, 1.0) * if rng.chance(0.1) { 0.05 } else { 0.8 },
            ));
            x += w;
        }
        spines.push(row);
    }
    Picture::from_fn(width, height, |x, y| {
        let (x, y) = (x * unit, (y * unit).min(0.9999));
        let r = (y * rows as f32) as usize;
        let f = y * rows as f32 - r as f32;
        let book = spines[r].iter().find(|b| x < b.0);
        let c = match book {
            Some(b) if f > 1.0 - b.1 && f < 0.93 => b.2 * (0.85 + 0.3 * noise2(x * 90.0, y * 3.0, seed)),
            _ if f >= 0.93 => wood * 1.5,
            _ => wood * 0.25,
        };
        c * (0.7 + 0.3 * smoothstep(0.0, 0.3, f))
    })
}

fn texture(rng: &mut impl Rng, width: usize, height: usize, unit: f32, seed: u32) -> Picture {
    let (a, b, c) = (color(rng, 0.9), color(rng, 0.9), color(rng, 0.9));
    let (fx, fy) = (rng.between(1.0, 14.0), rng.between(1.0, 14.0));
    let veins = rng.chance(0.4);
    Picture::from_fn(width, height, |x, y| {
        let (x, y) = (x * unit, y * unit);
        let n = fractal2(x * fx, y * fy, 5, seed);
        let f = if veins { bump(n, 0.12) } else { smoothstep(-0.5, 0.5, n) };
        a.lerp(b, f).lerp(c, 0.5 * smoothstep(0.0, 0.8, noise2(x * 2.0, y * 2.0, seed ^ 3)))
    })
}

fn stripes(rng: &mut impl Rng, width: usize, height: usize, unit: f32) -> Picture {
    let (a, b) = (color(rng, 0.8), color(rng, 0.8));
    let upright = rng.chance(0.6);
    let (n, sharp) = (rng.between(4.0, 30.0), rng.between(1.0, 8.0));
    let wobble = rng.between(0.0, 0.4);
    Picture::from_fn(width, height, |x, y| {
        let (x, y) = (x * unit, y * unit);
        let (across, along) = if upright { (x, y) } else { (y, x) };
        let s = sin((across * n + wobble * sin(along * 4.0)) * std::f32::consts::TAU);
        a.lerp(b, (0.5 + 0.5 * s * sharp).clamp(0.0, 1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, rng_for};

    #[test]
    fn backgrounds_are_finite_positive_and_varied() {
        let means: Vec<f32> = (0..40)
            .map(|i| {
                let p = draw(&mut rng_for(1, Stream::Background, i), 48, 32);
                assert!(p.rgb.iter().flatten().all(|v| v.is_finite() && *v > 0.0 && *v < 12.0));
                p.rgb.iter().map(|c| c[1]).sum::<f32>() / p.rgb.len() as f32
            })
            .collect();
        let (low, high) = means.iter().fold((f32::MAX, 0.0f32), |(l, h), m| (l.min(*m), h.max(*m)));
        assert!(high > 4.0 * low, "{low} {high}");
    }
}
