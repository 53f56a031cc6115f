//! Writes .npz files.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use npyz::{AutoSerialize, WriterBuilder};

/// An .npz file while it is written.
pub(crate) type Npz = npyz::npz::NpzWriter<BufWriter<File>>;

/// A file without arrays yet.
pub(crate) fn npz(path: &Path) -> Npz {
    Npz::new(BufWriter::new(File::create(path).unwrap()))
}

/// Adds an array.
pub(crate) fn write_array<T: AutoSerialize>(
    npz: &mut Npz,
    name: &str,
    shape: &[u64],
    values: impl IntoIterator<Item = T>,
) {
    let mut array =
        npz.array(name, Default::default()).unwrap().default_dtype().shape(shape).begin_nd().unwrap();
    array.extend(values).unwrap();
    array.finish().unwrap();
}
