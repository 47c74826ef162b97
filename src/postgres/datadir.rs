//! The data directory as a whole: what it is, setting it aside, emptying it.

use std::fs::{self, DirEntry, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::durable::{self, FileError, at};
use super::{control, pidfile};
use crate::core::database::DataDir;

/// Names that PostgreSQL, Patroni and we create at the top of a data directory, beside `pg_*`.
/// An interrupted base backup holds nothing else.
const KNOWN_NAMES: [&str; 15] = [
    "PG_VERSION",
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "base",
    "current_logfiles",
    "global",
    "log",
    "lost+found",
    "patroni.dynamic.json",
    TRIED,
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
];
/// Base backups leave out what begins so.
const TRIED: &str = "pgsql_tmp.pgvigil";
/// More databases than this are not counted.
const FOLDERS_MAX: usize = 100_000;
/// A start writes about as much.
const ROOM_BYTES: usize = 16 * 1024;
const KNOWN_PREFIXES: [&str; 3] = ["pg_", "postgresql.", "postmaster."];

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is neither a PostgreSQL data directory nor what is left of one: {why}")]
    Foreign { path: PathBuf, why: String },
    #[error("{path} is in use by process {pid}")]
    InUse { path: PathBuf, pid: i32 },
}

/// Says what the directory is. Reads a few small files; never an error: what cannot be read is
/// unusable, and the reason says so.
pub fn inspect(data_dir: &Path) -> DataDir {
    let unusable = |reason: String| DataDir::Unusable { reason };
    let place = data_dir.display();
    match entries(data_dir) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => return DataDir::Empty,
        Err(e) => return unusable(format!("{e}: {}", e.source)),
        Ok(list) if list.iter().all(is_mount_leftover) => return DataDir::Empty,
        Ok(_) => {}
    }
    let version = match durable::read(&data_dir.join("PG_VERSION"), 64) {
        Err(e) => return unusable(format!("{e}: {}", e.source)),
        Ok(None) => return unusable(format!("{place} is not empty, but has no PG_VERSION")),
        Ok(Some(text)) => text,
    };
    let Ok(version) = version.trim().parse() else {
        return unusable(format!("{place}/PG_VERSION says {:?}", version.trim()));
    };
    match control::read(data_dir) {
        Ok(control) => DataDir::Cluster { version, control },
        Err(control::ControlError::Read { path, source }) => {
            unusable(format!("cannot read {}: {source}", path.display()))
        }
        Err(e) => unusable(e.to_string()),
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, FileError> {
    fs::read_dir(folder).and_then(Iterator::collect).map_err(at("list", folder))
}

fn is_mount_leftover(entry: &DirEntry) -> bool {
    entry.file_name() == "lost+found"
}

/// Empties a data directory, and with it its tablespaces and a `pg_wal` that is a link. The
/// directory itself stays (it may be a mount point) with mode 0700; one that is missing is
/// created. Refuses what is not PostgreSQL's, and what a live postmaster uses.
pub fn remove_contents(data_dir: &Path) -> Result<(), DataDirError> {
    check_path(data_dir)?;
    if data_dir.exists() {
        check_removable(data_dir)?;
        empty_wal(data_dir)?;
        empty_tablespaces(data_dir)?;
        // Control data go first: what is left of an interrupted removal is no cluster any more.
        durable::remove(&data_dir.join("global").join("pg_control"))?;
        for entry in entries(data_dir)?.iter().filter(|entry| !is_mount_leftover(entry)) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(durable::private_folder(data_dir)?)
}

/// Sets a data directory aside as `<dir>.failed`, where an administrator can look at it; an
/// earlier one there is removed, so at most one is kept. Returns the new place. What `pg_wal` and
/// tablespaces link to is renamed likewise: a new cluster or copy needs these places empty.
pub fn move_aside(data_dir: &Path) -> Result<PathBuf, DataDirError> {
    check_path(data_dir)?;
    check_not_in_use(data_dir)?;
    let aside = aside_of(data_dir);
    if fs::symlink_metadata(&aside).is_ok() {
        check_removable(&aside)?;
        empty_wal(&aside)?;
        empty_tablespaces(&aside)?;
        remove_tree(&aside)?;
    }
    for link in links(data_dir)? {
        let Ok(target) = fs::canonicalize(&link) else { continue };
        let renamed = aside_of(&target);
        // Left over from an earlier removal: empty, or else the rename fails and says so.
        let _ = fs::remove_dir(&renamed);
        fs::rename(&target, &renamed).map_err(at("rename", &target))?;
        fs::remove_file(&link).map_err(at("replace", &link))?;
        std::os::unix::fs::symlink(&renamed, &link).map_err(at("replace", &link))?;
    }
    fs::rename(data_dir, &aside).map_err(at("rename", data_dir))?;
    durable::sync_parent(&aside)?;
    Ok(aside)
}

fn aside_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".failed");
    PathBuf::from(name)
}

