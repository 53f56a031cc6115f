//! A table as it is shown: ours, the published figures, and whether their order holds.

use std::fmt;

use serde_json::{Value, json};

use super::measure::{Measure, Scores};
use super::published::Table;
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
}

impl Sheet {
    /// Nothing known yet of these rows, of which the last ones are the table's.
    pub fn new(table: &Table, seeds: u64, names: Vec<String>) -> Self {
        let scores = vec![Vec::new(); names.len()];
        Self { table: table.clone(), seeds, names, scores }
    }

    /// A seed's scores of a row.
    pub fn add(&mut self, row: usize, scores: Scores) {
        self.scores[row].push(scores);
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

    /// The table for programs.
    pub fn json(&self) -> Value {
        let rows = (0..self.names.len()).map(|row| {
            let ours: serde_json::Map<String, Value> = Measure::ALL
                .into_iter()
                .filter_map(|measure| {
                    let Spread { mean, deviation } = self.spread(row, measure)?;
                    Some((measure.heading().to_owned(), json!({ "mean": mean, "deviation": deviation })))
                })
                .collect();
            json!({
                "name": self.names[row],
                "seeds": self.scores[row].len(),
                "ours": ours,
                "published": self.published(row),
            })
        });
        json!({
            "title": self.table.title,
            "columns": self.table.published.iter().map(|column| &column.name).collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "orders": self.orders(),
        })
    }

    /// For each published column, whether its order is ours as well, in a sentence.
    fn orders(&self) -> Vec<String> {
        let of_column = |(place, column): (usize, &super::Column)| {
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
            // An error is better where it is less, published or ours.
            let (published_errors, our_errors) = (column.name.contains("MAE"), column.measure.is_an_error());
            let better = |value: f64, is_error: bool| if is_error { -value } else { value };
            let theirs: Vec<f64> = pairs.iter().map(|p| better(p.1, published_errors)).collect();
            let ours: Vec<f64> = pairs.iter().map(|p| better(p.2.mean, our_errors)).collect();
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

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}\n", self.table.title)?;
        let done = self.scores.iter().map(Vec::len).sum::<usize>();
        let all = self.names.len() as u64 * self.seeds;
        let rest =
            if done as u64 == all { String::new() } else { format!(" ({done} of {all} runs are done)") };
        writeln!(
            f,
            "Ours: mean and deviation of {} seeds{rest}. Published figures are of other data.\n",
            self.seeds
        )?;
        let headings: Vec<String> =
            Measure::ALL.into_iter().map(|m| format!("ours: {}", m.heading())).collect();
        let columns: Vec<&str> = headings
            .iter()
            .map(String::as_str)
            .chain(self.table.published.iter().map(|column| column.name.as_str()))
            .collect();
        writeln!(f, "| | {} |", columns.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(columns.len()))?;
        for (row, name) in self.names.iter().enumerate() {
            write!(f, "| {name} |")?;
            for measure in Measure::ALL {
                let digits = if measure.is_an_error() { 2 } else { 3 };
                match self.spread(row, measure) {
                    Some(Spread { mean, deviation: Some(deviation) }) => {
                        write!(f, " {mean:.digits$} ± {deviation:.digits$} |")?;
                    }
                    Some(Spread { mean, deviation: None }) => write!(f, " {mean:.digits$} |")?,
                    None => write!(f, " |")?,
                }
            }
            for column in 0..self.table.published.len() {
                match self.published(row).get(column).filter(|v| v.is_finite()) {
                    Some(value) => write!(f, " {value} |")?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        for sentence in self.orders() {
            write!(f, "\n{sentence}")?;
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
        sheet.add(0, scores(0.2, 30.0));
        // FAb-Net and PCL alone, in the published order; and pose the other way round than SimCLR and PCL have it.
        sheet.add(1, scores(0.3, 20.0));
        sheet.add(4, scores(0.4, 10.0));
        sheet.add(5, scores(0.5, 12.0));
        sheet.add(5, scores(0.6, 12.0));
        let text = sheet.to_string();
        assert!(text.contains("(5 of 12 runs are done)"), "{text}");
        assert!(text.contains("| PCL | 0.550 ± 0.071 | |") && text.contains("| 56.81 |"), "{text}");
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
        let json = sheet.json();
        assert_eq!(json["rows"][5]["ours"]["expression, mean recall"]["mean"], 0.55);
        assert_eq!(json["rows"][5]["published"][0], 56.81);
    }
}
