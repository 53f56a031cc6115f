//! Who the face belongs to: the parameters of skull, features, skin, hair and accessories.
//!
//! Shape parameters are in standard deviations of the adult population, 0 being the average and +-2.5 the limits. The
//! average itself lies in the mesh (`head`), whose measures follow adult anthropometry (Farkas, *Anthropometry of the
//! Head and Face*, 1994).

use crate::math::{Vec3, exp, lerp, v3};
use crate::random::Draw;
use rand::Rng;

/// How the hair is worn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HairStyle {
    /// No hair on the scalp.
    Bald,
    /// Shaved to a few millimetres.
    Buzz,
    /// Short on the sides, some volume on top.
    Short,
    /// Short, combed to one side.
    SidePart,
    /// Longer on top, swept up and back.
    SweptBack,
    /// Short with a fringe over the forehead.
    Fringe,
    /// Hair to the jaw.
    Bob,
    /// Hair beyond the shoulders, open.
    Long,
    /// Hair beyond the shoulders, with a fringe.
    LongFringe,
    /// Tied back.
    TiedBack,
    /// Tight curls with volume.
    Curly,
    /// Large round curls.
    Afro,
}

impl HairStyle {
    /// Every style.
    pub const ALL: [Self; 12] = [
        Self::Bald,
        Self::Buzz,
        Self::Short,
        Self::SidePart,
        Self::SweptBack,
        Self::Fringe,
        Self::Bob,
        Self::Long,
        Self::LongFringe,
        Self::TiedBack,
        Self::Curly,
        Self::Afro,
    ];
}

/// What grows on the lower face.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FacialHair {
    /// Shaved, or none.
    None,
    /// A few days of growth, drawn on the skin.
    Stubble,
    /// On the upper lip only.
    Moustache,
    /// Upper lip and chin.
    Goatee,
    /// Upper lip, chin and cheeks.
    Full,
}

/// What is worn in front of the eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Glasses {
    /// Nothing.
    None,
    /// A thin metal rim.
    Thin,
    /// A thick plastic rim.
    Thick,
    /// Lenses without a lower rim.
    HalfRim,
    /// Dark lenses.
    Sun,
}

/// What is worn on the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Headwear {
    /// Nothing.
    None,
    /// A knitted cap.
    Beanie,
    /// A cap with a peak.
    Cap,
    /// A scarf around head and neck.
    Scarf,
}

