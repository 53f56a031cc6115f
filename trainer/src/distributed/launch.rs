//! Which process of how many this is, as the launcher says in environment variables.

use std::time::Duration;

use super::error::{DistributedError, TIMEOUT_VARIABLE};

const DEFAULT_ADDRESS: &str = "127.0.0.1";
/// Where processes of mpirun meet when MASTER_PORT is not set: torchrun's own default.
const DEFAULT_PORT: u16 = 29500;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// What a launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) rank: usize,
    pub(super) local_rank: usize,
    /// Processes on this machine.
    pub(super) local_world: usize,
    pub(super) world: usize,
    /// Host where the processes meet.
    pub(super) address: String,
    /// Port where they meet.
    pub(super) port: u16,
    /// torchrun keeps the meeting place itself; without it, rank 0 does.
    pub(super) hosted: bool,
    /// Tells this attempt from earlier ones at the same meeting place.
    pub(super) attempt: String,
    /// The network interface to use; none for the one that leads to the meeting place.
    pub(super) interface: Option<String>,
    /// How long to wait for another process.
    pub(super) timeout: Duration,
}

/// The names under which a launcher gives its numbers.
struct Launcher {
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
    local_world: &'static str,
    remedy: &'static str,
}

static TORCHRUN: Launcher = Launcher {
    rank: "RANK",
    world: "WORLD_SIZE",
    local_rank: "LOCAL_RANK",
    local_world: "LOCAL_WORLD_SIZE",
    remedy: "torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; set all or none",
};
static OPEN_MPI: Launcher = Launcher {
    rank: "OMPI_COMM_WORLD_RANK",
    world: "OMPI_COMM_WORLD_SIZE",
    local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    local_world: "OMPI_COMM_WORLD_LOCAL_SIZE",
    remedy: "mpirun sets OMPI_COMM_WORLD_RANK, _SIZE and _LOCAL_RANK; set all or none",
};
static PMI: Launcher = Launcher {
    rank: "PMI_RANK",
    world: "PMI_SIZE",
    local_rank: "MPI_LOCALRANKID",
    local_world: "MPI_LOCALNRANKS",
    remedy: "mpirun sets PMI_RANK and PMI_SIZE; set both or none",
};

/// Reads a launcher's variables; `None` where there are none, or one process alone.
///
/// # Errors
/// Names the variable, its value and what it should be.
pub(super) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, DistributedError> {
    let set = |name: &&str| get(name).is_some();
    let by_torchrun = [TORCHRUN.rank, TORCHRUN.world, TORCHRUN.local_rank].iter().any(set);
    let by_mpi =
        [&OPEN_MPI, &PMI].into_iter().find(|mpi| [mpi.rank, mpi.world, mpi.local_rank].iter().any(set));
    let launcher = match (by_torchrun, by_mpi) {
        (false, Some(mpi)) => mpi,
        (false, None) if !["MASTER_ADDR", "MASTER_PORT"].iter().any(set) => return Ok(None),
        _ => &TORCHRUN,
    };
    let needs_master = std::ptr::eq(launcher, &TORCHRUN);
    let required = |name: &'static str| {
        get(name).ok_or_else(|| {
            let others = [launcher.rank, launcher.world, launcher.local_rank, "MASTER_ADDR", "MASTER_PORT"];
            let given = others.iter().find_map(|other| get(other).map(|value| format!("{other}={value}")));
            DistributedError::Missing { name, given: given.unwrap_or_default(), remedy: launcher.remedy }
        })
    };
    let world = number(launcher.world, &required(launcher.world)?, 1..=1 << 20)?;
    let below_world = |name| number(name, &required(name)?, 0..=world - 1);
    let rank = below_world(launcher.rank)?;
    // Not every PMI tells the local rank. Without it, all processes are taken to be on one machine.
    let tells_local_rank = !std::ptr::eq(launcher, &PMI) || set(&PMI.local_rank);
    let local_rank = if tells_local_rank { below_world(launcher.local_rank)? } else { rank };
    // Where it is not told, all processes are taken to be on one machine.
    let local_world = match get(launcher.local_world) {
        Some(value) => number(launcher.local_world, &value, 1..=world)?,
        None => world,
    };
    let master =
        |name, default: String| if needs_master { required(name) } else { Ok(get(name).unwrap_or(default)) };
    let address = master("MASTER_ADDR", DEFAULT_ADDRESS.to_owned())?;
    let port = number("MASTER_PORT", &master("MASTER_PORT", DEFAULT_PORT.to_string())?, 1..=65535)?;
    if address.trim().is_empty() {
        let remedy = "it is to be the name or address of rank 0's machine".to_owned();
        return Err(DistributedError::Variable { name: "MASTER_ADDR", value: address, remedy });
    }
    let timeout = match get(TIMEOUT_VARIABLE) {
        Some(value) => Duration::from_secs(number(TIMEOUT_VARIABLE, &value, 1..=86_400)? as u64),
        None => DEFAULT_TIMEOUT,
    };
    Ok((world > 1).then(|| Launch {
        rank,
        local_rank,
        local_world,
        world,
        address,
        port: port as u16,
        hosted: get("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
        attempt: get("TORCHELASTIC_RESTART_COUNT").unwrap_or_else(|| "0".to_owned()),
        interface: get("GLOO_SOCKET_IFNAME").filter(|name| !name.is_empty()),
        timeout,
    }))
}

