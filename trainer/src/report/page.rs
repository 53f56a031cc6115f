//! The report's text: Markdown, which HTML is made of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pulldown_cmark::{Event, Options, Parser};
use serde_json::Value;

use super::found::{Found, RunFound};
use crate::files;
use crate::plot::{self, Axes, Line, Point};
use crate::pretrain::OnlineScores;
use crate::saliency::Album;
use crate::table::TableReport;

/// A part of the report.
enum Part {
    Text(String),
    /// A picture with what is to be seen.
    Picture(Picture, String),
}

/// A picture file.
pub(super) struct Picture {
    /// Its name among the report's pictures, without anything that Markdown or a shell would take for something else.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl Picture {
    /// As an address that holds it.
    pub(super) fn inline(&self) -> String {
        let kind = if self.name.ends_with(".svg") { "svg+xml" } else { "png" };
        format!("data:image/{kind};base64,{}", STANDARD.encode(&self.bytes))
    }
}

/// The report.
pub(super) struct Page {
    parts: Vec<Part>,
    pictures: usize,
}

impl Page {
    pub(super) fn of(found: &Found, title: &str) -> Self {
        let mut page = Self { parts: Vec::new(), pictures: 0 };
        page.text(format!("# {}\n\nBy trainer {}.", plain(title), env!("CARGO_PKG_VERSION")));
        page.tables(&found.tables);
        page.evaluations(&found.evaluations);
        page.runs(&found.runs);
        page.albums(&found.albums);
        if !found.left_out.is_empty() {
            let problems: Vec<String> = found.left_out.iter().map(|p| format!("- {}", plain(p))).collect();
            page.text(format!("## Left out\n\n{}", problems.join("\n")));
        }
        page
    }

    pub(super) fn pictures(&self) -> impl Iterator<Item = &Picture> {
        self.parts.iter().filter_map(|part| match part {
            Part::Picture(picture, _) => Some(picture),
            Part::Text(_) => None,
        })
    }