/// One person. Fields marked *(sd)* are standard deviations in `[-2.5, 2.5]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Age in years, 16 to 80: drives folds, eye bags, sagging, grey hair and skin marks.
    pub age_years: f32,
    /// 0 for a typically female, 1 for a typically male skull.
    pub masculinity: f32,

    /// Width of the skull *(sd)*.
    pub head_width: f32,
    /// Height of the skull above the brows *(sd)*.
    pub cranium_height: f32,
    /// Length of the skull from front to back *(sd)*.
    pub head_length: f32,
    /// Length of the face below the eyes *(sd)*.
    pub face_length: f32,
    /// Width of the lower jaw *(sd)*.
    pub jaw_width: f32,
    /// How square the angle of the jaw is *(sd)*.
    pub jaw_squareness: f32,
    /// Height of the chin *(sd)*.
    pub chin_height: f32,
    /// Width of the chin *(sd)*.
    pub chin_width: f32,
    /// How far the chin stands forward *(sd)*.
    pub chin_projection: f32,
    /// Prominence of the cheekbones *(sd)*.
    pub cheekbones: f32,
    /// Fullness of the cheeks *(sd)*.
    pub cheek_fullness: f32,
    /// Soft tissue overall, from lean to heavy *(sd)*.
    pub fat: f32,
    /// Slope of the forehead, receding above 0 *(sd)*.
    pub forehead_slope: f32,
    /// Prominence of the ridge above the eyes *(sd)*.
    pub brow_ridge: f32,
    /// Hollowness of the temples *(sd)*.
    pub temple_hollow: f32,

    /// Distance between the eyes *(sd)*.
    pub eye_spacing: f32,
    /// Width of the eye opening *(sd)*.
    pub eye_width: f32,
    /// Height of the eye opening *(sd)*.
    pub eye_aperture: f32,
    /// Outer corner of the eye higher above 0 *(sd)*.
    pub eye_tilt: f32,
    /// How deep the eyes lie *(sd)*.
    pub eye_depth: f32,
    /// From a clear fold above the eye (0) to none (1).
    pub monolid: f32,
    /// Bags under the eyes, 0 to 1.
    pub eye_bags: f32,

    /// Height of the brows *(sd)*.
    pub brow_height: f32,
    /// Arch of the brows *(sd)*.
    pub brow_arch: f32,
    /// Outer end of the brows higher above 0 *(sd)*.
    pub brow_tilt: f32,
    /// Thickness of the brows *(sd)*.
    pub brow_thickness: f32,
    /// How densely the brows grow, 0.2 to 1.
    pub brow_density: f32,

    /// Length of the nose *(sd)*.
    pub nose_length: f32,
    /// Width between the wings of the nose *(sd)*.
    pub nose_width: f32,
    /// Height of the bridge *(sd)*.
    pub nose_bridge: f32,
    /// Width of the bridge *(sd)*.
    pub nose_bridge_width: f32,
    /// How far the tip stands out *(sd)*.
    pub nose_projection: f32,
    /// Size of the tip's ball *(sd)*.
    pub nose_tip: f32,
    /// Tip turned up above 0 *(sd)*.
    pub nose_upturn: f32,
    /// A hump on the bridge above 0, a hollow below *(sd)*.
    pub nose_hump: f32,

    /// Width of the mouth *(sd)*.
    pub mouth_width: f32,
    /// Fullness of the upper lip *(sd)*.
    pub upper_lip: f32,
    /// Fullness of the lower lip *(sd)*.
    pub lower_lip: f32,
    /// Depth of the cupid's bow *(sd)*.
    pub cupid_bow: f32,
    /// How far the lips stand forward *(sd)*.
    pub lip_protrusion: f32,
    /// Mouth corners higher above 0 *(sd)*.
    pub mouth_curve: f32,
    /// Length of the skin between nose and lip *(sd)*.
    pub philtrum: f32,

    /// Size of the ears *(sd)*.
    pub ear_size: f32,
    /// How far the ears stand off *(sd)*.
    pub ear_flare: f32,
    /// Width of the neck *(sd)*.
    pub neck_width: f32,
    /// Difference between the two halves of the face, 0 to 1.
    pub asymmetry: f32,

    /// Melanin in the skin, 0 (lightest) to 1 (darkest).
    pub melanin: f32,
    /// Blood in the skin, 0 to 1.
    pub redness: f32,
    /// Warm (above 0) or cool undertone, -1 to 1.
    pub undertone: f32,
    /// Freckles, 0 to 1.
    pub freckles: f32,
    /// Uneven colour, 0 to 1.
    pub blotches: f32,
    /// Number of moles, 0 to 6.
    pub moles: u8,
    /// Shine of the skin, 0 to 1.
    pub oiliness: f32,
    /// Colour of the lips, from the skin's (0) to full red (1).
    pub lip_red: f32,
    /// Lipstick, eyeliner and shadow, 0 (none) to 1.
    pub makeup: f32,

    /// Pigment of the iris: 0 blue, 0.5 green or hazel, 1 dark brown.
    pub iris_pigment: f32,
    /// Width of the pupil as a fraction of the iris, 0.25 to 0.6.
    pub pupil: f32,

    /// How the hair is worn.
    pub hair_style: HairStyle,
    /// Pigment of the hair: 0 blond to 1 black.
    pub hair_pigment: f32,
    /// Red of the hair, 0 to 1.
    pub hair_red: f32,
    /// Share of grey hair, 0 to 1.
    pub hair_grey: f32,
    /// Volume of the hair *(sd)*.
    pub hair_volume: f32,
    /// How far the hairline has receded, 0 to 1.
    pub hair_recession: f32,
    /// What grows on the lower face.
    pub facial_hair: FacialHair,
    /// Density of the facial hair, 0.3 to 1.
    pub facial_hair_density: f32,
    /// What is worn in front of the eyes.
    pub glasses: Glasses,
    /// Width of the glasses *(sd)*.
    pub glasses_size: f32,
    /// Lens shape, from round (0) to rectangular (1).
    pub glasses_square: f32,
    /// Colour of frame (linear RGB, 0 to 1).
    pub glasses_rgb: [f32; 3],
    /// What is worn on the head.
    pub headwear: Headwear,
    /// Colour of the clothes (linear RGB, 0 to 1).
    pub cloth_rgb: [f32; 3],
    /// Colour of the headwear (linear RGB, 0 to 1).
    pub headwear_rgb: [f32; 3],
    /// Seeds what no parameter describes: where moles sit, how the brows' hairs lie.
    pub detail_seed: u32,
}