fn number(
    name: &'static str,
    value: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, DistributedError> {
    value.trim().parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let remedy = format!("it is to be a whole number from {} to {}", range.start(), range.end());
        DistributedError::Variable { name, value: value.to_owned(), remedy }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read_from(variables: &[(&str, &str)]) -> Result<Option<Launch>, DistributedError> {
        read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    const TWO: [(&str, &str); 5] = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "10.0.0.7"),
        ("MASTER_PORT", "4000"),
    ];

    fn changed(name: &str, value: &str) -> Vec<(&'static str, String)> {
        TWO.iter().map(|(key, old)| (*key, if *key == name { value } else { old }.to_owned())).collect()
    }

    #[test]
    fn no_variables_are_one_process() {
        assert_eq!(read_from(&[]).unwrap(), None);
        assert_eq!(read_from(&[("HOME", "/")]).unwrap(), None);
    }

    #[test]
    fn torchruns_variables_are_read() {
        let launch = read_from(&TWO).unwrap().unwrap();
        assert_eq!((launch.rank, launch.local_rank, launch.world), (1, 1, 2));
        assert_eq!((launch.address.as_str(), launch.port, launch.hosted), ("10.0.0.7", 4000, false));
        assert_eq!(launch.timeout, Duration::from_secs(300));
        let more = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "3")];
        let launch =
            read_from(&[TWO.as_slice(), &more, &[(TIMEOUT_VARIABLE, "20")]].concat()).unwrap().unwrap();
        assert_eq!((launch.hosted, launch.attempt.as_str()), (true, "3"));
        assert_eq!(launch.timeout, Duration::from_secs(20));
    }

    #[test]
    fn mpiruns_variables_are_read() {
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
        ];
        let launch = read_from(&open_mpi).unwrap().unwrap();
        assert_eq!((launch.rank, launch.local_rank, launch.world), (2, 0, 4));
        assert_eq!((launch.address.as_str(), launch.port), ("127.0.0.1", 29500));
        let pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1"), ("MASTER_PORT", "4001")];
        let launch = read_from(&pmi).unwrap().unwrap();
        assert_eq!((launch.rank, launch.local_rank, launch.world, launch.port), (1, 1, 2, 4001));
        assert_eq!(read_from(&pmi[..2]).unwrap().unwrap().local_rank, 1);
        assert!(read_from(&pmi[..1]).is_err());
    }

    #[test]
    fn one_process_of_one_is_alone() {
        let one = [
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("LOCAL_RANK", "0"),
            ("MASTER_ADDR", "a"),
            ("MASTER_PORT", "1"),
        ];
        assert_eq!(read_from(&one).unwrap(), None);
    }

    #[test]
    fn each_missing_variable_is_named() {
        for (missing, _) in TWO {
            let rest: Vec<_> = TWO.into_iter().filter(|(name, _)| *name != missing).collect();
            match read_from(&rest).unwrap_err() {
                DistributedError::Missing { name, given, .. } => {
                    assert_eq!(name, missing);
                    assert!(rest.iter().any(|(key, value)| given == format!("{key}={value}")), "{given}");
                }
                other => panic!("{other}"),
            }
        }
        let error = read_from(&[("MASTER_ADDR", "host")]).unwrap_err().to_string();
        assert!(error.starts_with("WORLD_SIZE is not set, but MASTER_ADDR=host is: "), "{error}");
        let error = read_from(&[("OMPI_COMM_WORLD_RANK", "0")]).unwrap_err();
        assert!(matches!(error, DistributedError::Missing { name: "OMPI_COMM_WORLD_SIZE", .. }), "{error}");
    }

    #[test]
    fn each_nonsensical_value_is_named() {
        for (variable, bad) in [
            ("RANK", "2"),
            ("RANK", "-1"),
            ("RANK", "one"),
            ("WORLD_SIZE", "0"),
            ("WORLD_SIZE", ""),
            ("LOCAL_RANK", "9"),
            ("MASTER_ADDR", " "),
            ("MASTER_PORT", "0"),
            ("MASTER_PORT", "65536"),
            ("MASTER_PORT", "http"),
        ] {
            let variables = changed(variable, bad);
            let variables: Vec<_> = variables.iter().map(|(key, value)| (*key, value.as_str())).collect();
            match read_from(&variables).unwrap_err() {
                DistributedError::Variable { name, value, remedy } => {
                    assert_eq!((name, value.as_str()), (variable, bad));
                    assert!(!remedy.is_empty());
                }
                other => panic!("{variable}={bad}: {other}"),
            }
        }
        let error =
            read_from(&[TWO.as_slice(), &[(TIMEOUT_VARIABLE, "0")]].concat()).unwrap_err().to_string();
        assert_eq!(error, format!("{TIMEOUT_VARIABLE}=0: it is to be a whole number from 1 to 86400"));
    }
}
