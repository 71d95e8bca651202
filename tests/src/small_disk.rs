//! A file system in memory with a size, to run out of space on. Only root can mount it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

/// What fills it up.
const BALLAST: &str = "ballast";

/// The file system; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mounted_at: TempDir,
}

impl SmallDisk {
    /// One of this size, as `4m`; `None` where mounting is not allowed.
    ///
    /// # Errors
    /// When there is no place to mount it at.
    pub fn mount(size: &str) -> Result<Option<Self>> {
        let mounted_at = TempDir::with_prefix("perennial-disk-")?;
        let disk = Self { mounted_at };
        Ok(disk.mount_with(&format!("size={size}")).then_some(disk))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mounted_at.path()
    }

    /// Whether it could be given another size.
    pub fn resize(&self, size: &str) -> bool {
        self.mount_with(&format!("remount,size={size}"))
    }

    /// Leaves no room.
    ///
    /// # Errors
    /// When nothing can be written at all.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.path().join(BALLAST))?;
        let block = [0; 4096];
        // Until it is full.
        while ballast.write_all(&block).is_ok() {}
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.path().join(BALLAST))?)
    }

    fn mount_with(&self, options: &str) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        mount
            .arg(self.path())
            .output()
            .is_ok_and(|done| done.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that still runs after a failed test holds files open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
