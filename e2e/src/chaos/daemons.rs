//! etcd and the API server of the lab, as they were found when the run began.

use anyhow::Result;

use crate::daemons::{Daemon, until_served};
use crate::lab::Lab;

/// The two.
#[derive(Debug)]
pub struct Daemons {
    /// The one that stores.
    pub etcd: Daemon,
    /// The one that serves.
    pub api_server: Daemon,
}

impl Daemons {
    /// Looks for them.
    ///
    /// # Errors
    /// When one does not run.
    pub fn find(lab: &Lab) -> Result<Self> {
        Ok(Self { etcd: Daemon::find(lab, "etcd")?, api_server: Daemon::find(lab, "kube-apiserver")? })
    }

    /// Both run as at the beginning, and serve; also right when they do.
    ///
    /// # Errors
    /// When they do not get there.
    pub fn heal(&self, lab: &Lab) -> Result<()> {
        self.etcd.run(lab, &[])?;
        self.api_server.run(lab, &[])?;
        until_served(lab)
    }
}
