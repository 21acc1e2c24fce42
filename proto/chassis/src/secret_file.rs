//! The file of the bearer secret that internal callers show; see [`Secret`].

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::{
    embedded::{OpenError, sync_folder},
    identity::Secret,
};

/// The secret in this file: 64 hex digits. Where there is no file, one is made of 32
/// random bytes, readable by its owner alone. Programs that start at once and share
/// the file end up with the same secret.
///
/// # Errors
/// When the file can't be read or written, others may read it, or it holds no secret.
pub fn read_or_make(path: &Path) -> Result<Secret, OpenError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(path)?;
            fs::read_to_string(path)
        }
        read => read,
    };
    let text = text.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => OpenError::damaged(path, "it is not text"),
        _ => OpenError::io(path, error),
    })?;
    let mode = fs::metadata(path)
        .map_err(|error| OpenError::io(path, error))?
        .mode();
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(OpenError::NotPrivate { path });
    }
    let text = text.trim();
    let secret = hex::decode(text)
        .ok()
        .filter(|bytes| bytes.len() == 32)
        .and_then(|_| Secret::new(text).ok());
    secret.ok_or_else(|| OpenError::damaged(path, "it is not 64 hex digits"))
}

fn make(path: &Path) -> Result<(), OpenError> {
    let unfinished = path.with_extension(format!("{:016x}.new", rand::random::<u64>()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| {
            writeln!(file, "{}", hex::encode(rand::random::<[u8; 32]>()))?;
            file.sync_all()
        });
    // Unlike a rename a link never replaces the secret that another program made meanwhile.
    let linked = written.and_then(|()| fs::hard_link(&unfinished, path));
    // What stays behind is of no use to anybody.
    let _ = fs::remove_file(&unfinished);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(OpenError::io(path, error)),
        Ok(()) => sync_folder(match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{os::unix::fs::PermissionsExt as _, thread};

    use super::*;

    #[test]
    fn it_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        read_or_make(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 64);
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);

        read_or_make(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_or_make(&path).unwrap_err();
        assert!(matches!(error, OpenError::NotPrivate { .. }), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "abc").unwrap();
        let error = read_or_make(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }

    #[test]
    fn programs_that_start_at_once_share_one() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = folder.path().join(round.to_string());
            let seen = thread::scope(|threads| {
                let start = || {
                    read_or_make(&path).unwrap();
                    fs::read_to_string(&path).unwrap()
                };
                let all = [(); 4].map(|()| threads.spawn(start));
                all.map(|thread| thread.join().unwrap())
            });
            assert!(seen.iter().all(|secret| *secret == seen[0]), "{seen:?}");
        }
    }
}
