//! What is made of files, and made again when they change: certificates are renewed
//! without a restart.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use super::TlsError;

/// How often the files are looked at. By polling: what mounts secrets swaps symbolic
/// links, of which file watchers have many stories to tell.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The newest that could be made of some files. Clones share it.
#[derive(Debug)]
pub struct Reloaded<T> {
    current: watch::Receiver<Arc<T>>,
    _looking: Option<Arc<AbortOnDropHandle<()>>>,
}

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self {
            current: self.current.clone(),
            _looking: self._looking.clone(),
        }
    }
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// What `make` makes of these files now, and again a few seconds after they changed.
    /// What can't be used is told once and tried again; meanwhile the old one stays. Has
    /// to be called within a runtime.
    ///
    /// # Errors
    /// When nothing can be made of them now.
    pub fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, TlsError> + Clone + Send + 'static,
    ) -> Result<Self, TlsError> {
        let seen = contents(&files);
        let (newest, current) = watch::channel(Arc::new(make()?));
        let looking = tokio::spawn(look(files, seen, make, newest));
        Ok(Self {
            current,
            _looking: Some(Arc::new(AbortOnDropHandle::new(looking))),
        })
    }

    /// What comes of no files, and stays.
    #[must_use]
    pub fn fixed(it: T) -> Self {
        Self {
            current: watch::channel(Arc::new(it)).1,
            _looking: None,
        }
    }

    /// The newest.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.borrow())
    }
}

type Contents = Vec<Result<Vec<u8>, io::ErrorKind>>;

fn contents(files: &[PathBuf]) -> Contents {
    let read = |file| fs::read(file).map_err(|error| error.kind());
    files.iter().map(read).collect()
}

async fn look<T: Send + Sync + 'static>(
    files: Vec<PathBuf>,
    mut seen: Contents,
    make: impl Fn() -> Result<T, TlsError> + Clone + Send + 'static,
    newest: watch::Sender<Arc<T>>,
) {
    let count = |outcome| {
        metrics::counter!("drivers_tls_reloads_total", "outcome" => outcome).increment(1);
    };
    let mut told = false;
    loop {
        sleep(LOOK_EVERY).await;
        let looked = spawn_blocking({
            let (files, make, seen) = (files.clone(), make.clone(), seen.clone());
            // Read before it is made: what changes in between is found by the next look.
            move || {
                let now = contents(&files);
                (now != seen).then(|| (now, make()))
            }
        });
        match looked.await {
            Ok(Some((now, Ok(made)))) => {
                seen = now;
                told = false;
                newest.send_replace(Arc::new(made));
                count("used");
                let first = files.first().map(|file| file.display());
                tracing::info!(
                    file = first.map(tracing::field::display),
                    "a renewed certificate is used"
                );
            }
            Ok(Some((_, Err(error)))) => {
                if !told {
                    count("refused");
                    tracing::warn!(%error, "a renewed certificate can't be used; the one before stays in use");
                }
                told = true;
            }
            // As before again, or never otherwise: the next failure is another one.
            Ok(None) => told = false,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::time::timeout;

    use super::*;

    /// A number in a file; any other text is no certificate.
    fn number(path: PathBuf) -> Result<Reloaded<u32>, TlsError> {
        Reloaded::new(vec![path.clone()], move || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let kind = "number";
            let missing = |_| TlsError::Missing {
                path: path.clone(),
                kind,
            };
            text.parse().map_err(missing)
        })
    }

    async fn becomes(reloaded: &Reloaded<u32>, expected: u32) {
        let becoming = async {
            while *reloaded.current() != expected {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(LOOK_EVERY * 3, becoming).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_that_can_be_used_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "").unwrap();
        assert!(number(path.clone()).is_err());

        fs::write(&path, "1").unwrap();
        let reloaded = number(path.clone()).unwrap();
        let clone = reloaded.clone();
        assert_eq!(*clone.current(), 1);
        drop(reloaded);
        for (half, whole) in [("2x", "2"), ("", "3")] {
            fs::write(&path, half).unwrap();
            let before = *clone.current();
            sleep(LOOK_EVERY * 3).await;
            assert_eq!(*clone.current(), before);
            fs::write(&path, whole).unwrap();
            becomes(&clone, whole.parse().unwrap()).await;
        }
        fs::remove_file(&path).unwrap();
        sleep(LOOK_EVERY * 3).await;
        assert_eq!(*clone.current(), 3);
    }
}
