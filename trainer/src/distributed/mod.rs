//! Training with several processes, one a GPU (or several on the CPU), that act as one with their batches joined.
//!
//! A launcher starts every process with the same command and tells each its number:
//!
//! ```text
//! torchrun --no-python --nproc-per-node 4 trainer pretrain ...
//! mpirun -n 4 trainer pretrain ...
//! ```
//!
//! # What a training step does
//!
//! With `W` processes and a batch of `B` pictures each, a step is that of one process with the batch `W B`, when
//!
//! 1. at the start every process has rank 0's weights and buffers: [`Group::broadcast`];
//! 2. each reads its own `B` pictures of the joined batch;
//! 3. batch normalisation takes its statistics over all of them: [`sync_batch_norm`];
//! 4. the loss is that of the *joined* batch, on every process: projections come from [`Group::gather_with_local`], and
//!    what needs no gradient (keys, descriptors, labels) from [`Group::all_gather`];
//! 5. [`Group::backward`], then the parameters' gradients are *summed*, not averaged: [`Group::all_reduce_sum`]; then each
//!    process makes the same step of its optimiser.
//!
//! Why this is exact: let `L(z_1, .., z_W)` be the loss of the joined batch as a function of the processes' projections
//! and `θ` the parameters. `dL/dθ` is the sum over `r` of `dL/dz_r dz_r/dθ`. Process `r` has `L` whole and only its own
//! rows `z_r` pass the gradient on, so its backward pass gives the `r`-th term, and the sum gives `dL/dθ`. An average would
//! be `W` times too small. Through batch statistics `z_r` also depends on what the other processes computed; the
//! backward pass of [`sync_batch_norm`] exchanges that part.
//!
//! A loss that is a mean over each process's own pictures and gathers nothing (BYOL, MoCo's) is to be divided by `W`
//! before the backward pass, so that the sum over processes is the joined batch's mean.
//!
//! # Messages
//!
//! Tensors in host memory travel through the Gloo that libtorch holds, those on a GPU through NCCL, which is opened when
//! the first is sent. What uses NCCL has **not yet been run** on several GPUs. A group opens connections without encryption or
//! passwords: run it in a network that you trust.
//!
//! # Failures
//!
//! Before tensors are exchanged, the processes compare what they are about to do, so one that died, runs late or runs
//! something else gives a typed error. How late is too late: 300 s, or the environment's `SEMBLANCE_PEER_TIMEOUT_SECS`. A
//! process whose GPU waits longer than that inside a step ends with a message and status 1. After a failure the group is of
//! no more use: every operation returns the first failure.

mod error;
mod ffi;
mod gloo;
mod gradient;
mod launch;
mod link;
mod nccl;
mod sync_bn;

use std::ops::Range;
use std::sync::Arc;

use tch::{TchError, Tensor, no_grad};

pub use error::{DistributedError, TIMEOUT_VARIABLE};
use link::{Link, Operation};
pub use sync_bn::sync_batch_norm;

/// Bytes that travel at once: few messages, and no second copy of all gradients. As in PyTorch's DDP (Li et al. 2020).
const BUCKET_BYTES: usize = 25 << 20;

/// The processes that train together. A clone is another handle on the same group.
///
/// Every process must call the same operations in the same order. A program makes one group and keeps it.
#[derive(Clone, Debug)]
pub struct Group {
    rank: usize,
    local_rank: usize,
    local_world: usize,
    world: usize,
    link: Option<Arc<Link>>,
}

impl Group {
    /// One process alone: every operation is the identity and costs nothing.
    pub const fn single() -> Self {
        Self { rank: 0, local_rank: 0, local_world: 1, world: 1, link: None }
    }

    /// The group that a launcher's variables tell of; it waits until all processes have come.
    ///
    /// torchrun sets `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT`; Open MPI's mpirun
    /// `OMPI_COMM_WORLD_RANK`, `_SIZE` and `_LOCAL_RANK`; others `PMI_RANK`, `PMI_SIZE` and `MPI_LOCALRANKID` (the rank,
    /// where that is missing). With mpirun, `MASTER_ADDR` is 127.0.0.1 and `MASTER_PORT` 29500 unless set; across
    /// machines they must be. `GLOO_SOCKET_IFNAME` names the network interface; by default it is the one that leads to
    /// `MASTER_ADDR`. With none of them, or one process of one, it is [`Group::single`].
    ///
    /// # Errors
    /// Names a variable that is missing or makes no sense, or says that the others did not come in time.
    pub fn from_env() -> Result<Self, DistributedError> {
        let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let Some(launch) = launch::read(variable)? else {
            return Ok(Self::single());
        };
        let (rank, local_rank, local_world, world) =
            (launch.rank, launch.local_rank, launch.local_world, launch.world);
        Ok(Self { rank, local_rank, local_world, world, link: Some(Arc::new(Link::connect(launch)?)) })
    }

