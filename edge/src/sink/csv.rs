//! CSV with OpenFace's column names, so that scripts that read its files read ours.

use std::fmt::{self, Arguments, Write as _};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use csv::Writer;
use semblance_face::landmarks::LANDMARKS;

use super::{File, Sink, SinkError};
use crate::prediction::{FrameReport, Labels, Pose, Prediction};

/// Writes a row a face a frame, and a row for a frame without a face.
///
/// OpenFace's columns, with its units and signs, in its order:
///
/// | column | what it is here |
/// |---|---|
/// | `frame` | number of the frame, from 1 as OpenFace counts: one more than in JSON |
/// | `face_id` | the track, from 1; 0 in a row without a face |
/// | `timestamp` | seconds on the source's own clock |
/// | `confidence` | the finder's score, in `[0, 1]` |
/// | `success` | 1 where the face was seen in this frame; 0 where it is taken to be where it was, or there is none |
/// | `pose_Rx`, `pose_Ry`, `pose_Rz` | [`openface_pose`], in radians, where the bundle finds landmarks |
/// | `x_0`…`x_67`, `y_0`…`y_67` | landmarks in pixels of the source, where they were asked for |
/// | `AU01_r`… | intensity in `[0, 5]`: five times the probability, since our heads tell how probable a unit is |
/// | `AU01_c`… | presence: 1 where the probability is at least a half |
///
/// Gaze, `pose_T*` and the 3D landmarks, for which the camera would have to be known, are left out.
///
/// Columns of our own follow: `expression`, `p_<label>` for each, `valence`, `arousal`, `user`, and the face's box in
/// pixels, `box_x`, `box_y`, `box_w`, `box_h`. What is not known is 0 in OpenFace's columns, as OpenFace has it, and empty
/// in ours.
pub struct CsvSink {
    name: String,
    out: Writer<BufWriter<Box<dyn Write + Send>>>,
    labels: Labels,
    text: String,
}

impl fmt::Debug for CsvSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CsvSink").field(&self.name).finish()
    }
}

impl CsvSink {
    /// Opens the file, or standard output, and writes the header for predictions with these labels; a file that is there
    /// is replaced, or continued where `append` is set.
    ///
    /// # Errors
    /// [`SinkError::Io`] where the file cannot be created.
    pub fn open(file: Option<&Path>, labels: &Labels, append: bool) -> Result<Self, SinkError> {
        Self::to(File::open(file, append)?, labels)
    }

    fn to(File { name, out, first_line }: File, labels: &Labels) -> Result<Self, SinkError> {
        let mut labels = labels.clone();
        // OpenFace sorts its units.
        labels.au.sort();
        let mut out = Writer::from_writer(BufWriter::new(out));
        let header = header(&labels);
        match first_line {
            None => out.write_record(header).map_err(|e| SinkError::writing(&name, io_error(e)))?,
            Some(line) if line == header.join(",") => {}
            Some(_) => {
                let reason = "it holds other columns: name another file, or move this one away";
                let source = io::Error::new(io::ErrorKind::AlreadyExists, reason);
                return Err(SinkError::Io { to: name, source });
            }
        }
        Ok(Self { name, out, labels, text: String::new() })
    }

    /// `face` is none in a frame without one.
    fn row(&mut self, report: &FrameReport, face: Option<&Prediction>) -> Result<(), csv::Error> {
        let labels = std::mem::take(&mut self.labels);
        let result = self.fields(&labels, report, face);
        self.labels = labels;
        result?;
        self.out.write_record(None::<&[u8]>)
    }

