//! What the terminal shows of a guided session, and what its keys mean.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Padding, Paragraph, Wrap};

use serde_json::Value;

use super::super::plot;
use super::client::{Edge, Method, Step, Told};

/// How far a key moves a rating.
const NOTCH: f32 = 0.1;
const GOOD: Color = Color::Green;
const BAD: Color = Color::Yellow;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// The session's end, without its labels.
    Stop,
    /// The step once more.
    Redo,
    /// Valence and arousal of the moment that is asked about.
    Rate([f32; 2]),
    /// A fit to what was shown.
    Fit,
    /// What was fitted is kept.
    Accept,
    /// It is forgotten.
    Reject,
    /// The program's end; everything stays as it is.
    Leave,
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    told: Option<Told>,
    /// The report of a fit, as JSON.
    fit: Option<Value>,
    /// Valence and arousal as set so far, and which of them the keys move.
    rating: [f32; 2],
    moved: usize,
    /// The phase that goes on, its step, and the most time that was left of it.
    phase: (String, u64, f64),
    warning: Option<String>,
    /// Whether the next q stops the session.
    stopping: bool,
}

impl Screen {
    /// Asks how the session stands. Where edge does not answer, the screen says so and keeps what it shows.
    pub(super) fn look(&mut self, edge: &impl Edge) {
        if self.fit.is_some() {
            return;
        }
        let told = edge.ask(Method::Get, "/v1/calibration", None);
        match told.and_then(|told| Ok(serde_json::from_value::<Told>(told)?)) {
            Ok(told) => {
                if let Some(step) = &told.session {
                    let left = step.left_secs.unwrap_or(0.0);
                    if self.phase.0 == step.phase && self.phase.1 == step.step {
                        self.phase.2 = self.phase.2.max(left);
                    } else {
                        self.phase = (step.phase.clone(), step.step, left);
                        (self.rating, self.moved, self.warning) = ([0.0; 2], 0, None);
                    }
                }
                self.told = Some(told);
            }
            Err(error) => self.warn(&error),
        }
    }

    pub(super) fn warn(&mut self, error: &anyhow::Error) {
        self.warning = Some(format!("{error:#}"));
    }

    pub(super) fn report(&mut self, fit: Value) {
        (self.fit, self.warning) = (Some(fit), None);
    }

    /// Labels that wait to be fitted.
    pub(super) fn labels(&self) -> u64 {
        let told = self.told.as_ref();
        told.map_or(0, |told| told.labels.total + told.session.as_ref().map_or(0, |step| step.labels))
    }

    fn phase(&self) -> &str {
        let step = self.told.as_ref().and_then(|told| told.session.as_ref());
        step.map_or("", |step| step.phase.as_str())
    }

