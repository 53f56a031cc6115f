//! Messages between processes through the host's memory: the Gloo that libtorch holds.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};
use std::ptr;

use tch::Tensor;

use super::ffi::{self, outcome};
use super::launch::Launch;

/// Connections to the other processes. Every operation waits for all of them; failures are the library's words.
#[derive(Debug)]
pub(super) struct Gloo(*mut ffi::ProcessGroupGloo);

// SAFETY: c10d's process groups may be used from any thread, by one at a time: `&mut self` sees to it.
unsafe impl Send for Gloo {}

impl Gloo {
    /// Meets the other processes.
    pub(super) fn connect(launch: &Launch) -> Result<Self, String> {
        let text = |text: &str| CString::new(text).map_err(|_| format!("{text:?} holds a zero byte"));
        let own_address = match launch.interface {
            Some(_) => String::new(),
            None => own_address(&launch.address, launch.port)?.to_string(),
        };
        let (master, own_address) = (text(&launch.address)?, text(&own_address)?);
        let interface = text(launch.interface.as_deref().unwrap_or_default())?;
        let prefix = text(&format!("semblance/{}", launch.attempt))?;
        let mut error = ptr::null_mut();
        // SAFETY: the strings live until the call returns, and `error` can be written to.
        let group = unsafe {
            ffi::semblance_gloo_new(
                master.as_ptr(),
                launch.port,
                launch.hosted,
                prefix.as_ptr(),
                interface.as_ptr(),
                own_address.as_ptr(),
                launch.rank as i32,
                launch.world as i32,
                launch.timeout.as_millis() as i64,
                &mut error,
            )
        };
        if group.is_null() {
            // SAFETY: the shim left a message of its own.
            return Err(unsafe { ffi::take_message(error) });
        }
        Ok(Self(group))
    }

    /// Sums a contiguous tensor in host memory, in place.
    pub(super) fn all_reduce(&mut self, tensor: &Tensor) -> Result<(), String> {
        // SAFETY: the group and the tensor live, and `error` can be written to.
        outcome(|error| unsafe { ffi::semblance_gloo_all_reduce(self.0, tensor.as_ptr().cast(), error) })
    }

    /// Concatenates every process's `input` into `output`, both contiguous and in host memory.
    pub(super) fn all_gather(&mut self, input: &Tensor, output: &Tensor) -> Result<(), String> {
        let (input, output) = (input.as_ptr().cast(), output.as_ptr().cast());
        // SAFETY: as in `all_reduce`.
        outcome(|error| unsafe { ffi::semblance_gloo_all_gather(self.0, input, output, error) })
    }

    /// Replaces a contiguous tensor in host memory by the root's.
    pub(super) fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), String> {
        let tensor = tensor.as_ptr().cast();
        // SAFETY: as in `all_reduce`.
        outcome(|error| unsafe { ffi::semblance_gloo_broadcast(self.0, tensor, root as i32, error) })
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: the group is this value's own.
        unsafe { ffi::semblance_gloo_free(self.0) }
    }
}

/// This machine's address on the way to the meeting place. Nothing is sent: connecting a UDP socket only picks a route.
fn own_address(master: &str, port: u16) -> Result<IpAddr, String> {
    let unreachable = |e: std::io::Error| format!("no way to {master}: {e}");
    let mut there = (master, port).to_socket_addrs().map_err(unreachable)?;
    let there = there.next().ok_or_else(|| format!("{master} has no address"))?;
    let any: IpAddr = match there {
        std::net::SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        std::net::SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).map_err(unreachable)?;
    socket.connect(there).map_err(unreachable)?;
    Ok(socket.local_addr().map_err(unreachable)?.ip())
}
