//! Cameras through Video4Linux: the newest frame, counted by the kernel's own numbers, and reopened when it went away.
//!
//! Memory-mapped buffers of our own rather than the `v4l` crate's streams: those hand out frames that are several buffers
//! old, and end at the first one that is late.

mod device;
mod modes;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use v4l::v4l_sys as sys;

use self::device::{Agreed, Control, Filled, Stream, monotonic_now};
pub(crate) use self::device::{Device, Identity, nodes};
pub(crate) use self::modes::{Mode, Wanted};
use super::pixels::{PixelFormat, RawLayout};
use super::reconnect::{Backoff, PATIENCE};
use super::{CAMERA, Capture, Encoding, Next, Pace, Source, SourceError, SourceOptions, jpeg};
use crate::telemetry::{SourceState, Telemetry};

/// Why a camera cannot be used.
#[derive(Debug, Error)]
pub enum CameraError {
    /// No device that captures video is there.
    #[error("no camera was found: plug one in, or try --source demo, which needs none")]
    None,
    /// There is no such device.
    #[error("{}: there is no such device; `edge cameras` lists those that there are", path.display())]
    Missing {
        /// The node.
        path: PathBuf,
    },
    /// Another program has it.
    #[error("{0}: another program uses this camera; end it (`fuser -v {0}` tells which)", path.display())]
    Busy {
        /// The node.
        path: PathBuf,
    },
    /// It may not be opened.
    #[error(
        "{}: no permission to use this camera; add the user to the group that owns it (`usermod -aG video USER`)",
        path.display()
    )]
    Denied {
        /// The node.
        path: PathBuf,
    },
    /// It gives no video, or not in a way that is supported.
    #[error("{}: {reason}; `edge cameras` lists what can be used", path.display())]
    Unsuitable {
        /// The node.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// It has no such control, or not this value.
    #[error("{}: {reason}", path.display())]
    Control {
        /// The node.
        path: PathBuf,
        /// What is wrong, and what there is.
        reason: String,
    },
    /// The driver failed.
    #[error("{}: {step}: {source}", path.display())]
    Driver {
        /// The node.
        path: PathBuf,
        /// What was asked of it.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl CameraError {
    /// What a failed step on a node means.
    pub(crate) fn of(path: &Path, step: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::Missing { path },
            Some(libc::EBUSY) => Self::Busy { path },
            Some(libc::EACCES | libc::EPERM) => Self::Denied { path },
            _ => Self::Driver { path, step, source },
        }
    }
}

/// A camera without frames for this long is frozen.
const FROZEN: Duration = Duration::from_secs(2);
/// Time stamps older than this are not taken for the age of a frame.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Where all buffers were full, the driver had none for what came after: what is older than this is passed over.
const STALE: Duration = Duration::from_millis(100);
const DEFAULT_SIZE: (u32, u32) = (640, 480);
const DEFAULT_FPS: f64 = 30.0;

/// A camera, for as long as the process runs.
#[derive(Debug)]
pub(super) struct Camera {
    path: PathBuf,
    options: SourceOptions,
    telemetry: Arc<Telemetry>,
    identity: Identity,
    /// Where other cameras are plugged in that have the same USB id.
    doubles: Vec<String>,
    stream: Option<Opened>,
    backoff: Backoff,
    sequence: Sequence,
    first_taken: Option<Instant>,
    /// When a frame came last, or the stream was opened.
    last_frame: Instant,
    is_live: bool,
    /// Whether it was lost since a frame came last.
    was_lost: bool,
}

/// A device that streams, and what it streams.
#[derive(Debug)]
struct Opened {
    stream: Stream,
    agreed: Agreed,
    /// For people.
    what: String,
    /// Whether no frame came yet: the first may be what the driver had left of the stream before.
    is_first: bool,
}