impl Identity {
    /// The average adult: every shape parameter 0, no hair on the face and nothing worn.
    pub fn average() -> Self {
        Self {
            age_years: 30.0,
            masculinity: 0.5,
            head_width: 0.0,
            cranium_height: 0.0,
            head_length: 0.0,
            face_length: 0.0,
            jaw_width: 0.0,
            jaw_squareness: 0.0,
            chin_height: 0.0,
            chin_width: 0.0,
            chin_projection: 0.0,
            cheekbones: 0.0,
            cheek_fullness: 0.0,
            fat: 0.0,
            forehead_slope: 0.0,
            brow_ridge: 0.0,
            temple_hollow: 0.0,
            eye_spacing: 0.0,
            eye_width: 0.0,
            eye_aperture: 0.0,
            eye_tilt: 0.0,
            eye_depth: 0.0,
            monolid: 0.1,
            eye_bags: 0.2,
            brow_height: 0.0,
            brow_arch: 0.0,
            brow_tilt: 0.0,
            brow_thickness: 0.0,
            brow_density: 0.8,
            nose_length: 0.0,
            nose_width: 0.0,
            nose_bridge: 0.0,
            nose_bridge_width: 0.0,
            nose_projection: 0.0,
            nose_tip: 0.0,
            nose_upturn: 0.0,
            nose_hump: 0.0,
            mouth_width: 0.0,
            upper_lip: 0.0,
            lower_lip: 0.0,
            cupid_bow: 0.0,
            lip_protrusion: 0.0,
            mouth_curve: 0.0,
            philtrum: 0.0,
            ear_size: 0.0,
            ear_flare: 0.0,
            neck_width: 0.0,
            asymmetry: 0.2,
            melanin: 0.25,
            redness: 0.4,
            undertone: 0.2,
            freckles: 0.1,
            blotches: 0.3,
            moles: 1,
            oiliness: 0.4,
            lip_red: 0.5,
            makeup: 0.0,
            iris_pigment: 0.7,
            pupil: 0.38,
            hair_style: HairStyle::Short,
            hair_pigment: 0.75,
            hair_red: 0.1,
            hair_grey: 0.0,
            hair_volume: 0.0,
            hair_recession: 0.1,
            facial_hair: FacialHair::None,
            facial_hair_density: 0.7,
            glasses: Glasses::None,
            glasses_size: 0.0,
            glasses_square: 0.5,
            glasses_rgb: [0.02, 0.02, 0.02],
            headwear: Headwear::None,
            cloth_rgb: [0.05, 0.08, 0.16],
            headwear_rgb: [0.2, 0.05, 0.05],
            detail_seed: 1,
        }
    }

