//! The cameras that there are, and what they offer.

use std::fmt;

use serde::Serialize;

/// A device that captures video, or looks like it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraInfo {
    /// Its node, which `--source` takes.
    pub path: String,
    /// What it is called.
    pub card: String,
    /// Its driver.
    pub driver: String,
    /// Where it is plugged in.
    pub bus: String,
    /// Vendor, product and serial number of a USB device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usb: Option<String>,
    /// Why it cannot be used, where it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
    /// Formats, sizes and rates that can be used.
    pub modes: Vec<CameraMode>,
    /// Formats that it offers and that cannot be read here.
    pub other_formats: Vec<String>,
    /// Names of controls that `--control` takes, with the least and greatest value.
    pub controls: Vec<CameraControl>,
}

/// A format and size with its rates.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraMode {
    /// As in `--format`.
    pub format: &'static str,
    /// Width and height in pixels.
    pub size: [u32; 2],
    /// Frames a second, as far as the driver tells.
    pub fps: Vec<f64>,
}

/// A control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CameraControl {
    /// As in `--control`.
    pub name: String,
    /// Its least value.
    pub min: i64,
    /// Its greatest value.
    pub max: i64,
}

/// The cameras of this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cameras {
    /// In the order of their nodes' numbers.
    pub cameras: Vec<CameraInfo>,
}

impl Cameras {
    /// Asks every video device what it is. Cameras that stream keep streaming.
    #[cfg(target_os = "linux")]
    pub fn list() -> Self {
        Self { cameras: crate::source::v4l2::nodes().iter().filter_map(|node| linux::ask(node)).collect() }
    }

    /// None: cameras are found through Video4Linux, which this system lacks.
    #[cfg(not(target_os = "linux"))]
    pub fn list() -> Self {
        Self::default()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;

    use super::{CameraControl, CameraInfo, CameraMode};
    use crate::source::SourceOptions;
    use crate::source::v4l2::{CameraError, Device, Mode, suits, wanted};

    /// None for the nodes of a camera that carry something else than pictures.
    pub(super) fn ask(node: &Path) -> Option<CameraInfo> {
        let mut info = CameraInfo {
            path: node.display().to_string(),
            card: String::new(),
            driver: String::new(),
            bus: String::new(),
            usb: None,
            unusable: None,
            modes: Vec::new(),
            other_formats: Vec::new(),
            controls: Vec::new(),
        };
        let asked =
            Device::open(node).and_then(|device| device.identity().map(|identity| (device, identity)));
        let (device, (identity, capabilities)) = match asked {
            Ok(asked) => asked,
            Err(error) => {
                info.unusable = Some(CameraError::of(node, "asking what it is", error).to_string());
                return Some(info);
            }
        };
        (info.card, info.driver, info.bus, info.usb) =
            (identity.card, identity.driver, identity.bus, identity.usb);
        match suits(capabilities) {
            Ok(()) => {}
            Err(reason) if info.usb.is_none() => info.unusable = Some(reason.to_owned()),
            // A webcam's second node has the camera's name and carries its metadata.
            Err(_) => return None,
        }
        let wanted = wanted(&SourceOptions::default());
        let (modes, others) = device.modes(wanted.size, wanted.fps);
        (info.modes, info.other_formats) = (grouped(&modes), others);
        info.controls = device
            .controls()
            .into_iter()
            .map(|control| CameraControl { name: control.name, min: control.range.0, max: control.range.1 })
            .collect();
        Some(info)
    }

    /// Modes that differ in their rate alone become one.
    pub(super) fn grouped(modes: &[Mode]) -> Vec<CameraMode> {
        let mut groups: Vec<CameraMode> = Vec::new();
        for mode in modes {
            let (format, size) = (mode.format.name(), [mode.width, mode.height]);
            let fps = mode.fps().map(|fps| (fps * 1000.0).round() / 1000.0);
            match groups.iter_mut().find(|group| group.format == format && group.size == size) {
                Some(group) => group.fps.extend(fps),
                None => groups.push(CameraMode { format, size, fps: fps.into_iter().collect() }),
            }
        }
        groups
    }
}

impl fmt::Display for Cameras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cameras.is_empty() {
            return writeln!(f, "no camera was found");
        }
        for camera in &self.cameras {
            writeln!(f, "{}  {}", camera.path, camera.card)?;
            let usb = camera.usb.as_ref().map(|usb| format!(", USB {usb}")).unwrap_or_default();
            if !camera.driver.is_empty() {
                writeln!(f, "  driver {}, bus {}{usb}", camera.driver, camera.bus)?;
            }
            if let Some(reason) = &camera.unusable {
                writeln!(f, "  cannot be used: {reason}")?;
            }
            for mode in &camera.modes {
                let rates: Vec<String> = mode.fps.iter().map(f64::to_string).collect();
                let rates = if rates.is_empty() { "rate unknown".to_owned() } else { rates.join(", ") };
                let size = format!("{}x{}", mode.size[0], mode.size[1]);
                writeln!(f, "  {:<5} {size:<10} {rates} fps", mode.format)?;
            }
            if !camera.other_formats.is_empty() {
                writeln!(f, "  not supported: {}", camera.other_formats.join(", "))?;
            }
            let controls: Vec<String> =
                camera.controls.iter().map(|c| format!("{} {}..{}", c.name, c.min, c.max)).collect();
            if !controls.is_empty() {
                writeln!(f, "  controls: {}", controls.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::linux::grouped;
    use super::*;
    use crate::source::pixels::PixelFormat;
    use crate::source::v4l2::Mode;

    #[test]
    fn rates_of_one_size_stand_on_one_line() {
        let mode = |width, interval| Mode { format: PixelFormat::Mjpg, width, height: 480, interval };
        let modes = grouped(&[
            mode(640, Some((1, 30))),
            mode(640, Some((1001, 30_000))),
            mode(640, Some((2, 15))),
            mode(848, None),
        ]);
        let expected =
            |width, fps: &[f64]| CameraMode { format: "mjpg", size: [width, 480], fps: fps.to_vec() };
        assert_eq!(modes, [expected(640, &[30.0, 29.97, 7.5]), expected(848, &[])]);
        let camera = CameraInfo {
            path: "/dev/video0".into(),
            card: "Cam".into(),
            driver: "uvcvideo".into(),
            bus: "usb-1".into(),
            usb: None,
            unusable: None,
            modes,
            other_formats: vec!["H264".into()],
            controls: vec![CameraControl { name: "gain".into(), min: 0, max: 9 }],
        };
        let text = Cameras { cameras: vec![camera] }.to_string();
        for line in ["/dev/video0  Cam", "mjpg  640x480    30, 29.97, 7.5 fps", "H264", "gain 0..9"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(Cameras::default().to_string().contains("no camera"));
    }
}