impl Camera {
    /// Opens a node, or for [`CAMERA`] the first that captures video. What is not there now is an error: only a camera
    /// that was there once is waited for.
    pub(super) fn open(
        spec: &str,
        options: &SourceOptions,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Self, SourceError> {
        let path = if spec == CAMERA { first_camera()? } else { PathBuf::from(spec) };
        let (opened, identity) = start(&path, options)?;
        log::info!("opened {}", opened.what);
        let doubles = doubles(&all_cameras(), &identity);
        let now = Instant::now();
        Ok(Self {
            path,
            options: options.clone(),
            telemetry: Arc::clone(telemetry),
            identity,
            doubles,
            stream: Some(opened),
            backoff: Backoff::new(now),
            sequence: Sequence::default(),
            first_taken: None,
            last_frame: now,
            is_live: false,
            was_lost: false,
        })
    }

    /// Looks for the camera where it was, or where it turned up.
    fn reopen(&mut self) {
        let seen = all_cameras();
        let found = turned_up(&seen, &self.path, &self.identity, &self.doubles);
        let path = found.unwrap_or(&self.path).to_owned();
        match start(&path, &self.options) {
            Ok((opened, identity)) => {
                log::info!("opened {} again", opened.what);
                (self.path, self.identity) = (path, identity);
                self.doubles = doubles(&seen, &self.identity);
                self.stream = Some(opened);
                self.sequence.restart();
                self.last_frame = Instant::now();
            }
            Err(error) => {
                self.telemetry.source.set(SourceState::Gone, &error.to_string());
                self.backoff.failed(Instant::now());
            }
        }
    }

    /// Closes it, to look for it again.
    fn lose(&mut self, state: SourceState, detail: &str) {
        self.telemetry.source.set(state, detail);
        self.stream = None;
        (self.is_live, self.was_lost) = (false, true);
        self.backoff.failed(Instant::now());
    }

    /// The newest frame, where one is there within [`PATIENCE`].
    fn newest(&mut self, capture: &mut Capture) -> io::Result<bool> {
        let Some(opened) = &mut self.stream else { return Ok(false) };
        if !opened.stream.wait(PATIENCE)? {
            return Ok(false);
        }
        let start = Instant::now();
        let mut newest: Option<Filled> = None;
        let (mut overtaken, mut damaged_before, mut damaged_since, mut filled_buffers) = (0, 0, 0, 0);
        while let Some(filled) = opened.stream.take()? {
            filled_buffers += 1;
            let older = if std::mem::take(&mut opened.is_first) {
                Some(filled)
            } else if filled.damaged || !is_whole(&opened.agreed, opened.stream.bytes(&filled)) {
                self.telemetry.source.count_damaged();
                damaged_since += 1;
                Some(filled)
            } else {
                damaged_before += std::mem::take(&mut damaged_since);
                let older = newest.replace(filled);
                overtaken += u64::from(older.is_some());
                older
            };
            if let Some(older) = older {
                opened.stream.give_back(older.index)?;
            }
        }
        self.sequence.skip(damaged_before + overtaken);
        for _ in 0..overtaken {
            self.telemetry.source.count_captured();
            self.telemetry.count_replaced();
        }
        let Some(filled) = newest else {
            self.sequence.skip(damaged_since);
            return Ok(false);
        };
        let taken = taken(filled.monotonic, monotonic_now(), start);
        if filled_buffers >= opened.stream.buffers() && start.saturating_duration_since(taken) > STALE {
            opened.stream.give_back(filled.index)?;
            self.sequence.skip(damaged_since);
            return Ok(false);
        }
        let (index, missed) = self.sequence.next(filled.sequence);
        self.sequence.skip(damaged_since);
        if missed > 0 {
            log::debug!("{missed} frames missed before frame {index}, {filled_buffers} buffers were full");
            self.telemetry.source.count_missed(missed);
        }
        capture.taken = taken;
        let first = *self.first_taken.get_or_insert(capture.taken);
        capture.frame.index = index;
        capture.frame.t_secs = capture.taken.saturating_duration_since(first).as_secs_f64();
        capture.truth = None;
        let bytes = opened.stream.bytes(&filled);
        let Agreed { format, width, height, stride, .. } = opened.agreed;
        match format {
            PixelFormat::Mjpg => {
                jpeg::complete(bytes, &mut capture.raw);
                capture.encoding = Encoding::Jpeg;
            }
            PixelFormat::Raw(format) => {
                capture.raw.clear();
                capture.raw.extend_from_slice(bytes);
                capture.encoding = Encoding::Raw(RawLayout { format, width, height, stride });
            }
        }
        opened.stream.give_back(filled.index)?;
        capture.read = start.elapsed();
        Ok(true)
    }
}

impl Source for Camera {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        if self.stream.is_none() {
            if self.backoff.wait() {
                self.reopen();
            }
            return Ok(Next::Idle);
        }
        match self.newest(capture) {
            Ok(true) => {
                self.last_frame = Instant::now();
                self.backoff.reset();
                if let (false, Some(opened)) = (self.is_live, &self.stream) {
                    self.is_live = true;
                    self.telemetry.source.set(SourceState::Live, &opened.what);
                    if std::mem::take(&mut self.was_lost) {
                        self.telemetry.source.count_reopened();
                    }
                }
                Ok(Next::Frame)
            }
            Ok(false) => {
                let waited = self.last_frame.elapsed();
                if waited >= FROZEN {
                    let detail = format!("{}: no frame for {} s", self.path.display(), FROZEN.as_secs());
                    self.lose(SourceState::Frozen, &detail);
                }
                Ok(Next::Idle)
            }
            Err(error) => {
                self.lose(SourceState::Gone, &format!("{}: {error}", self.path.display()));
                Ok(Next::Idle)
            }
        }
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}

/// Opens a node and makes it stream.
fn start(path: &Path, options: &SourceOptions) -> Result<(Opened, Identity), CameraError> {
    let fail = |step| move |source| CameraError::of(path, step, source);
    let unsuitable = |reason| CameraError::Unsuitable { path: path.to_owned(), reason };
    let device = Device::open(path).map_err(fail("opening"))?;
    let (identity, capabilities) = device.identity().map_err(fail("asking what it is"))?;
    suits(capabilities).map_err(|reason| unsuitable(reason.to_owned()))?;
    let wanted = wanted(options);
    let (modes, others) = device.modes(wanted.size, wanted.fps);
    let mode = modes::choose(&modes, &wanted).ok_or_else(|| unsuitable(no_mode(&modes, &others, &wanted)))?;
    let agreed = device.agree(&mode).map_err(fail("setting the format"))?;
    let agreed =
        agreed.ok_or_else(|| unsuitable(format!("it was asked for {mode} and gives something else")))?;
    if !options.controls.is_empty() {
        let controls = device.controls();
        for (name, value) in &options.controls {
            let refuse = |reason| CameraError::Control { path: path.to_owned(), reason };
            let control = find_control(&controls, name, *value).map_err(refuse)?;
            device
                .set_control(control, *value)
                .map_err(|error| refuse(format!("{} cannot be set to {value}: {error}", control.name)))?;
        }
    }
    let Agreed { format, width, height, fps, .. } = agreed;
    let rate = fps.map(|fps| format!(" at {fps:.1} fps")).unwrap_or_default();
    let what = format!("{} ({}), {format} {width}x{height}{rate}", identity.card, path.display());
    let stream = device.stream().map_err(fail("starting to stream"))?;
    Ok((Opened { stream, agreed, what, is_first: true }, identity))
}

/// What the options ask for, with the defaults.
pub(crate) fn wanted(options: &SourceOptions) -> Wanted {
    Wanted {
        size: options.size.unwrap_or(DEFAULT_SIZE),
        fps: options.fps.unwrap_or(DEFAULT_FPS),
        format: options.format,
    }
}

/// Whether a device with these capabilities gives video in the way that is supported; else what it is.
pub(crate) fn suits(capabilities: u32) -> Result<(), &'static str> {
    if capabilities & sys::V4L2_CAP_VIDEO_CAPTURE_MPLANE != 0 {
        Err("it gives pictures in several planes, which is not supported (of V4L2, single-planar capture is)")
    } else if capabilities & sys::V4L2_CAP_VIDEO_CAPTURE == 0 {
        Err("it captures no video")
    } else if capabilities & sys::V4L2_CAP_STREAMING == 0 {
        Err("it does not stream into mapped buffers, which is the one way that is supported")
    } else {
        Ok(())
    }
}

