//! One person in one setting, drawn in any state.

use crate::background;
use crate::camera::Camera;
use crate::dynamics::Occlusion;
use crate::identity::Identity;
use crate::landmarks::{face_box, landmarks, lid_edge};
use crate::light::{Lights, casts, occlusion};
use crate::math::{Mat3, Vec3, noise2, v3};
use crate::mesh::{Material, Mesh, Triangle, accumulate_normals};
use crate::occluder;
use crate::picture::Picture;
use crate::random::{Stream, rng_for};
use crate::raster::{DepthMap, NOTHING, Raster, ScreenVertex, weights_at};
use crate::rig::{FaceState, HeadPose, Posed, Rig, Stance};
use crate::shade::{Shader, Surface};
use crate::skin::Skin;
use crate::{SynthError, action_units};
use semblance_face::Frame;
use semblance_face::geometry::{Point, Rect};

/// Height of the face box of an average frontal face, cm.
const FACE_HEIGHT_CM: f32 = 15.4;
/// Backgrounds are larger than the picture by this on each side, as a share of its height.
const MARGIN: f32 = 0.3;

/// Where a face is in the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Middle of the face, pixels.
    pub center: Point,
    /// Height that the face box of an average frontal face would have, pixels.
    pub face_px: f32,
}

/// A drawn picture and where the face is in it.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The picture.
    pub frame: Frame,
    /// The 68 iBUG landmarks, pixels. Jaw points 0 to 16 follow the visible outline; all others stay on their tissue,
    /// hidden or not.
    pub landmarks: [Point; 68],
    /// The face box, pixels: the smallest upright box around the landmarks and the forehead up to about the hairline.
    pub bbox: Rect,
    /// Share of the landmarks that cannot be seen: something, the head itself included, is before them, or they lie
    /// outside the picture. 0 to 1.
    pub hidden: f32,
}

/// Draws a place with nobody in it, light, camera and background random by `seed`: what a face finder must not see a
/// face in.
///
/// # Errors
/// As [`Renderer::new`].
pub fn empty_scene(width: u32, height: u32, seed: u64) -> Result<Frame, SynthError> {
    let identity = Identity::sample(&mut rng_for(seed, Stream::Scene, 1));
    let mut renderer = Renderer::new(identity, width, height, 0.5 * height as f32, seed)?;
    // Heads and shoulders are narrower than a picture that is as high as ten faces is wide.
    let away = Point::new(-10.0 * width.max(height) as f32, 0.5 * height as f32);
    let placement = Placement { center: away, face_px: 0.2 * height as f32 };
    Ok(renderer.render(&FaceState::default(), placement)?.frame)
}

/// Draws one person under one light before one background.
pub struct Renderer {
    identity: Identity,
    rig: Rig,
    skin: Skin,
    lights: Lights,
    camera: Camera,
    background: Picture,
    width: usize,
    height: usize,
    supersample: usize,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    posed: Posed,
    raster: Raster,
    shadow: DepthMap,
    screen: Vec<ScreenVertex>,
    picture: Picture,
    scratch: Vec<[f32; 3]>,
}

/// How a picture is to be taken, beyond what the renderer holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shot {
    pub(crate) placement: Placement,
    pub(crate) occlusion: Option<Occlusion>,
    /// Shift of the background, pixels.
    pub(crate) behind: [f32; 2],
    /// Motion of the face, pixels a frame.
    pub(crate) smear: [f32; 2],
    /// Seed of the sensor's noise.
    pub(crate) noise: u32,
}

