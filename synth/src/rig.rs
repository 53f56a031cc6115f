//! A person's head, ready to be posed: the mesh, what each action unit does to it, and where its landmarks are.

use crate::action_units::{
    self, AU4, AU5, AU6, AU7, AU9, AU12, AU26, AU43, Intensities, JAW_DROP_DEG, Site, displacement,
    jaw_weight,
};
use crate::head::{EYE_INNER_U, EYE_OUTER_U, MOUTH_CORNER_U, SEAM, Template, lower_face, shape};
use crate::identity::{Headwear, Identity};
use crate::math::{Mat3, Vec3, bump, lerp, pow, smooth_max, smoothstep, v3};
use crate::mesh::{Material, Mesh, Triangle, Vertex, accumulate_normals};
use crate::parts::{self, Eye, Skull};

/// Joint of the lower jaw, in the head's frame.
const JAW_JOINT: Vec3 = v3(0.0, -1.8, 0.4);
/// Joint on which the head turns.
const NECK_JOINT: Vec3 = v3(0.0, -5.0, -2.0);
/// Middle of the face, in the head's frame.
const FACE_CENTER: Vec3 = v3(0.0, -2.6, 8.6);
/// Rows this far from the eyes' cut are lid or socket.
const LID_REACH: (f32, f32) = (1.6, 1.25);

/// How a head is held: degrees, all 0 facing the camera upright.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadPose {
    /// Positive where the face looks to the picture's right.
    pub yaw_deg: f32,
    /// Positive where the face looks up.
    pub pitch_deg: f32,
    /// Positive where the head is tilted clockwise in the picture.
    pub roll_deg: f32,
}

impl HeadPose {
    /// The rotation: roll after yaw after pitch.
    pub(crate) fn rotation(&self) -> Mat3 {
        let rad = std::f32::consts::PI / 180.0;
        Mat3::about_z(-self.roll_deg * rad)
            .after(&Mat3::about_y(self.yaw_deg * rad))
            .after(&Mat3::about_x(-self.pitch_deg * rad))
    }
}

/// Where the eyes look, relative to the head; degrees.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gaze {
    /// Positive to the picture's right.
    pub yaw_deg: f32,
    /// Positive up.
    pub pitch_deg: f32,
}

/// Everything about a face that changes from frame to frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaceState {
    /// Intensities in `[0, 1]`, in the order of `semblance_face::labels::ACTION_UNITS`.
    pub au: Intensities,
    /// For each unit, how much weaker it is on one side, in `[-1, 1]`: at +1 the picture's left half does not move at
    /// all, at -1 the right half, at 0 both move alike.
    pub au_asymmetry: Intensities,
    /// How the head is held.
    pub pose: HeadPose,
    /// Where the eyes look.
    pub gaze: Gaze,
}

impl FaceState {
    /// The intensities on the picture's left and right half.
    pub(crate) fn sides(&self) -> [Intensities; 2] {
        let side = |weaker: fn(f32) -> f32| {
            std::array::from_fn(|i| {
                let asymmetry = self.au_asymmetry[i].clamp(-1.0, 1.0);
                self.au[i].clamp(0.0, 1.0) * (1.0 - weaker(asymmetry))
            })
        };
        [side(|a| a.max(0.0)), side(|a| -a.min(0.0))]
    }
}

/// One action unit's displacements, for the vertices that it moves.
struct Blend {
    vertices: Vec<u32>,
    /// Displacement at intensity 1.
    by: Vec<Vec3>,
}

/// A vertex of lid or socket.
struct LidVertex {
    vertex: u32,
    eye: u8,
    /// -1 at the inner corner, +1 at the outer one.
    along: f32,
    /// Template height; the upper edge of the cut is at +0, the lower at -0.
    t: f32,
    /// Which of `sockets` its column is.
    column: u16,
}