    /// This process, from 0.
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// This process among those on its machine, from 0: the GPU that it is to take.
    pub const fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// How many processes there are on this machine, as far as the launcher tells (`LOCAL_WORLD_SIZE`,
    /// `OMPI_COMM_WORLD_LOCAL_SIZE`, `MPI_LOCALNRANKS`), else all.
    pub const fn local_world(&self) -> usize {
        self.local_world
    }

    /// How many processes there are.
    pub const fn world(&self) -> usize {
        self.world
    }

    /// Sums each tensor over the processes, in place: f32, f64 or i64, of any shape, all on the CPU or all on one GPU.
    /// They travel joined into buckets of 25 MiB. Every process gets the same bits.
    ///
    /// # Errors
    /// A tensor that cannot be sent, another process that died or does something else, and those of NCCL and libtorch.
    pub fn all_reduce_sum(&self, tensors: &mut [Tensor]) -> Result<(), DistributedError> {
        let Some(link) = &self.link else { return Ok(()) };
        let operation = Operation::AllReduce;
        link.agree(operation, tensors)?;
        in_buckets(operation, tensors, |bucket| link.all_reduce(operation.name(), bucket))
    }

    /// `[n, ..]` of every process, joined along dimension 0 in the order of ranks: `[world * n, ..]`. Every process must
    /// give the same shape, f32, f64 or i64. No gradient flows.
    ///
    /// # Errors
    /// As [`Group::all_reduce_sum`].
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor, DistributedError> {
        let Some(link) = &self.link else { return Ok(tensor.detach()) };
        let operation = Operation::AllGather;
        if tensor.dim() == 0 {
            let problem = "has no dimension to join along: give it one".to_owned();
            return Err(DistributedError::Tensor { operation: operation.name(), index: 0, problem });
        }
        link.agree(operation, std::slice::from_ref(tensor))?;
        link.all_gather(operation.name(), tensor)
    }

    /// As [`Group::all_gather`], with this process's own rows open to the gradient; the others' are constants. Form the
    /// loss of all rows from it on every process, and sum the parameters' gradients: see the module's text.
    ///
    /// # Errors
    /// As [`Group::all_reduce_sum`].
    pub fn gather_with_local(&self, tensor: &Tensor) -> Result<Tensor, DistributedError> {
        if self.link.is_none() {
            return Ok(tensor.shallow_clone());
        }
        let all = self.all_gather(tensor)?;
        let (n, rank, world) = (tensor.size()[0], self.rank as i64, self.world as i64);
        let rows = |from: i64, to: i64| all.f_narrow(0, from * n, (to - from) * n);
        let joined = || Tensor::f_cat(&[&rows(0, rank)?, tensor, &rows(rank + 1, world)?], 0);
        joined().map_err(|e| DistributedError::torch("gather_with_local", &e))
    }

    /// Replaces each tensor by process `root`'s, in place; kinds and devices as in [`Group::all_reduce_sum`].
    ///
    /// # Errors
    /// As [`Group::all_reduce_sum`], and a `root` that does not exist.
    pub fn broadcast(&self, tensors: &mut [Tensor], root: usize) -> Result<(), DistributedError> {
        if root >= self.world {
            return Err(DistributedError::Root { root, world: self.world });
        }
        let Some(link) = &self.link else { return Ok(()) };
        let operation = Operation::Broadcast { root };
        link.agree(operation, tensors)?;
        in_buckets(operation, tensors, |bucket| link.broadcast(bucket, root))
    }

    /// Waits until every process is here, though not for its GPU.
    ///
    /// # Errors
    /// Another process that died or does something else.
    pub fn barrier(&self) -> Result<(), DistributedError> {
        self.link.as_ref().map_or(Ok(()), |link| link.agree(Operation::Barrier, &[]))
    }

    /// `loss.backward()`; what [`sync_batch_norm`] met, forward or backward, comes out here.
    ///
    /// # Errors
    /// A failure that the group met before, or during this; and those of libtorch.
    pub fn backward(&self, loss: &Tensor) -> Result<(), DistributedError> {
        let earlier = || self.link.as_ref().map_or(Ok(()), |link| link.usable());
        earlier()?;
        loss.f_backward().or_else(|e| {
            earlier()?;
            Err(DistributedError::torch("backward", &e))
        })
    }

    /// `[n]` of every process, `[world * n]`, for a layer: nothing is compared beforehand.
    fn gather_like(&self, operation: &'static str, tensor: &Tensor) -> Result<Tensor, DistributedError> {
        self.link.as_ref().map_or_else(|| Ok(tensor.detach()), |link| link.all_gather(operation, tensor))
    }

    /// The sum over processes in place of a contiguous tensor, for a layer: nothing is compared beforehand.
    fn sum_like(&self, operation: &'static str, tensor: &Tensor) -> Result<(), DistributedError> {
        self.link.as_ref().map_or(Ok(()), |link| link.all_reduce(operation, tensor))
    }