    /// Everything, with pictures at the addresses that `place` gives.
    pub(super) fn markdown(&self, place: impl Fn(&Picture) -> String) -> String {
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.trim_matches('\n').to_owned(),
                Part::Picture(picture, about) => {
                    format!("![{0}]({1})\n\n*{0}*", plain(about), place(picture))
                }
            })
            .collect();
        parts.join("\n\n") + "\n"
    }

    fn text(&mut self, text: String) {
        self.parts.push(Part::Text(text));
    }

    fn picture(&mut self, of: &str, extension: &str, bytes: Vec<u8>, about: String) {
        self.pictures += 1;
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = of.chars().map(safe).collect();
        let name = format!("{:03}-{name}.{extension}", self.pictures);
        self.parts.push(Part::Picture(Picture { name, bytes }, about));
    }

    /// A chart, or why there is none.
    fn chart(&mut self, of: &str, drawn: Result<String, String>, about: String) {
        match drawn {
            Ok(svg) => self.picture(of, "svg", svg.into_bytes(), about),
            Err(problem) => self.text(format!("{}: no chart: {}", plain(of), plain(&problem))),
        }
    }

    /// A chart over steps of those lines that have points, where there are any.
    fn lines(&mut self, title: &str, y: &str, mut lines: Vec<Line>, about: String) {
        lines.retain(|line| !line.points.is_empty());
        if !lines.is_empty() {
            self.chart(title, plot::lines(Axes { title, x: "step", y }, &lines), about);
        }
    }

    fn tables(&mut self, tables: &BTreeMap<PathBuf, TableReport>) {
        if tables.is_empty() {
            return;
        }
        self.text("## Tables of the papers\n\nOurs, and the published figures beside them.".to_owned());
        for (path, table) in tables {
            self.text(format!("### {}\n\n{table}", plain(&table.title)));
            for (place, column) in table.columns.iter().enumerate() {
                let points: Vec<Point> = table
                    .rows
                    .iter()
                    .filter_map(|row| {
                        let (published, ours) =
                            (row.published.get(place).copied()??, row.ours.get(&column.beside)?);
                        let at = (published, ours.mean);
                        Some(Point { name: row.name.clone(), at, deviation: ours.deviation })
                    })
                    .collect();
                if points.len() > 1 {
                    let axes = Axes { title: &table.title, x: &column.name, y: &column.beside };
                    let about =
                        format!("Ours ({}) over the published figures ({}).", column.beside, column.name);
                    self.chart(&stem(path), plot::points(axes, &points), about);
                }
            }
            if !table.command.is_empty() {
                self.text(code(&table.command));
            }
        }
    }

    fn evaluations(&mut self, evaluations: &BTreeMap<PathBuf, Value>) {
        if evaluations.is_empty() {
            return;
        }
        let mut text =
            "## Evaluations\n\n| file | task | protocol | split | figures | SHA-256 of the checkpoint |\n\
                        |---|---|---|---|---|---|\n"
                .to_owned();
        let mut commands: Vec<&str> = Vec::new();
        for (path, value) in evaluations {
            let word = |key: &str| plain(value[key].as_str().unwrap_or_default());
            let figures: Vec<String> = value
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some(format!("{} {}", plain(key), short(value.as_f64()?))))
                .collect();
            let (task, protocol, split) = (word("task"), word("protocol"), word("split"));
            commands.extend(value["command"].as_str());
            let _ = writeln!(
                text,
                "| {} | {task} | {protocol} | {split} | {} | {} |",
                plain(&path.display().to_string()),
                figures.join(", "),
                word("sha256")
            );
        }
        self.text(text);
        if !commands.is_empty() {
            self.text(code(&commands.join("\n")));
        }
    }

    fn runs(&mut self, runs: &BTreeMap<PathBuf, RunFound>) {
        if runs.is_empty() {
            return;
        }
        let mut text = "## Runs\n\n| run | method | encoder | steps | loss, first and last tenth | scores | stores | SHA-256 |\n\
                        |---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for (path, run) in runs {
            let meta = &run.meta;
            let scores: Vec<String> =
                meta.scores.iter().map(|(name, value)| format!("{name} {value}")).collect();
            let stores: Vec<String> = meta
                .data
                .iter()
                .map(|d| format!("{} ({} frames, {:08x})", d.name, d.frames, d.checksum))
                .collect();
            let _ = writeln!(
                text,
                "| {} | {} | {} at {} px | {} | {} | {} | {} | `{}` |",
                plain(&path.display().to_string()),
                plain(&meta.method),
                meta.backbone,
                meta.side_px,
                meta.step,
                fall(run),
                plain(&scores.join(", ")),
                plain(&stores.join(", ")),
                &run.sha256
            );
        }
        self.text(text);
        // Seeds of one row are lines of one chart.
        let mut groups: BTreeMap<(&Path, String), Vec<(&Path, &RunFound)>> = BTreeMap::new();
        for (path, run) in runs {
            let name = files::name_of(path);
            let group = match name.rsplit_once('-') {
                Some((group, seed)) if seed.parse::<u64>().is_ok() => group.to_owned(),
                _ => name,
            };
            groups.entry((path.parent().unwrap_or(path), group)).or_default().push((path.as_path(), run));
        }
        for ((_, group), runs) in groups {
            let losses = runs.iter().map(|(path, run)| Line {
                name: files::name_of(path),
                points: run.metrics.iter().map(|m| (m.step as f64, m.loss)).collect(),
            });
            self.lines(&group, "loss", losses.collect(), format!("{group}: the loss."));
            let online = runs.iter().flat_map(|(path, run)| {
                let line = |name: &str, score: fn(&OnlineScores) -> f64| Line {
                    name: format!("{} {name}", files::name_of(path)),
                    points: run.online.iter().map(|o| (o.step as f64, score(o))).collect(),
                };
                [line("linear", |o| o.scores.linear), line("kNN", |o| o.scores.knn)]
            });
            let about =
                format!("{group}: accuracy of expressions by the frozen encoder while it was trained.");
            self.lines(&group, "accuracy", online.collect(), about);
            let mut commands: Vec<&str> =
                runs.iter().flat_map(|(_, run)| run.commands.iter().map(String::as_str)).collect();
            commands.dedup();
            if !commands.is_empty() {
                self.text(code(&commands.join("\n")));
            }
        }
    }

    fn albums(&mut self, albums: &BTreeMap<PathBuf, Album>) {
        if albums.is_empty() {
            return;
        }
        self.text("## Pictures".to_owned());
        for (folder, album) in albums {
            let of = album.data.as_ref().map_or_else(String::new, |data| format!(", of {}", data.name));
            self.text(format!("### {}{}", plain(&folder.display().to_string()), plain(&of)));
            for page in &album.pages {
                // A file of this folder alone, whatever the description says.
                let name = Path::new(&page.file).file_name().unwrap_or_default();
                let extension = if page.file.ends_with(".svg") { "svg" } else { "png" };
                match fs::read(folder.join(name)) {
                    Ok(bytes) => {
                        self.picture(&stem(Path::new(&page.file)), extension, bytes, page.about.clone());
                    }
                    Err(error) => self.text(plain(&format!("{}: not there: {error}", page.file))),
                }
            }
            for told in album.told() {
                self.text(plain(&format!("{told}.")));
            }
            let hash = |(run, sha256): (&String, &String)| format!("- {}: `{}`", plain(run), plain(sha256));
            let hashes: Vec<String> = album.runs.iter().map(hash).collect();
            if !hashes.is_empty() {
                self.text(format!("SHA-256 of the checkpoints:\n\n{}", hashes.join("\n")));
            }
            if !album.commands.is_empty() {
                self.text(code(&album.commands.join("\n")));
            }
        }
    }
}

