//! The connections of a group: Gloo always, NCCL from the first tensor on a GPU on, and what went wrong first.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use super::error::DistributedError;
use super::gloo::Gloo;
use super::launch::Launch;
use super::nccl::{Api, Nccl, UniqueId};

/// What the processes do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    AllReduce,
    AllGather,
    Broadcast { root: usize },
    Barrier,
}

impl Operation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce_sum",
            Self::AllGather => "all_gather",
            Self::Broadcast { .. } => "broadcast",
            Self::Barrier => "barrier",
        }
    }

    const fn code(self) -> i64 {
        match self {
            Self::AllReduce => 0,
            Self::AllGather => 1,
            Self::Barrier => 2,
            Self::Broadcast { root } => 3 + root as i64,
        }
    }

    fn of_code(code: i64) -> String {
        match code {
            0 => Self::AllReduce.name().to_owned(),
            1 => Self::AllGather.name().to_owned(),
            2 => Self::Barrier.name().to_owned(),
            more => format!("broadcast from rank {}", more - 3),
        }
    }
}

/// What a process is about to do, in numbers that can be sent: the operation, how many tensors and values, and a
/// checksum of kinds, shapes and devices.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Intent([i64; Intent::LEN]);

impl Intent {
    const LEN: usize = 4;

    fn new(operation: Operation, tensors: &[Tensor]) -> Self {
        let mut shapes = crc32fast::Hasher::new();
        for tensor in tensors {
            let on_gpu = i64::from(tensor.device() != Device::Cpu);
            let head = [tensor.kind() as i64, on_gpu, tensor.dim() as i64];
            for number in head.into_iter().chain(tensor.size()) {
                shapes.update(&number.to_le_bytes());
            }
        }
        let values: usize = tensors.iter().map(Tensor::numel).sum();
        Self([operation.code(), tensors.len() as i64, values as i64, i64::from(shapes.finalize())])
    }

    fn describe(self) -> String {
        let [operation, tensors, values, shapes] = self.0;
        let operation = Operation::of_code(operation);
        format!("{operation} of {tensors} tensors, {values} values (kinds, shapes and devices {shapes:08x})")
    }
}

#[derive(Debug)]
pub(super) struct Link {
    rank: usize,
    world: usize,
    timeout: Duration,
    lines: Mutex<Lines>,
    failure: Mutex<Option<DistributedError>>,
}

#[derive(Debug)]
struct Lines {
    gloo: Gloo,
    nccl: Option<Nccl>,
}

impl Link {
    pub(super) fn connect(launch: Launch) -> Result<Self, DistributedError> {
        let Launch { rank, world, timeout, .. } = launch;
        let gloo = Gloo::connect(&launch).map_err(|reason| DistributedError::Rendezvous {
            rank,
            world,
            address: format!("{}:{}", launch.address, launch.port),
            timeout,
            reason,
        })?;
        Ok(Self {
            rank,
            world,
            timeout,
            lines: Mutex::new(Lines { gloo, nccl: None }),
            failure: Mutex::new(None),
        })
    }

    /// The first failure, if there was one.
    pub(super) fn usable(&self) -> Result<(), DistributedError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    /// Keeps the first failure.
    pub(super) fn fail(&self, error: &DistributedError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
    }

    /// Makes sure that all processes are here and are about to do the same with tensors of the same kinds and shapes.
    pub(super) fn agree(&self, operation: Operation, tensors: &[Tensor]) -> Result<(), DistributedError> {
        self.check(operation, tensors)?;
        let ours = Intent::new(operation, tensors);
        let all = self.attempt(operation.name(), |link, lines| {
            let all = Tensor::zeros([(link.world * Intent::LEN) as i64], (Kind::Int64, Device::Cpu));
            let gathered = lines.gloo.all_gather(&Tensor::from_slice(&ours.0), &all);
            gathered.map_err(|reason| link.peer(operation.name(), reason))?;
            Vec::<i64>::try_from(&all).map_err(|e| DistributedError::torch(operation.name(), &e))
        })?;
        let differs = all.as_chunks().0.iter().position(|theirs| *theirs != ours.0);
        differs.map_or(Ok(()), |other| {
            let theirs = Intent(all.as_chunks().0[other]);
            let error = DistributedError::Disagree {
                rank: self.rank,
                ours: ours.describe(),
                other,
                theirs: theirs.describe(),
            };
            self.fail(&error);
            Err(error)
        })
    }

