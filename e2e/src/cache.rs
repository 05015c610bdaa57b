//! In: what a built thing is made of. Out: the folder that holds it, built at most once for each make-up,
//! however many checkouts ask at a time.
//!
//! ```text
//! <root>/<kind>/<name>-<key>/   complete: it got this name only when its building was over
//! <root>/building/…             under way; what a killed build leaves here the next one removes
//! <root>/locks/<name>-<key>     held while it is built
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The folder of built parts that all checkouts share.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What a thing is made of, as one number: equal keys mean an equal thing.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

impl Key {
    /// A key that so far holds a name only.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Sha256::new()).with(name)
    }

    /// Adds one ingredient. Lengths go in too, so that `ab` + `c` differs from `a` + `bc`.
    #[must_use]
    pub fn with(mut self, ingredient: impl AsRef<[u8]>) -> Self {
        let bytes = ingredient.as_ref();
        self.0.update(bytes.len().to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds every file below a folder, names and contents.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn with_folder(mut self, folder: &Path) -> Result<Self> {
        for file in files_below(folder)? {
            let name = file.strip_prefix(folder).unwrap_or(&file);
            let content = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            self = self.with(name.as_os_str().as_encoded_bytes()).with(content);
        }
        Ok(self)
    }

    /// Sixteen hexadecimal digits.
    #[must_use]
    pub fn digits(&self) -> String {
        hex::encode(self.0.clone().finalize())[..16].to_owned()
    }
}

impl Cache {
    /// `$RESILIENCE_LAB_CACHE`, or `resilience-lab` in the user's cache folder.
    ///
    /// # Errors
    /// When neither variable nor home is set.
    pub fn open() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = variable("RESILIENCE_LAB_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("resilience-lab")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache/resilience-lab")))
            .context("neither RESILIENCE_LAB_CACHE nor HOME is set: set one, the lab keeps what it builds there")?;
        Ok(Self { root })
    }

    /// A cache in this folder.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where this thing is, or would be.
    #[must_use]
    pub fn path(&self, kind: &str, name: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(format!("{name}-{}", key.digits()))
    }

    /// The folder of this thing; builds it when it is not there. `build` fills an empty folder.
    ///
    /// # Errors
    /// What `build` says, or that the cache cannot be written.
    pub fn get(&self, kind: &str, name: &str, key: &Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.path(kind, name, key);
        if place.is_dir() {
            return Ok(place);
        }
        let _lock = self.lock(name, key)?;
        // Another checkout may have built it while this one waited.
        if place.is_dir() {
            return Ok(place);
        }
        let building = self.root.join("building").join(format!("{name}-{}", key.digits()));
        // Only the holder of the lock is here: what lies there is of a build that was killed.
        if building.exists() {
            fs::remove_dir_all(&building).with_context(|| format!("{} cannot be removed", building.display()))?;
        }
        make(&building)?;
        build(&building)?;
        make(&self.root.join(kind))?;
        fs::rename(&building, &place)
            .with_context(|| format!("{} cannot be renamed to {}", building.display(), place.display()))?;
        Ok(place)
    }

    fn lock(&self, name: &str, key: &Key) -> Result<File> {
        let folder = self.root.join("locks");
        make(&folder)?;
        let path = folder.join(format!("{name}-{}", key.digits()));
        let file = File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        file.lock().with_context(|| format!("{} cannot be locked", path.display()))?;
        Ok(file)
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))
}

/// Every file below a folder, sorted by path.
///
/// # Errors
/// When a folder cannot be read.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{} cannot be read", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn count(cache: &Cache, key: &Key, builds: &Cell<u32>) -> Result<PathBuf> {
        cache.get("parts", "thing", key, |folder| {
            builds.set(builds.get() + 1);
            fs::write(folder.join("bin"), "x")?;
            Ok(())
        })
    }

    #[test]
    fn a_thing_is_built_once_for_each_make_up() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_path_buf());
        let builds = Cell::new(0);
        let one = count(&cache, &Key::new("thing").with("1"), &builds).unwrap();
        count(&cache, &Key::new("thing").with("1"), &builds).unwrap();
        assert_eq!(builds.get(), 1);
        assert_ne!(one, count(&cache, &Key::new("thing").with("2"), &builds).unwrap());
        assert_eq!(builds.get(), 2);
    }

    #[test]
    fn a_build_that_fails_or_is_killed_leaves_nothing_that_looks_complete() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_path_buf());
        let key = Key::new("thing");
        let failed = cache.get("parts", "thing", &key, |folder| {
            fs::write(folder.join("half"), "x")?;
            anyhow::bail!("no space")
        });
        assert!(failed.is_err());
        let place = cache.get("parts", "thing", &key, |folder| Ok(fs::write(folder.join("whole"), "x")?)).unwrap();
        assert!(place.join("whole").exists() && !place.join("half").exists());
    }

    #[test]
    fn a_key_changes_with_the_name_and_content_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let key = || Key::new("x").with_folder(folder.path()).unwrap().digits();
        fs::write(folder.path().join("a"), "1").unwrap();
        let first = key();
        fs::write(folder.path().join("a"), "2").unwrap();
        let second = key();
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert!(first != second && second != key());
    }
}
