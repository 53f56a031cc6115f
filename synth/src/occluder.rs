//! Hands and things that come between the face and the camera.

use crate::dynamics::Occlusion;
use crate::identity::rgb_of_hue;
use crate::math::{Mat3, Vec3, hash2, lerp, unit, v3};
use crate::mesh::{Material, Mesh, Vertex};

/// What the hash of an [`Occlusion`] stands for.
fn draw(kind: u32, k: u32) -> f32 {
    unit(hash2(k as i32, 17, kind))
}

/// Colour of a thing that is not a hand, linear RGB.
pub(crate) fn color(kind: u32) -> Vec3 {
    let c = rgb_of_hue(draw(kind, 1));
    let (value, grey) = (lerp(0.02, 0.7, draw(kind, 2) * draw(kind, 2)), draw(kind, 3));
    v3(lerp(c[0], 1.0, grey), lerp(c[1], 1.0, grey), lerp(c[2], 1.0, grey)) * value
}

/// The mesh of what `o` describes, cm, relative to the middle of the face: x right, y up, z towards the camera.
pub(crate) fn build(o: &Occlusion) -> Mesh {
    let mut mesh = Mesh::default();
    let place = |p: Vec3| Mat3::about_z(o.turn).apply(p) + v3(o.at[0], o.at[1], 6.5);
    if draw(o.kind, 0) < 0.62 {
        hand(&mut mesh, o.kind, &place);
    } else {
        thing(&mut mesh, o.kind, &place);
    }
    mesh
}

fn hand(mesh: &mut Mesh, kind: u32, place: &impl Fn(Vec3) -> Vec3) {
    let skin = |p: Vec3| Vertex::new(place(p), [0.0; 2]);
    let mirrored = if kind & 1 == 0 { 1.0 } else { -1.0 };
    let curl = lerp(0.0, 0.9, draw(kind, 4));
    let spread = lerp(0.02, 0.16, draw(kind, 5));
    let axes = [v3(4.1, 0.0, 0.0), v3(0.0, 4.6, 0.0), v3(0.0, 0.0, 1.5)];
    mesh.ellipsoid(v3(0.0, -4.0, 0.0), axes, skin, Material::PlainSkin);
    for (i, length) in [6.4f32, 7.4, 7.0, 5.4].into_iter().enumerate() {
        let x = (i as f32 - 1.5) * 1.95;
        let lean = (i as f32 - 1.5) * spread;
        let line: Vec<Vec3> = (0..7)
            .map(|k| {
                let f = k as f32 / 6.0;
                let bend = curl * f * f;
                v3(mirrored * (x + lean * length * f), -0.6 + length * f * (1.0 - 0.45 * bend), -2.6 * bend)
            })
            .collect();
        mesh.tube(&line, 0.86, 8, false, skin, Material::PlainSkin);
        let tip = line[6];
        mesh.ellipsoid(
            tip,
            [v3(0.84, 0.0, 0.0), v3(0.0, 0.95, 0.0), v3(0.0, 0.0, 0.84)],
            skin,
            Material::PlainSkin,
        );
    }
    let thumb = [v3(-2.6, -6.0, 0.2), v3(-4.4, -4.2, 0.6), v3(-5.6, -2.2, 0.6), v3(-6.0, -0.4, 0.4)]
        .map(|p| v3(p.x * mirrored, p.y, p.z));
    mesh.tube(&thumb, 1.0, 8, false, skin, Material::PlainSkin);
    mesh.ellipsoid(
        thumb[3],
        [v3(0.95, 0.0, 0.0), v3(0.0, 1.05, 0.0), v3(0.0, 0.0, 0.95)],
        skin,
        Material::PlainSkin,
    );
    let arm = [v3(0.0, -7.0, 0.0), v3(0.2, -13.0, 0.4), v3(0.5, -24.0, 1.0), v3(0.8, -40.0, 2.0)];
    mesh.tube(&arm, 3.0, 12, false, skin, Material::PlainSkin);
}

fn thing(mesh: &mut Mesh, kind: u32, place: &impl Fn(Vec3) -> Vec3) {
    let solid = |p: Vec3| Vertex::new(place(p), [0.0; 2]);
    let axis = |y: f32| v3(0.0, y, 0.0);
    match (draw(kind, 6) * 3.0) as u32 {
        0 => {
            // A cup.
            let cup: Vec<Vec3> = (0..5).map(|i| axis(lerp(3.5, -5.5, i as f32 / 4.0))).collect();
            mesh.tube(&cup, 3.9, 20, false, solid, Material::Object);
            mesh.ellipsoid(
                axis(3.5),
                [v3(3.9, 0.0, 0.0), v3(0.0, 0.5, 0.0), v3(0.0, 0.0, 3.9)],
                solid,
                Material::Object,
            );
        }
        1 => {
            // A microphone.
            mesh.ellipsoid(
                Vec3::ZERO,
                [v3(2.4, 0.0, 0.0), v3(0.0, 2.9, 0.0), v3(0.0, 0.0, 2.4)],
                solid,
                Material::Object,
            );
            let stick: Vec<Vec3> = (0..5).map(|i| axis(lerp(-1.5, -30.0, i as f32 / 4.0))).collect();
            mesh.tube(&stick, 1.3, 12, false, solid, Material::Object);
        }
        _ => {
            // A telephone, a card or a book: a flat block.
            let (w, h) = (lerp(3.4, 8.0, draw(kind, 7)), lerp(5.0, 9.0, draw(kind, 8)));
            let corners = [(-w, h), (-w, -h), (w, -h), (w, h)];
            for (z, flip) in [(0.5, false), (-0.5, true)] {
                let v = corners.map(|(x, y)| mesh.push(solid(v3(x, y, z))));
                mesh.quad(if flip { [v[3], v[2], v[1], v[0]] } else { v }, Material::Object);
            }
            for i in 0..4 {
                let ((xa, ya), (xb, yb)) = (corners[i], corners[(i + 1) % 4]);
                let v = [v3(xa, ya, 0.5), v3(xa, ya, -0.5), v3(xb, yb, -0.5), v3(xb, yb, 0.5)]
                    .map(|p| mesh.push(solid(p)));
                mesh.quad(v, Material::Object);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::accumulate_normals;

    #[test]
    fn every_kind_has_a_front_that_faces_the_camera() {
        for kind in 0..60u32 {
            let mesh = build(&Occlusion { kind: kind.wrapping_mul(0x9E37_79B9), at: [0.0; 2], turn: 0.3 });
            let mut normals = vec![Vec3::ZERO; mesh.rest.len()];
            accumulate_normals(&mesh.rest, &mesh.triangles, &mut normals);
            let front = mesh.rest.iter().map(|p| p.z).fold(f32::MIN, f32::max);
            let facing =
                mesh.rest.iter().zip(&normals).filter(|(p, n)| p.z > front - 0.3 && n.z > 0.0).count();
            assert!(facing > 0, "{kind}");
            assert!(
                front > 6.0
                    && mesh.triangles.iter().flat_map(|t| t.v).all(|v| (v as usize) < mesh.rest.len())
            );
        }
    }
}