    /// Refuses tensors that cannot be sent.
    fn check(&self, operation: Operation, tensors: &[Tensor]) -> Result<(), DistributedError> {
        let operation = operation.name();
        for (index, tensor) in tensors.iter().enumerate() {
            let problem = |problem: String| DistributedError::Tensor { operation, index, problem };
            if !tensor.defined() {
                return Err(problem("is undefined: leave out parameters that have no gradient".to_owned()));
            }
            if !matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::Int64) {
                return Err(DistributedError::kind(operation, index, tensor.kind()));
            }
            let (device, first) = (tensor.device(), tensors[0].device());
            if device != first {
                return Err(problem(format!("is on {device:?}, the first on {first:?}: send them apart")));
            }
            if !matches!(device, Device::Cpu | Device::Cuda(_)) {
                return Err(problem(format!("is on {device:?}: move it to the CPU")));
            }
        }
        Ok(())
    }

    /// Sums a contiguous tensor in place.
    pub(super) fn all_reduce(
        &self,
        operation: &'static str,
        tensor: &Tensor,
    ) -> Result<(), DistributedError> {
        self.attempt(operation, |link, lines| match tensor.device() {
            _ if tensor.numel() == 0 => Ok(()),
            Device::Cuda(gpu) => lines.nccl(link, gpu)?.all_reduce(tensor),
            _ => lines.gloo.all_reduce(tensor).map_err(|reason| link.peer(operation, reason)),
        })
    }

    /// Joins every process's tensor along dimension 0.
    pub(super) fn all_gather(
        &self,
        operation: &'static str,
        tensor: &Tensor,
    ) -> Result<Tensor, DistributedError> {
        self.attempt(operation, |link, lines| {
            let failed = |e| DistributedError::torch(operation, &e);
            let input = tensor.detach().f_contiguous().map_err(failed)?;
            let mut shape = tensor.size();
            shape[0] *= link.world as i64;
            let output = Tensor::f_empty(&shape, (tensor.kind(), tensor.device())).map_err(failed)?;
            match tensor.device() {
                _ if tensor.numel() == 0 => {}
                Device::Cuda(gpu) => lines.nccl(link, gpu)?.all_gather(&input, &output)?,
                _ => {
                    let gathered = lines.gloo.all_gather(&input, &output);
                    gathered.map_err(|reason| link.peer(operation, reason))?;
                }
            }
            Ok(output)
        })
    }

    /// Replaces a contiguous tensor by the root's, in place.
    pub(super) fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), DistributedError> {
        self.attempt("broadcast", |link, lines| match tensor.device() {
            _ if tensor.numel() == 0 => Ok(()),
            Device::Cuda(gpu) => lines.nccl(link, gpu)?.broadcast(tensor, root),
            _ => lines.gloo.broadcast(tensor, root).map_err(|reason| link.peer("broadcast", reason)),
        })
    }

    /// Does it unless there was a failure, and keeps one that it meets.
    fn attempt<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&Self, &mut Lines) -> Result<T, DistributedError>,
    ) -> Result<T, DistributedError> {
        self.usable()?;
        log::trace!("rank {}: {operation}", self.rank);
        let mut lines: MutexGuard<'_, Lines> = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        act(self, &mut lines).inspect_err(|e| self.fail(e))
    }

    fn peer(&self, operation: &'static str, reason: String) -> DistributedError {
        DistributedError::Peer {
            operation,
            rank: self.rank,
            world: self.world,
            timeout: self.timeout,
            reason,
        }
    }
}

impl Lines {
    /// NCCL on this GPU; all processes come here together, the first time.
    fn nccl(&mut self, link: &Link, gpu: usize) -> Result<&mut Nccl, DistributedError> {
        let nccl = match self.nccl.take() {
            Some(nccl) => nccl,
            None => self.start_nccl(link, gpu)?,
        };
        let nccl = self.nccl.insert(nccl);
        if nccl.gpu() != gpu {
            let reason = format!("the tensors before were on GPU {}: keep to one a process", nccl.gpu());
            return Err(DistributedError::Gpu { operation: "sending", gpu, reason });
        }
        Ok(nccl)
    }

    /// Rank 0 makes the id of the communicator, and Gloo takes it to the others.
    fn start_nccl(&mut self, link: &Link, gpu: usize) -> Result<Nccl, DistributedError> {
        let api = Api::open()?;
        let id = if link.rank == 0 { *api.unique_id(gpu)?.bytes() } else { [0; UniqueId::BYTES] };
        let id = Tensor::from_slice(&id);
        self.gloo.broadcast(&id, 0).map_err(|reason| link.peer("starting NCCL", reason))?;
        let mut bytes = [0u8; UniqueId::BYTES];
        id.f_copy_data(&mut bytes, UniqueId::BYTES)
            .map_err(|e| DistributedError::torch("starting NCCL", &e))?;
        Nccl::connect(api, UniqueId::from_bytes(bytes), gpu, link.rank, link.world, link.timeout)
    }
}
