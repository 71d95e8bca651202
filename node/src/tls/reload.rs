//! Notices that certificates have changed on disk, and what is to be done about it.
//!
//! Kubernetes and certbot replace a whole folder by turning a link, so files are not
//! watched but read again every few seconds, and compared. [`Watched::look`] decides;
//! [`Reloading`] reads and swaps. Handshakes after that use the new ones, connections
//! stay as they are. New files that cannot be used change nothing: the old ones stay,
//! and an error is logged.

use std::time::Duration;

use metrics::{counter, gauge};
use tokio::sync::watch;

use super::credentials::Made;
use super::files::{Contents, TlsError, TlsFiles};

/// How often the files are read. A change is used after it was seen twice.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) const EXPIRY: &str = "perennial_certificate_expiry_timestamp_seconds";
pub(crate) const RELOADS: &str = "perennial_certificate_reloads_total";

/// What was seen of files so far.
struct Watched<C> {
    used: C,
    /// The last look, if it showed something else than what is used.
    last: Option<Result<C, String>>,
    /// Whether `last` was acted upon, so that it is not again and again.
    settled: bool,
}

/// What to do after a look at the files.
#[derive(Debug, PartialEq, Eq)]
enum Act<C> {
    /// Nothing has changed, or nothing that is not known yet.
    Nothing,
    /// Use these.
    Use(C),
    /// Say that they cannot be read.
    Complain(String),
}

impl<C: PartialEq + Clone> Watched<C> {
    fn new(used: C) -> Self {
        Self {
            used,
            last: None,
            settled: false,
        }
    }

    /// Acts upon what two looks in a row have shown: while a folder is being replaced,
    /// a single one may see the certificate of before with the key of after.
    fn look(&mut self, seen: Result<C, String>) -> Act<C> {
        if seen.as_ref().is_ok_and(|seen| *seen == self.used) {
            self.last = None;
            return Act::Nothing;
        }
        if self.last.as_ref() != Some(&seen) {
            self.last = Some(seen);
            self.settled = false;
            return Act::Nothing;
        }
        if std::mem::replace(&mut self.settled, true) {
            return Act::Nothing;
        }
        match seen {
            Ok(contents) => Act::Use(contents),
            Err(error) => Act::Complain(error),
        }
    }

    /// What [`Act::Use`] said could be used.
    fn accept(&mut self, contents: C) {
        self.used = contents;
        self.last = None;
    }
}

/// Files that are used and looked at again and again.
pub(crate) struct Reloading<T, F> {
    files: TlsFiles,
    /// For the metrics: `client` or `peer`.
    used_for: &'static str,
    make: F,
    watched: Watched<Contents>,
    made: watch::Sender<T>,
}

impl<T, F> Reloading<T, F>
where
    F: Fn(&TlsFiles, &Contents) -> Result<Made<T>, TlsError>,
{
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`TlsError`], which later is only logged.
    pub(crate) fn start(
        files: TlsFiles,
        used_for: &'static str,
        make: F,
    ) -> Result<(Self, watch::Receiver<T>), TlsError> {
        files.warn_of_open_key();
        let contents = files.read()?;
        let Made { value, ends_at } = make(&files, &contents)?;
        gauge!(EXPIRY, "use" => used_for).set(ends_at as f64);
        warn_if_ended(&files, ends_at);
        let (made, receiver) = watch::channel(value);
        let reloading = Self {
            files,
            used_for,
            make,
            watched: Watched::new(contents),
            made,
        };
        Ok((reloading, receiver))
    }

    /// Looks at the files until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        // Small files of a local disk.
        let seen = self.files.read().map_err(|error| error.to_string());
        match self.watched.look(seen) {
            Act::Nothing => {}
            Act::Complain(error) => self.failed(&error),
            Act::Use(contents) => match (self.make)(&self.files, &contents) {
                Ok(Made { value, ends_at }) => {
                    self.watched.accept(contents);
                    self.made.send_replace(value);
                    gauge!(EXPIRY, "use" => self.used_for).set(ends_at as f64);
                    counter!(RELOADS, "use" => self.used_for, "result" => "ok").increment(1);
                    tracing::info!(
                        certificate = %self.files.certificate.path.display(),
                        "new certificates are used for new connections"
                    );
                    warn_if_ended(&self.files, ends_at);
                }
                Err(error) => self.failed(&error.to_string()),
            },
        }
    }

    fn failed(&self, error: &str) {
        counter!(RELOADS, "use" => self.used_for, "result" => "failed").increment(1);
        tracing::error!(
            error,
            "changed certificates cannot be used: those of before stay in use"
        );
    }
}

/// Not an error: its connections may be to those who do not mind, and a clock may
/// be wrong.
fn warn_if_ended(files: &TlsFiles, ends_at: i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    if now.is_ok_and(|now| now.as_secs() as i64 > ends_at) {
        tracing::error!(
            certificate = %files.certificate.path.display(),
            "this certificate has expired: others refuse it until it is renewed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched<&'static str> {
        Watched::new("old")
    }

    #[test]
    fn a_change_is_used_once_it_is_seen_twice() {
        let mut watched = watched();
        assert_eq!(watched.look(Ok("old")), Act::Nothing);
        assert_eq!(watched.look(Ok("new")), Act::Nothing);
        assert_eq!(watched.look(Ok("new")), Act::Use("new"));
        watched.accept("new");
        assert_eq!(watched.look(Ok("new")), Act::Nothing);
        assert_eq!(watched.look(Ok("old")), Act::Nothing);
        assert_eq!(watched.look(Ok("old")), Act::Use("old"));
    }

    #[test]
    fn what_is_seen_only_while_files_are_replaced_is_not_used() {
        let mut watched = watched();
        assert_eq!(watched.look(Ok("half")), Act::Nothing);
        assert_eq!(watched.look(Ok("new")), Act::Nothing);
        assert_eq!(watched.look(Ok("new")), Act::Use("new"));
    }

    #[test]
    fn what_cannot_be_used_is_said_once() {
        let mut watched = watched();
        let gone = || Err("gone".to_owned());
        assert_eq!(watched.look(gone()), Act::Nothing);
        assert_eq!(watched.look(gone()), Act::Complain("gone".to_owned()));
        assert_eq!(watched.look(gone()), Act::Nothing);
        // Not accepted by who tried to use it: not tried again until it changes.
        assert_eq!(watched.look(Ok("bad")), Act::Nothing);
        assert_eq!(watched.look(Ok("bad")), Act::Use("bad"));
        assert_eq!(watched.look(Ok("bad")), Act::Nothing);
        // Back to what is used all the time.
        assert_eq!(watched.look(Ok("old")), Act::Nothing);
        assert_eq!(watched.look(gone()), Act::Nothing);
        assert_eq!(watched.look(gone()), Act::Complain("gone".to_owned()));
    }
}