/// The opening of one eye in a frame: offsets of the lids' edges at their highest and lowest point, cm.
#[derive(Clone, Copy, Debug)]
struct Opening {
    upper: f32,
    lower: f32,
    closure: f32,
}

impl Opening {
    /// Offsets of the upper and the lower edge from the line between the corners.
    fn edges(&self, along: f32) -> (f32, f32) {
        let round = 1.0 - along * along;
        if round <= 0.0 {
            return (0.0, 0.0);
        }
        let high = pow(round, 0.72) * (1.0 - 0.16 * along);
        let low = pow(round, 0.95) * (1.0 + 0.18 * along);
        const SHUT: f32 = -0.30;
        let lower = lerp(-self.lower, SHUT, self.closure) * low;
        let upper = lerp(self.upper * high, SHUT * low, self.closure);
        (upper.max(lower), lower)
    }
}

/// A person's head with everything on it.
pub(crate) struct Rig {
    pub(crate) template: &'static Template,
    pub(crate) mesh: Mesh,
    /// Vertices below this are skin of the template.
    skin_vertices: usize,
    /// Triangles below this have skin vertices and need new normals in each frame.
    skin_triangles: usize,
    /// Normals at rest.
    rest_normals: Vec<Vec3>,
    blends: Vec<Blend>,
    lids: Vec<LidVertex>,
    /// For each column through an eye: heights and depths of the socket at rest, from the top.
    sockets: Vec<Vec<(f32, f32)>>,
    pub(crate) eyes: [Eye; 2],
    aperture: f32,
    /// (vertex, skin vertex, offset): strips that hang on lips and lids.
    strips: Vec<(u32, u32, Vec3)>,
    /// (vertex, skin vertex, eye): tips of the lashes.
    lash_tips: Vec<(u32, u32, u8, f32)>,
    /// (first vertex, (skin vertex, thickness)).
    beard: (u32, Vec<(u32, f32)>),
    /// Light that reaches each vertex from all around, 0 to 1.
    pub(crate) ambient: Vec<f32>,
}

/// A posed head: what the renderer draws. Buffers are kept between frames.
#[derive(Default)]
pub(crate) struct Posed {
    /// Positions in the head's frame.
    local: Vec<Vec3>,
    /// Positions in the camera's frame: the camera at the origin looks along -z.
    pub(crate) view: Vec<Vec3>,
    pub(crate) normals: Vec<Vec3>,
    pub(crate) tangents: Vec<Vec3>,
    local_normals: Vec<Vec3>,
}

/// Where a head stands before the camera.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stance {
    pub(crate) pose: HeadPose,
    /// Rotation of the trunk.
    pub(crate) trunk: Mat3,
    /// Where the middle of the face is, in the camera's frame.
    pub(crate) face_at: Vec3,
}

