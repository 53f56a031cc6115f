//! Messages between GPUs: NCCL, opened when the first tensor on a GPU is to be sent.
//!
//! Bound to NCCL 2's C interface. Its calls go to CUDA's legacy default stream, which is where tch computes: libtorch's
//! current stream is the default one unless code changes it, and tch has nothing to change it with.
//!
//! Built and read with care, but not yet run on several GPUs.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use libloading::os::unix::Library;
use tch::{Kind, Tensor};

use super::error::{DistributedError, TIMEOUT_VARIABLE};

const LIBRARY: &str = "libnccl.so.2";
const SUM: c_int = 0;
const EVENT_WITHOUT_TIMING: c_uint = 2;
/// `cudaErrorNotReady`.
const NOT_READY: c_int = 600;
const LEGACY_DEFAULT_STREAM: Stream = ptr::null_mut();

type Comm = *mut c_void;
type Stream = *mut c_void;
type Event = *mut c_void;

/// `ncclUniqueId`: what the processes of one communicator agree on.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId([u8; UniqueId::BYTES]);

impl UniqueId {
    pub(super) const BYTES: usize = 128;

    pub(super) const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// The functions of both libraries. A status of 0 is success in each.
pub(super) struct Api {
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    comm_init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> c_int,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    comm_destroy: unsafe extern "C" fn(Comm) -> c_int,
    set_device: unsafe extern "C" fn(c_int) -> c_int,
    event_create: unsafe extern "C" fn(*mut Event, c_uint) -> c_int,
    event_record: unsafe extern "C" fn(Event, Stream) -> c_int,
    event_query: unsafe extern "C" fn(Event) -> c_int,
    event_destroy: unsafe extern "C" fn(Event) -> c_int,
    cuda_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Keeps the functions in memory.
    _nccl: Library,
}

impl Api {
    /// Opens NCCL, and finds the CUDA runtime that libtorch has opened.
    ///
    /// # Errors
    /// Names the library that is not there.
    pub(super) fn open() -> Result<Self, DistributedError> {
        let missing = |library: &str| {
            let library = library.to_owned();
            move |e: libloading::Error| DistributedError::Library {
                library,
                reason: semblance_face::describe(&e),
            }
        };
        // SAFETY: NCCL's initialisers ask nothing of the caller.
        let nccl = unsafe { Library::new(LIBRARY) }.map_err(missing(LIBRARY))?;
        let cuda = Library::this();
        // SAFETY: the types above are those of NCCL's and CUDA's documented interfaces.
        unsafe {
            macro_rules! function {
                ($library:expr, $name:literal, $file:expr) => {
                    *$library.get($name).map_err(missing($file))?
                };
            }
            const CUDA: &str = "CUDA's runtime";
            Ok(Self {
                get_unique_id: function!(nccl, b"ncclGetUniqueId\0", LIBRARY),
                comm_init_rank: function!(nccl, b"ncclCommInitRank\0", LIBRARY),
                all_reduce: function!(nccl, b"ncclAllReduce\0", LIBRARY),
                all_gather: function!(nccl, b"ncclAllGather\0", LIBRARY),
                broadcast: function!(nccl, b"ncclBroadcast\0", LIBRARY),
                get_error_string: function!(nccl, b"ncclGetErrorString\0", LIBRARY),
                comm_destroy: function!(nccl, b"ncclCommDestroy\0", LIBRARY),
                set_device: function!(cuda, b"cudaSetDevice\0", CUDA),
                event_create: function!(cuda, b"cudaEventCreateWithFlags\0", CUDA),
                event_record: function!(cuda, b"cudaEventRecord\0", CUDA),
                event_query: function!(cuda, b"cudaEventQuery\0", CUDA),
                event_destroy: function!(cuda, b"cudaEventDestroy\0", CUDA),
                cuda_error_string: function!(cuda, b"cudaGetErrorString\0", CUDA),
                _nccl: nccl,
            })
        }
    }

