//! Video4Linux devices as the kernel presents them: what they can do, and buffers that are mapped, filled and given back.

use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use v4l::v4l_sys as sys;
use v4l::v4l2::{self, vidioc};

use super::modes::{self, Mode};
use crate::source::pixels::PixelFormat;

const CAPTURE: u32 = sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE;
const MMAP: u32 = sys::v4l2_memory_V4L2_MEMORY_MMAP;
/// Buffers that the driver is asked for.
const BUFFERS: u32 = 8;
/// No list of a driver is longer than this: one that repeats itself for ever is cut.
const MAX_LISTED: u32 = 256;

/// Who a device says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// What the camera is called.
    pub(crate) card: String,
    /// Its driver.
    pub(crate) driver: String,
    /// Where it is plugged in.
    pub(crate) bus: String,
    /// Vendor, product and, where it has one, serial number of a USB device: `046d:0825:ABCD`.
    pub(crate) usb: Option<String>,
}

/// A device that is open.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
    path: PathBuf,
}

/// A control that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// The driver's number for it.
    pub(crate) id: u32,
    /// Its name in small letters and underscores.
    pub(crate) name: String,
    /// The values that it takes.
    pub(crate) range: (i64, i64),
}

/// What the driver agreed to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Agreed {
    pub(crate) format: PixelFormat,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) stride: u32,
    /// Frames a second, where the driver tells.
    pub(crate) fps: Option<f64>,
}