impl Rig {
    pub(crate) fn new(id: &Identity) -> Self {
        let template = Template::get();
        let n = template.base.len();
        let rest: Vec<Vec3> =
            (0..n).map(|i| shape(template.base[i], template.uv[i][1], template.lip_side[i], id)).collect();
        let mut mesh = Mesh::default();
        for (i, &rest) in rest.iter().enumerate() {
            let [u, t] = template.uv[i];
            let p = template.base[i];
            mesh.push(Vertex {
                head: smoothstep(-16.8, -12.2, t),
                jaw: jaw_weight(p.x.abs(), p.y, p.z, template.lip_side[i], t, u),
                ..Vertex::new(rest, [u, t])
            });
        }
        for t in &template.triangles {
            mesh.triangle(*t, Material::Skin);
        }
        let mut neutral_normals = vec![Vec3::ZERO; n];
        accumulate_normals(&rest, &mesh.triangles, &mut neutral_normals);
        let skull = Skull { template, positions: &rest, normals: &neutral_normals };
        let eyes = parts::eyes(&skull, id);
        let (lids, sockets) = lid_vertices(template, &rest);
        let strips = add_strips(&mut mesh, template, &rest, &eyes);
        let skin_triangles = mesh.triangles.len();
        let beard_first = mesh.rest.len() as u32;
        let beard = (beard_first, parts::add_beard(&mut mesh, template, id));
        let lash_tips = add_lashes(&mut mesh, template, &rest);
        parts::add_eyeballs(&mut mesh, &eyes);
        let seam = template.sample(&rest, 0.0, SEAM);
        let corner = template.sample(&rest, MOUTH_CORNER_U, SEAM);
        parts::add_mouth(&mut mesh, seam, (corner.x.abs() / 2.45).clamp(0.8, 1.25));
        if id.headwear != Headwear::Scarf {
            parts::add_ears(&mut mesh, &skull, id);
        }
        parts::add_trunk(&mut mesh, id);
        parts::add_hair(&mut mesh, &skull, id);
        parts::add_headwear(&mut mesh, &skull, id);
        parts::add_glasses(&mut mesh, &skull, &eyes, id);
        let blends = blends(template, id);
        let mut rig = Self {
            skin_vertices: n,
            skin_triangles,
            rest_normals: Vec::new(),
            blends,
            lids,
            sockets,
            eyes,
            aperture: 1.0 + 0.12 * id.eye_aperture - 0.05 * id.monolid,
            strips,
            lash_tips,
            beard,
            ambient: vec![1.0; mesh.rest.len()],
            template,
            mesh,
        };
        let mut normals = vec![Vec3::ZERO; rig.mesh.rest.len()];
        accumulate_normals(&rig.mesh.rest, &rig.mesh.triangles, &mut normals);
        rig.rest_normals = normals.into_iter().map(Vec3::normalized).collect();
        rig
    }

    /// Middle of the face, in the head's frame.
    pub(crate) const fn face_center() -> Vec3 {
        FACE_CENTER
    }

    fn openings(&self, state: &FaceState) -> [Opening; 2] {
        let sides = state.sides();
        sides.map(|au| {
            let k = self.aperture;
            let look = (state.gaze.pitch_deg / 25.0).clamp(-1.0, 1.0);
            let upper =
                0.43 * k + 0.26 * au[AU5] - 0.15 * au[AU7] - 0.05 * au[AU6] - 0.06 * au[AU4] - 0.10 * au[AU9]
                    + if look > 0.0 { 0.14 } else { 0.34 } * look;
            let lower = 0.37 * k + 0.07 * au[AU5]
                - 0.20 * au[AU7]
                - 0.16 * au[AU6]
                - 0.05 * au[AU12]
                - 0.10 * au[AU9]
                - if look < 0.0 { 0.10 } else { 0.05 } * look;
            Opening { upper: upper.max(-0.08), lower: lower.max(0.12), closure: au[AU43] }
        })
    }

    /// Moves the head into a state and a place before the camera.
    pub(crate) fn pose(&self, state: &FaceState, stance: &Stance, out: &mut Posed) {
        let openings = self.openings(state);
        let sides = state.sides();
        out.local.clear();
        out.local.extend_from_slice(&self.mesh.rest);
        self.move_lids(&openings, &mut out.local);
        for (unit, blend) in self.blends.iter().enumerate() {
            let (left, right) = (sides[0][unit], sides[1][unit]);
            if left <= 1e-4 && right <= 1e-4 {
                continue;
            }
            for (&v, &d) in blend.vertices.iter().zip(&blend.by) {
                let k = lerp(left, right, smoothstep(-0.7, 0.7, self.template.base[v as usize].x));
                out.local[v as usize] += d * k;
            }
        }
        for &(v, source, offset) in &self.strips {
            out.local[v as usize] = out.local[source as usize] + offset;
        }
        for &(v, source, eye, length) in &self.lash_tips {
            let shut = openings[eye as usize].closure;
            out.local[v as usize] = out.local[source as usize]
                + v3(0.0, lerp(0.17, -0.20, shut), lerp(0.20, 0.12, shut)) * length;
        }
        let drop = 0.5 * (sides[0][AU26] + sides[1][AU26]);
        self.drop_jaw(drop, &mut out.local);
        self.update_normals(out);
        let (first, follow) = (self.beard.0 as usize, &self.beard.1);
        for (i, &(source, thickness)) in follow.iter().enumerate() {
            out.local[first + i] =
                out.local[source as usize] + out.local_normals[source as usize] * thickness;
            out.local_normals[first + i] = out.local_normals[source as usize];
        }
        self.place(stance, out);
    }