impl Renderer {
    /// A renderer for pictures of `width` x `height`; light, camera and background are random by `scene_seed`.
    /// `face_px` is about the height that faces will have and sets the detail of the skin.
    ///
    /// # Errors
    /// [`SynthError::Size`] for a picture below 16 or beyond [`Frame::MAX_SIDE`] pixels a side.
    pub fn new(
        identity: Identity,
        width: u32,
        height: u32,
        face_px: f32,
        scene_seed: u64,
    ) -> Result<Self, SynthError> {
        let mut rng = rng_for(scene_seed, Stream::Scene, 0);
        let lights = Lights::sample(&mut rng);
        let camera = Camera::sample(&mut rng);
        let mut renderer = Self::with_lights(identity, width, height, face_px, lights)?;
        let margin = (MARGIN * height as f32) as usize * 2;
        renderer.background = background::draw(
            &mut rng_for(scene_seed, Stream::Background, 0),
            width as usize + margin,
            height as usize + margin,
        );
        renderer.camera = camera;
        Ok(renderer)
    }

    /// A renderer with even studio light, a grey background and an ideal camera: for looking at faces, and for tests.
    ///
    /// # Errors
    /// As [`Renderer::new`].
    pub fn studio(identity: Identity, width: u32, height: u32, face_px: f32) -> Result<Self, SynthError> {
        Self::with_lights(identity, width, height, face_px, Lights::studio())
    }

