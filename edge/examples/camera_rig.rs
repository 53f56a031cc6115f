//! Draws clips, feeds them to a loopback camera, and sets controls of virtual cameras: what `tests/vm` needs beside `edge`.
//!
//! ```text
//! camera_rig render mjpg|yuyv FRAMES FILE     a drawn face, 640x480
//! camera_rig pictures FRAMES FOLDER           the same as PNGs
//! camera_rig feed FILE DEVICE FPS             over and over, until it is ended
//! camera_rig control DEVICE NAME VALUE        by the control's own name, as far as it is unambiguous
//! ```

fn main() -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    return rig::main();
    #[cfg(not(target_os = "linux"))]
    anyhow::bail!("cameras are fed through Video4Linux, which this system lacks");
}

#[cfg(target_os = "linux")]
mod rig {
    use std::fs::File;
    use std::io::{BufWriter, Read, Write};
    use std::mem::zeroed;
    use std::time::{Duration, Instant};

    use anyhow::{Context, bail, ensure};
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, ImageEncoder};
    use semblance_face::Frame;
    use semblance_synth::{ClipSource, RenderOptions};
    use v4l::v4l2::{ioctl, vidioc};
    use v4l::video::Output;
    use v4l::{Device, Format, FourCC, v4l_sys as sys};

    pub(super) fn main() -> anyhow::Result<()> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match arguments[..] {
            ["render", format, frames, file] => render(format, frames.parse()?, file),
            ["pictures", frames, folder] => pictures(frames.parse()?, folder),
            ["feed", file, device, fps] => feed(file, device, fps.parse()?),
            ["control", device, name, value] => control(device, name, value.parse()?),
            _ => bail!(
                "usage: camera_rig render FORMAT FRAMES FILE | pictures FRAMES FOLDER | feed FILE DEVICE FPS | control DEVICE \
                 NAME VALUE"
            ),
        }
    }

    /// A clip: four letters, width and height, then every picture with its length before it.
    fn render(format: &str, frames: u32, file: &str) -> anyhow::Result<()> {
        let mut clip = ClipSource::new(1, 1, RenderOptions::webcam())?;
        let mut out = BufWriter::new(File::create(file)?);
        for i in 0..frames {
            let (frame, _) = clip.next_frame()?;
            let (fourcc, bytes) = match format {
                "mjpg" => (b"MJPG", mjpg(&frame)?),
                "yuyv" => (b"YUYV", yuyv(&frame)),
                _ => bail!("{format}: mjpg and yuyv are drawn"),
            };
            if i == 0 {
                out.write_all(fourcc)?;
                out.write_all(&frame.width().to_le_bytes())?;
                out.write_all(&frame.height().to_le_bytes())?;
            }
            out.write_all(&u32::try_from(bytes.len())?.to_le_bytes())?;
            out.write_all(&bytes)?;
        }
        Ok(out.flush()?)
    }

    fn pictures(frames: u32, folder: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut clip = ClipSource::new(1, 1, RenderOptions::webcam())?;
        for i in 0..frames {
            let (frame, _) = clip.next_frame()?;
            let file = format!("{folder}/{i:04}.png");
            image::save_buffer(file, frame.rgb(), frame.width(), frame.height(), ExtendedColorType::Rgb8)?;
        }
        Ok(())
    }

    /// A JPEG without Huffman tables, as UVC cameras may send it.
    fn mjpg(frame: &Frame) -> anyhow::Result<Vec<u8>> {
        const DHT: u8 = 0xC4;
        const SOS: u8 = 0xDA;
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 85).write_image(
            frame.rgb(),
            frame.width(),
            frame.height(),
            ExtendedColorType::Rgb8,
        )?;
        let (mut bare, mut at) = (jpeg[..2].to_vec(), 2);
        while jpeg[at + 1] != SOS {
            let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            if jpeg[at + 1] != DHT {
                bare.extend_from_slice(&jpeg[at..end]);
            }
            at = end;
        }
        bare.extend_from_slice(&jpeg[at..]);
        Ok(bare)
    }

    fn yuyv(frame: &Frame) -> Vec<u8> {
        let mut out = Vec::new();
        for pair in frame.rgb().chunks_exact(6) {
            let yuv = |rgb: &[u8]| {
                let [r, g, b] = [0, 1, 2].map(|c| f32::from(rgb[c]) / 255.0);
                let y = 0.299 * r + 0.587 * g + 0.114 * b;
                [16.0 + 219.0 * y, 128.0 + 112.0 * (b - y) / 0.886, 128.0 + 112.0 * (r - y) / 0.701]
            };
            let ([y0, u0, v0], [y1, u1, v1]) = (yuv(&pair[..3]), yuv(&pair[3..]));
            out.extend([y0, (u0 + u1) / 2.0, y1, (v0 + v1) / 2.0].map(|v| v.round() as u8));
        }
        out
    }

    fn feed(file: &str, device: &str, fps: f64) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        File::open(file)?.read_to_end(&mut bytes)?;
        let (header, mut rest) = bytes.split_at(12);
        let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut pictures = Vec::new();
        while rest.len() >= 4 {
            let (picture, after) = rest[4..].split_at(number(rest) as usize);
            pictures.push(picture);
            rest = after;
        }
        ensure!(!pictures.is_empty(), "{file}: no pictures");
        let fourcc = FourCC::new(&[header[0], header[1], header[2], header[3]]);
        let mut format = Format::new(number(&header[4..]), number(&header[8..]), fourcc);
        (format.stride, format.size) = (0, 0);
        let mut device = Device::with_path(device).context(device.to_owned())?;
        device.set_format(&format)?;
        let mut due = Instant::now();
        for picture in pictures.iter().cycle() {
            // Frames that are late, as after a stop, do not come in a rush.
            due = (due + Duration::from_secs_f64(1.0 / fps)).max(Instant::now());
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            device.write_all(picture)?;
        }
        Ok(())
    }

    fn control(path: &str, name: &str, value: i32) -> anyhow::Result<()> {
        let device = Device::with_path(path)?;
        let fd = device.handle().fd();
        // SAFETY: plain numbers, for which zeros are values; both requests take the structures that they are given.
        unsafe {
            let mut query: sys::v4l2_query_ext_ctrl = zeroed();
            loop {
                query.id |= sys::V4L2_CTRL_FLAG_NEXT_CTRL;
                ioctl(fd, vidioc::VIDIOC_QUERY_EXT_CTRL, std::ptr::from_mut(&mut query).cast())
                    .with_context(|| format!("{path}: no control {name}"))?;
                let found: Vec<u8> = query.name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
                if String::from_utf8_lossy(&found).contains(name) {
                    let mut argument = sys::v4l2_control { id: query.id, value };
                    return Ok(ioctl(fd, vidioc::VIDIOC_S_CTRL, std::ptr::from_mut(&mut argument).cast())?);
                }
            }
        }
    }
}
