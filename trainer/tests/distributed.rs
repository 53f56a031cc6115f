//! Several processes that train as one. Each test starts its own program again, once a process.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use semblance_trainer::distributed::{DistributedError, Group, TIMEOUT_VARIABLE, sync_batch_norm};
use semblance_trainer::ntxent::{Denominator, nt_xent};
use tch::nn::ModuleT;
use tch::{Device, Kind, Tensor, nn, no_grad};

const CHILD: &str = "SEMBLANCE_TEST_CHILD";
const LAUNCHER: [&str; 5] = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"];

/// Runs `body` in `world` processes, and fails where one fails. `test` is the calling test's name.
fn together(test: &str, world: usize, timeout_secs: u64, body: impl FnOnce(Group)) {
    if std::env::var_os(CHILD).is_some() {
        tch::set_num_threads(1);
        body(Group::from_env().unwrap());
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut processes: Vec<Child> = (0..world)
        .map(|rank| {
            let (rank, world, port) = (rank.to_string(), world.to_string(), port.to_string());
            let values = [rank.as_str(), &world, &rank, "127.0.0.1", &port];
            let mut command = again(test);
            command.envs(LAUNCHER.into_iter().zip(values)).env(TIMEOUT_VARIABLE, timeout_secs.to_string());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let started = Instant::now();
    for (rank, process) in processes.iter_mut().enumerate() {
        let status = loop {
            match process.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed() > Duration::from_secs(120) => process.kill().unwrap(),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut said = String::new();
        process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.success() && said.contains("1 passed"), "process {rank}: {status}\n{said}");
    }
}

fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(CHILD, "1");
    command
}

fn close(ours: &Tensor, theirs: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(ours.size(), theirs.size(), "{what}");
    let worst = (ours.to_kind(Kind::Double) - theirs.to_kind(Kind::Double)).abs().max().double_value(&[]);
    assert!(worst <= tolerance, "{what}: {worst:e} apart");
}

#[test]
fn values_are_summed_gathered_and_broadcast() {
    together("values_are_summed_gathered_and_broadcast", 3, 60, |group| {
        let rank = group.rank() as i64;
        assert_eq!((group.world(), group.local_rank() as i64), (3, rank));

        // 40 MiB in two buckets, another kind, a transposed and an empty tensor.
        let big = Tensor::ones([5 << 20], (Kind::Float, Device::Cpu)) * (rank + 1);
        let double = Tensor::arange(6, (Kind::Double, Device::Cpu)).view([2, 3]) * 10f64.powi(rank as i32);
        let turned = double.tr();
        let count = Tensor::from(rank).to_kind(Kind::Int64);
        let empty = Tensor::zeros([0], (Kind::Float, Device::Cpu));
        let leaf = (Tensor::ones([5 << 20], (Kind::Float, Device::Cpu)) * rank).set_requires_grad(true);
        let mut sums = [big, leaf, turned.copy(), turned, count, empty];
        group.all_reduce_sum(&mut sums).unwrap();
        for (i, value) in [(0, 6.0), (1, 3.0)] {
            assert_eq!(sums[i].min().double_value(&[]), value);
            assert_eq!(sums[i].max().double_value(&[]), value);
        }
        let expected = Tensor::arange(6, (Kind::Double, Device::Cpu)).view([2, 3]).tr() * 111.0;
        close(&sums[2], &expected, 0.0, "sum");
        close(&sums[3], &expected, 0.0, "sum of a transposed tensor");
        close(&double, &expected.tr(), 0.0, "sum in place");
        assert_eq!(sums[4].int64_value(&[]), 3);

        let rows =
            (Tensor::arange(4, (Kind::Float, Device::Cpu)).view([2, 2]) + 100 * rank).set_requires_grad(true);
        let all = group.all_gather(&rows).unwrap();
        let expected = [0.0, 1.0, 2.0, 3.0].map(|v| [v, v + 100.0, v + 200.0]);
        let expected: Vec<f64> = (0..3).flat_map(|r| expected.map(|v| v[r])).collect();
        assert_eq!(Vec::<f64>::try_from(all.view(-1).to_kind(Kind::Double)).unwrap(), expected);
        assert!(!all.requires_grad());
        let all = group.gather_with_local(&rows).unwrap();
        assert_eq!(all.size(), [6, 2]);
        (all * Tensor::arange(12, (Kind::Float, Device::Cpu)).view([6, 2])).sum(Kind::Float).backward();
        let ours = Tensor::arange_start(4 * rank, 4 * rank + 4, (Kind::Float, Device::Cpu)).view([2, 2]);
        close(&rows.grad(), &ours, 0.0, "gradient of our rows");

        let mut weights = [
            Tensor::from(rank as f64).set_requires_grad(true),
            Tensor::full([3], rank, (Kind::Float, Device::Cpu)),
        ];
        group.broadcast(&mut weights, 2).unwrap();
        assert_eq!(weights[0].double_value(&[]), 2.0);
        assert_eq!(Vec::<f32>::try_from(&weights[1]).unwrap(), [2.0; 3]);
        assert!(matches!(
            group.broadcast(&mut weights, 3),
            Err(DistributedError::Root { root: 3, world: 3 })
        ));

        // Refused before anything is sent, so the group goes on.
        let mut half = [Tensor::zeros([1], (Kind::Half, Device::Cpu))];
        assert!(matches!(group.all_reduce_sum(&mut half), Err(DistributedError::Tensor { index: 0, .. })));
        let error = group.all_reduce_sum(&mut [Tensor::new()]).unwrap_err().to_string();
        assert!(error.contains("tensor 0 is undefined"), "{error}");
        assert!(group.all_gather(&Tensor::from(1.0)).is_err());
        group.barrier().unwrap();
    });
}

#[test]
fn a_barrier_waits_for_the_last() {
    together("a_barrier_waits_for_the_last", 2, 60, |group| {
        group.barrier().unwrap();
        let started = Instant::now();
        if group.rank() == 1 {
            std::thread::sleep(Duration::from_millis(700));
        }
        group.barrier().unwrap();
        assert!(started.elapsed() >= Duration::from_millis(600), "{:?}", started.elapsed());
    });
}

/// Convolution and linear layers, each with batch normalisation, then projections; f64.
struct Net {
    vs: nn::VarStore,
    conv: nn::Conv2D,
    first: nn::BatchNorm,
    hidden: nn::Linear,
    second: nn::BatchNorm,
    out: nn::Linear,
}

impl Net {
    fn new(seed: i64) -> Self {
        tch::manual_seed(seed);
        let mut vs = nn::VarStore::new(Device::Cpu);
        let root = vs.root();
        let conv = nn::conv2d(&root / "conv", 3, 4, 3, Default::default());
        let first = nn::batch_norm2d(&root / "first", 4, Default::default());
        let hidden = nn::linear(&root / "hidden", 4, 6, Default::default());
        let second = nn::batch_norm1d(&root / "second", 6, Default::default());
        let out = nn::linear(&root / "out", 6, 5, Default::default());
        vs.double();
        Self { vs, conv, first, hidden, second, out }
    }

    fn forward(&self, x: &Tensor, norm: impl Fn(&Tensor, &nn::BatchNorm) -> Tensor) -> Tensor {
        let y = norm(&x.apply(&self.conv), &self.first).relu();
        let y = y.mean_dim([2i64, 3].as_slice(), false, Kind::Double).apply(&self.hidden);
        norm(&y, &self.second).relu().apply(&self.out)
    }

    /// Parameters in the order of their names.
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut all: Vec<_> = self.vs.variables().into_iter().filter(|(_, v)| v.requires_grad()).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn gradients(&self) -> Vec<Tensor> {
        self.parameters().iter().map(|(_, v)| v.grad()).collect()
    }

    fn descend(&self, gradients: &[Tensor]) {
        no_grad(|| {
            for ((_, mut parameter), gradient) in self.parameters().into_iter().zip(gradients) {
                parameter -= gradient * 0.05;
                parameter.zero_grad();
            }
        });
    }
}

fn loss(first: &Tensor, second: &Tensor) -> Tensor {
    nt_xent(first, second, 0.5, Denominator::WithPositive).loss
}

/// One process with the whole batch, by torch's own layers.
fn whole(net: &Net, views: &[Tensor; 2]) -> Tensor {
    let projections = net.forward(&Tensor::cat(views, 0), |x, bn| bn.forward_t(x, true));
    let pairs = views[0].size()[0];
    loss(&projections.narrow(0, 0, pairs), &projections.narrow(0, pairs, pairs))
}

/// This process's part, up to its share of the gradients.
fn part(
    net: &Net,
    views: &[Tensor; 2],
    group: &Group,
    norm: impl Fn(&Tensor, &nn::BatchNorm) -> Tensor,
) -> Tensor {
    let pairs = views[0].size()[0] / group.world() as i64;
    let ours = views.each_ref().map(|view| view.narrow(0, pairs * group.rank() as i64, pairs));
    let projections = net.forward(&Tensor::cat(&ours, 0), norm);
    let by_pair = projections.view([2, pairs, -1]).transpose(0, 1);
    let all = group.gather_with_local(&by_pair).unwrap();
    loss(&all.select(1, 0), &all.select(1, 1))
}

#[test]
fn two_processes_train_as_one_with_the_double_batch() {
    together("two_processes_train_as_one_with_the_double_batch", 2, 60, |group| {
        const STEPS: usize = 4;
        let reference = Net::new(1);
        let net = Net::new(2 + group.rank() as i64);
        let ours: Vec<_> = net.parameters().into_iter().map(|(_, v)| v).collect();
        if group.rank() == 0 {
            no_grad(|| {
                ours.iter().zip(reference.parameters()).for_each(|(o, (_, r))| o.shallow_clone().copy_(&r));
            });
        }
        group.broadcast(&mut ours.iter().map(Tensor::shallow_clone).collect::<Vec<_>>(), 0).unwrap();

        tch::manual_seed(7);
        for step in 0..STEPS {
            let views = [0, 1].map(|_| Tensor::randn([8, 3, 6, 6], (Kind::Double, Device::Cpu)));
            let expected = whole(&reference, &views);
            expected.backward();
            let found = part(&net, &views, &group, |x, bn| sync_batch_norm(x, bn, 0.1, 1e-5, &group));
            group.backward(&found).unwrap();
            let mut gradients = net.gradients();
            group.all_reduce_sum(&mut gradients).unwrap();
            close(&found, &expected, 1e-12, "loss");
            for ((name, parameter), gradient) in reference.parameters().iter().zip(&gradients) {
                close(gradient, &parameter.grad(), 1e-12, &format!("step {step}, {name}"));
            }
            if step == 0 {
                let largest = gradients.iter().map(|g| g.abs().max().double_value(&[])).fold(0.0, f64::max);
                assert!(largest > 1e-3, "the gradients are more than rounding: {largest:e}");
            }
            reference.descend(&reference.gradients());
            net.descend(&gradients);
        }
        for (name, expected) in reference.vs.variables() {
            close(&net.vs.variables()[&name], &expected, 1e-12, &name);
        }
    });
}

/// The test above tells right from wrong: statistics of each process's own batch give other gradients.
#[test]
fn without_shared_statistics_gradients_differ() {
    together("without_shared_statistics_gradients_differ", 2, 60, |group| {
        let (reference, net) = (Net::new(1), Net::new(1));
        tch::manual_seed(7);
        let views = [0, 1].map(|_| Tensor::randn([8, 3, 6, 6], (Kind::Double, Device::Cpu)));
        whole(&reference, &views).backward();
        group.backward(&part(&net, &views, &group, |x, bn| bn.forward_t(x, true))).unwrap();
        let mut gradients = net.gradients();
        group.all_reduce_sum(&mut gradients).unwrap();
        let apart =
            gradients.iter().zip(reference.gradients()).map(|(a, b)| (a - b).abs().max().double_value(&[]));
        let apart = apart.fold(0.0, f64::max);
        assert!(apart > 1e-4, "{apart:e}");
    });
}

/// A layer over batches of 3 and 5, in every number format, order of memory and rank, against torch's layer over 8.
#[test]
fn shared_statistics_are_torchs_over_uneven_batches() {
    together("shared_statistics_are_torchs_over_uneven_batches", 2, 60, |group| {
        let layouts: [(&[i64], bool); 4] =
            [(&[8, 6], false), (&[8, 6, 4], false), (&[8, 6, 5, 3], false), (&[8, 6, 5, 3], true)];
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-5), (Kind::BFloat16, 4e-2)] {
            for (shape, channels_last) in layouts {
                for affine in [true, false] {
                    let what = format!("{kind:?} {shape:?}, channels last {channels_last}, affine {affine}");
                    layer_matches(&group, kind, shape, channels_last, affine, tolerance, &what);
                }
            }
        }
    });
}

