//! The `trainer` program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use semblance_trainer::{
    allocator, bench, cuda, eval, export, facecheck, finder, inspect, joint, landmarks, make, prepare,
    pretrain, report, saliency, search, synth, table,
};

/// Trains face encoders from unlabelled pictures and video, judges them, and exports them for the edge.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a data set into a clip store
    #[command(after_help = "Examples:\n  \
        trainer prepare --layout fer2013 --src fer2013.csv --out stores/fer2013\n  \
        trainer prepare --layout affectnet --no-contempt --src AffectNet --out stores/affectnet7\n  \
        trainer prepare --layout lfw --pairs lfw_pairs.csv --src lfw --out stores/lfw\n  \
        trainer prepare --layout videos --src voxceleb2/dev/mp4 --shard 3/16 --out stores/voxceleb2-03\n  \
        trainer prepare --layout frames --align --fps 1 --src voxceleb1/frames --out stores/voxceleb1\n  \
        trainer prepare --layout frames --landmarks --src crops/ --fps 4 --out stores/crops")]
    Prepare(prepare::PrepareArgs),
    /// Train an encoder without labels
    #[command(after_help = "Examples:\n  \
        trainer pretrain --method simclr --data stores/fer2013 --backbone edge --out runs/simclr\n  \
        trainer pretrain --recipe pcl/small/pcl --data stores/synth --out runs/pcl\n  \
        trainer pretrain --data stores/fer2013 --out runs/simclr --resume")]
    Pretrain(pretrain::PretrainArgs),
    /// List the recipes that come with the program: rows of the papers' tables
    Recipes,
    /// Measure how fast training goes: data alone, model alone, and both
    #[command(after_help = "Example:\n  \
        trainer bench --data stores/voxceleb --method sslfer --backbone resnet18 --batch 64")]
    Bench(bench::BenchArgs),
    /// Judge an encoder
    #[command(after_help = "Examples:\n  \
        trainer eval --task expression --protocol linear --checkpoint runs/simclr --data stores/fer2013\n  \
        trainer eval --protocol linear --random-init edge --data stores/fer2013\n  \
        trainer eval --protocol linear --descriptor hog --side-px 48 --data stores/fer2013\n  \
        trainer eval --task identity --protocol knn --checkpoint runs/simclr --data stores/voxceleb --split val\n  \
        trainer eval --task au --protocol linear --folds 3 --checkpoint runs/clp --data stores/disfa\n  \
        trainer eval --task pose --protocol linear --checkpoint runs/pcl --data stores/300w-lp --test-data stores/aflw2000\n  \
        trainer eval --task verify --protocol linear --checkpoint runs/pcl --data stores/lfw\n  \
        trainer eval --protocol finetune --checkpoint runs/simclr --data stores/fer2013 --out runs/tuned\n  \
        trainer eval --protocol own-head --bundle models/default --data stores/fer2013 --json")]
    Eval(eval::EvalArgs),
    /// Train an encoder and linear heads for expression, valence and arousal, action units and pose together
    #[command(after_help = "Examples:\n  \
        trainer joint --data faces=stores/fer2013 --init runs/simclr --out runs/joint\n  \
        trainer joint --data faces=stores/fer2013 --data synth=stores/synth --teacher runs/large --out runs/joint --resume")]
    Joint(joint::JointArgs),
    /// Time shapes of dense encoders in tract, and train each for a few epochs: which is worth its time
    #[command(after_help = "Examples:\n  \
        trainer search --shape 32/64x3/128x3/256x3 --shape 48/96x2/192x2/384x2\n  \
        trainer search --shape 32/64x3/128x3/256x3 --shape 32/64x3/128x2+256x2 --data stores/fer2013")]
    Search(search::SearchArgs),
    /// Train and judge a table of a paper, and set it beside the published figures
    #[command(after_help = "Examples:\n  \
        trainer synth --out stores/people --identities 120 --fps 8 --seconds 8 --side-px 64\n  \
        trainer synth --out stores/others --identities 60 --clips 2 --seed 1 --side-px 64\n  \
        trainer table pcl-5 --data stores/people --probe stores/others --out tables")]
    Table(table::TableArgs),
    /// Draw where encoders look, what methods make, neighbours, and maps of embeddings
    #[command(after_help = "Examples:\n  \
        trainer saliency --checkpoint runs/simclr --checkpoint runs/sslfer --data stores/voxceleb --out pictures\n  \
        trainer saliency --only method --checkpoint runs/pcl --data stores/synth --out pictures")]
    Saliency(saliency::SaliencyArgs),
    /// Set tables, runs and pictures out on one page
    #[command(after_help = "Example:\n  trainer report tables runs pictures --out report")]
    Report(report::ReportArgs),
    /// Write a run's encoder and head as a bundle for the edge, checked in tract
    #[command(after_help = "Example:\n  trainer export --checkpoint runs/tuned --out models/mine")]
    Export(export::ExportArgs),
    /// Make a bundle from a data set by a recipe: prepare, pretrain, probe, fine-tune, export
    #[command(after_help = "Example (rebuilds the shipped bundle):\n  trainer make --src fer2013.npz")]
    Make(make::MakeArgs),
    /// Train the face finder on labelled pictures and synthetic people
    #[command(
        after_help = "Example:\n  trainer finder --faces faces/clips --faces faces/lfw --out runs/finder"
    )]
    Finder(finder::FinderArgs),
    /// Train the network that finds a face's 68 landmarks
    #[command(
        after_help = "Example:\n  trainer landmarks --landmarks landmarks.csv --pictures pictures/ --out runs/landmarks"
    )]
    Landmarks(landmarks::LandmarksArgs),
    /// Judge what a bundle finds: faces, landmarks, head pose, and faces where there are none
    #[command(
        after_help = "Example:\n  trainer faces --faces faces/clips --landmarks landmarks.csv --pictures pictures/"
    )]
    Faces(facecheck::FacesArgs),
    /// Draw a store of synthetic people with every label
    #[command(after_help = "Example:\n  trainer synth --identities 200 --out stores/synth")]
    Synth(synth::SynthArgs),
    /// Show what a store holds: counts, and a sheet of its pictures with their labels
    #[command(after_help = "Examples:\n  trainer inspect --data stores/fer2013 --sheet sheet.png\n  \
        trainer inspect --data stores/voxceleb --augment views.png --recipe sslfer/table1-f")]
    Inspect(inspect::InspectArgs),
}

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    cuda::open();
    let result = match Cli::parse().command {
        Command::Prepare(args) => prepare::run(&args),
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Recipes => {
            pretrain::list_recipes();
            Ok(())
        }
        Command::Bench(args) => bench::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Joint(args) => joint::run(&args),
        Command::Table(args) => table::run(&args),
        Command::Saliency(args) => saliency::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Make(args) => make::run(&args),
        Command::Finder(args) => finder::run(&args),
        Command::Landmarks(args) => landmarks::run(&args),
        Command::Faces(args) => facecheck::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Inspect(args) => inspect::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trainer: {}", semblance_face::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
