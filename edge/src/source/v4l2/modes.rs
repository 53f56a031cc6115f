//! Which of a camera's formats, sizes and rates is used.

use std::fmt;

use crate::source::pixels::PixelFormat;

/// What a camera offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) format: PixelFormat,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Seconds from frame to frame as a fraction above 0, where the driver tells.
    pub(crate) interval: Option<(u32, u32)>,
}

impl Mode {
    /// Frames a second, where the driver tells.
    pub(crate) fn fps(&self) -> Option<f64> {
        self.interval.and_then(fps)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.format, self.width, self.height)?;
        match self.fps() {
            Some(fps) => write!(f, " at {fps:.3} fps"),
            None => Ok(()),
        }
    }
}

/// Frames a second of a fraction in seconds, where it is one.
pub(crate) fn fps((numerator, denominator): (u32, u32)) -> Option<f64> {
    (numerator > 0 && denominator > 0).then(|| f64::from(denominator) / f64::from(numerator))
}

/// What is asked of a camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) size: (u32, u32),
    pub(crate) fps: f64,
    pub(crate) format: Option<PixelFormat>,
}

/// The mode nearest to what is wanted: half of the rate missing counts as much as three times the pixels, in either
/// direction, and a quarter of the rate a fourth of that. Of modes that are equally near, the one whose rate is nearest, then the one that is cheapest to read.
pub(crate) fn choose(modes: &[Mode], wanted: &Wanted) -> Option<Mode> {
    let distance = |mode: &Mode| {
        let sides = [(mode.width, wanted.size.0), (mode.height, wanted.size.1)];
        let size: f64 = sides.map(|(is, asked)| (f64::from(is) / f64::from(asked)).ln().abs()).iter().sum();
        let fps = mode.fps().unwrap_or(wanted.fps);
        let missing = (1.0 - fps / wanted.fps).max(0.0);
        let cost = PixelFormat::ALL.iter().position(|&f| f == mode.format).unwrap_or(usize::MAX);
        // A rate that is not known comes behind the same one that is. Rounded, so that 29.97 counts as 30.
        let near = ((size + 4.4 * missing * missing) * 100.0).round();
        (near, (fps - wanted.fps).abs().round(), mode.interval.is_none(), cost)
    };
    modes
        .iter()
        .filter(|mode| wanted.format.is_none_or(|format| format == mode.format))
        .map(|mode| (distance(mode), mode))
        .min_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
        .map(|(_, mode)| *mode)
}

/// The value nearest to `wanted` of those from `least` to `greatest` that are `step` apart.
pub(crate) fn step(wanted: u32, least: u32, greatest: u32, step: u32) -> u32 {
    let (step, above) = (step.max(1), wanted.clamp(least, greatest.max(least)) - least);
    let steps = (above + step / 2) / step;
    let value = least + steps * step;
    if value > greatest.max(least) { value - step } else { value }
}