fn layer_matches(
    group: &Group,
    kind: Kind,
    shape: &[i64],
    channels_last: bool,
    affine: bool,
    tolerance: f64,
    what: &str,
) {
    tch::manual_seed(3);
    let options = (Kind::Double, Device::Cpu);
    // Rounded first, so that both sides compute from the same values.
    let rounded = |t: Tensor| t.to_kind(kind).to_kind(Kind::Double);
    let x = rounded(Tensor::randn(shape, options) * 2.0 + 1.0);
    let slope = rounded(Tensor::randn(shape, options));
    let layer = || {
        tch::manual_seed(4);
        let vs = nn::VarStore::new(Device::Cpu);
        let config = nn::BatchNormConfig { affine, ..Default::default() };
        let layer = nn::batch_norm2d(vs.root(), shape[1], config);
        (vs, layer)
    };

    let (mut vs, expected) = layer();
    vs.double();
    let whole = x.copy().set_requires_grad(true);
    let (mean, var) = (Some(&expected.running_mean), Some(&expected.running_var));
    let y = whole.batch_norm(expected.ws.as_ref(), expected.bs.as_ref(), mean, var, true, 0.3, 1e-5, false);
    (&y * &slope).sum(Kind::Double).backward();

    let (mut vs, bn) = layer();
    if kind == Kind::Double {
        vs.double();
    }
    let (from, count) = [(0, 3), (3, 5)][group.rank()];
    let mine = |t: &Tensor| {
        let t = t.narrow(0, from, count).to_kind(kind);
        if channels_last {
            t.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
        } else {
            t.contiguous()
        }
    };
    let ours = mine(&x).set_requires_grad(true);
    let z = sync_batch_norm(&ours, &bn, 0.3, 1e-5, group);
    assert_eq!(z.kind(), kind, "{what}");
    assert_eq!(z.stride(), ours.stride(), "{what}");
    group.backward(&(&z * mine(&slope)).sum(Kind::Double)).unwrap();

    close(&z, &y.narrow(0, from, count), tolerance, &format!("{what}: output"));
    close(
        &ours.grad(),
        &whole.grad().narrow(0, from, count),
        tolerance,
        &format!("{what}: input's gradient"),
    );
    close(&bn.running_mean, &expected.running_mean, tolerance, &format!("{what}: running mean"));
    close(&bn.running_var, &expected.running_var, tolerance, &format!("{what}: running variance"));
    if let (Some(ws), Some(bs), Some(w), Some(b)) = (&bn.ws, &bn.bs, &expected.ws, &expected.bs) {
        let mut sums = [ws.grad(), bs.grad()];
        group.all_reduce_sum(&mut sums).unwrap();
        // A sum of 8 to 120 terms.
        close(&sums[0], &w.grad(), 10.0 * tolerance, &format!("{what}: scale's gradient"));
        close(&sums[1], &b.grad(), 10.0 * tolerance, &format!("{what}: shift's gradient"));
    }
}

