//! Whether there is a source to read.

use std::path::Path;

use semblance_face::frame::is_picture;
use semblance_face::url;

use super::{Finding, Level, answers};
use crate::cameras::{CameraInfo, Cameras};
use crate::source::{CAMERA, DEMO, STDIN, is_device, is_url};

const PLUG_IN: &str = "plug one in, or use --source demo, a video or a stream";

/// The source that is asked for; where none is, the cameras that there are.
pub(super) fn source(asked: Option<&str>, cameras: &Cameras) -> Finding {
    match asked {
        None => {
            let finding = any_camera(cameras);
            Finding { level: finding.level.min(Level::Warn), ..finding }
        }
        Some(CAMERA) => any_camera(cameras),
        Some(DEMO) => Finding::ok("source", "a drawn face, which needs nothing"),
        Some(STDIN) => Finding::ok("source", "standard input; what comes on it is not looked at"),
        Some(spec) if is_url(spec) => stream(spec),
        Some(spec) if spec.starts_with("nokhwa:") && cfg!(feature = "nokhwa") => {
            Finding::ok("source", format!("{spec}; cameras through nokhwa are not looked at"))
        }
        Some(spec) if spec.starts_with("nokhwa:") => {
            let remedy = "build with --features nokhwa, or name a camera that edge cameras lists";
            Finding::fail("source", format!("{spec}: this program was built without nokhwa"), remedy)
        }
        Some(spec) if spec.contains("://") => {
            let remedy = "streams of rtsp, rtmp, http, tcp, udp, rtp and srt are";
            Finding::fail("source", format!("{} is not known", url::public(spec)), remedy)
        }
        Some(spec) if is_device(Path::new(spec)) => {
            let found = cameras.cameras.iter().find(|camera| camera.path == spec);
            match found {
                Some(camera) => one_camera(camera),
                // A link, as those in /dev/v4l/by-id.
                None => match std::fs::canonicalize(spec) {
                    Ok(real) if real != Path::new(spec) => source(Some(&real.display().to_string()), cameras),
                    _ => Finding::fail(
                        "source",
                        format!("{spec} is no camera"),
                        "edge cameras lists those there are",
                    ),
                },
            }
        }
        Some(spec) => match std::fs::metadata(spec) {
            Ok(_) => Finding::ok("source", format!("{spec} is there")),
            Err(error) => Finding::fail("source", format!("{spec}: {error}"), "correct the path"),
        },
    }
}

/// Whether a source is read through ffmpeg.
pub(super) fn needs_ffmpeg(spec: &str) -> bool {
    let is_other = [CAMERA, DEMO, STDIN].contains(&spec) || spec.starts_with("nokhwa:");
    let path = Path::new(spec);
    !is_other && (is_url(spec) || !(is_device(path) || path.is_dir() || is_picture(path)))
}

/// All cameras: one that can be used is enough.
fn any_camera(cameras: &Cameras) -> Finding {
    let usable: Vec<_> = cameras
        .cameras
        .iter()
        .filter(|camera| camera.unusable.is_none() && !camera.modes.is_empty())
        .collect();
    if let Some(unusable) = cameras.cameras.first().filter(|_| usable.is_empty()) {
        return one_camera(unusable);
    }
    let names: Vec<_> = usable.iter().map(|camera| format!("{} ({})", camera.path, camera.card)).collect();
    match names.len() {
        0 => Finding::fail("source", "no camera was found", PLUG_IN),
        n => Finding::ok(
            "source",
            format!("{n} {}: {}", if n == 1 { "camera" } else { "cameras" }, names.join(", ")),
        ),
    }
}

fn one_camera(camera: &CameraInfo) -> Finding {
    match &camera.unusable {
        None if camera.modes.is_empty() => {
            let has = if camera.other_formats.is_empty() {
                "none".to_owned()
            } else {
                camera.other_formats.join(", ")
            };
            let found =
                format!("{} ({}) offers no format that can be read (it has {has})", camera.path, camera.card);
            Finding::fail("source", found, "use another camera")
        }
        None => Finding::ok("source", format!("{} ({})", camera.path, camera.card)),
        // The reason names the node and what to do.
        Some(reason) => Finding::fail("source", reason.clone(), "do so, or use another source"),
    }
}