    fn move_lids(&self, openings: &[Opening; 2], local: &mut [Vec3]) {
        for l in &self.lids {
            let (upper, lower) = openings[l.eye as usize].edges(l.along);
            let rest = self.mesh.rest[l.vertex as usize];
            let below = l.t.is_sign_negative();
            let (edge, reach) = if below { (lower, LID_REACH.1) } else { (upper, LID_REACH.0) };
            let left = (1.0 - l.t.abs() / reach).max(0.0);
            let y = rest.y + edge * pow(left, 1.35);
            let socket = depth_at(&self.sockets[l.column as usize], y);
            let eye = &self.eyes[l.eye as usize];
            let z = match eye.lid_z(rest.x, y) {
                // The upper lid is the thicker one.
                Some(z) => smooth_max(socket, z + if below { -0.02 } else { 0.02 }, 0.16),
                None => socket,
            };
            let fade = smoothstep(1.35, 1.05, l.along.abs());
            local[l.vertex as usize] = v3(rest.x, lerp(rest.y, y, fade), lerp(rest.z, z, fade));
        }
    }

    fn drop_jaw(&self, amount: f32, local: &mut [Vec3]) {
        if amount <= 1e-4 {
            return;
        }
        for (p, &w) in local.iter_mut().zip(&self.mesh.jaw) {
            if w > 0.0 {
                let turn = Mat3::about_x(amount * w * JAW_DROP_DEG * std::f32::consts::PI / 180.0);
                *p = JAW_JOINT + turn.apply(*p - JAW_JOINT);
            }
        }
    }

    fn update_normals(&self, out: &mut Posed) {
        out.local_normals.clear();
        out.local_normals.extend_from_slice(&self.rest_normals);
        let end = self.beard.0 as usize;
        out.local_normals[..end].fill(Vec3::ZERO);
        accumulate_normals(&out.local, &self.mesh.triangles[..self.skin_triangles], &mut out.local_normals);
        for n in &mut out.local_normals[..end] {
            *n = n.normalized();
        }
    }

    fn place(&self, stance: &Stance, out: &mut Posed) {
        let head = stance.pose.rotation();
        let trunk = stance.trunk;
        let joint = stance.face_at - head.apply(FACE_CENTER - NECK_JOINT);
        out.view.clear();
        out.normals.clear();
        out.tangents.clear();
        for i in 0..out.local.len() {
            let (p, w) = (out.local[i] - NECK_JOINT, self.mesh.head[i]);
            let placed = if w >= 1.0 { head.apply(p) } else { trunk.apply(p).lerp(head.apply(p), w) };
            out.view.push(placed + joint);
            let turn = if w > 0.5 { &head } else { &trunk };
            out.normals.push(turn.apply(out.local_normals[i]));
            out.tangents.push(if self.mesh.tangent[i] == Vec3::ZERO {
                Vec3::ZERO
            } else {
                turn.apply(self.mesh.tangent[i])
            });
        }
    }

    /// Triangles of everything on the head.
    pub(crate) fn triangles(&self) -> &[Triangle] {
        &self.mesh.triangles
    }

