//! Archives that depend on nothing but what is in them: sorted as given, one time, no names of people.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// A `.tar.gz` of these files under these names; programs are those that may be run.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn of(files: &[(&str, &Path)], time: u64) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (name, path) in files {
        let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let is_program = *name == super::binaries::PROGRAM;
        append(&mut tar, name, &bytes, if is_program { 0o755 } else { 0o644 }, time)?;
    }
    zipped(&tar.into_inner()?)
}

/// Adds a file that belongs to root.
pub(super) fn append(tar: &mut Builder<impl Write>, name: &str, bytes: &[u8], mode: u32, time: u64) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, bytes).with_context(|| format!("{name} cannot be packed"))
}

/// Compressed, without a time or a name.
pub(crate) fn zipped(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut zip = GzBuilder::new().write(Vec::new(), Compression::best());
    zip.write_all(bytes)?;
    zip.finish().context("gzip does not end")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use super::super::binaries::PROGRAM;
    use super::*;

    #[test]
    fn an_archive_depends_on_what_is_in_it_alone_and_its_program_may_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (license, program, other) = (file("l", 0o600), file("p", 0o700), file("q", 0o644));
        let first = of(&[("LICENSE", &license), (PROGRAM, &program)], 7).unwrap();
        fs::write(&other, "p").unwrap();
        assert_eq!(first, of(&[("LICENSE", &license), (PROGRAM, &other)], 7).unwrap());

        let mut text = Vec::new();
        flate2::read::GzDecoder::new(first.as_slice()).read_to_end(&mut text).unwrap();
        let mut tar = tar::Archive::new(text.as_slice());
        let entries = tar.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let name = entry.path().unwrap().display().to_string();
            (name, header.mode().unwrap(), header.mtime().unwrap(), header.uid().unwrap())
        });
        let want = [("LICENSE".to_owned(), 0o644, 7, 0), (PROGRAM.to_owned(), 0o755, 7, 0)];
        assert_eq!(entries.collect::<Vec<_>>(), want);
    }
}