fn no_mode(modes: &[Mode], others: &[String], wanted: &Wanted) -> String {
    let mut has: Vec<&str> = modes.iter().map(|mode| mode.format.name()).collect();
    has.dedup();
    has.extend(others.iter().map(String::as_str));
    let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
    match wanted.format {
        Some(format) => format!("it does not offer {format} (it has {has})"),
        None => {
            let known = PixelFormat::ALL.map(PixelFormat::name).join(", ");
            format!("it offers no format that can be read (it has {has}; {known} can be)")
        }
    }
}

/// Who a node is, if it captures video.
fn capture_identity(path: &Path) -> Result<Identity, CameraError> {
    let fail = |step| move |source| CameraError::of(path, step, source);
    let device = Device::open(path).map_err(fail("opening"))?;
    let (identity, capabilities) = device.identity().map_err(fail("asking what it is"))?;
    suits(capabilities)
        .map_err(|reason| CameraError::Unsuitable { path: path.to_owned(), reason: reason.to_owned() })?;
    Ok(identity)
}

/// The first node that captures video. Where the only ones may not be opened, that is the error.
fn first_camera() -> Result<PathBuf, CameraError> {
    let mut denied = None;
    for node in nodes() {
        match capture_identity(&node) {
            Ok(_) => return Ok(node),
            Err(error @ CameraError::Denied { .. }) => {
                denied.get_or_insert(error);
            }
            Err(_) => {}
        }
    }
    Err(denied.unwrap_or(CameraError::None))
}