impl Device {
    /// Opens a node.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    fn ioctl<T>(&self, request: vidioc::_IOC_TYPE, argument: &mut T) -> io::Result<()> {
        ioctl(self.file.as_raw_fd(), request, argument)
    }

    /// Who it is, and its capabilities (`V4L2_CAP_..`) as this node has them.
    pub(crate) fn identity(&self) -> io::Result<(Identity, u32)> {
        // SAFETY: all of these structures are plain numbers and arrays of them, for which zeros are values.
        let mut capability: sys::v4l2_capability = unsafe { zeroed() };
        self.ioctl(vidioc::VIDIOC_QUERYCAP, &mut capability)?;
        let identity = Identity {
            card: text(&capability.card),
            driver: text(&capability.driver),
            bus: text(&capability.bus_info),
            usb: usb_id(&self.path),
        };
        let own = capability.capabilities & sys::V4L2_CAP_DEVICE_CAPS != 0;
        Ok((identity, if own { capability.device_caps } else { capability.capabilities }))
    }

    /// Every format, size and rate that it offers, and the names of formats that are of no use here. Where it takes any
    /// size of a range, the one nearest to `wanted`; where it takes any rate of a range, the one nearest to `fps`.
    pub(crate) fn modes(&self, wanted: (u32, u32), fps: f64) -> (Vec<Mode>, Vec<String>) {
        let (mut modes, mut others) = (Vec::new(), Vec::new());
        for index in 0..MAX_LISTED {
            // SAFETY: as in `identity`.
            let mut description: sys::v4l2_fmtdesc = unsafe { zeroed() };
            (description.index, description.type_) = (index, CAPTURE);
            if self.ioctl(vidioc::VIDIOC_ENUM_FMT, &mut description).is_err() {
                break;
            }
            let fourcc = description.pixelformat.to_le_bytes();
            let Some(format) = PixelFormat::from_fourcc(fourcc) else {
                others.push(String::from_utf8_lossy(&fourcc).into_owned());
                continue;
            };
            for (width, height) in self.sizes(description.pixelformat, wanted) {
                let rates = self.intervals(description.pixelformat, (width, height), fps);
                let mode = |interval| Mode { format, width, height, interval };
                if rates.is_empty() {
                    modes.push(mode(None));
                }
                modes.extend(rates.into_iter().map(|interval| mode(Some(interval))));
            }
        }
        (modes, others)
    }

    fn sizes(&self, pixelformat: u32, wanted: (u32, u32)) -> Vec<(u32, u32)> {
        let mut sizes = Vec::new();
        for index in 0..MAX_LISTED {
            // SAFETY: as in `identity`.
            let mut entry: sys::v4l2_frmsizeenum = unsafe { zeroed() };
            (entry.index, entry.pixel_format) = (index, pixelformat);
            if self.ioctl(vidioc::VIDIOC_ENUM_FRAMESIZES, &mut entry).is_err() {
                break;
            }
            if entry.type_ == sys::v4l2_frmsizetypes_V4L2_FRMSIZE_TYPE_DISCRETE {
                // SAFETY: the kernel filled the member that the type names; any bits are numbers.
                let size = unsafe { entry.__bindgen_anon_1.discrete };
                sizes.push((size.width, size.height));
            } else {
                // SAFETY: as above.
                let range = unsafe { entry.__bindgen_anon_1.stepwise };
                sizes.push((
                    modes::step(wanted.0, range.min_width, range.max_width, range.step_width),
                    modes::step(wanted.1, range.min_height, range.max_height, range.step_height),
                ));
                break;
            }
        }
        if sizes.is_empty() {
            sizes.push(wanted);
        }
        sizes
    }

    fn intervals(&self, pixelformat: u32, size: (u32, u32), fps: f64) -> Vec<(u32, u32)> {
        let mut intervals = Vec::new();
        for index in 0..MAX_LISTED {
            // SAFETY: as in `identity`.
            let mut entry: sys::v4l2_frmivalenum = unsafe { zeroed() };
            (entry.index, entry.pixel_format) = (index, pixelformat);
            (entry.width, entry.height) = size;
            if self.ioctl(vidioc::VIDIOC_ENUM_FRAMEINTERVALS, &mut entry).is_err() {
                break;
            }
            if entry.type_ == sys::v4l2_frmivaltypes_V4L2_FRMIVAL_TYPE_DISCRETE {
                // SAFETY: as in `sizes`.
                let interval = unsafe { entry.__bindgen_anon_1.discrete };
                intervals.push((interval.numerator, interval.denominator));
            } else {
                // SAFETY: as in `sizes`.
                let range = unsafe { entry.__bindgen_anon_1.stepwise };
                let [shortest, longest] = [range.min, range.max].map(|i| (i.numerator, i.denominator));
                intervals.push(modes::interval_within(fps, shortest, longest));
                break;
            }
        }
        intervals.retain(|&(numerator, denominator)| numerator > 0 && denominator > 0);
        intervals
    }

    /// The controls that take a number.
    pub(crate) fn controls(&self) -> Vec<Control> {
        let mut controls = Vec::new();
        // SAFETY: as in `identity`.
        let mut query: sys::v4l2_query_ext_ctrl = unsafe { zeroed() };
        for _ in 0..MAX_LISTED {
            query.id |= sys::V4L2_CTRL_FLAG_NEXT_CTRL;
            if self.ioctl(vidioc::VIDIOC_QUERY_EXT_CTRL, &mut query).is_err() {
                break;
            }
            let numeric = [
                sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER,
                sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_BOOLEAN,
                sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_MENU,
                sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER_MENU,
                sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_BUTTON,
                sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_BITMASK,
            ];
            let fixed = sys::V4L2_CTRL_FLAG_DISABLED | sys::V4L2_CTRL_FLAG_READ_ONLY;
            if numeric.contains(&query.type_) && query.flags & fixed == 0 {
                let name = query.name.map(|c| c as u8);
                controls.push(Control {
                    id: query.id,
                    name: super::control_name(&text(&name)),
                    range: (query.minimum, query.maximum),
                });
            }
        }
        controls
    }

    /// Sets a control; `value` fits into 32 bits, as all controls of [`Device::controls`] do.
    pub(crate) fn set_control(&self, control: &Control, value: i64) -> io::Result<()> {
        let value = i32::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?;
        let mut argument = sys::v4l2_control { id: control.id, value };
        self.ioctl(vidioc::VIDIOC_S_CTRL, &mut argument)
    }

    /// Asks for a format, size and rate; none where the driver insists on a format that cannot be read here.
    pub(crate) fn agree(&self, mode: &Mode) -> io::Result<Option<Agreed>> {
        // SAFETY: as in `identity`. What is not set stays 0, the stride and the size of the buffer above all: a driver
        // would keep those.
        let mut request: sys::v4l2_format = unsafe { zeroed() };
        request.type_ = CAPTURE;
        request.fmt.pix = {
            // SAFETY: as in `identity`.
            let mut pix: sys::v4l2_pix_format = unsafe { zeroed() };
            (pix.width, pix.height) = (mode.width, mode.height);
            pix.pixelformat = u32::from_le_bytes(mode.format.fourcc());
            pix.field = sys::v4l2_field_V4L2_FIELD_NONE;
            pix
        };
        self.ioctl(vidioc::VIDIOC_S_FMT, &mut request)?;
        // SAFETY: this member was set, and the kernel filled it.
        let pix = unsafe { request.fmt.pix };
        let Some(format) = PixelFormat::from_fourcc(pix.pixelformat.to_le_bytes()) else {
            return Ok(None);
        };
        let fps = mode.interval.and_then(|interval| self.set_interval(interval).ok()).flatten();
        Ok(Some(Agreed { format, width: pix.width, height: pix.height, stride: pix.bytesperline, fps }))
    }

    /// Asks for a rate; the one that the driver took.
    fn set_interval(&self, (numerator, denominator): (u32, u32)) -> io::Result<Option<f64>> {
        // SAFETY: as in `identity`.
        let mut request: sys::v4l2_streamparm = unsafe { zeroed() };
        request.type_ = CAPTURE;
        request.parm.capture = {
            // SAFETY: as in `identity`.
            let mut parameters: sys::v4l2_captureparm = unsafe { zeroed() };
            parameters.timeperframe = sys::v4l2_fract { numerator, denominator };
            parameters
        };
        self.ioctl(vidioc::VIDIOC_S_PARM, &mut request)?;
        // SAFETY: this member was set, and the kernel filled it.
        let taken = unsafe { request.parm.capture }.timeperframe;
        Ok(modes::fps((taken.numerator, taken.denominator)))
    }

    /// Starts to stream into mapped buffers.
    pub(crate) fn stream(self) -> io::Result<Stream> {
        // SAFETY: as in `identity`.
        let mut request: sys::v4l2_requestbuffers = unsafe { zeroed() };
        (request.count, request.type_, request.memory) = (BUFFERS, CAPTURE, MMAP);
        self.ioctl(vidioc::VIDIOC_REQBUFS, &mut request)?;
        let mut stream = Stream { mappings: Vec::new(), device: self };
        for index in 0..request.count {
            let mut buffer = blank_buffer();
            buffer.index = index;
            stream.device.ioctl(vidioc::VIDIOC_QUERYBUF, &mut buffer)?;
            // SAFETY: for mapped buffers the kernel filled this member.
            let offset = unsafe { buffer.m.offset };
            stream.mappings.push(Mapping::new(&stream.device.file, buffer.length, offset)?);
        }
        for index in 0..request.count {
            stream.give_back(index)?;
        }
        stream.device.ioctl(vidioc::VIDIOC_STREAMON, &mut CAPTURE.cast_signed())?;
        Ok(stream)
    }
}