    /// The posed place of template coordinates on the skin (`lower`: of the cut's lower edge).
    pub(crate) fn skin_point(&self, posed: &Posed, u: f32, t: f32) -> Vec3 {
        self.template.sample(&posed.view[..self.skin_vertices], u, t)
    }

    /// The posed place on a lid's edge, `along` from -1 (inner corner) to 1; `lid` 0 is the upper one.
    pub(crate) fn lid_point(&self, posed: &Posed, eye: usize, lid: usize, along: f32) -> Vec3 {
        on_line(&self.template.lids[eye][lid], &posed.view, 0.5 + 0.5 * along)
    }

    /// The inner and the outer corner of an eye at rest, in the head's frame.
    pub(crate) fn lid_corners_at_rest(&self, eye: usize) -> (Vec3, Vec3) {
        let line = &self.template.lids[eye][0];
        (self.mesh.rest[line[0] as usize], self.mesh.rest[line[line.len() - 1] as usize])
    }

    /// The posed place on a lip's inner edge, `at` from 0 (the picture's left corner) to 1; `lip` 0 is the upper one.
    pub(crate) fn lip_point(&self, posed: &Posed, lip: usize, at: f32) -> Vec3 {
        on_line(&self.template.lips[lip], &posed.view, at)
    }
}

fn on_line(line: &[u32], positions: &[Vec3], at: f32) -> Vec3 {
    let x = at.clamp(0.0, 1.0) * (line.len() - 1) as f32;
    let i = (x as usize).min(line.len() - 2);
    positions[line[i] as usize].lerp(positions[line[i + 1] as usize], x - i as f32)
}

fn depth_at(profile: &[(f32, f32)], y: f32) -> f32 {
    let n = profile.len();
    if y >= profile[0].0 {
        return profile[0].1;
    }
    for w in profile.windows(2) {
        let ((ya, za), (yb, zb)) = (w[0], w[1]);
        if y >= yb {
            return lerp(za, zb, (ya - y) / (ya - yb).max(1e-4));
        }
    }
    profile[n - 1].1
}

fn along_eye(u: f32) -> f32 {
    (u.abs() - 0.5 * (EYE_INNER_U + EYE_OUTER_U)) / (0.5 * (EYE_OUTER_U - EYE_INNER_U))
}

fn lid_vertices(template: &Template, rest: &[Vec3]) -> (Vec<LidVertex>, Vec<Vec<(f32, f32)>>) {
    let nc = template.columns.len();
    let grid = nc * template.rows.len();
    let mut lids = Vec::new();
    let mut sockets = Vec::new();
    let mut column_of = vec![None; nc];
    let near = |t: f32| t < LID_REACH.0 && t > -LID_REACH.1;
    for (c, &u) in template.columns.iter().enumerate() {
        let along = along_eye(u);
        if along.abs() < 1.36 {
            column_of[c] = Some(sockets.len() as u16);
            let rows = (0..template.rows.len()).filter(|&r| (-2.2..2.4).contains(&template.rows[r]));
            sockets.push(rows.map(|r| (rest[r * nc + c].y, rest[r * nc + c].z)).collect());
        }
    }
    for (v, &[u, t]) in template.uv.iter().enumerate() {
        if !near(t) {
            continue;
        }
        let c = if v < grid { v % nc } else { template.columns.partition_point(|&x| x < u - 1e-4) };
        let Some(column) = column_of[c] else { continue };
        // The grid's own vertices along the cut are the upper lid's, the copies the lower lid's.
        let t = if t.abs() < 1e-4 { if v < grid { 0.0 } else { -0.0 } } else { t };
        lids.push(LidVertex { vertex: v as u32, eye: u8::from(u > 0.0), along: along_eye(u), t, column });
    }
    (lids, sockets)
}