/// The nodes that capture video.
fn all_cameras() -> Vec<(PathBuf, Identity)> {
    let nodes = nodes().into_iter();
    nodes.filter_map(|node| capture_identity(&node).ok().map(|identity| (node, identity))).collect()
}

/// Where those of the cameras seen are plugged in that have this one's USB id and are not it.
fn doubles(seen: &[(PathBuf, Identity)], identity: &Identity) -> Vec<String> {
    let others = seen.iter().map(|(_, other)| other);
    let others =
        others.filter(|other| other.usb.is_some() && other.usb == identity.usb && other.bus != identity.bus);
    others.map(|other| other.bus.clone()).collect()
}

/// Where a camera is now, of the nodes that were seen: under its old name, or under another one with the same USB id, or
/// the same name and place. Another camera under the old name does not keep it from being found elsewhere. At `doubles` are
/// other cameras with the same USB id: not this one.
fn turned_up<'a>(
    seen: &'a [(PathBuf, Identity)],
    path: &Path,
    identity: &Identity,
    doubles: &[String],
) -> Option<&'a Path> {
    let same_usb = |other: &Identity| identity.usb.is_some() && other.usb == identity.usb;
    let same_card = |other: &Identity| other.card == identity.card;
    let find = |test: &dyn Fn(&Path, &Identity) -> bool| {
        seen.iter().find(|(node, other)| test(node, other)).map(|(node, _)| node.as_path())
    };
    // Of two cameras of one make, without numbers of their own, the one in the same socket first.
    let same_place = |other: &Identity| other.bus == identity.bus;
    let is_double = |other: &Identity| doubles.contains(&other.bus);
    // A camera with several sensors has several nodes that differ in nothing but their names.
    find(&|node, other| node == path && same_usb(other) && same_place(other))
        .or_else(|| find(&|_, other| same_usb(other) && same_card(other) && same_place(other)))
        .or_else(|| {
            find(&|node, other| node == path && (same_usb(other) || same_card(other)) && !is_double(other))
        })
        .or_else(|| find(&|_, other| same_usb(other) && !is_double(other)))
        .or_else(|| find(&|_, other| same_card(other) && same_place(other)))
}

/// The control of this name or number, if it takes the value.
fn find_control<'a>(controls: &'a [Control], name: &str, value: i64) -> Result<&'a Control, String> {
    let wanted = control_name(name);
    let number = match name.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => name.parse().ok(),
    };
    let control = controls.iter().find(|c| c.name == wanted || Some(c.id) == number).ok_or_else(|| {
        let names: Vec<&str> = controls.iter().map(|c| c.name.as_str()).collect();
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("there is no control {name} (there are {has})")
    })?;
    let (least, greatest) = control.range;
    if !(least..=greatest).contains(&value) {
        return Err(format!("{} takes values from {least} to {greatest}, not {value}", control.name));
    }
    Ok(control)
}

/// A control's name in small letters and underscores: `Exposure Time, Absolute` is `exposure_time_absolute`.
fn control_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

/// Whether a buffer may hold a whole picture.
fn is_whole(agreed: &Agreed, bytes: &[u8]) -> bool {
    match agreed.format {
        PixelFormat::Mjpg => bytes.starts_with(&[0xFF, 0xD8]),
        PixelFormat::Raw(format) => {
            let layout =
                RawLayout { format, width: agreed.width, height: agreed.height, stride: agreed.stride };
            bytes.len() >= layout.byte_len()
        }
    }
}

/// When a frame was taken: what the driver says, where that can be.
fn taken(stamp: Option<Duration>, clock: Duration, now: Instant) -> Instant {
    let age = stamp.and_then(|stamp| clock.checked_sub(stamp)).filter(|age| *age <= MAX_AGE);
    age.and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

/// Turns the driver's numbers into frame numbers that never fall, and counts what is missing in between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sequence {
    last: Option<u32>,
    /// The number of the next frame, if none is missing.
    next: u64,
    /// Damaged frames since the last one: they are missing, but are counted elsewhere.
    skipped: u64,
}

