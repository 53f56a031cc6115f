//! `edge cameras`: what cameras there are, and what they can do.

use clap::Args;
use semblance_edge::cameras::Cameras;

#[derive(Debug, Args)]
pub(crate) struct CamerasArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn command(args: &CamerasArgs) -> anyhow::Result<()> {
    let cameras = Cameras::list();
    if args.json {
        println!("{}", serde_json::to_string(&cameras)?);
    } else {
        print!("{cameras}");
    }
    Ok(())
}