    fn with_lights(
        identity: Identity,
        width: u32,
        height: u32,
        face_px: f32,
        lights: Lights,
    ) -> Result<Self, SynthError> {
        let sides = 16..=Frame::MAX_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(SynthError::Size { width, height });
        }
        let mut rig = Rig::new(&identity);
        let side = if face_px > 170.0 { 512 } else { 256 };
        let skin = Skin::new(&identity, rig.template, side);
        let mut posed = Posed::default();
        let stance = Stance { pose: HeadPose::default(), trunk: Mat3::IDENTITY, face_at: Rig::face_center() };
        rig.pose(&FaceState::default(), &stance, &mut posed);
        rig.ambient = occlusion(&rig, &posed);
        let grey = v3(0.22, 0.225, 0.23);
        Ok(Self {
            identity,
            rig,
            skin,
            lights,
            camera: Camera::ideal(),
            background: Picture::from_fn(2, 2, |_, _| grey),
            width: width as usize,
            height: height as usize,
            // Small faces need more samples to keep their features.
            supersample: if face_px > 40.0 { 2 } else { 3 },
            buffers: Buffers::default(),
        })
    }

    /// Who is drawn.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The camera, to be changed.
    pub fn camera_mut(&mut self) -> &mut Camera {
        &mut self.camera
    }

    /// Where the face is put when nothing else is asked for: in the middle, filling most of the picture.
    pub fn centered(&self) -> Placement {
        Placement {
            center: Point::new(0.5 * self.width as f32, 0.53 * self.height as f32),
            face_px: 0.66 * self.height.min(self.width) as f32,
        }
    }

    /// Draws the person in a state.
    ///
    /// # Errors
    /// [`SynthError::State`] for a value that is not finite or a placement without size.
    pub fn render(&mut self, state: &FaceState, placement: Placement) -> Result<Rendered, SynthError> {
        self.shoot(state, &Shot { placement, occlusion: None, behind: [0.0; 2], smear: [0.0; 2], noise: 1 })
    }

    /// Face height to pixels per centimetre at the face, and the focal length in pixels.
    fn optics(&self, face_px: f32) -> (f32, f32) {
        let scale = face_px / FACE_HEIGHT_CM;
        (scale, scale * self.camera.distance_cm)
    }

    pub(crate) fn shoot(&mut self, state: &FaceState, shot: &Shot) -> Result<Rendered, SynthError> {
        check(state, &shot.placement)?;
        let (scale, focal) = self.optics(shot.placement.face_px);
        let (cx, cy) = (0.5 * self.width as f32, 0.5 * self.height as f32);
        let face_at = v3(
            (shot.placement.center.x - cx) / scale,
            -(shot.placement.center.y - cy) / scale,
            -self.camera.distance_cm,
        );
        let pose = state.pose;
        let rad = std::f32::consts::PI / 180.0;
        let trunk =
            Mat3::about_z(-0.15 * pose.roll_deg * rad).after(&Mat3::about_y(0.3 * pose.yaw_deg * rad));
        let stance = Stance { pose, trunk, face_at };
        self.rig.pose(state, &stance, &mut self.buffers.posed);
        let [left, right] = state.sides();
        self.skin.fold(&left, &right);
        let project = |p: Vec3| {
            let k = focal / (-p.z).max(1.0);
            Point::new(cx + p.x * k, cy - p.y * k)
        };
        let places = landmarks(&self.rig, &self.buffers.posed, &project);
        let points = places.map(project);
        let bbox = face_box(&self.rig, &self.buffers.posed, &points, &project);
        let extra = self.add_occluder(shot.occlusion.as_ref(), face_at);
        self.rasterize(&extra, focal);
        let hidden = self.hidden_share(&places, &points);
        self.draw_shadow(&extra, face_at);
        self.paint(state, &extra, shot, &stance);
        let mut frame = Frame::black(self.width as u32, self.height as u32)?;
        let gain = self.exposure();
        self.camera.expose(
            &mut self.buffers.picture,
            gain,
            shot.smear,
            shot.noise,
            &mut frame,
            &mut self.buffers.scratch,
        );
        Ok(Rendered { frame, landmarks: points, bbox, hidden })
    }

    /// Automatic exposure: between the face and a mid-grey scene.
    fn exposure(&self) -> f32 {
        let skin = self.identity.skin_albedo();
        let luma = 0.2126 * skin.x + 0.7152 * skin.y + 0.0722 * skin.z;
        0.25 / (self.lights.level() * (0.62 * luma + 0.38 * 0.30))
    }

    /// Appends what is in front of the face to the posed arrays, and returns its own attributes.
    fn add_occluder(&mut self, occlusion: Option<&Occlusion>, face_at: Vec3) -> Extra {
        let Some(o) = occlusion else {
            return Extra::default();
        };
        let mesh = occluder::build(o);
        let mut normals = vec![Vec3::ZERO; mesh.rest.len()];
        accumulate_normals(&mesh.rest, &mesh.triangles, &mut normals);
        let first = self.rig.mesh.rest.len() as u32;
        let posed = &mut self.buffers.posed;
        posed.view.extend(mesh.rest.iter().map(|p| *p + face_at));
        posed.normals.extend(normals.iter().map(|n| n.normalized()));
        posed.tangents.extend(mesh.rest.iter().map(|_| Vec3::ZERO));
        let triangles = mesh
            .triangles
            .iter()
            .map(|t| Triangle { v: t.v.map(|v| v + first), material: t.material })
            .collect();
        Extra { mesh, triangles, rgb: occluder::color(o.kind) }
    }

    fn rasterize(&mut self, extra: &Extra, focal: f32) {
        let ss = self.supersample;
        let b = &mut self.buffers;
        b.raster.clear(self.width * ss, self.height * ss);
        let k = ss as f32;
        let (cx, cy) = (0.5 * self.width as f32, 0.5 * self.height as f32);
        b.screen.clear();
        b.screen.extend(b.posed.view.iter().map(|p| {
            if p.z > -4.0 {
                return ScreenVertex::default();
            }
            let near = -1.0 / p.z;
            ScreenVertex { x: (cx + p.x * near * focal) * k, y: (cy - p.y * near * focal) * k, near }
        }));
        let mesh = &self.rig.mesh;
        let step = 1.0 / (ss * ss) as f32;
        for (i, t) in self.rig.triangles().iter().chain(&extra.triangles).enumerate() {
            let v = t.v.map(|v| b.screen[v as usize]);
            if !t.material.has_alpha() {
                b.raster.triangle(i as u32, v, t.material.two_sided(), |_, _, _| true);
                continue;
            }
            let alpha = t.v.map(|v| mesh.alpha[v as usize]);
            if alpha.iter().all(|&a| a >= 0.999) {
                b.raster.triangle(i as u32, v, true, |_, _, _| true);
                continue;
            }
            let uv = t.v.map(|v| mesh.uv[v as usize]);
            let seed = self.identity.detail_seed;
            b.raster.triangle(i as u32, v, true, |w, x, y| {
                let a = w[0] * alpha[0] + w[1] * alpha[1] + w[2] * alpha[2];
                let at = |k: usize| w[0] * uv[0][k] + w[1] * uv[1][k] + w[2] * uv[2][k];
                let threshold = (((y % ss) * ss + x % ss) as f32 + 0.5) * step;
                coverage(t.material, a, at(0), at(1), seed) > threshold
            });
        }
    }

    /// Share of the landmarks, in the camera's frame and in pixels, that something is in front of or that fall outside
    /// the picture.
    fn hidden_share(&self, places: &[Vec3; 68], points: &[Point; 68]) -> f32 {
        let raster = &self.buffers.raster;
        let k = self.supersample as f32;
        let hides = |(place, p): &(&Vec3, &Point)| {
            let (x, y) = ((p.x * k).floor(), (p.y * k).floor());
            if x < 0.0 || y < 0.0 || x >= raster.width as f32 || y >= raster.height as f32 {
                return true;
            }
            // A centimetre of tolerance: landmarks lie on edges.
            raster.near[y as usize * raster.width + x as usize] > 1.0 / (-place.z - 1.0).max(1.0)
        };
        places.iter().zip(points).filter(hides).count() as f32 / 68.0
    }

    fn draw_shadow(&mut self, extra: &Extra, face_at: Vec3) {
        let rig = &self.rig;
        let triangles = rig.triangles().iter().filter(|t| casts(rig, t)).chain(&extra.triangles).copied();
        let center = face_at + v3(0.0, 0.5, -6.0);
        self.buffers.shadow.draw(
            &self.buffers.posed.view,
            triangles,
            self.lights.key_from,
            center,
            16.0,
            128,
        );
    }

    /// Shades every pixel into `buffers.picture`.
    fn paint(&mut self, state: &FaceState, extra: &Extra, shot: &Shot, stance: &Stance) {
        let head = stance.pose.rotation();
        let (right, up) = (head.apply(v3(1.0, 0.0, 0.0)), head.apply(v3(0.0, 1.0, 0.0)));
        let posed = &self.buffers.posed;
        let gap = self.rig.lip_point(posed, 0, 0.5) - self.rig.lip_point(posed, 1, 0.5);
        let shader = Shader {
            id: &self.identity,
            skin: &self.skin,
            lights: &self.lights,
            shadow: &self.buffers.shadow,
            head_up: up,
            head_forward: head.apply(v3(0.0, 0.0, 1.0)),
            gaze: state.gaze,
            lid_edge: [0, 1].map(|e| lid_edge(&self.rig, posed, e, right, up)),
            mouth_open: gap.length(),
            skin_albedo: self.identity.skin_albedo(),
            hair_albedo: self.identity.hair_albedo(),
            occluder_rgb: extra.rgb,
        };
        let picture = &mut self.buffers.picture;
        if (picture.width, picture.height) != (self.width, self.height) {
            *picture = Picture::new(self.width, self.height);
        }
        let margin = MARGIN * self.height as f32;
        let level = self.lights.level();
        if self.background.width > 2 {
            picture.copy_window(&self.background, margin + shot.behind[0], margin + shot.behind[1], level);
        } else {
            picture.rgb.fill(self.background.rgb[0].map(|v| v * level));
        }
        let triangles = self.rig.triangles();
        let raster = &self.buffers.raster;
        let screen = &self.buffers.screen;
        let mesh = &self.rig.mesh;
        let triangle = |id: u32| match triangles.get(id as usize) {
            Some(t) => t,
            None => &extra.triangles[id as usize - triangles.len()],
        };
        let surface = |id: u32, x: f32, y: f32| {
            let t = triangle(id);
            let w = weights_at(t.v.map(|v| screen[v as usize]), x, y);
            let mix = |values: &[Vec3]| {
                values[t.v[0] as usize] * w[0]
                    + values[t.v[1] as usize] * w[1]
                    + values[t.v[2] as usize] * w[2]
            };
            let (mut uv, mut ambient) = ([0.0f32; 2], 0.0);
            for (&v, &k) in t.v.iter().zip(&w) {
                let v = v as usize;
                match (mesh.uv.get(v), self.rig.ambient.get(v)) {
                    (Some(c), Some(a)) => {
                        uv[0] += k * c[0];
                        uv[1] += k * c[1];
                        ambient += k * a;
                    }
                    _ => {
                        let c = extra.mesh.uv[v - mesh.uv.len()];
                        uv[0] += k * c[0];
                        uv[1] += k * c[1];
                        ambient += k * 0.9;
                    }
                }
            }
            let at = mix(&posed.view);
            let normal = mix(&posed.normals).normalized();
            let normal = if t.material.two_sided() && normal.dot(at) > 0.0 { -normal } else { normal };
            Surface { material: t.material, at, normal, tangent: mix(&posed.tangents), uv, ambient }
        };
        let ss = self.supersample;
        let n = ss * ss;
        let share = 1.0 / n as f32;
        let [x0, x1, y0, y1] = raster.touched;
        for py in y0 / ss..y1.div_ceil(ss) {
            for px in x0 / ss..x1.div_ceil(ss) {
                let mut done = [false; 16];
                let mut sum = Vec3::ZERO;
                let mut covered = 0;
                for i in 0..n {
                    let (sx, sy) = (px * ss + i % ss, py * ss + i / ss);
                    let at = sy * raster.width + sx;
                    let id = raster.id[at];
                    if id == NOTHING || done[i] {
                        continue;
                    }
                    let material = triangle(id).material;
                    let near = raster.near[at];
                    // Samples of one surface share one evaluation, at their mean position.
                    let (mut mx, mut my, mut count) = (sx as f32 + 0.5, sy as f32 + 0.5, 1);
                    let alone = matches!(material, Material::EyeLeft | Material::EyeRight);
                    if !alone {
                        for (j, d) in done.iter_mut().enumerate().take(n).skip(i + 1) {
                            let (tx, ty) = (px * ss + j % ss, py * ss + j / ss);
                            let other = ty * raster.width + tx;
                            let id = raster.id[other];
                            if id == NOTHING || *d || triangle(id).material != material {
                                continue;
                            }
                            let apart = (raster.near[other] - near).abs();
                            if apart < near * 0.012 {
                                *d = true;
                                mx += tx as f32 + 0.5;
                                my += ty as f32 + 0.5;
                                count += 1;
                            }
                        }
                    }
                    let k = 1.0 / count as f32;
                    sum += shader.shade(&surface(id, mx * k, my * k)) * count as f32;
                    covered += count;
                }
                if covered > 0 {
                    let out = &mut picture.rgb[py * self.width + px];
                    let rest = (n - covered) as f32;
                    *out = [
                        (sum.x + rest * out[0]) * share,
                        (sum.y + rest * out[1]) * share,
                        (sum.z + rest * out[2]) * share,
                    ];
                }
            }
        }
    }
}

