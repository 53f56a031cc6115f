//! Host memory for batches, reused from step to step, that a GPU can copy from while it computes.

use crossbeam::channel::{Receiver, Sender, bounded};
use tch::{Device, Kind, Tensor};

/// A buffer of bytes; page-locked where the training device is a GPU.
#[derive(Debug)]
pub struct HostBuffer {
    memory: Memory,
    home: Option<Sender<HostBuffer>>,
}

#[derive(Debug)]
enum Memory {
    Pageable(Vec<u8>),
    Pinned(Pinned),
    /// Taken away when the buffer goes home.
    Gone,
}

#[derive(Debug)]
struct Pinned {
    tensor: Tensor,
    start: *mut u8,
    length: usize,
}

// SAFETY: the pointer leads into the tensor's own storage, which nothing else refers to.
unsafe impl Send for Pinned {}
unsafe impl Sync for Pinned {}

impl HostBuffer {
    /// `length` zeros for batches that go to `device`. Page-locking them is done here, by the calling thread: the
    /// threads that fill a buffer never call libtorch (see [`super::Batch`]).
    fn new(length: usize, device: Device) -> Self {
        let memory = if device.is_cuda() {
            let tensor = Tensor::zeros([length as i64], (Kind::Uint8, Device::Cpu)).pin_memory(device);
            let start = tensor.data_ptr().cast::<u8>();
            Memory::Pinned(Pinned { tensor, start, length })
        } else {
            Memory::Pageable(vec![0; length])
        };
        Self { memory, home: None }
    }

    /// The bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Pageable(bytes) => bytes,
            // SAFETY: start and length are those of the tensor's storage, and this is the only reference to it.
            Memory::Pinned(pinned) => unsafe { std::slice::from_raw_parts_mut(pinned.start, pinned.length) },
            Memory::Gone => &mut [],
        }
    }

    /// The bytes on `device`, one after another. From page-locked memory the copy may still be under way when this
    /// returns: the buffer must be kept until something that depends on it was read back.
    pub fn to_device(&self, device: Device) -> Tensor {
        match &self.memory {
            Memory::Pageable(bytes) => Tensor::from_slice(bytes).to_device(device),
            Memory::Pinned(pinned) => pinned.tensor.to_device_(device, Kind::Uint8, true, false),
            Memory::Gone => Tensor::zeros([0], (Kind::Uint8, device)),
        }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            let memory = std::mem::replace(&mut self.memory, Memory::Gone);
            // Where the pool is gone, so is the need for the buffer.
            let _ = home.try_send(Self { memory, home: None });
        }
    }
}

/// A fixed number of buffers that come back when they are dropped.
#[derive(Debug)]
pub struct BufferPool {
    buffers: Receiver<HostBuffer>,
    home: Sender<HostBuffer>,
}

impl BufferPool {
    /// `count` buffers of `length` bytes.
    pub fn new(count: usize, length: usize, device: Device) -> Self {
        let (home, buffers) = bounded(count);
        for _ in 0..count {
            // The channel holds as many as are made here.
            let _ = home.try_send(HostBuffer::new(length, device));
        }
        Self { buffers, home }
    }

    /// A buffer, as soon as one is free; its content is whatever it was.
    pub fn take(&self) -> HostBuffer {
        let mut buffer = self.buffers.recv().expect("the pool keeps a sender of its own channel");
        buffer.home = Some(self.home.clone());
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_their_bytes_reach_the_device() {
        let pool = BufferPool::new(2, 4, Device::Cpu);
        for round in 0..10u8 {
            let mut a = pool.take();
            let b = pool.take();
            assert!(pool.buffers.is_empty());
            a.bytes_mut().copy_from_slice(&[round, 2, 3, 4]);
            let tensor = a.to_device(Device::Cpu);
            assert_eq!((tensor.int64_value(&[0]), tensor.size()), (i64::from(round), vec![4]));
            drop((a, b));
            assert_eq!(pool.buffers.len(), 2);
        }
    }
}