/// The links by which a data directory reaches to other places: `pg_wal` and the tablespaces.
fn links(data_dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut links = vec![data_dir.join("pg_wal")];
    let tablespaces = data_dir.join("pg_tblspc");
    if tablespaces.is_dir() {
        links.extend(entries(&tablespaces)?.iter().map(DirEntry::path));
    }
    links.retain(|path| path.is_symlink());
    Ok(links)
}

fn check_path(data_dir: &Path) -> Result<(), DataDirError> {
    if data_dir.is_absolute() && data_dir.components().count() >= 3 {
        return Ok(());
    }
    let why = "the path is relative or too short to be one".to_owned();
    Err(DataDirError::Foreign { path: data_dir.to_owned(), why })
}

/// Refuses a directory with contents that are not PostgreSQL's, and one that a live postmaster
/// uses: nothing of it may be removed or overwritten.
pub fn check_removable(data_dir: &Path) -> Result<(), DataDirError> {
    let foreign = |why: &str| DataDirError::Foreign { path: data_dir.to_owned(), why: why.into() };
    check_not_in_use(data_dir)?;
    if data_dir.join("PG_VERSION").is_file() && data_dir.join("global").is_dir() {
        return Ok(());
    }
    for entry in entries(data_dir)? {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let known = KNOWN_NAMES.contains(&name.as_ref())
            || KNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !known {
            return Err(foreign(&format!("it contains {name:?}")));
        }
    }
    Ok(())
}

/// Whether a file of the size that every start writes finds room. It has no name and leaves
/// nothing behind however this ends; a file system that has no such files is not asked.
pub fn check_room(data_dir: &Path) -> Result<(), FileError> {
    match write_unnamed(data_dir, &[0; ROOM_BYTES]) {
        Err(e) if knows_no_unnamed(&e) => Ok(()),
        other => other.map_err(at("write to", data_dir)),
    }
}

fn write_unnamed(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    let options = options.write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    write_and_sync(options.open(folder)?, bytes)
}

fn write_and_sync(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}

fn knows_no_unnamed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::IsADirectory)
}