/// A stream: whether anybody listens where it should come from. It is not opened, as some cameras serve one client alone.
fn stream(spec: &str) -> Finding {
    let shown = url::public(spec);
    let authority = url::authority(spec);
    let scheme = spec.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let port = match scheme.as_str() {
        "rtsp" => 554,
        "rtsps" => 322,
        "rtmp" => 1935,
        "http" => 80,
        "https" => 443,
        "tcp" => 0,
        _ => return Finding::ok("source", format!("{shown}; whether it sends cannot be asked")),
    };
    let has_port = authority.rfind(':') > authority.rfind(']');
    let address = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    match answers(&address) {
        Ok(()) => Finding::ok("source", format!("{shown}: {address} answers")),
        Err(error) => Finding::fail(
            "source",
            format!("{shown}: {address}: {error}"),
            "switch it on or correct the address",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cameras::CameraMode;

    fn camera(path: &str, unusable: Option<&str>) -> CameraInfo {
        CameraInfo {
            path: path.to_owned(),
            card: "Cam".to_owned(),
            driver: String::new(),
            bus: String::new(),
            usb: None,
            unusable: unusable.map(str::to_owned),
            modes: vec![CameraMode { format: "mjpg", size: [640, 480], fps: vec![30.0] }],
            other_formats: Vec::new(),
            controls: Vec::new(),
        }
    }

    #[test]
    fn a_camera_that_nobody_asked_for_may_be_missing() {
        let none = Cameras::default();
        let denied = Cameras { cameras: vec![camera("/dev/video9", Some("/dev/video9: no permission"))] };
        let both = Cameras { cameras: [denied.cameras.clone(), vec![camera("/dev/video8", None)]].concat() };
        assert_eq!(source(None, &none).level, Level::Warn);
        assert_eq!(source(Some(CAMERA), &none).level, Level::Fail);
        let finding = source(Some(CAMERA), &denied);
        assert!(finding.level == Level::Fail && finding.to_string().contains("no permission"), "{finding}");
        let finding = source(Some(CAMERA), &both);
        assert!(finding.level == Level::Ok && finding.to_string().contains("/dev/video8 (Cam)"), "{finding}");
        assert_eq!(source(Some("/dev/video8"), &both).level, Level::Ok);
        assert_eq!(source(Some("/dev/video9"), &both).level, Level::Fail);
        assert_eq!(source(Some("/dev/video7"), &both).level, Level::Fail);
        let mut odd = camera("/dev/video6", None);
        (odd.modes, odd.other_formats) = (Vec::new(), vec!["H264".to_owned()]);
        let finding = source(Some(CAMERA), &Cameras { cameras: vec![odd] });
        assert!(finding.level == Level::Fail && finding.to_string().contains("H264"), "{finding}");
    }

    #[test]
    fn other_sources_are_looked_for() {
        let level = |spec: &str| source(Some(spec), &Cameras::default()).level;
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(level(dir.path().to_str().unwrap()), Level::Ok);
        assert_eq!(level(dir.path().join("no.mp4").to_str().unwrap()), Level::Fail);
        assert_eq!([level(DEMO), level(STDIN), level("udp://@239.0.0.1:1234")], [Level::Ok; 3]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("rtsp://me:sesame@{}/x", listener.local_addr().unwrap());
        let there = source(Some(&url), &Cameras::default());
        assert!(there.level == Level::Ok && !there.to_string().contains("sesame"), "{there}");
        drop(listener);
        assert_eq!(level(&url), Level::Fail);
        let unknown = source(Some("gopher://me:sesame@h/x"), &Cameras::default());
        assert!(unknown.level == Level::Fail && !unknown.to_string().contains("sesame"), "{unknown}");
        assert!(needs_ffmpeg("rtsp://h/x") && needs_ffmpeg("clip.mp4"));
        assert!(![DEMO, CAMERA, STDIN, "a.jpg", "/dev/video3"].into_iter().any(needs_ffmpeg));
    }
}