/// The interval that gives `fps`, or the nearest between `shortest` and `longest`.
pub(crate) fn interval_within(fps_wanted: f64, shortest: (u32, u32), longest: (u32, u32)) -> (u32, u32) {
    match (fps(shortest), fps(longest)) {
        (Some(most), _) if fps_wanted >= most => shortest,
        (_, Some(least)) if fps_wanted <= least => longest,
        _ => (1000, (fps_wanted * 1000.0).round() as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::pixels::RawFormat;

    const MJPG: PixelFormat = PixelFormat::Mjpg;
    const YUYV: PixelFormat = PixelFormat::Raw(RawFormat::Yuyv);
    const NV12: PixelFormat = PixelFormat::Raw(RawFormat::Nv12);

    fn mode(format: PixelFormat, (width, height): (u32, u32), rate: u32) -> Mode {
        Mode { format, width, height, interval: (rate > 0).then_some((1, rate)) }
    }

    /// What a common USB 2 webcam offers.
    fn webcam() -> Vec<Mode> {
        let mut modes = Vec::new();
        for (size, yuyv) in [((320, 240), 30), ((640, 480), 30), ((800, 600), 20), ((1280, 720), 10)] {
            modes.extend([30, 25, 15, 5].map(|rate| mode(MJPG, size, rate)));
            modes.extend([yuyv, 5].map(|rate| mode(YUYV, size, rate)));
        }
        modes
    }

    fn chosen(modes: &[Mode], size: (u32, u32), fps: f64, format: Option<PixelFormat>) -> Option<Mode> {
        choose(modes, &Wanted { size, fps, format })
    }

    #[test]
    fn the_rate_decides_and_then_the_cost() {
        let modes = webcam();
        let cases = [
            ((640, 480), 30.0, None, mode(YUYV, (640, 480), 30)),
            ((1280, 720), 30.0, None, mode(MJPG, (1280, 720), 30)),
            ((1280, 720), 10.0, None, mode(YUYV, (1280, 720), 10)),
            ((640, 480), 30.0, Some(MJPG), mode(MJPG, (640, 480), 30)),
            ((640, 480), 60.0, Some(MJPG), mode(MJPG, (640, 480), 30)),
            ((640, 480), 25.0, None, mode(MJPG, (640, 480), 25)),
            ((1920, 1080), 30.0, None, mode(MJPG, (1280, 720), 30)),
            ((1, 1), 30.0, None, mode(YUYV, (320, 240), 30)),
        ];
        for (size, fps, format, expected) in cases {
            assert_eq!(chosen(&modes, size, fps, format), Some(expected), "{size:?} {fps} {format:?}");
        }
        assert_eq!(chosen(&modes, (640, 480), 30.0, Some(NV12)), None);
        assert_eq!(chosen(&[], (640, 480), 30.0, None), None);
    }

    #[test]
    fn another_size_is_taken_only_where_it_saves_much_of_the_rate() {
        let slow = [mode(YUYV, (640, 480), 5), mode(YUYV, (800, 600), 30)];
        assert_eq!(chosen(&slow, (640, 480), 30.0, None), Some(slow[1]));
        let slower = [mode(YUYV, (640, 480), 25), mode(YUYV, (800, 600), 30)];
        assert_eq!(chosen(&slower, (640, 480), 30.0, None), Some(slower[0]));
        // 29.97 is 30, and what is cheaper is taken.
        let ntsc = Mode { interval: Some((1001, 30000)), ..mode(NV12, (640, 480), 0) };
        assert_eq!(chosen(&[mode(YUYV, (640, 480), 30), ntsc], (640, 480), 30.0, None), Some(ntsc));
        // Unknown rates come last among equals.
        let unknown = [mode(NV12, (640, 480), 0), mode(YUYV, (640, 480), 30)];
        assert_eq!(chosen(&unknown, (640, 480), 30.0, None), Some(unknown[1]));
    }

    #[test]
    fn a_little_of_the_rate_is_worth_less_than_the_size() {
        let modes = [mode(NV12, (640, 360), 30), mode(NV12, (640, 480), 25)];
        assert_eq!(chosen(&modes, (640, 480), 30.0, None), Some(modes[1]));
    }

    #[test]
    fn sizes_and_intervals_of_a_range() {
        assert_eq!(step(640, 16, 1920, 16), 640);
        assert_eq!(step(641, 16, 1920, 16), 640);
        assert_eq!(step(649, 16, 1920, 16), 656);
        assert_eq!(step(5000, 2, 1920, 1), 1920);
        assert_eq!(step(5000, 2, 1921, 2), 1920);
        assert_eq!(step(1, 48, 4096, 0), 48);
        assert_eq!(interval_within(30.0, (1, 60), (1, 1)), (1000, 30_000));
        assert_eq!(interval_within(90.0, (1, 60), (1, 1)), (1, 60));
        assert_eq!(interval_within(0.5, (1, 60), (1, 1)), (1, 1));
    }
}