    fn fields(
        &mut self,
        labels: &Labels,
        report: &FrameReport,
        face: Option<&Prediction>,
    ) -> Result<(), csv::Error> {
        let pose = face.and_then(|f| f.pose);
        let seen = face.is_some() && (pose.is_some() || !labels.pose);
        self.field(format_args!("{}", report.frame + 1))?;
        self.field(format_args!("{}", face.map_or(0, |f| f.track)))?;
        self.field(format_args!("{:.3}", finite(report.t)))?;
        self.number(3, face.map_or(0.0, |f| f.score))?;
        self.field(format_args!("{}", u8::from(seen)))?;
        if labels.pose {
            for radians in pose.map_or([0.0; 3], openface_pose) {
                self.number(4, radians)?;
            }
        }
        if labels.landmarks {
            let points = face.and_then(|f| f.landmarks.as_ref());
            for (axis, i) in (0..2).flat_map(|axis| (0..LANDMARKS).map(move |i| (axis, i))) {
                self.number(1, points.map_or(0.0, |points| points.0[i][axis]))?;
            }
        }
        let au = |name: &str| value(face.and_then(|f| f.au.as_ref())?.iter(), name);
        for name in &labels.au {
            self.number(2, 5.0 * au(name).unwrap_or(0.0))?;
        }
        for name in &labels.au {
            self.field(format_args!("{}", u8::from(au(name).is_some_and(|p| p >= 0.5))))?;
        }
        let expression = face.and_then(|f| f.expression.as_ref());
        if !labels.expression.is_empty() {
            self.out.write_field(expression.map_or("", |e| e.label()))?;
        }
        for name in &labels.expression {
            self.known(4, expression.and_then(|e| value(e.p.iter(), name)))?;
        }
        if labels.valence_arousal {
            self.known(4, face.and_then(|f| f.valence))?;
            self.known(4, face.and_then(|f| f.arousal))?;
        }
        self.out.write_field(face.and_then(|f| f.user.as_deref()).unwrap_or(""))?;
        for i in 0..4 {
            self.known(1, face.map(|f| f.bbox[i]))?;
        }
        Ok(())
    }

    fn field(&mut self, value: Arguments<'_>) -> Result<(), csv::Error> {
        self.text.clear();
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(value);
        self.out.write_field(&self.text)
    }

    /// A value that is 0 where it is no number.
    fn number(&mut self, digits: usize, value: f32) -> Result<(), csv::Error> {
        self.field(format_args!("{:.digits$}", finite(f64::from(value))))
    }

    /// A value that is empty where it is not known or no number.
    fn known(&mut self, digits: usize, value: Option<f32>) -> Result<(), csv::Error> {
        match value.filter(|v| v.is_finite()) {
            Some(value) => self.number(digits, value),
            None => self.out.write_field(""),
        }
    }
}

impl Sink for CsvSink {
    fn write(&mut self, report: &FrameReport) -> Result<(), SinkError> {
        let mut result = Ok(());
        if report.faces.is_empty() {
            result = self.row(report, None);
        }
        for face in &report.faces {
            result = result.and_then(|()| self.row(report, Some(face)));
        }
        result.map_err(|e| SinkError::writing(&self.name, io_error(e)))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.out.flush().map_err(|e| SinkError::writing(&self.name, e))
    }
}

/// The names of the columns; the units of `labels` are sorted.
fn header(labels: &Labels) -> Vec<String> {
    let mut names: Vec<String> =
        ["frame", "face_id", "timestamp", "confidence", "success"].map(str::to_owned).to_vec();
    let mut add = |more: &[&str]| names.extend(more.iter().map(|&name| name.to_owned()));
    if labels.pose {
        add(&["pose_Rx", "pose_Ry", "pose_Rz"]);
    }
    if labels.landmarks {
        names.extend(["x", "y"].iter().flat_map(|axis| (0..LANDMARKS).map(move |i| format!("{axis}_{i}"))));
    }
    names.extend(["r", "c"].iter().flat_map(|kind| labels.au.iter().map(move |au| format!("{au}_{kind}"))));
    if !labels.expression.is_empty() {
        names.push("expression".to_owned());
        names.extend(labels.expression.iter().map(|label| format!("p_{label}")));
    }
    let mut add = |more: &[&str]| names.extend(more.iter().map(|&name| name.to_owned()));
    if labels.valence_arousal {
        add(&["valence", "arousal"]);
    }
    add(&["user", "box_x", "box_y", "box_w", "box_h"]);
    names
}

/// Pitch, yaw and roll in radians, as OpenFace writes them: `pose_Rx` is positive where the face looks down, `pose_Ry` where
/// it looks to the picture's left, `pose_Rz` where the head is tilted clockwise in the picture.
///
/// OpenFace's axes are x to the picture's right, y down, z away from the camera, and its angles those of `R = Rx Ry Rz`;
/// [`semblance_face::HeadPose`] is, on the same axes, `R = Rz(roll) Ry(-yaw) Rx(-pitch)`. Where a head turns about one axis
/// only, its angle stays as it is but for the sign.
pub fn openface_pose(pose: Pose) -> [f32; 3] {
    let [(sp, cp), (sy, cy), (sr, cr)] =
        [-pose.pitch, -pose.yaw, pose.roll].map(|degrees| f64::from(degrees).to_radians().sin_cos());
    let (r00, r01, r02) = (cr * cy, cr * sy * sp - sr * cp, cr * sy * cp + sr * sp);
    let (r12, r22) = (sr * sy * cp - cr * sp, cy * cp);
    [(-r12).atan2(r22), r02.clamp(-1.0, 1.0).asin(), (-r01).atan2(r00)].map(|v| v as f32)
}