fn is_peer(result: Result<(), DistributedError>) -> DistributedError {
    let error = result.unwrap_err();
    assert!(matches!(error, DistributedError::Peer { rank: 0, world: 2, .. }), "{error}");
    error
}

#[test]
fn a_dead_process_is_an_error() {
    together("a_dead_process_is_an_error", 2, 60, |group| {
        group.barrier().unwrap();
        if group.rank() == 1 {
            return;
        }
        let started = Instant::now();
        let mut sums = [Tensor::from_slice(&[1.0])];
        let first = is_peer(group.all_reduce_sum(&mut sums));
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        let text = first.to_string();
        assert!(
            text.starts_with("all_reduce_sum on rank 0 of 2: ") && text.contains(TIMEOUT_VARIABLE),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
        // The group remembers.
        assert_eq!(group.barrier().unwrap_err(), first);
        assert_eq!(group.all_gather(&sums[0]).unwrap_err(), first);
        assert_eq!(group.backward(&sums[0].set_requires_grad(true).sum(Kind::Double)).unwrap_err(), first);
    });
}

#[test]
fn a_process_that_hangs_is_an_error_in_time() {
    together("a_process_that_hangs_is_an_error_in_time", 2, 6, |group| {
        group.barrier().unwrap();
        if group.rank() == 1 {
            std::thread::sleep(Duration::from_secs(15));
            return;
        }
        let started = Instant::now();
        is_peer(group.barrier());
        let waited = started.elapsed();
        assert!((Duration::from_secs(5)..Duration::from_secs(12)).contains(&waited), "{waited:?}");
    });
}

#[test]
fn a_process_that_dies_within_a_step_is_an_error() {
    together("a_process_that_dies_within_a_step_is_an_error", 2, 60, |group| {
        let vs = nn::VarStore::new(Device::Cpu);
        let bn = nn::batch_norm1d(vs.root(), 2, Default::default());
        let x = Tensor::randn([4, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = sync_batch_norm(&x, &bn, 0.1, 1e-5, &group);
        if group.rank() == 1 {
            return;
        }
        let first = is_peer(group.backward(&y.square().sum(Kind::Float)));
        // A layer goes on alone, and the group tells.
        let y = sync_batch_norm(&x, &bn, 0.1, 1e-5, &group);
        assert!(y.isfinite().all().int64_value(&[]) == 1);
        assert_eq!(group.backward(&y.square().sum(Kind::Float)).unwrap_err(), first);
    });
}

#[test]
fn processes_that_do_different_things_are_told_so() {
    together("processes_that_do_different_things_are_told_so", 2, 60, |group| {
        let rank = group.rank() as i64;
        let mut sums = [Tensor::zeros([3 + rank], (Kind::Float, Device::Cpu))];
        let error = group.all_reduce_sum(&mut sums).unwrap_err();
        assert!(matches!(error, DistributedError::Disagree { .. }), "{error}");
        let expected = format!("rank {rank} does all_reduce_sum of 1 tensors, {} values", 3 + rank);
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(error.to_string().contains(&format!("where rank {} does", 1 - rank)), "{error}");
        assert_eq!(group.barrier().unwrap_err(), error);
    });
}

#[test]
fn processes_that_do_not_come_are_an_error() {
    const TEST: &str = "processes_that_do_not_come_are_an_error";
    if std::env::var_os(CHILD).is_some() {
        let started = Instant::now();
        let error = Group::from_env().unwrap_err();
        assert!(matches!(error, DistributedError::Rendezvous { world: 2, .. }), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        return;
    }
    for rank in ["0", "1"] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let values = [rank, "2", rank, "127.0.0.1", &port];
        let output =
            again(TEST).envs(LAUNCHER.into_iter().zip(values)).env(TIMEOUT_VARIABLE, "2").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "rank {rank}: {said}");
    }
}

#[test]
fn the_environment_is_read() {
    const TEST: &str = "the_environment_is_read";
    if let Some(expected) = std::env::var_os(CHILD) {
        match Group::from_env() {
            Ok(group) => assert_eq!((group.world(), expected.to_str()), (1, Some("single"))),
            Err(error) => assert_eq!(Some(error.to_string().as_str()), expected.to_str()),
        }
        return;
    }
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[], "single"),
        (
            &[
                ("OMPI_COMM_WORLD_RANK", "0"),
                ("OMPI_COMM_WORLD_SIZE", "1"),
                ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ],
            "single",
        ),
        (
            &[("RANK", "5"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")],
            "RANK=5: it is to be a whole number from 0 to 1",
        ),
    ];
    for (variables, expected) in cases {
        let mut command = again(TEST);
        for name in LAUNCHER {
            command.env_remove(name);
        }
        let output = command.envs(variables.iter().copied()).env(CHILD, expected).output().unwrap();
        assert!(output.status.success(), "{variables:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
