//! Why processes cannot train together.

use std::time::Duration;

use tch::Kind;
use thiserror::Error;

/// The variable that sets how long a process waits for the others, in seconds.
pub const TIMEOUT_VARIABLE: &str = "SEMBLANCE_PEER_TIMEOUT_SECS";

/// Why processes cannot train together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DistributedError {
    /// A launcher's variable has a value that makes no sense.
    #[error("{name}={value}: {remedy}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        remedy: String,
    },
    /// Some of a launcher's variables are set, and one that belongs to them is not.
    #[error("{name} is not set, but {given} is: {remedy}")]
    Missing {
        /// The variable that is not set.
        name: &'static str,
        /// One that is, with its value.
        given: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The processes did not find each other.
    #[error(
        "rank {rank} of {world} does not find the others at {address} within {} s: {reason}: start every process with \
         the same MASTER_ADDR, that rank 0's machine has, and a MASTER_PORT that is free there",
        timeout.as_secs()
    )]
    Rendezvous {
        /// This process.
        rank: usize,
        /// All of them.
        world: usize,
        /// Where they were to meet.
        address: String,
        /// How long they were given.
        timeout: Duration,
        /// What the library said.
        reason: String,
    },
    /// Another process died, or did not come along in time.
    #[error(
        "{operation} on rank {rank} of {world}: {reason}: another process died or was slower than {} s ({}): the first \
         message of the others tells why; start again with --resume",
        timeout.as_secs(),
        TIMEOUT_VARIABLE
    )]
    Peer {
        /// What was being done.
        operation: &'static str,
        /// This process.
        rank: usize,
        /// All of them.
        world: usize,
        /// How long the others were given.
        timeout: Duration,
        /// What the library said.
        reason: String,
    },
    /// The processes do different things.
    #[error(
        "rank {rank} does {ours} where rank {other} does {theirs}: start every process with the same settings and data"
    )]
    Disagree {
        /// This process.
        rank: usize,
        /// What it does.
        ours: String,
        /// The other.
        other: usize,
        /// What it does.
        theirs: String,
    },
    /// A tensor that cannot be sent.
    #[error("{operation}: tensor {index} {problem}")]
    Tensor {
        /// What it was for.
        operation: &'static str,
        /// Its place among the tensors.
        index: usize,
        /// Why not.
        problem: String,
    },
    /// A process that does not exist was named.
    #[error("broadcast from rank {root}: the ranks are 0 to {}", world - 1)]
    Root {
        /// The process named.
        root: usize,
        /// How many there are.
        world: usize,
    },
    /// NCCL or CUDA's library could not be opened.
    #[error(
        "{library}: {reason}: training on several GPUs needs it beside libtorch: run deploy/libtorch.sh --cuda"
    )]
    Library {
        /// The library.
        library: String,
        /// What the system said.
        reason: String,
    },
    /// NCCL or CUDA refused.
    #[error("{operation} on GPU {gpu}: {reason}: NCCL_DEBUG=WARN in the environment tells more")]
    Gpu {
        /// What was being done.
        operation: &'static str,
        /// The GPU.
        gpu: usize,
        /// What the library said.
        reason: String,
    },
    /// libtorch refused.
    #[error("{operation}: {reason}")]
    Torch {
        /// What was being done.
        operation: &'static str,
        /// What libtorch said.
        reason: String,
    },
}

impl DistributedError {
    pub(super) fn torch(operation: &'static str, error: &tch::TchError) -> Self {
        Self::Torch { operation, reason: first_line(&error.to_string()) }
    }

    pub(super) fn kind(operation: &'static str, index: usize, kind: Kind) -> Self {
        let problem = format!("is of kind {kind:?}; Float, Double and Int64 can be sent: convert it");
        Self::Tensor { operation, index, problem }
    }
}

/// libtorch's messages go on with a backtrace.
pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().trim_end_matches('.').to_owned()
}