fn value<'a>(mut scores: impl Iterator<Item = (&'a str, f32)>, name: &str) -> Option<f32> {
    scores.find(|(label, _)| *label == name).map(|(_, value)| value)
}

/// No NaN is ever written; nor is the sign of a zero.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value + 0.0 } else { 0.0 }
}

fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::prediction::{ExpressionPrediction, LandmarkPoints, Scores, StageMillis};

    fn scores(pairs: &[(&str, f32)]) -> Scores {
        let labels: Vec<String> = pairs.iter().map(|(name, _)| (*name).to_owned()).collect();
        Scores::new(labels.into(), &pairs.iter().map(|(_, v)| *v).collect::<Vec<_>>())
    }

    fn labels() -> Labels {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Labels {
            bundle: "test".to_owned(),
            expression: names(&["neutral", "happy"]),
            valence_arousal: true,
            au: names(&["AU12", "AU01"]),
            pose: true,
            landmarks: true,
        }
    }

    fn face() -> Prediction {
        Prediction {
            t: 0.48,
            frame: 12,
            track: 3,
            user: Some(Arc::from("Ada, \"countess\"\nof Lovelace")),
            bbox: [1.5, -2.0, 30.0, 40.5],
            score: 0.875,
            pose: Some(Pose { yaw: 0.0, pitch: 30.0, roll: 0.0 }),
            landmarks: Some(LandmarkPoints(std::array::from_fn(|i| [i as f32, 100.0 + i as f32]))),
            expression: Some(ExpressionPrediction { p: scores(&[("neutral", 0.25), ("happy", 0.75)]) }),
            valence: Some(0.5),
            arousal: Some(-0.25),
            au: Some(scores(&[("AU12", 0.9), ("AU01", 0.2)])),
            adapted: false,
            smoothing: None,
            truth: None,
            ms: StageMillis::default(),
        }
    }

    fn report(frame: u64, faces: Vec<Prediction>) -> FrameReport {
        FrameReport { t: frame as f64 / 25.0, frame, size: [640, 480], faces, ..FrameReport::default() }
    }

    /// Writes the reports and reads the rows back.
    fn rows(labels: &Labels, reports: &[FrameReport]) -> Vec<BTreeMap<String, String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = CsvSink::open(Some(file.path()), labels, false).unwrap();
        reports.iter().for_each(|report| sink.write(report).unwrap());
        sink.finish().unwrap();
        csv::Reader::from_path(file.path()).unwrap().deserialize().map(Result::unwrap).collect()
    }

    #[test]
    fn columns_are_openfaces_in_its_order_and_then_ours() {
        let plain = Labels { landmarks: false, ..labels() };
        let file = tempfile::NamedTempFile::new().unwrap();
        CsvSink::open(Some(file.path()), &plain, false).unwrap().finish().unwrap();
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap().trim_end(),
            "frame,face_id,timestamp,confidence,success,pose_Rx,pose_Ry,pose_Rz,AU01_r,AU12_r,AU01_c,AU12_c,\
             expression,p_neutral,p_happy,valence,arousal,user,box_x,box_y,box_w,box_h"
        );
        let all = header(&labels());
        assert_eq!((all[8].as_str(), all[75].as_str(), all[76].as_str()), ("x_0", "x_67", "y_0"));
        assert_eq!(all[8 + 2 * 68], "AU12_r");
        let least = header(&Labels::default());
        assert_eq!(least.len(), 5 + 5, "{least:?}");
    }

    #[test]
    fn a_file_is_continued_under_its_own_header_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = |labels: &Labels| CsvSink::open(Some(file.path()), labels, true);
        for frame in 0..2 {
            let mut sink = open(&labels()).unwrap();
            sink.write(&report(frame, vec![face()])).unwrap();
            sink.finish().unwrap();
        }
        let rows = csv::Reader::from_path(file.path()).unwrap().into_records().map(Result::unwrap).count();
        assert_eq!(rows, 2, "one header, two rows");
        let error = open(&Labels { landmarks: false, ..labels() }).unwrap_err().to_string();
        assert!(error.contains("other columns"), "{error}");
    }

    #[test]
    fn a_face_and_a_frame_without_one_come_back_as_they_were() {
        let rows = rows(&labels(), &[report(12, vec![face()]), report(13, Vec::new())]);
        assert_eq!(rows.len(), 2);
        let expect = |row: &BTreeMap<String, String>, pairs: &[(&str, &str)]| {
            for (column, value) in pairs {
                assert_eq!(row[*column], *value, "{column}");
            }
        };
        expect(
            &rows[0],
            &[
                ("frame", "13"),
                ("face_id", "3"),
                ("timestamp", "0.480"),
                ("confidence", "0.875"),
                ("success", "1"),
                ("pose_Rx", "-0.5236"),
                ("pose_Ry", "0.0000"),
                ("pose_Rz", "0.0000"),
                ("x_67", "67.0"),
                ("y_0", "100.0"),
                ("AU12_r", "4.50"),
                ("AU12_c", "1"),
                ("AU01_r", "1.00"),
                ("AU01_c", "0"),
                ("expression", "happy"),
                ("p_happy", "0.7500"),
                ("valence", "0.5000"),
                ("arousal", "-0.2500"),
                ("user", "Ada, \"countess\"\nof Lovelace"),
                ("box_y", "-2.0"),
                ("box_h", "40.5"),
            ],
        );
        expect(
            &rows[1],
            &[
                ("frame", "14"),
                ("face_id", "0"),
                ("timestamp", "0.520"),
                ("success", "0"),
                ("pose_Rx", "0.0000"),
                ("x_0", "0.0"),
                ("AU12_r", "0.00"),
                ("expression", ""),
                ("valence", ""),
                ("box_x", ""),
            ],
        );
    }

    #[test]
    fn a_face_that_was_not_seen_is_no_success_and_nan_is_not_written() {
        let lost = Prediction { pose: None, landmarks: None, ..face() };
        let mut odd = face();
        odd.score = f32::NAN;
        odd.valence = Some(f32::INFINITY);
        odd.bbox[0] = f32::NAN;
        odd.pose = Some(Pose { yaw: f32::NAN, pitch: 0.0, roll: 0.0 });
        let rows = rows(&labels(), &[report(0, vec![lost, odd])]);
        assert_eq!((rows[0]["success"].as_str(), rows[1]["success"].as_str()), ("0", "1"));
        for text in rows.iter().flat_map(BTreeMap::values) {
            assert!(!["nan", "inf"].iter().any(|bad| text.to_lowercase().contains(bad)), "{text}");
        }
        assert_eq!((rows[1]["confidence"].as_str(), rows[1]["valence"].as_str()), ("0.000", ""));
    }

    /// OpenFace's rotation, `Rx Ry Rz` on axes x right, y down, z away from the camera, applied to a vector.
    fn openface_rotated([rx, ry, rz]: [f32; 3], v: [f64; 3]) -> [f64; 3] {
        let turn = |angle: f32, [a, b]: [f64; 2]| {
            let (s, c) = f64::from(angle).sin_cos();
            [c * a - s * b, s * a + c * b]
        };
        let [x, y] = turn(rz, [v[0], v[1]]);
        let [z, x] = turn(ry, [v[2], x]);
        let [y, z] = turn(rx, [y, z]);
        [x, y, z]
    }

    #[test]
    fn the_head_faces_where_it_faced() {
        for (yaw, pitch, roll) in [(20.0, 0.0, 0.0), (0.0, 15.0, 0.0), (0.0, 0.0, 25.0), (-40.0, 20.0, -15.0)]
        {
            let angles = openface_pose(Pose { yaw, pitch, roll });
            let single = [-pitch, -yaw, roll].iter().filter(|v| **v != 0.0).count() == 1;
            if single {
                for (got, degrees) in angles.iter().zip([-pitch, -yaw, roll]) {
                    assert!((got.to_degrees() - degrees).abs() < 1e-3, "{angles:?}");
                }
            }
            // A face looks against z. By HeadPose's own words: pitched up, then turned to the picture's right, then rolled
            // clockwise; worked out on axes x right, y up, z towards the camera.
            let [y, p, r] = [yaw, pitch, roll].map(|v: f32| f64::from(v).to_radians());
            let pitched = [0.0, p.sin(), p.cos()];
            let turned = [pitched[2] * y.sin(), pitched[1], pitched[2] * y.cos()];
            let rolled = [
                turned[0] * r.cos() + turned[1] * r.sin(),
                turned[1] * r.cos() - turned[0] * r.sin(),
                turned[2],
            ];
            let got = openface_rotated(angles, [0.0, 0.0, -1.0]);
            let expected = [rolled[0], -rolled[1], -rolled[2]];
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {expected:?}");
            // And its crown, which tells roll, leans as it did: clockwise is to the right.
            let crown = openface_rotated(angles, [0.0, -1.0, 0.0]);
            assert!(roll == 0.0 || (crown[0] > 0.0) == (roll > 0.0), "{crown:?}");
        }
    }
}