    /// An id that the other processes are to be told.
    pub(super) fn unique_id(&self, gpu: usize) -> Result<UniqueId, DistributedError> {
        let mut id = UniqueId([0; UniqueId::BYTES]);
        // SAFETY: `id` can be written to.
        self.nccl("starting NCCL", gpu, unsafe { (self.get_unique_id)(&mut id) })?;
        Ok(id)
    }

    fn nccl(&self, operation: &'static str, gpu: usize, status: c_int) -> Result<(), DistributedError> {
        outcome(operation, gpu, status, self.get_error_string)
    }

    fn cuda(&self, operation: &'static str, gpu: usize, status: c_int) -> Result<(), DistributedError> {
        outcome(operation, gpu, status, self.cuda_error_string)
    }
}

fn outcome(
    operation: &'static str,
    gpu: usize,
    status: c_int,
    message: unsafe extern "C" fn(c_int) -> *const c_char,
) -> Result<(), DistributedError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: both libraries give a static string for every status.
    let reason = unsafe { CStr::from_ptr(message(status)) }.to_string_lossy().into_owned();
    Err(DistributedError::Gpu { operation, gpu, reason })
}

/// One GPU's place among those of the other processes.
pub(super) struct Nccl {
    api: Arc<Api>,
    comm: Comm,
    gpu: usize,
    unfinished: Arc<Unfinished>,
}

// SAFETY: a communicator may be used from any thread, by one at a time: `&mut self` sees to it.
unsafe impl Send for Nccl {}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nccl").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

impl Nccl {
    /// Meets the other processes; waits until all have called this.
    pub(super) fn connect(
        api: Api,
        id: UniqueId,
        gpu: usize,
        rank: usize,
        world: usize,
        timeout: Duration,
    ) -> Result<Self, DistributedError> {
        let api = Arc::new(api);
        let mut comm = ptr::null_mut();
        // SAFETY: `comm` can be written to.
        unsafe {
            api.cuda("starting NCCL", gpu, (api.set_device)(gpu as c_int))?;
            let status = (api.comm_init_rank)(&mut comm, world as c_int, id, rank as c_int);
            api.nccl("starting NCCL", gpu, status)?;
        }
        let unfinished = Arc::new(Unfinished { api: Arc::clone(&api), events: Mutex::default() });
        watch(Arc::downgrade(&unfinished), gpu, timeout);
        Ok(Self { api, comm, gpu, unfinished })
    }

    /// Which GPU it is.
    pub(super) const fn gpu(&self) -> usize {
        self.gpu
    }

    /// Sums a contiguous tensor in this GPU's memory, in place.
    pub(super) fn all_reduce(&mut self, tensor: &Tensor) -> Result<(), DistributedError> {
        let (data, count, kind) = (tensor.data_ptr(), tensor.numel(), code(tensor.kind()));
        self.enqueue("all_reduce", |api, comm| {
            // SAFETY: the tensor's memory holds `count` values, and the stream orders this before they are freed.
            unsafe { (api.all_reduce)(data, data, count, kind, SUM, comm, LEGACY_DEFAULT_STREAM) }
        })
    }

    /// Concatenates every process's `input` into `output`, both contiguous and in this GPU's memory.
    pub(super) fn all_gather(&mut self, input: &Tensor, output: &Tensor) -> Result<(), DistributedError> {
        let (from, to, count, kind) =
            (input.data_ptr(), output.data_ptr(), input.numel(), code(input.kind()));
        self.enqueue("all_gather", |api, comm| {
            // SAFETY: as in `all_reduce`; `output` holds `count` values a process.
            unsafe { (api.all_gather)(from, to, count, kind, comm, LEGACY_DEFAULT_STREAM) }
        })
    }

