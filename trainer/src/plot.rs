//! Charts as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

/// Size of a chart, in pixels.
const SIZE: (u32, u32) = (620, 380);
/// Points of a line that are drawn, at most: means of as many stretches.
const MOST: usize = 300;

/// Why a chart could not be drawn, in words.
type Problem = String;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its name in the legend.
    pub(crate) name: String,
    /// Places.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A place with what is not certain of it upwards.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// Written beside it.
    pub(crate) name: String,
    /// The place.
    pub(crate) at: (f64, f64),
    /// Up and down, where it is known.
    pub(crate) deviation: Option<f64>,
}

/// Places of one class in the plane.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    /// Its name in the legend; classes without a name are not in it.
    pub(crate) name: String,
    /// Places.
    pub(crate) points: Vec<(f64, f64)>,
}

/// What the axes are of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axes<'a> {
    /// Over the chart.
    pub(crate) title: &'a str,
    /// Along.
    pub(crate) x: &'a str,
    /// Upwards.
    pub(crate) y: &'a str,
}

/// Lines over one axis.
///
/// # Errors
/// What the library says.
pub(crate) fn lines(axes: Axes<'_>, lines: &[Line]) -> Result<String, Problem> {
    let lines: Vec<Line> =
        lines.iter().map(|line| Line { points: thinned(&line.points), ..line.clone() }).collect();
    chart(axes, lines.iter().flat_map(|line| line.points.iter().copied()), |chart| {
        for (number, line) in lines.iter().enumerate() {
            let colour = colour(number, lines.len());
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))
                .map_err(|e| e.to_string())?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
        }
        Ok(lines.len() > 1)
    })
}

/// Named places with their deviations.
///
/// # Errors
/// What the library says.
pub(crate) fn points(axes: Axes<'_>, points: &[Point]) -> Result<String, Problem> {
    let reach = points.iter().flat_map(|Point { at: (x, y), deviation, .. }| {
        let deviation = deviation.unwrap_or(0.0);
        [(*x, y - deviation), (*x, y + deviation)]
    });
    // Names stand to the right of their places.
    let xs = || points.iter().map(|point| point.at.0);
    let (low, high) = (xs().fold(f64::INFINITY, f64::min), xs().fold(f64::NEG_INFINITY, f64::max));
    let reach = reach.chain(points.first().map(|point| (high + 0.4 * (high - low), point.at.1)));
    chart(axes, reach, |chart| {
        for (number, Point { name, at: (x, y), deviation }) in points.iter().enumerate() {
            let (x, y, colour) = (*x, *y, colour(number, points.len()));
            if let Some(deviation) = deviation {
                let bar = PathElement::new([(x, y - deviation), (x, y + deviation)], colour);
                chart.draw_series([bar]).map_err(|e| e.to_string())?;
            }
            let dot = EmptyElement::at((x, y))
                + Circle::new((0, 0), 4, colour.filled())
                + Text::new(name.clone(), (7, -12), ("sans-serif", 12));
            chart.draw_series([dot]).map_err(|e| e.to_string())?;
        }
        Ok(false)
    })
}

/// Panels side by side, each a title and classes of one plane, without scales.
///
/// # Errors
/// What the library says.
pub(crate) fn planes(panels: &[(String, Vec<Class>)]) -> Result<String, Problem> {
    drawn((SIZE.0 * panels.len() as u32, SIZE.0 - 80), |root| {
        for (area, (title, classes)) in root.split_evenly((1, panels.len())).iter().zip(panels) {
            let axes = Axes { title, x: "", y: "" };
            let all = classes.iter().flat_map(|class| class.points.iter().copied());
            on(area, axes, all, false, |chart| {
                for (number, class) in classes.iter().enumerate() {
                    let colour = colour(number, classes.len());
                    let dots = class.points.iter().map(|&at| Circle::new(at, 2, colour.mix(0.7).filled()));
                    let drawn = chart.draw_series(dots).map_err(|e| e.to_string())?;
                    if !class.name.is_empty() {
                        drawn.label(&class.name).legend(move |at| Circle::new(at, 4, colour.filled()));
                    }
                }
                Ok(true)
            })?;
        }
        Ok(())
    })
}