/// Writes to a volume and syncs it, leaving nothing behind. Where the file system has no files
/// without a name (NFS, FUSE) one with a name is written and stays, but only while a server runs,
/// for a base backup and initdb want an empty directory. `false`: nothing could be tried.
pub fn try_write(data_dir: &Path, folder: &Path, bytes: &[u8]) -> io::Result<bool> {
    match write_unnamed(folder, bytes) {
        Err(e) if knows_no_unnamed(&e) && data_dir.join("postmaster.pid").exists() => {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            let file = options.custom_flags(libc::O_NOFOLLOW).open(folder.join(TRIED));
            write_and_sync(file?, bytes).map(|()| true)
        }
        Err(e) if knows_no_unnamed(&e) || e.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// What the databases in a data directory take, tablespaces with them, `pg_wal` without; as far
/// as it can be read, for it may be growing.
pub fn size_bytes(data_dir: &Path) -> u64 {
    let mut bytes = 0u64;
    let mut folders: Vec<PathBuf> =
        ["base", "global"].iter().map(|name| data_dir.join(name)).collect();
    // Their entries are links.
    folders.extend(entries(&data_dir.join("pg_tblspc")).into_iter().flatten().map(|e| e.path()));
    for _ in 0..FOLDERS_MAX {
        let Some(folder) = folders.pop() else { break };
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => bytes = bytes.saturating_add(meta.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

/// A second net: one user at a time is the supervisor's rule.
fn check_not_in_use(data_dir: &Path) -> Result<(), DataDirError> {
    let Some(postmaster) = pidfile::read(data_dir) else { return Ok(()) };
    let pid = postmaster.pid.saturating_abs();
    let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
    let here = fs::canonicalize(data_dir);
    match (cwd, here) {
        (Ok(cwd), Ok(here)) if cwd == here => {
            Err(DataDirError::InUse { path: data_dir.to_owned(), pid })
        }
        _ => Ok(()),
    }
}

/// `pg_wal` may link to another volume: its segments go, the folder there stays.
fn empty_wal(data_dir: &Path) -> Result<(), FileError> {
    let wal = data_dir.join("pg_wal");
    if !wal.is_symlink() {
        return Ok(());
    }
    let Ok(target) = fs::canonicalize(&wal) else { return Ok(()) };
    for entry in entries(&target)? {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let hex = name.bytes().take(8).filter(u8::is_ascii_hexdigit).count() == 8;
        if hex || name == "archive_status" || name == "summaries" || name.starts_with("xlogtemp.") {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// A tablespace's place may serve clusters of several versions: only the folder of ours goes.
fn empty_tablespaces(data_dir: &Path) -> Result<(), FileError> {
    let version = durable::read(&data_dir.join("PG_VERSION"), 64)?.unwrap_or_default();
    let own = format!("PG_{}_", version.trim());
    let links = data_dir.join("pg_tblspc");
    if version.trim().is_empty() || !links.is_dir() {
        return Ok(());
    }
    for link in entries(&links)?.iter().map(DirEntry::path).filter(|path| path.is_symlink()) {
        let Ok(target) = fs::canonicalize(&link) else { continue };
        for entry in entries(&target)? {
            if entry.file_name().to_string_lossy().starts_with(&own) {
                remove_tree(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Removes a file, a link (not what it points to) or a folder with all that is in it.
fn remove_tree(path: &Path) -> Result<(), FileError> {
    let folder = fs::symlink_metadata(path).map_err(at("remove", path))?.is_dir();
    let result = if folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.map_err(at("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A data directory's skeleton below `folder`.
    fn skeleton(folder: &Path) -> PathBuf {
        let data = folder.join("data");
        for name in ["base", "global", "pg_tblspc"] {
            fs::create_dir_all(data.join(name)).expect("folder");
        }
        fs::write(data.join("PG_VERSION"), "15\n").expect("version");
        fs::write(data.join("notes.txt"), "mine\n").expect("file");
        data
    }

    #[test]
    fn inspects() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(inspect(&folder.path().join("missing")), DataDir::Empty);
        assert_eq!(inspect(folder.path()), DataDir::Empty);
        let data = skeleton(folder.path());
        let reason = |dir: &Path| match inspect(dir) {
            DataDir::Unusable { reason } => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(&data).contains("global/pg_control"), "{}", reason(&data));
        assert!(reason(folder.path()).contains("no PG_VERSION"));
        fs::write(data.join("global/pg_control"), [0; 8192]).expect("written");
        assert!(reason(&data).contains("version 0"), "{}", reason(&data));
    }

    #[test]
    fn removes_a_cluster_and_what_it_links_to() {
        let folder = tempfile::tempdir().expect("folder");
        let data = skeleton(folder.path());
        let (wal, space) = (folder.path().join("wal"), folder.path().join("space"));
        for path in [wal.join("archive_status"), space.join("PG_15_2"), space.join("PG_14_1")] {
            fs::create_dir_all(path).expect("folder");
        }
        for name in ["000000010000000000000001", "00000002.history", "readme"] {
            fs::write(wal.join(name), "").expect("file");
        }
        symlink(&wal, data.join("pg_wal")).expect("link");
        symlink(&space, data.join("pg_tblspc/16400")).expect("link");
        remove_contents(&data).expect("removed");
        let names = |dir: &Path| {
            let list = fs::read_dir(dir).expect("list").flatten();
            list.map(|e| e.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&data), Vec::<String>::new());
        assert_eq!(names(&wal), ["readme"]);
        assert_eq!(names(&space), ["PG_14_1"]);
        let mode = fs::metadata(&data).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn refuses_what_is_not_postgresqls() {
        let folder = tempfile::tempdir().expect("folder");
        let home = folder.path().join("home");
        fs::create_dir_all(home.join("documents")).expect("folder");
        let error = remove_contents(&home).unwrap_err();
        assert!(error.to_string().contains("documents"), "{error}");
        for path in ["/", "/var", "data", ""] {
            assert!(remove_contents(Path::new(path)).is_err(), "{path:?}");
        }
    }

    #[test]
    fn removes_an_unfinished_base_backup() {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["backup_label", "tablespace_map", "postgresql.conf"] {
            fs::write(folder.path().join(name), "").expect("file");
        }
        fs::create_dir(folder.path().join("pg_wal")).expect("folder");
        remove_contents(folder.path()).expect("removed");
        assert_eq!(inspect(folder.path()), DataDir::Empty);
    }

    #[test]
    fn sets_aside_and_keeps_one() {
        let folder = tempfile::tempdir().expect("folder");
        for _ in 0..2 {
            let data = skeleton(folder.path());
            let wal = folder.path().join("wal");
            fs::create_dir(&wal).expect("folder");
            fs::write(wal.join("000000010000000000000001"), "").expect("file");
            symlink(&wal, data.join("pg_wal")).expect("link");
            let aside = move_aside(&data).expect("moved");
            assert_eq!(aside, folder.path().join("data.failed"));
            assert!(aside.join("PG_VERSION").exists() && !data.exists() && !wal.exists());
            assert!(aside.join("pg_wal/000000010000000000000001").exists());
        }
    }

    #[test]
    fn a_live_postmaster_protects_its_directory() {
        let folder = tempfile::tempdir().expect("folder");
        let data = skeleton(folder.path());
        let mut sleeper = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(&data)
            .spawn()
            .expect("spawned");
        let pid = format!("{}\n{}\n1\n", sleeper.id(), data.display());
        fs::write(data.join("postmaster.pid"), pid).expect("written");
        let results = (remove_contents(&data), move_aside(&data));
        sleeper.kill().and_then(|()| sleeper.wait()).expect("ended");
        assert!(matches!(results.0, Err(DataDirError::InUse { .. })));
        assert!(matches!(results.1, Err(DataDirError::InUse { .. })));
        remove_contents(&data).expect("removed once nobody is there");
    }
}