/// The inner sides of the lips and the rims of the lids.
fn add_strips(mesh: &mut Mesh, template: &Template, rest: &[Vec3], eyes: &[Eye; 2]) -> Vec<(u32, u32, Vec3)> {
    let mut strips = Vec::new();
    let mut strip =
        |mesh: &mut Mesh, line: &[u32], flip: bool, material: Material, offset: &dyn Fn(Vec3) -> Vec3| {
            // `uv[1]` is 0 on the outer edge and 1 on the inner one.
            let [outer, inner] = [0.0, 1.0].map(|depth| -> Vec<u32> {
                let add = |&v: &u32| {
                    let i = v as usize;
                    let by = offset(rest[i]) * depth;
                    let vertex = Vertex {
                        head: mesh.head[i],
                        jaw: mesh.jaw[i],
                        ..Vertex::new(rest[i] + by, [0.0, depth])
                    };
                    let new = mesh.push(vertex);
                    strips.push((new, v, by));
                    new
                };
                line.iter().map(add).collect()
            });
            for i in 0..line.len() - 1 {
                let quad = [outer[i], inner[i], inner[i + 1], outer[i + 1]];
                mesh.quad(if flip { [quad[3], quad[2], quad[1], quad[0]] } else { quad }, material);
            }
        };
    strip(mesh, &template.lips[0], false, Material::InnerLip, &|_| v3(0.0, 0.12, -1.1));
    strip(mesh, &template.lips[1], true, Material::InnerLip, &|_| v3(0.0, -0.06, -1.1));
    for (e, eye) in eyes.iter().enumerate() {
        for lid in 0..2 {
            let flip = (lid == 1) != (e == 0);
            strip(mesh, &template.lids[e][lid], flip, Material::LidEdge, &|p| {
                let d = eye.center - p;
                v3(0.05 * d.x, if lid == 0 { -0.015 } else { 0.015 }, -0.17)
            });
        }
    }
    strips
}

fn add_lashes(mesh: &mut Mesh, template: &Template, rest: &[Vec3]) -> Vec<(u32, u32, u8, f32)> {
    let mut tips = Vec::new();
    for eye in 0..2u8 {
        let line = &template.lids[eye as usize][0];
        let n = line.len();
        let mut rows: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
        for (i, &v) in line.iter().enumerate() {
            let s = i as f32 / (n - 1) as f32;
            let length = (0.45 + 0.65 * s) * smoothstep(0.0, 0.15, s) * smoothstep(1.02, 0.92, s);
            let p = rest[v as usize];
            for (k, row) in rows.iter_mut().enumerate() {
                let uv = [s * 30.0, k as f32];
                let new = mesh.push(Vertex { alpha: if k == 0 { 1.0 } else { 0.42 }, ..Vertex::new(p, uv) });
                row.push(new);
                tips.push((new, v, eye, if k == 0 { 0.02 } else { length }));
            }
        }
        for i in 0..n - 1 {
            mesh.quad([rows[1][i], rows[0][i], rows[0][i + 1], rows[1][i + 1]], Material::Lash);
        }
    }
    tips
}

fn blends(template: &Template, id: &Identity) -> Vec<Blend> {
    let old = id.ageing();
    (0..action_units::N)
        .map(|unit| {
            let mut blend = Blend { vertices: Vec::new(), by: Vec::new() };
            for (v, p) in template.base.iter().enumerate() {
                let front = smoothstep(0.5, 4.0, p.z) * bump((template.uv[v][0].abs() - 3.6).max(0.0), 1.3);
                if front < 1e-3 {
                    continue;
                }
                let site = Site { ax: p.x.abs(), y: p.y, side: template.lip_side[v], front };
                let mut d = displacement(unit, site);
                // Loose skin moves a little further.
                d = d * (1.0 + 0.08 * old);
                d.x *= if p.x < 0.0 { -1.0 } else { 1.0 };
                d.y = lower_face(p.y + d.y) - lower_face(p.y);
                if d.length() > 0.004 {
                    blend.vertices.push(v as u32);
                    blend.by.push(d);
                }
            }
            blend
        })
        .collect()
}