/// What is drawn on white, as SVG.
fn drawn(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<(), Problem>) -> Result<String, Problem> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(|e| e.to_string())?;
        draw(&root)?;
        root.present().map_err(|e| e.to_string())?;
    }
    Ok(svg)
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// A chart of its own; `draw` tells whether it wants a legend.
fn chart(
    axes: Axes<'_>,
    reach: impl Iterator<Item = (f64, f64)>,
    draw: impl FnOnce(&mut Chart<'_, '_>) -> Result<bool, Problem>,
) -> Result<String, Problem> {
    drawn(SIZE, |root| on(root, axes, reach, true, draw))
}

fn on<'b>(
    area: &Area<'b>,
    axes: Axes<'_>,
    reach: impl Iterator<Item = (f64, f64)>,
    scales: bool,
    draw: impl FnOnce(&mut Chart<'_, 'b>) -> Result<bool, Problem>,
) -> Result<(), Problem> {
    let reach: Vec<(f64, f64)> = reach.filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return 0.0..1.0;
        }
        let margin = ((high - low) * 0.06).max(low.abs() * 1e-3).max(1e-9);
        low - margin..high + margin
    };
    let (x, y) = (range(&mut reach.iter().map(|p| p.0)), range(&mut reach.iter().map(|p| p.1)));
    let mut builder = ChartBuilder::on(area);
    builder.caption(axes.title, ("sans-serif", 15)).margin(10);
    let x = if scales {
        builder.x_label_area_size(38).y_label_area_size(58);
        x
    } else {
        // Room for the legend.
        let extent = x.end - x.start;
        x.start..x.end + 0.28 * extent
    };
    let mut chart = builder.build_cartesian_2d(x, y).map_err(|e| e.to_string())?;
    if scales {
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(axes.x).y_desc(axes.y).light_line_style(WHITE);
        mesh.draw().map_err(|e| e.to_string())?;
    }
    if draw(&mut chart)? {
        let mut legend = chart.configure_series_labels();
        legend.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).label_font(("sans-serif", 11));
        legend.draw().map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Colours that lie as far apart as so many can.
fn colour(number: usize, of: usize) -> RGBColor {
    let hue = number as f64 / of.max(1) as f64;
    let (r, g, b) =
        HSLColor(hue, 0.75, if number.is_multiple_of(2) { 0.42 } else { 0.58 }).to_backend_color().rgb;
    RGBColor(r, g, b)
}

/// Means of stretches, where there are more points than can be told apart.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |stretch: &[(f64, f64)]| {
        let (x, y) = stretch.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / stretch.len() as f64, y / stretch.len() as f64)
    };
    points.chunks(points.len().div_ceil(MOST).max(1)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const AXES: Axes<'_> = Axes { title: "a < b", x: "step", y: "loss" };

    #[test]
    fn long_lines_are_thinned_to_means() {
        let points: Vec<(f64, f64)> = (0..3000).map(|i| (f64::from(i), f64::from(i % 10))).collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 300);
        assert_eq!(thin[0], (4.5, 4.5));
        assert_eq!(thinned(&points[..3]), points[..3]);
        assert_eq!(thinned(&[]), []);
    }

    #[test]
    fn charts_name_what_is_in_them_and_escape_it() {
        let line = |name: &str| Line { name: name.to_owned(), points: vec![(0.0, 1.0), (1.0, 0.5)] };
        let svg = lines(AXES, &[line("<one>"), line("two")]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("&lt;one&gt;") && svg.contains("two"), "{svg}");
        assert!(!svg.contains("<one>") && svg.contains("a &lt; b"));
        let point = Point { name: "PCL".to_owned(), at: (56.8, 0.5), deviation: Some(0.1) };
        let svg = points(AXES, &[point]).unwrap();
        assert!(svg.contains("PCL") && svg.matches("<circle").count() == 1, "{svg}");
        let class = Class { name: "happy".to_owned(), points: vec![(0.0, 0.0), (2.0, 1.0)] };
        let svg =
            planes(&[("left".to_owned(), vec![class.clone()]), ("right".to_owned(), vec![class])]).unwrap();
        // Two points and one in the legend, twice.
        assert_eq!(svg.matches("<circle").count(), 6);
    }

    #[test]
    fn nothing_nan_and_one_point_are_drawn_too() {
        assert!(lines(AXES, &[]).is_ok());
        let line = Line { name: "x".to_owned(), points: vec![(1.0, f64::NAN), (2.0, f64::INFINITY)] };
        assert!(lines(AXES, &[line]).is_ok());
        assert!(points(AXES, &[Point { name: "p".to_owned(), at: (3.0, 3.0), deviation: None }]).is_ok());
    }
}
