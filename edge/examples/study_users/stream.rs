//! Learning without labels: what the corrections of `adapt` are worth on clips in which expressions come and go.

use semblance_calib::adapt::{AdaptConfig, Adapter, Budget, Correction, ProjectionConfig, Share};
use semblance_calib::metrics::Confusion;
use semblance_calib::{Dataset, Heads, Label, Moment};
use semblance_face::labels::Expression;
use semblance_synth::{ClipSource, RenderOptions};

use crate::people::Camera;
use crate::score::{header, row};

/// Frames a second of a clip, and its length: what is judged is the time after the first fifth.
const FPS: f64 = 10.0;
const SECS: usize = 120;

/// A clip of one person: its expressions are told, moments whose expression the heads do not know are not.
pub(crate) fn clip(camera: &mut Camera, identity: u64, expressions: &[String]) -> anyhow::Result<Dataset> {
    let options =
        RenderOptions { fps: FPS, pose_spread: 0.3, personal_style: 1.0, ..RenderOptions::crop(128) };
    let mut source = ClipSource::new(77, identity, options)?;
    let mut data = Dataset::new(camera.dim());
    for _ in 0..SECS * FPS as usize {
        let (frame, labels) = source.next_frame()?;
        let name = Expression::name(labels.expression);
        let Some(row) = expressions.iter().position(|expression| expression == name) else { continue };
        let label = Label { expression: Some(u8::try_from(row)?), ..Label::default() };
        let embedding = camera.embed(&frame, &labels.landmarks)?;
        data.push(Moment { t_secs: labels.t_secs, block: 0, label }, embedding)?;
    }
    Ok(data)
}

/// Mean recall of the expressions while the adapter learns.
fn live(clip: &Dataset, heads: &Heads, config: Option<AdaptConfig>) -> anyhow::Result<f64> {
    let mut confusion = Confusion::new(heads.expression().map_or(0, |head| head.labels().len()));
    let mut adapter = match config {
        Some(config) => Some(Adapter::new(heads.clone(), config)?),
        None => None,
    };
    let mut budget = Budget::new("100%".parse::<Share>()?);
    let mut folded = Correction::identity(heads.dim()).fold(heads)?;
    for (moment, embedding) in clip.iter() {
        if moment.t_secs > 0.2 * SECS as f64
            && let (Some(head), Some(truth)) = (folded.expression(), moment.label.expression)
        {
            confusion.add(usize::from(truth), head.classify(embedding))?;
        }
        if let Some(adapter) = &mut adapter {
            adapter.observe(1, moment.t_secs, embedding)?;
            if adapter.slice(&mut budget, || std::time::Duration::from_secs_f64(moment.t_secs)).changed {
                folded = adapter.folded()?;
            }
        }
    }
    Ok(confusion.mean_recall())
}

pub(crate) fn study(clips: &[Dataset], heads: &Heads) -> anyhow::Result<()> {
    header("adaptation without labels, mean recall");
    let of = |config: Option<AdaptConfig>| {
        clips.iter().map(|clip| live(clip, heads, config)).collect::<anyhow::Result<Vec<f64>>>()
    };
    let before = of(None)?;
    let plain = AdaptConfig { projection: None, neutral: false, ..AdaptConfig::default() };
    let projection = Some(ProjectionConfig::default());
    for (name, config) in [
        ("neutral place", AdaptConfig { neutral: true, ..plain }),
        ("projection", AdaptConfig { projection, ..plain }),
        ("both", AdaptConfig { projection, neutral: true, ..plain }),
    ] {
        row(name, &before, &of(Some(config))?);
    }
    Ok(())
}