    /// A random person. Parameters that go together in people (age and grey hair, sex and beard, skin and hair) are
    /// drawn together; the rest are independent.
    pub fn sample(rng: &mut impl Rng) -> Self {
        let masculinity = {
            let m = rng.chance(0.5);
            let d = rng.unit() * rng.unit() * 0.5;
            if m { 1.0 - d } else { d }
        };
        let male = masculinity > 0.5;
        let sex = 2.0 * masculinity - 1.0;
        let age_years = lerp(16.0, 80.0, rng.unit() * lerp(0.35, 1.0, rng.unit()));
        let old = ((age_years - 25.0) / 55.0).clamp(0.0, 1.0);
        let melanin = {
            let u = rng.unit();
            (0.02 + 0.98 * u * lerp(u, 1.0, 0.55)).clamp(0.0, 1.0)
        };
        let dark = melanin;
        let mut sd = |mean: f32| (mean + 0.9 * rng.normal()).clamp(-2.5, 2.5);
        let shape = Self {
            head_width: sd(0.2 * sex),
            cranium_height: sd(0.0),
            head_length: sd(0.2 * sex),
            face_length: sd(0.35 * sex),
            jaw_width: sd(0.6 * sex),
            jaw_squareness: sd(0.6 * sex),
            chin_height: sd(0.4 * sex),
            chin_width: sd(0.5 * sex),
            chin_projection: sd(0.2 * sex),
            cheekbones: sd(-0.1 * sex),
            cheek_fullness: sd(-0.2 * sex - 0.4 * old),
            fat: sd(0.3 * old),
            forehead_slope: sd(0.4 * sex),
            brow_ridge: sd(0.8 * sex),
            temple_hollow: sd(0.3 * old),
            eye_spacing: sd(0.0),
            eye_width: sd(-0.2 * sex),
            eye_aperture: sd(-0.35 * sex - 0.5 * old),
            eye_tilt: sd(-0.2 * sex - 0.4 * old),
            eye_depth: sd(0.3 * sex),
            brow_height: sd(-0.5 * sex),
            brow_arch: sd(-0.5 * sex),
            brow_tilt: sd(0.0),
            brow_thickness: sd(0.5 * sex),
            nose_length: sd(0.2 * sex + 0.4 * old),
            nose_width: sd(0.3 * sex + 1.2 * (dark - 0.35)),
            nose_bridge: sd(0.3 * sex - 0.9 * (dark - 0.35)),
            nose_bridge_width: sd(0.2 * sex),
            nose_projection: sd(0.2 * sex - 0.4 * (dark - 0.35)),
            nose_tip: sd(0.2 * sex),
            nose_upturn: sd(-0.2 * sex - 0.4 * old),
            nose_hump: sd(0.3 * sex),
            mouth_width: sd(0.2 * sex),
            upper_lip: sd(-0.3 * sex + 1.0 * (dark - 0.35) - 0.9 * old),
            lower_lip: sd(-0.2 * sex + 1.0 * (dark - 0.35) - 0.7 * old),
            cupid_bow: sd(-0.2 * sex),
            lip_protrusion: sd(0.8 * (dark - 0.35)),
            mouth_curve: sd(-0.3 * old),
            philtrum: sd(0.3 * sex + 0.6 * old),
            ear_size: sd(0.3 * sex + 0.6 * old),
            ear_flare: sd(0.0),
            neck_width: sd(0.8 * sex),
            glasses_size: sd(0.0),
            hair_volume: sd(0.0),
            ..Self::average()
        };
        let monolid = if rng.chance(0.25) { rng.between(0.6, 1.0) } else { rng.between(0.0, 0.4) };
        // Light hair and eyes go with light skin.
        let hair_pigment = if melanin < 0.3 { rng.between(0.05, 1.0) } else { rng.between(0.75, 1.0) };
        let iris_pigment = if melanin < 0.3 { rng.unit() } else { rng.between(0.7, 1.0) };
        let grey = (old * 1.6 - 0.55 + 0.22 * rng.normal()).clamp(0.0, 1.0);
        let recession =
            if male { (old * 1.1 + 0.3 * rng.normal()).clamp(0.0, 1.0) } else { 0.1 * rng.unit() };
        let bald = if male { 0.4 + 3.0 * recession * old } else { 0.02 };
        let hair_style = if male {
            HairStyle::ALL
                [rng.weighted(&[bald, 1.2, 3.0, 2.0, 1.4, 1.0, 0.2, 0.3, 0.05, 0.3, 0.7, 0.3 + dark])]
        } else {
            HairStyle::ALL
                [rng.weighted(&[0.03, 0.1, 0.5, 0.5, 0.3, 0.4, 1.6, 2.6, 1.4, 1.8, 0.9, 0.3 + dark])]
        };
        let facial_hair = if male {
            [
                FacialHair::None,
                FacialHair::Stubble,
                FacialHair::Moustache,
                FacialHair::Goatee,
                FacialHair::Full,
            ][rng.weighted(&[3.0, 2.5, 0.6, 0.8, 1.4])]
        } else {
            FacialHair::None
        };
        let glasses = [Glasses::None, Glasses::Thin, Glasses::Thick, Glasses::HalfRim, Glasses::Sun]
            [rng.weighted(&[7.6, 0.8 + 0.5 * old, 0.8, 0.4, 0.15])];
        let headwear = if rng.chance(0.1) {
            [Headwear::Beanie, Headwear::Cap, Headwear::Scarf]
                [rng.weighted(&[1.0, 1.0, if male { 0.0 } else { 1.4 }])]
        } else {
            Headwear::None
        };
        let mut garment = || {
            let hue = rng.unit();
            let value = lerp(0.02, 0.7, rng.unit() * rng.unit());
            let grey = rng.unit();
            let c = rgb_of_hue(hue);
            [0, 1, 2].map(|i| value * lerp(c[i], 1.0, 0.35 + 0.6 * grey))
        };
        let (cloth_rgb, headwear_rgb) = (garment(), garment());
        let glasses_rgb = match rng.weighted(&[5.0, 2.0, 1.5]) {
            0 => [0.015, 0.014, 0.014],
            1 => [0.10, 0.045, 0.02],
            _ => [0.35, 0.33, 0.30],
        };
        Self {
            age_years,
            masculinity,
            monolid,
            eye_bags: (0.15 + 0.55 * old + 0.2 * rng.normal()).clamp(0.0, 1.0),
            brow_density: rng.between(0.35, 1.0),
            asymmetry: rng.unit() * rng.unit(),
            melanin,
            redness: rng.between(0.1, 0.9),
            undertone: rng.between(-1.0, 1.0),
            freckles: if melanin < 0.35 && rng.chance(0.35) { rng.unit() } else { 0.0 },
            blotches: rng.between(0.1, 1.0),
            moles: (rng.unit() * rng.unit() * 6.9) as u8,
            oiliness: rng.unit(),
            lip_red: rng.between(0.2, 0.9),
            makeup: if male || rng.chance(0.4) { 0.0 } else { rng.unit() },
            iris_pigment,
            pupil: rng.between(0.28, 0.5),
            hair_style,
            hair_pigment,
            hair_red: if rng.chance(0.15) { rng.between(0.4, 1.0) } else { rng.between(0.0, 0.3) },
            hair_grey: grey,
            hair_recession: recession,
            facial_hair,
            facial_hair_density: rng.between(0.4, 1.0),
            glasses,
            glasses_square: rng.unit(),
            glasses_rgb,
            headwear,
            cloth_rgb,
            headwear_rgb,
            detail_seed: rng.next_u32(),
            ..shape
        }
    }