/// What stands in front of the face in a frame.
#[derive(Default)]
struct Extra {
    mesh: Mesh,
    /// Numbered after the head's vertices.
    triangles: Vec<Triangle>,
    rgb: Vec3,
}

/// How much of a sample a material with holes covers.
fn coverage(material: Material, alpha: f32, a: f32, b: f32, seed: u32) -> f32 {
    if alpha >= 0.999 {
        return 1.0;
    }
    let strand = match material {
        Material::Hair => {
            let n = |k: f32, s: u32| noise2(a * k, b * 0.8, seed ^ s);
            0.5 + 0.3 * n(21.0, 0xC4) + 0.2 * n(8.0, 0xC7)
        }
        Material::Beard => 0.5 + 0.5 * noise2(a * 9.0, b * 3.0, seed ^ 0xC5),
        Material::Lash => 0.5 + 0.5 * noise2(a, 3.0, seed ^ 0xC6),
        _ => return alpha,
    };
    ((alpha * 1.5 - strand) * 2.2).clamp(0.0, 1.0)
}

fn check(state: &FaceState, placement: &Placement) -> Result<(), SynthError> {
    let all = state.au.iter().chain(&state.au_asymmetry).chain([
        &state.pose.yaw_deg,
        &state.pose.pitch_deg,
        &state.pose.roll_deg,
        &state.gaze.yaw_deg,
        &state.gaze.pitch_deg,
        &placement.center.x,
        &placement.center.y,
        &placement.face_px,
    ]);
    for (i, v) in all.enumerate() {
        if !v.is_finite() {
            return Err(SynthError::State {
                value: *v,
                place: if i < 2 * action_units::N { "action units" } else { "pose, gaze or placement" },
            });
        }
    }
    if placement.face_px < 4.0 || placement.face_px > 4.0 * Frame::MAX_SIDE as f32 {
        return Err(SynthError::State { value: placement.face_px, place: "face_px" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::action_units::{AU10, AU25, AU26};
    use crate::identity::{FacialHair, Headwear};
    use crate::random::Draw;

    fn inside(polygon: &[Point], x: f32, y: f32) -> bool {
        let edges = polygon.iter().zip(polygon.iter().cycle().skip(1));
        edges
            .filter(|(a, b)| (a.y > y) != (b.y > y) && x < (b.x - a.x) * (y - a.y) / (b.y - a.y) + a.x)
            .count()
            % 2
            == 1
    }

    fn away_from(polygon: &[Point], x: f32, y: f32) -> f32 {
        polygon.iter().map(|p| (p.x - x).hypot(p.y - y)).fold(f32::MAX, f32::min)
    }

    #[test]
    fn the_mouths_inside_shows_between_the_lips_and_nowhere_else() {
        let (mut open, mut through, mut poking) = (0, 0, 0);
        for i in 0..40 {
            let mut rng = rng_for(31, Stream::Identity, i);
            let who = Identity {
                facial_hair: FacialHair::None,
                headwear: Headwear::None,
                ..Identity::sample(&mut rng)
            };
            let mut r = Renderer::studio(who, 160, 160, 110.0).unwrap();
            for _ in 0..4 {
                let mut state = FaceState::default();
                for unit in AU10..AU25 {
                    state.au[unit] = if rng.chance(0.4) { rng.unit() } else { 0.0 };
                }
                (state.au[AU25], state.au[AU26]) = (rng.unit(), 0.9 * rng.unit());
                state.pose.yaw_deg = rng.between(-55.0, 55.0);
                state.pose.pitch_deg = rng.between(-28.0, 28.0);
                let drawn = r.render(&state, r.centered()).unwrap();
                let (outer, inner) = (&drawn.landmarks[48..60], &drawn.landmarks[60..68]);
                let raster = &r.buffers.raster;
                for (at, &id) in raster.id.iter().enumerate() {
                    let x = ((at % raster.width) as f32 + 0.5) / r.supersample as f32;
                    let y = ((at / raster.width) as f32 + 0.5) / r.supersample as f32;
                    if inside(inner, x, y) {
                        open += 1;
                        through += usize::from(id == NOTHING);
                    }
                    let Some(t) = r.rig.triangles().get(id as usize) else { continue };
                    let within =
                        matches!(t.material, Material::MouthCavity | Material::Teeth | Material::Tongue);
                    poking += usize::from(within && !inside(outer, x, y) && away_from(outer, x, y) > 3.0);
                }
            }
        }
        assert!(open > 20_000, "{open}");
        // Landmarks are joined by straight lines, lips are not: a sample in a thousand may fall between.
        assert!(1000 * through < open, "{through} of {open}");
        assert!(1000 * poking < open, "{poking} of {open}");
    }
}