/// Means of the first and of the last tenth of the losses.
fn fall(run: &RunFound) -> String {
    let losses: Vec<f64> = run.metrics.iter().map(|m| m.loss).collect();
    let tenth = (losses.len() / 10).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    match losses.len() {
        0 => String::new(),
        count => {
            format!("{}, {}", short(mean(&losses[..tenth.min(count)])), short(mean(&losses[count - tenth..])))
        }
    }
}

/// A file's name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Four digits, or a whole number as it is.
fn short(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.4}") }
}

/// Text that Markdown takes as it is, in one line.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '&' | '!' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Commands as a block.
fn code(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#202124}\
    table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}td,th{border:1px solid #dadce0;padding:4px 8px}\
    th{background:#f1f3f4;text-align:left}img{max-width:100%}pre{background:#f8f9fa;padding:8px;overflow-x:auto;font-size:12px}\
    code{font-size:11px;word-break:break-all}";

/// One page with everything in it.
pub(super) fn html(title: &str, markdown: &str) -> String {
    let mut body = String::new();
    // What stands in files is text: HTML in it stays what it says.
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES).map(|event| match event {
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        event => event,
    });
    pulldown_cmark::html::push_html(&mut body, events);
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body>\n{body}</body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::eval::Spread;
    use crate::table::{ColumnReport, RowReport};
    use serde_json::json;

    fn table() -> TableReport {
        let row = |name: &str, mean: f64, published: Option<f64>| RowReport {
            name: name.to_owned(),
            seeds: 1,
            ours: [("expression, mean recall".to_owned(), Spread { mean, deviation: None })].into(),
            published: published.map(|p| vec![Some(p)]).unwrap_or_default(),
        };
        TableReport {
            title: "Table <5>".to_owned(),
            command: "trainer table pcl-5 --out 'my tables'".to_owned(),
            seeds: 1,
            stores: BTreeMap::new(),
            columns: vec![ColumnReport {
                name: "RAF-DB".to_owned(),
                beside: "expression, mean recall".to_owned(),
            }],
            rows: vec![
                row("random weights", 0.1, None),
                row("SimCLR <script>", 0.25, Some(71.06)),
                row("PCL", 0.5, Some(74.47)),
            ],
            orders: vec!["The order holds.".to_owned()],
        }
    }

    #[test]
    fn a_page_has_the_tables_figures_and_pictures_in_itself() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("people.png"), b"png").unwrap();
        let page = |file: &str| crate::saliency::Page {
            file: file.to_owned(),
            about: "Where | it looks".to_owned(),
        };
        let album = Album { pages: vec![page("people.png"), page("../../secret.png")], ..Album::default() };
        let mut found = Found::default();
        found.tables.insert("tables/pcl-5.json".into(), table());
        found.evaluations.insert(
            "a_b.json".into(),
            json!({ "task": "expression", "protocol": "linear", "split": "test", "accuracy": 0.123456, "n": 30 }),
        );
        found.albums.insert(dir.path().to_owned(), album);
        found.left_out.push("x<y>: damaged".to_owned());
        let page = Page::of(&found, "A & B");
        let markdown = page.markdown(|picture| format!("pictures/{}", picture.name));
        assert!(markdown.contains("| PCL | 0.500 | 74.47 |"), "{markdown}");
        assert!(markdown.contains("accuracy 0.1235, n 30") && markdown.contains(r"a\_b.json"), "{markdown}");
        assert!(markdown.contains("pictures/001-pcl-5.svg") && markdown.contains("pictures/002-people.png"));
        assert!(markdown.contains("secret.png: not there"), "{markdown}");
        let html = html("A & B", &page.markdown(Picture::inline));
        assert!(
            html.contains("<title>A &amp; B</title>") && html.contains("data:image/png;base64,cG5n"),
            "{html}"
        );
        assert!(
            html.contains("<td>0.500</td>")
                && html.contains("Table &lt;5&gt;")
                && html.contains("x&lt;y&gt;")
        );
        assert!(
            html.contains("<pre><code>trainer table pcl-5 --out 'my tables'\n</code></pre>")
                && !html.contains("src=\"pictures")
        );
        let pictures: Vec<&str> = page.pictures().map(|p| p.name.as_str()).collect();
        assert_eq!(pictures, ["001-pcl-5.svg", "002-people.png"]);
    }

    #[test]
    fn names_stay_names() {
        let html = html("t", &plain("a|b <i>c</i> *d* [e](f) `g` \\ &amp;\nh"));
        assert!(html.contains("a|b &lt;i&gt;c&lt;/i&gt; *d* [e](f) `g` \\ &amp;amp; h"), "{html}");
    }
}