/// A buffer that the driver filled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub(crate) index: u32,
    /// Bytes of it that hold the picture.
    pub(crate) len: usize,
    /// The driver's number of the frame, which goes round at 2^32.
    pub(crate) sequence: u32,
    /// Whether the driver says that the picture is damaged.
    pub(crate) damaged: bool,
    /// When it was taken, on the monotonic clock, where the driver says so.
    pub(crate) monotonic: Option<Duration>,
}

/// A device that streams. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Before the device, so that they are unmapped before it is closed.
    mappings: Vec<Mapping>,
    device: Device,
}

impl Stream {
    /// Waits until a buffer is filled, at most for `patience`; whether one is.
    pub(crate) fn wait(&self, patience: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.device.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `poll` is one pollfd, as the count says.
        match unsafe { libc::poll(&mut poll, 1, millis) } {
            0 => Ok(false),
            1 if poll.revents & libc::POLLIN != 0 => Ok(true),
            1 => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Takes the oldest buffer that is filled; none where none is.
    pub(crate) fn take(&self) -> io::Result<Option<Filled>> {
        let mut buffer = blank_buffer();
        match self.device.ioctl(vidioc::VIDIOC_DQBUF, &mut buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let clock = buffer.flags & sys::V4L2_BUF_FLAG_TIMESTAMP_MASK;
        let stamp = buffer.timestamp;
        let since_boot = Duration::new(stamp.tv_sec as u64, (stamp.tv_usec as u32).min(999_999) * 1000);
        Ok(Some(Filled {
            index: buffer.index,
            len: buffer.bytesused as usize,
            sequence: buffer.sequence,
            damaged: buffer.flags & sys::V4L2_BUF_FLAG_ERROR != 0,
            monotonic: (clock == sys::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC).then_some(since_boot),
        }))
    }

    /// Buffers that there are.
    pub(crate) fn buffers(&self) -> usize {
        self.mappings.len()
    }

    /// What a filled buffer holds.
    pub(crate) fn bytes(&self, filled: &Filled) -> &[u8] {
        let bytes = self.mappings.get(filled.index as usize).map_or(&[][..], Mapping::bytes);
        &bytes[..filled.len.min(bytes.len())]
    }

    /// Gives a buffer back to be filled.
    pub(crate) fn give_back(&self, index: u32) -> io::Result<()> {
        let mut buffer = blank_buffer();
        buffer.index = index;
        self.device.ioctl(vidioc::VIDIOC_QBUF, &mut buffer)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A device that is gone cannot be stopped.
        let _ = self.device.ioctl(vidioc::VIDIOC_STREAMOFF, &mut CAPTURE.cast_signed());
    }
}

/// A driver's buffer in our memory.
#[derive(Debug)]
struct Mapping {
    start: *mut c_void,
    len: usize,
}

// SAFETY: the memory belongs to the mapping alone and is only read.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: &File, len: u32, offset: u32) -> io::Result<Self> {
        let len = len as usize;
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe {
            v4l2::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, offset as libc::off_t)
        }?;
        Ok(Self { start, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives. The driver writes into it only while the buffer is queued, and
        // nobody reads it then.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what was mapped, once.
        let _ = unsafe { v4l2::munmap(self.start, self.len) };
    }
}

fn blank_buffer() -> sys::v4l2_buffer {
    // SAFETY: plain numbers and a union of them, for which zeros are values.
    let mut buffer: sys::v4l2_buffer = unsafe { zeroed() };
    (buffer.type_, buffer.memory) = (CAPTURE, MMAP);
    buffer
}

/// An ioctl whose argument has the type that the request's number was made from. Starts again where a signal cut in.
fn ioctl<T>(fd: RawFd, request: vidioc::_IOC_TYPE, argument: &mut T) -> io::Result<()> {
    loop {
        // SAFETY: the kernel reads and writes as many bytes as the request's number says, which is the size of `T` for
        // every call in this file.
        match unsafe { v4l2::ioctl(fd, request, std::ptr::from_mut(argument).cast()) } {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Text that ends at the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}

/// The USB id of the device behind a node, from sysfs.
fn usb_id(path: &Path) -> Option<String> {
    let node = fs::canonicalize(path).ok()?;
    let interface = Path::new("/sys/class/video4linux").join(node.file_name()?).join("device");
    // The node's parent is an interface of the USB device.
    let device = fs::canonicalize(interface).ok()?.parent()?.to_owned();
    let read = |name: &str| fs::read_to_string(device.join(name)).ok().map(|t| t.trim().to_owned());
    let mut id = format!("{}:{}", read("idVendor")?, read("idProduct")?);
    if let Some(serial) = read("serial").filter(|serial| !serial.is_empty()) {
        id = format!("{id}:{serial}");
    }
    Some(id)
}

/// The time of the clock that drivers stamp frames with.
pub(crate) fn monotonic_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The nodes of video devices, in the order of their numbers.
pub(crate) fn nodes() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/dev") else { return Vec::new() };
    let mut nodes: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("video")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    nodes.sort();
    nodes.into_iter().map(|(_, path)| path).collect()
}