    /// What a key asks for, if anything.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Wish> {
        let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let quits = interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
        let stops = self.stopping && quits;
        self.stopping = false;
        if let Some(fit) = &self.fit {
            return match key.code {
                KeyCode::Char('a') if is_better(fit) => Some(Wish::Accept),
                KeyCode::Char('x') => Some(Wish::Reject),
                _ if quits => Some(Wish::Leave),
                _ => None,
            };
        }
        if quits && (self.told.as_ref().is_none_or(|told| told.session.is_none()) || self.phase() == "done") {
            return Some(Wish::Leave);
        }
        if quits {
            self.stopping = !stops;
            return stops.then_some(Wish::Stop);
        }
        match (self.phase(), key.code) {
            ("done", KeyCode::Enter | KeyCode::Char('f')) => Some(Wish::Fit),
            (_, KeyCode::Char('r')) => Some(Wish::Redo),
            ("rate", KeyCode::Enter) => Some(Wish::Rate(self.rating)),
            ("rate", KeyCode::Up | KeyCode::Down | KeyCode::Tab) => {
                self.moved = 1 - self.moved;
                None
            }
            ("rate", KeyCode::Left | KeyCode::Right) => {
                let by = if key.code == KeyCode::Left { -NOTCH } else { NOTCH };
                let value = &mut self.rating[self.moved];
                // Tenths, not sums of tenths.
                *value = ((*value + by) * 10.0).round().clamp(-10.0, 10.0) / 10.0;
                None
            }
            _ => None,
        }
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [body, foot] = Layout::vertical([Constraint::Min(0), Constraint::Length(2)]).areas(frame.area());
        let keys = match (&self.fit, self.phase()) {
            (Some(fit), _) if is_better(fit) => "a keeps the new heads   x forgets them   q decides later",
            (Some(_), _) => "x forgets the labels   q keeps them for later",
            (None, "done") => "Enter fits the heads   r does the last step again   q leaves",
            (None, "rate") => "← → rate   ↑ ↓ change between the two   Enter says so   r does it again",
            (None, _) => "r does this step again   q stops",
        };
        let stop = "Press q once more to stop: what was shown in this session is then forgotten.";
        let warning = if self.stopping { Some(stop) } else { self.warning.as_deref() };
        let lines = vec![Line::from(clean(warning.unwrap_or(""))).fg(BAD), Line::from(keys).dim()];
        frame.render_widget(Paragraph::new(lines).alignment(Alignment::Center), foot);
        match (&self.fit, self.told.as_ref().and_then(|told| told.session.as_ref())) {
            (Some(fit), _) => draw_report(frame, body, fit),
            (None, Some(step)) => self.draw_step(frame, body, step),
            (None, None) => {
                let text = "No session goes on: it was ended elsewhere, or edge was started anew.";
                frame.render_widget(Paragraph::new(text).centered().wrap(Wrap { trim: true }), body);
            }
        }
    }

    fn draw_step(&self, frame: &mut Frame<'_>, area: Rect, step: &Step) {
        let title = format!(" {} ", clean(&step.title));
        let block = Block::bordered().title(title).padding(Padding::symmetric(3, 1));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [way, _, say, time, _, state] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(4),
            Constraint::Length(if step.phase == "rate" { 4 } else { 1 }),
            Constraint::Length(1),
            Constraint::Length(3),
        ])
        .areas(inner);
        let done = step.step.saturating_sub(1) as f64 / step.steps.max(1) as f64;
        let done = if step.phase == "done" { 1.0 } else { done };
        let label = format!("step {} of {}", step.step, step.steps);
        frame.render_widget(bar(done, &label, Color::Blue), way);

        let mut lines = Vec::new();
        if let Some(expression) = &step.expression {
            lines.push(Line::from(clean(expression).to_uppercase()).bold().cyan());
            lines.push(Line::default());
        }
        lines.push(Line::from(clean(&step.say)).bold());
        if step.phase == "done" {
            lines.push(Line::default());
            lines.push(Line::from(format!("{} moments were taken.", step.labels)));
            if step.skipped > 0 {
                lines.push(Line::from(format!("{} steps had to be left out.", step.skipped)).fg(BAD));
            }
        }
        frame.render_widget(Paragraph::new(lines).centered().wrap(Wrap { trim: true }), say);

        if step.phase == "rate" {
            let rows: [Rect; 2] = Layout::vertical([Constraint::Length(2); 2]).areas(time);
            let scales = [("unpleasant", "pleasant"), ("calm", "stirred")];
            for (i, (low, high)) in scales.into_iter().enumerate() {
                let label = format!("{low}  {:+.1}  {high}", self.rating[i]);
                let colour = if i == self.moved { Color::Cyan } else { Color::DarkGray };
                frame.render_widget(bar(f64::from(self.rating[i] + 1.0) / 2.0, &label, colour), rows[i]);
            }
        } else if let Some(left) = step.left_secs {
            let label = match step.phase.as_str() {
                "ready" => format!("ready? {left:.0} s"),
                "hold" => format!("hold it: {left:.0} s"),
                _ => format!("{left:.0} s"),
            };
            let share = if self.phase.2 > 0.0 { left / self.phase.2 } else { 0.0 };
            let colour = if step.phase == "hold" { GOOD } else { Color::Blue };
            frame.render_widget(bar(share, &label, colour), time);
        }

        if step.phase == "done" {
            return;
        }
        let seen = match &step.advice {
            Some(advice) => Line::from(clean(advice)).fg(BAD),
            None => Line::from("Your face is seen well.").fg(GOOD),
        };
        let taken =
            if step.phase == "hold" { format!("{} good frames", step.good_frames) } else { String::new() };
        let trouble = Line::from(clean(step.trouble.as_deref().unwrap_or(""))).fg(BAD);
        frame.render_widget(Paragraph::new(vec![seen, Line::from(taken), trouble]).centered(), state);
    }
}

fn is_better(fit: &Value) -> bool {
    fit["better"] == true
}

fn draw_report(frame: &mut Frame<'_>, area: Rect, fit: &Value) {
    let title = if is_better(fit) { " Better than as shipped " } else { " No better than as shipped " };
    let block = Block::bordered().title(title).padding(Padding::symmetric(3, 1));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let labels = |head: &Value| head["labels"].as_u64().unwrap_or(0);
    let heads: Vec<(&Value, String)> = plot::heads(fit).filter(|(head, _)| labels(head) > 0).collect();
    let places = Layout::vertical(heads.iter().map(|_| Constraint::Length(6))).split(inner);
    for ((head, title), place) in heads.into_iter().zip(places.iter()) {
        let lines: [Rect; 6] = Layout::vertical([Constraint::Length(1); 6]).areas(*place);
        let colour = if head["verdict"] == "accepted" { GOOD } else { BAD };
        let text = format!("{} ({} labels)", clean(&title), labels(head));
        frame.render_widget(Paragraph::new(text).style(Style::new().fg(colour)), lines[0]);
        // The first one decides.
        let Some(metric) = plot::lines(head).into_iter().next() else { continue };
        let name = clean(metric.name).replace('_', " ");
        for (line, what, [value, low, high], colour) in
            [(1, "before", metric.before, Color::DarkGray), (2, "after ", metric.after, Color::Cyan)]
        {
            let label = format!("{what} {name} {value:.3} [{low:.3}, {high:.3}]");
            frame.render_widget(bar(value, &label, colour), lines[line]);
        }
        let [value, low, high] = metric.gain;
        let text = format!("gain {value:+.3} [{low:+.3}, {high:+.3}]");
        frame.render_widget(Paragraph::new(text).centered(), lines[3]);
    }
}

fn bar(share: f64, label: &str, colour: Color) -> Gauge<'_> {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let style = Style::new().fg(colour).bg(Color::Black).add_modifier(Modifier::BOLD);
    Gauge::default().ratio(share).label(label).gauge_style(style)
}

/// Text of a protocol or of another program, without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