    /// How far ageing has gone, 0 at 25 years to 1 at 80.
    pub(crate) fn ageing(&self) -> f32 {
        ((self.age_years - 25.0) / 55.0).clamp(0.0, 1.0)
    }

    /// Skin albedo without blemishes, linear RGB: exponential absorption by melanin and blood, after the two-pigment
    /// model of Tsumura et al. 2003.
    pub(crate) fn skin_albedo(&self) -> Vec3 {
        let m = self.melanin;
        let warm = 0.06 * self.undertone;
        absorb(v3(0.82, 0.585, 0.465), m, 0.10 + 0.35 * self.redness).times(v3(
            1.0 + warm * 0.5,
            1.0,
            1.0 - warm,
        ))
    }

    /// Hair albedo, linear RGB.
    pub(crate) fn hair_albedo(&self) -> Vec3 {
        let p = self.hair_pigment;
        let blond = v3(0.48, 0.33, 0.17);
        let k = v3(3.6, 4.1, 4.3) * p;
        let mut c = v3(blond.x * exp(-k.x), blond.y * exp(-k.y), blond.z * exp(-k.z));
        let red = self.hair_red * (1.0 - 0.6 * p);
        c = c.times(v3(1.0 + 0.35 * red, 1.0 - 0.35 * red, 1.0 - 0.6 * red));
        c.lerp(v3(0.50, 0.50, 0.50), self.hair_grey * 0.8)
    }
}

/// `base` seen through `melanin` (0 to 1) and `blood` (0 to 1).
pub(crate) fn absorb(base: Vec3, melanin: f32, blood: f32) -> Vec3 {
    let k = v3(2.0 * melanin + 0.05 * blood, 2.5 * melanin + 0.50 * blood, 2.65 * melanin + 0.42 * blood);
    v3(base.x * exp(-k.x), base.y * exp(-k.y), base.z * exp(-k.z))
}

/// A saturated colour for a hue in `[0, 1)`.
pub(crate) fn rgb_of_hue(hue: f32) -> [f32; 3] {
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|o: f32| {
        let d = (hue + o) - (hue + o).floor();
        ((d - 0.5).abs() * 6.0 - 1.0).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, rng_for};

    #[test]
    fn sampled_people_stay_in_range_and_differ() {
        let people: Vec<_> =
            (0..300).map(|i| Identity::sample(&mut rng_for(9, Stream::Identity, i))).collect();
        for p in &people {
            assert!((16.0..=80.0).contains(&p.age_years));
            for unit in [p.melanin, p.redness, p.freckles, p.oiliness, p.iris_pigment, p.hair_grey, p.monolid]
            {
                assert!((0.0..=1.0).contains(&unit), "{unit}");
            }
            for sd in [p.head_width, p.jaw_width, p.nose_width, p.upper_lip, p.eye_spacing, p.brow_height] {
                assert!((-2.5..=2.5).contains(&sd), "{sd}");
            }
            let skin = p.skin_albedo();
            assert!(skin.x > skin.y && skin.y > skin.z && skin.x < 0.9 && skin.z > 0.01, "{skin:?}");
        }
        assert!(people.windows(2).all(|w| w[0] != w[1]));
        let dark = people.iter().filter(|p| p.melanin > 0.5).count();
        assert!((30..220).contains(&dark), "{dark} of 300 are dark-skinned");
        assert!(people.iter().any(|p| p.glasses != Glasses::None));
        assert!(people.iter().any(|p| p.facial_hair == FacialHair::Full));
    }
}