    /// Replaces a contiguous tensor in this GPU's memory by the root's.
    pub(super) fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), DistributedError> {
        let (data, count, kind) = (tensor.data_ptr(), tensor.numel(), code(tensor.kind()));
        self.enqueue("broadcast", |api, comm| {
            // SAFETY: as in `all_reduce`.
            unsafe { (api.broadcast)(data, data, count, kind, root as c_int, comm, LEGACY_DEFAULT_STREAM) }
        })
    }

    /// Puts an operation on the stream, and what tells that it is done behind it.
    fn enqueue(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(&Api, Comm) -> c_int,
    ) -> Result<(), DistributedError> {
        let (api, gpu) = (&self.api, self.gpu);
        // SAFETY: `set_device` asks nothing; the event is new, and the stream is the GPU's own.
        unsafe {
            api.cuda(operation, gpu, (api.set_device)(gpu as c_int))?;
            api.nccl(operation, gpu, call(api, self.comm))?;
            let mut event = ptr::null_mut();
            api.cuda(operation, gpu, (api.event_create)(&mut event, EVENT_WITHOUT_TIMING))?;
            api.cuda(operation, gpu, (api.event_record)(event, LEGACY_DEFAULT_STREAM))?;
            self.unfinished.push(event);
        }
        Ok(())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // What is unfinished may wait for a process that is gone, and then destroying would, too.
        if !self.unfinished.is_empty() {
            return;
        }
        // SAFETY: the communicator is this value's own.
        if unsafe { (self.api.comm_destroy)(self.comm) } != 0 {
            log::warn!("NCCL's communicator on GPU {} could not be closed", self.gpu);
        }
    }
}

/// NCCL's number for a kind; `Group` sends no others.
const fn code(kind: Kind) -> c_int {
    match kind {
        Kind::Int64 => 4,
        Kind::Double => 8,
        _ => 7,
    }
}

/// Operations that the GPU has not done, and since when they wait.
struct Unfinished {
    api: Arc<Api>,
    events: Mutex<VecDeque<(Event, Instant)>>,
}

// SAFETY: CUDA's events may be used from any thread.
unsafe impl Send for Unfinished {}
// SAFETY: as above, and the mutex guards the queue.
unsafe impl Sync for Unfinished {}

impl Unfinished {
    fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back((event, Instant::now()));
    }

    /// How long the oldest has waited.
    fn oldest(&self) -> Option<Duration> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(&(event, since)) = events.front() {
            // SAFETY: the event is recorded, and destroyed once, when it leaves the queue.
            unsafe {
                if (self.api.event_query)(event) == NOT_READY {
                    return Some(since.elapsed());
                }
                (self.api.event_destroy)(event);
            }
            events.pop_front();
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.oldest().is_none()
    }
}

/// Ends this process when the GPU has waited too long for another. The host may hang in any of CUDA's calls by then, and
/// nothing but the end of the process takes it out; PyTorch's own watchdog does the same.
fn watch(unfinished: Weak<Unfinished>, gpu: usize, timeout: Duration) {
    std::thread::spawn(move || {
        while let Some(unfinished) = unfinished.upgrade() {
            if unfinished.oldest().is_some_and(|waited| waited > timeout) {
                eprintln!(
                    "GPU {gpu} has waited {} s for the other processes ({TIMEOUT_VARIABLE}): one died or is slower; its \
                     message tells why; start again with --resume",
                    timeout.as_secs()
                );
                // SAFETY: asks nothing; exit handlers would wait for the GPU.
                unsafe { libc::_exit(1) };
            }
            drop(unfinished);
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nccl_opens_or_is_named() {
        match Api::open() {
            Ok(api) => assert_ne!(api.unique_id(0).unwrap().bytes(), api.unique_id(0).unwrap().bytes()),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.starts_with("libnccl.so.2: ") && text.contains("cannot open shared object"),
                    "{text}"
                );
                assert!(text.ends_with("run deploy/libtorch.sh --cuda"), "{text}");
            }
        }
    }
}