impl Sequence {
    /// The stream starts anew, and with it the driver's numbers.
    fn restart(&mut self) {
        (self.last, self.skipped) = (None, 0);
    }

    /// So many frames came that are of no use.
    fn skip(&mut self, frames: u64) {
        self.skipped += frames;
    }

    /// The number of a frame, and how many before it are missing.
    fn next(&mut self, sequence: u32) -> (u64, u64) {
        let skipped = std::mem::take(&mut self.skipped);
        // Numbers go round at 2^32. Steps back, and drivers that do not count, tell nothing.
        let gap = match self.last.replace(sequence) {
            Some(last) => match sequence.wrapping_sub(last) {
                step @ 1..0x8000_0000 => u64::from(step) - 1,
                _ => skipped,
            },
            None => skipped,
        };
        let index = self.next + gap;
        self.next = index + 1;
        (index, gap.saturating_sub(skipped))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::pixels::RawFormat;
    use super::*;

    #[test]
    fn gaps_in_the_drivers_numbers_are_counted_once() {
        let mut sequence = Sequence::default();
        // The first number is whatever it is.
        assert_eq!(sequence.next(41), (0, 0));
        assert_eq!(sequence.next(42), (1, 0));
        assert_eq!(sequence.next(45), (4, 2));
        // One of the two that are missing came damaged.
        sequence.skip(1);
        assert_eq!(sequence.next(48), (7, 1));
        // Reopened: the driver counts from 0 again, our numbers go on.
        sequence.restart();
        assert_eq!(sequence.next(0), (8, 0));
        assert_eq!(sequence.next(2), (10, 1));
    }

    #[test]
    fn numbers_go_round_fall_or_stand_still() {
        let mut sequence = Sequence { last: Some(u32::MAX - 1), next: 5, skipped: 0 };
        assert_eq!(sequence.next(u32::MAX), (5, 0));
        assert_eq!(sequence.next(1), (7, 1));
        // A driver that starts anew without telling, and one that does not count.
        assert_eq!(sequence.next(0), (8, 0));
        assert_eq!(sequence.next(0), (9, 0));
        sequence.skip(1);
        assert_eq!(sequence.next(0), (11, 0));
    }

    #[test]
    fn stamps_are_taken_where_they_can_be_true() {
        let now = Instant::now() + Duration::from_secs(100);
        let at = |stamp| now.duration_since(taken(stamp, Duration::from_millis(50_000), now)).as_millis();
        assert_eq!(at(Some(Duration::from_millis(49_980))), 20);
        assert_eq!(at(Some(Duration::from_millis(50_001))), 0, "of the future");
        assert_eq!(at(Some(Duration::from_millis(10_000))), 0, "of another clock");
        assert_eq!(at(None), 0);
    }

    fn identity(card: &str, bus: &str, usb: Option<&str>) -> Identity {
        Identity {
            card: card.into(),
            driver: "uvcvideo".into(),
            bus: bus.into(),
            usb: usb.map(str::to_owned),
        }
    }

    #[test]
    fn a_camera_is_found_where_it_turns_up() {
        let ours = identity("Cam", "usb-1", Some("046d:0825:A"));
        let path = Path::new("/dev/video0");
        let with_doubles = |seen: &[(&str, Identity)], doubles: &[String]| {
            let seen: Vec<_> = seen.iter().map(|(p, i)| (PathBuf::from(p), i.clone())).collect();
            turned_up(&seen, path, &ours, doubles).map(|p| p.display().to_string())
        };
        let at = |seen: &[(&str, Identity)]| with_doubles(seen, &[]);
        let other = identity("Other", "usb-2", Some("1234:5678"));
        let moved = identity("Cam", "usb-3", Some("046d:0825:A"));
        let twin = identity("Cam", "usb-9", Some("046d:0825:B"));
        let nameless = identity("Cam", "usb-1", None);
        assert_eq!(
            at(&[("/dev/video0", ours.clone()), ("/dev/video1", moved.clone())]).unwrap(),
            "/dev/video0"
        );
        assert_eq!(at(&[("/dev/video0", other.clone()), ("/dev/video2", moved)]).unwrap(), "/dev/video2");
        assert_eq!(at(&[("/dev/video3", nameless)]).unwrap(), "/dev/video3");
        // Another sensor of the same camera comes first.
        let sensors = [("/dev/video4", ours.clone()), ("/dev/video0", ours.clone())];
        assert_eq!(at(&sensors).unwrap(), "/dev/video0");
        // Its double, without a number of its own, under its old name: not taken while ours is away.
        let double = identity("Cam", "usb-9", ours.usb.as_deref());
        let both = [("/dev/video0", double.clone()), ("/dev/video4", ours.clone())];
        assert_eq!(at(&both).unwrap(), "/dev/video4");
        let seen: Vec<_> = both.iter().map(|(p, i)| (PathBuf::from(p), i.clone())).collect();
        let known = doubles(&seen, &ours);
        assert_eq!(known, ["usb-9"]);
        assert_eq!(with_doubles(&[("/dev/video0", double.clone())], &known), None);
        assert_eq!(at(&[("/dev/video5", double)]).unwrap(), "/dev/video5");
        assert_eq!(at(&[("/dev/video0", other), ("/dev/video1", twin)]), None);
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn controls_go_by_name_or_number() {
        let control = |id, name: &str, range| Control { id, name: control_name(name), range };
        let controls =
            [control(0x98_0900, "Brightness", (-64, 64)), control(7, "Exposure Time, Absolute", (1, 5000))];
        for (name, found) in [
            ("brightness", 0),
            ("Exposure Time, Absolute", 1),
            ("exposure_time_absolute", 1),
            ("0x980900", 0),
            ("7", 1),
        ] {
            assert_eq!(find_control(&controls, name, 5), Ok(&controls[found]), "{name}");
        }
        let error = find_control(&controls, "zoom", 5).unwrap_err();
        assert!(error.contains("zoom") && error.contains("brightness, exposure_time_absolute"), "{error}");
        let error = find_control(&controls, "brightness", 65).unwrap_err();
        assert!(error.contains("-64 to 64") && error.contains("65"), "{error}");
        assert!(find_control(&[], "x", 0).unwrap_err().contains("none"));
    }

    #[test]
    fn errors_of_the_system_name_their_remedy() {
        let message =
            |code| CameraError::of(Path::new("/dev/video7"), "opening", io::Error::from_raw_os_error(code));
        for (code, remedy) in [
            (libc::ENOENT, "edge cameras"),
            (libc::EBUSY, "fuser -v /dev/video7"),
            (libc::EACCES, "usermod -aG video"),
            (libc::EINVAL, "opening"),
        ] {
            let message = message(code).to_string();
            assert!(message.starts_with("/dev/video7: ") && message.contains(remedy), "{message}");
        }
        assert!(CameraError::None.to_string().contains("--source demo"));
    }

    #[test]
    fn capabilities_and_formats_that_are_no_use_are_explained() {
        let streaming = sys::V4L2_CAP_STREAMING;
        assert_eq!(suits(sys::V4L2_CAP_VIDEO_CAPTURE | streaming), Ok(()));
        assert!(suits(sys::V4L2_CAP_VIDEO_CAPTURE_MPLANE | streaming).unwrap_err().contains("planes"));
        assert!(suits(sys::V4L2_CAP_META_CAPTURE | streaming).unwrap_err().contains("no video"));
        let wanted = Wanted { size: (640, 480), fps: 30.0, format: None };
        let reason = no_mode(&[], &["H264".to_owned()], &wanted);
        assert!(reason.contains("H264") && reason.contains("mjpg"), "{reason}");
        let yuyv = Mode { format: PixelFormat::Raw(RawFormat::Yuyv), width: 4, height: 4, interval: None };
        let reason = no_mode(&[yuyv, yuyv], &[], &Wanted { format: Some(PixelFormat::Mjpg), ..wanted });
        assert_eq!(reason, "it does not offer mjpg (it has yuyv)");
    }

    #[test]
    fn buffers_that_cannot_be_whole_are_told_apart() {
        let agreed = |format| Agreed { format, width: 4, height: 2, stride: 10, fps: None };
        assert!(is_whole(&agreed(PixelFormat::Mjpg), &[0xFF, 0xD8, 0]));
        assert!(!is_whole(&agreed(PixelFormat::Mjpg), &[]) && !is_whole(&agreed(PixelFormat::Mjpg), &[0; 9]));
        let yuyv = agreed(PixelFormat::Raw(RawFormat::Yuyv));
        assert!(is_whole(&yuyv, &[0; 18]) && !is_whole(&yuyv, &[0; 17]));
    }
}
