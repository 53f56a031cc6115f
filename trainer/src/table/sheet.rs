//! A table as it is shown: ours, the published figures, and whether their order holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::measure::{Measure, Measured, Scores};
use super::published::{Column, Table};
use crate::command;
use crate::eval::{Spread, spearman};

/// A table with what is known of it.
#[derive(Clone, Debug)]
pub struct Sheet {
    table: Table,
    seeds: u64,
    /// Random weights first, then the table's rows.
    names: Vec<String>,
    /// Of each row, as many as there are seeds that are done.
    scores: Vec<Vec<Scores>>,
    /// The store that each measure is of.
    stores: BTreeMap<Measure, String>,
}

impl Sheet {
    /// Nothing known yet of these rows, of which the last ones are the table's.
    pub fn new(table: &Table, seeds: u64, names: Vec<String>) -> Self {
        let scores = vec![Vec::new(); names.len()];
        Self { table: table.clone(), seeds, names, scores, stores: BTreeMap::new() }
    }

    /// A seed's scores of a row.
    pub fn add(&mut self, row: usize, Measured { scores, stores }: Measured) {
        self.scores[row].push(scores);
        self.stores.extend(stores);
    }

    /// A row's seeds by one measure.
    fn spread(&self, row: usize, measure: Measure) -> Option<Spread> {
        let values: Vec<f64> =
            self.scores[row].iter().filter_map(|scores| scores.get(&measure).copied()).collect();
        Spread::of(&values)
    }

    /// How many rows are not the table's, but of random weights.
    fn untrained(&self) -> usize {
        self.names.len() - self.table.row.len()
    }

    /// A row's published figures.
    fn published(&self, row: usize) -> &[f64] {
        let own = row.checked_sub(self.untrained());
        own.and_then(|row| self.table.row.get(row)).map_or(&[], |row| &row.published)
    }

    /// The table as it is now.
    pub fn report(&self) -> TableReport {
        let row = |row: usize| RowReport {
            name: self.names[row].clone(),
            seeds: self.scores[row].len() as u64,
            ours: Measure::ALL
                .into_iter()
                .filter_map(|measure| Some((measure.heading().to_owned(), self.spread(row, measure)?)))
                .collect(),
            published: self.published(row).iter().map(|v| v.is_finite().then_some(*v)).collect(),
        };
        let column = |column: &Column| ColumnReport {
            name: column.name.clone(),
            beside: column.measure.heading().to_owned(),
        };
        TableReport {
            title: self.table.title.clone(),
            command: command::line(),
            seeds: self.seeds,
            stores: self.stores.iter().map(|(m, store)| (m.heading().to_owned(), store.clone())).collect(),
            columns: self.table.published.iter().map(column).collect(),
            rows: (0..self.names.len()).map(row).collect(),
            orders: self.orders(),
        }
    }

    /// For each published column, whether its order is ours as well, in a sentence.
    fn orders(&self) -> Vec<String> {
        let of_column = |(place, column): (usize, &Column)| {
            let pairs: Vec<(usize, f64, Spread)> = (self.untrained()..self.names.len())
                .filter_map(|row| {
                    let theirs = *self.published(row).get(place)?;
                    let ours = self.spread(row, column.measure)?;
                    theirs.is_finite().then_some((row, theirs, ours))
                })
                .collect();
            if pairs.len() < 2 {
                return None;
            }
            let better = |value: f64| if column.lower_is_better { -value } else { value };
            let theirs: Vec<f64> = pairs.iter().map(|p| better(p.1)).collect();
            let ours: Vec<f64> = pairs.iter().map(|p| better(p.2.mean)).collect();
            let best = |values: &[f64]| {
                let place = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))?;
                Some(self.names[pairs[place].0].as_str())
            };
            let (first, last) = (
                ours.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                ours.iter().copied().fold(f64::INFINITY, f64::min),
            );
            let deviations: Vec<f64> = pairs.iter().filter_map(|p| p.2.deviation).collect();
            let noise = match deviations.len() {
                0 => "; one seed tells nothing of noise".to_owned(),
                count => {
                    let mean = deviations.iter().sum::<f64>() / count as f64;
                    format!(", the seeds of one row deviate by {mean:.3}")
                }
            };
            Some(format!(
                "{}, beside our {}: rank correlation {:+.2} over {} rows; best there {}, here {}; our rows lie {:.3} \
                 apart{noise}.",
                column.name,
                column.measure.heading(),
                spearman(&theirs, &ours),
                pairs.len(),
                best(&theirs).unwrap_or("-"),
                best(&ours).unwrap_or("-"),
                first - last
            ))
        };
        self.table.published.iter().enumerate().filter_map(of_column).collect()
    }
}

/// A table of a paper with what is known of it, as `NAME.json` holds it; shown as Markdown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    /// What it is.
    pub title: String,
    /// The command line that made it.
    #[serde(default)]
    pub command: String,
    /// Seeds that each row is to have.
    pub seeds: u64,
    /// The store that each column of ours is of, by the column's heading.
    #[serde(default)]
    pub stores: BTreeMap<String, String>,
    /// Published columns.
    pub columns: Vec<ColumnReport>,
    /// Random weights first, then the table's rows.
    pub rows: Vec<RowReport>,
    /// Whether the published orders are ours as well, in sentences.
    pub orders: Vec<String>,
}