    /// Lets every later operation return this failure, unless there was one before.
    fn fail(&self, error: &DistributedError) {
        if let Some(link) = &self.link {
            link.fail(error);
        }
    }
}

/// Where tensors are cut into buckets: consecutive ones of one kind, up to [`BUCKET_BYTES`] unless one alone is larger.
fn buckets(tensors: &[Tensor]) -> Vec<Range<usize>> {
    let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
    let mut buckets: Vec<Range<usize>> = Vec::new();
    let mut filled = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        filled += bytes(tensor);
        match buckets.last_mut() {
            Some(last) if filled <= BUCKET_BYTES && tensors[last.start].kind() == tensor.kind() => {
                last.end = i + 1;
            }
            _ => {
                buckets.push(i..i + 1);
                filled = bytes(tensor);
            }
        }
    }
    buckets
}

/// Runs `send`, which works in place, on the tensors' values bucket by bucket.
fn in_buckets(
    operation: Operation,
    tensors: &mut [Tensor],
    mut send: impl FnMut(&Tensor) -> Result<(), DistributedError>,
) -> Result<(), DistributedError> {
    let failed = |e: TchError| DistributedError::torch(operation.name(), &e);
    for bucket in buckets(tensors) {
        no_grad(|| match &tensors[bucket] {
            [alone] if alone.is_contiguous() => send(&alone.detach()),
            several => {
                let flat = several.iter().map(|tensor| tensor.f_reshape(-1)).collect::<Result<Vec<_>, _>>();
                let joined = flat.and_then(|flat| Tensor::f_cat(&flat, 0)).map_err(failed)?;
                send(&joined)?;
                split_into(&joined, several).map_err(failed)
            }
        })?;
    }
    Ok(())
}

/// Copies the joined values back to where they came from.
fn split_into(joined: &Tensor, tensors: &[Tensor]) -> Result<(), TchError> {
    let mut from = 0;
    for tensor in tensors {
        let count = tensor.numel() as i64;
        let values = joined.f_narrow(0, from, count)?.f_view(tensor.size().as_slice())?;
        tensor.detach().f_copy_(&values)?;
        from += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn buckets_hold_one_kind_up_to_their_size() {
        let tensor = |mib: i64, kind| Tensor::zeros([mib << 18], (kind, Device::Cpu));
        let float = |mib| tensor(mib, Kind::Float);
        let double = |mib| tensor(mib, Kind::Double);
        let tensors = [float(10), float(15), float(1), double(1), double(1), float(30), float(1), float(24)];
        // The doubles take 2 MiB each.
        assert_eq!(buckets(&tensors), [0..2, 2..3, 3..5, 5..6, 6..8]);
        assert_eq!(buckets(&[]), []);
    }

    #[test]
    fn buckets_reach_every_tensor_of_any_layout() {
        let values = |from: i64, count| Tensor::arange_start(from, from + count, (Kind::Float, Device::Cpu));
        let leaf = values(0, 4).set_requires_grad(true);
        let turned = values(4, 6).view([2, 3]).tr();
        let scalar = values(10, 1).squeeze();
        let long = values(11, 2).to_kind(Kind::Int64);
        let mut tensors = [leaf, turned, scalar, long];
        in_buckets(Operation::AllReduce, &mut tensors, |bucket| {
            let _ = bucket.shallow_clone().g_add_scalar_(100);
            Ok(())
        })
        .unwrap();
        let flat =
            |i: usize| Vec::<f64>::try_from(tensors[i].detach().reshape(-1).to_kind(Kind::Double)).unwrap();
        assert_eq!(flat(0), [100.0, 101.0, 102.0, 103.0]);
        assert_eq!(flat(1), [104.0, 107.0, 105.0, 108.0, 106.0, 109.0]);
        assert_eq!(flat(2), [110.0]);
        assert_eq!(flat(3), [111.0, 112.0]);
    }

    #[test]
    fn a_single_process_changes_nothing() {
        let group = Group::single();
        assert_eq!((group.rank(), group.local_rank(), group.world()), (0, 0, 1));
        let x = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
        let mut same = [x.shallow_clone()];
        group.all_reduce_sum(&mut same).unwrap();
        group.broadcast(&mut same, 0).unwrap();
        group.barrier().unwrap();
        assert!(!group.all_gather(&x).unwrap().requires_grad());
        let y = group.gather_with_local(&x).unwrap();
        group.backward(&(&y * &y).sum(Kind::Double)).unwrap();
        assert_eq!(Vec::<f64>::try_from(x.grad()).unwrap(), [2.0, 4.0]);
        assert_eq!(Vec::<f64>::try_from(&same[0]).unwrap(), [1.0, 2.0]);
        let error = group.broadcast(&mut same, 1).unwrap_err().to_string();
        assert_eq!(error, "broadcast from rank 1: the ranks are 0 to 0");
        let constant = Tensor::from(1.0);
        assert!(matches!(
            group.backward(&constant),
            Err(DistributedError::Torch { operation: "backward", .. })
        ));
    }
}