/// A published column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnReport {
    /// Data set, measure and unit.
    pub name: String,
    /// Heading of the column of ours that it is set beside.
    pub beside: String,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowReport {
    /// Its name.
    pub name: String,
    /// Seeds that are done.
    pub seeds: u64,
    /// Ours, by the column's heading.
    pub ours: BTreeMap<String, Spread>,
    /// The published figures, one a column or none at all.
    pub published: Vec<Option<f64>>,
}

impl TableReport {
    /// On what stores ours are, in words: once where it is one for all.
    fn told_stores(&self) -> String {
        let names: BTreeSet<&String> = self.stores.values().collect();
        match (names.first(), names.len()) {
            (None, _) => String::new(),
            (Some(name), 1) => format!(" on {}", cell(name)),
            _ => {
                let of = |(heading, store): (&String, &String)| format!("{heading} on {}", cell(store));
                format!(" ({})", self.stores.iter().map(of).collect::<Vec<_>>().join("; "))
            }
        }
    }

    /// Whether any row has a figure of ours.
    pub fn is_begun(&self) -> bool {
        self.rows.iter().any(|row| row.seeds > 0)
    }
}

/// Text as a cell of a table takes it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done: u64 = self.rows.iter().map(|row| row.seeds).sum();
        let all = self.rows.len() as u64 * self.seeds;
        let rest = if done == all { String::new() } else { format!(" ({done} of {all} runs are done)") };
        let seeds = self.seeds;
        writeln!(
            f,
            "Ours: mean and deviation of {seeds} seeds{rest}, by probes of frozen encoders{}. Published figures are of other data, and \
             some are accuracies or of encoders that were fine-tuned: their order is what ours is compared with.\n",
            self.told_stores()
        )?;
        // Measures that no row has are left out.
        let known = |measure: &Measure| self.rows.iter().any(|row| row.ours.contains_key(measure.heading()));
        let measures: Vec<Measure> = Measure::ALL.into_iter().filter(known).collect();
        let columns: Vec<String> = (measures.iter().map(|m| format!("ours: {}", m.heading())))
            .chain(self.columns.iter().map(|column| cell(&column.name)))
            .collect();
        writeln!(f, "| | {} |", columns.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(columns.len()))?;
        for row in &self.rows {
            write!(f, "| {} |", cell(&row.name))?;
            for measure in &measures {
                let digits = if measure.is_an_error() { 2 } else { 3 };
                match row.ours.get(measure.heading()) {
                    Some(Spread { mean, deviation: Some(deviation) }) => {
                        write!(f, " {mean:.digits$} ± {deviation:.digits$} |")?;
                    }
                    Some(Spread { mean, deviation: None }) => write!(f, " {mean:.digits$} |")?,
                    None => write!(f, " |")?,
                }
            }
            for column in 0..self.columns.len() {
                match row.published.get(column).copied().flatten() {
                    Some(value) => write!(f, " {value} |")?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        for sentence in &self.orders {
            write!(f, "\n{sentence}\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::TableName;
    use super::*;

    #[test]
    fn a_sheet_sets_ours_beside_the_published_figures_and_tells_of_their_order() {
        let table: TableName = "pcl-1".parse().unwrap();
        let table = table.read().unwrap();
        let names =
            std::iter::once("random weights".to_owned()).chain(table.row.iter().map(|r| r.name.clone()));
        let mut sheet = Sheet::new(&table, 2, names.collect());
        let scores = |expression: f64, pose: f64| -> Scores {
            [(Measure::Expression, expression), (Measure::Pose, pose)].into()
        };
        let scores =
            |expression: f64, pose: f64| Measured { scores: scores(expression, pose), ..Measured::default() };
        sheet.add(0, scores(0.2, 30.0));
        // FAb-Net and PCL alone, in the published order; and pose the other way round than SimCLR and PCL have it.
        sheet.add(1, scores(0.3, 20.0));
        sheet.add(4, scores(0.4, 10.0));
        sheet.add(5, scores(0.5, 12.0));
        sheet.add(5, scores(0.6, 12.0));
        let report = sheet.report();
        let text = report.to_string();
        assert!(text.contains("(5 of 12 runs are done)"), "{text}");
        assert!(
            text.contains("| PCL | 0.550 ± 0.071 | 12.00 ± 0.00 |") && text.contains("| 56.81 |"),
            "{text}"
        );
        assert!(
            text.contains(
                "FER-2013, accuracy in %, beside our expression, mean recall: rank correlation +1.00"
            )
        );
        assert!(
            text.contains(
                "AFLW2000, MAE in degrees, beside our pose, MAE in degrees: rank correlation -1.00"
            )
        );
        assert_eq!(report.rows[5].ours["expression, mean recall"].mean, 0.55);
        assert_eq!(report.rows[5].published[0], Some(56.81));
        assert_eq!(report.rows[1].published[2], None, "FAb-Net has no figure on LFW");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<TableReport>(&json).unwrap(), report);
    }
}
