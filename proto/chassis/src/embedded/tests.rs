#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::AtomicUsize,
    time::{Duration, Instant},
};

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition};

use super::*;

const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
const OPTIONS: Options = Options::new("rows", 1);
const JOURNALED: Options = OPTIONS.with_journal(put_again);

fn insert(txn: &WriteTransaction, key: u64) -> Result<(), redb::Error> {
    txn.open_table(ROWS)?.insert(key, [7; 200].as_slice())?;
    Ok(())
}

fn put_again(txn: &WriteTransaction, record: &[u8]) -> Result<(), redb::Error> {
    insert(txn, u64::from_le_bytes(record.try_into().unwrap()))
}

async fn put(store: &Embedded, key: u64) -> Result<(), EmbeddedError> {
    store.write(move |txn| insert(txn, key)).await
}

async fn put_journaled(store: &Embedded, key: u64) -> Result<(), EmbeddedError> {
    let put = store.write_journaled(move |txn| {
        insert(txn, key)?;
        Ok(((), Some(key.to_le_bytes().to_vec())))
    });
    put.await
}

/// Now in one way, now in the other.
async fn put_somehow(store: &Embedded, key: u64) -> Result<(), EmbeddedError> {
    match key % 7 {
        0 => put(store, key).await,
        _ => put_journaled(store, key).await,
    }
}

fn count(store: &Embedded) -> Result<u64, EmbeddedError> {
    store.read_now(|txn| Ok(txn.open_table(ROWS)?.len()?))
}

/// Waits until the store takes a write again.
async fn healed(store: &Embedded, key: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = put(store, key).await {
        assert!(Instant::now() < deadline, "still {error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    let store = Embedded::open(&path, &OPTIONS).unwrap();
    put(&store, 1).await.unwrap();
    store.close().await;
    assert!(matches!(put(&store, 2).await, Err(EmbeddedError::Closed)));
    assert!(matches!(count(&store), Err(EmbeddedError::Closed)));
    let store = Embedded::open(&path, &OPTIONS).unwrap();
    assert_eq!(count(&store).unwrap(), 1);
    assert_eq!(
        store
            .read(|txn| Ok(txn.open_table(ROWS)?.len()?))
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn writes_that_wait_share_a_commit() {
    let disk = SimulatedDisk::new(1);
    let store = Embedded::open_simulated(&disk, &OPTIONS).unwrap();
    put(&store, 0).await.unwrap();
    let before = disk.syncs();
    let writes = (1..=1_000).map(|key| put(&store, key));
    futures::future::try_join_all(writes).await.unwrap();
    let syncs = disk.syncs() - before;
    assert!(syncs < 100, "{syncs} syncs for 1,000 writes");
    assert_eq!(count(&store).unwrap(), 1_001);
}

#[tokio::test]
async fn a_write_is_refused_when_too_many_wait() {
    let options = Options {
        queue: 4,
        ..OPTIONS
    };
    let store = Embedded::open_simulated(&SimulatedDisk::new(1), &options).unwrap();
    let (hold, held) = mpsc::channel::<()>();
    let (started, starting) = oneshot::channel();
    let writer = store.clone();
    let blocked = tokio::spawn(async move {
        writer
            .write(move |_| {
                started.send(()).unwrap();
                held.recv().unwrap();
                Ok(())
            })
            .await
    });
    starting.await.unwrap();
    let mut waiting: Vec<_> = (0..4).map(|key| Box::pin(put(&store, key))).collect();
    for write in &mut waiting {
        assert!(futures::poll!(write).is_pending());
    }
    let refused = put(&store, 9).await.unwrap_err();
    assert!(matches!(refused, EmbeddedError::Busy));
    assert!(refused.is_definite());
    hold.send(()).unwrap();
    blocked.await.unwrap().unwrap();
    futures::future::try_join_all(waiting).await.unwrap();
    assert_eq!(count(&store).unwrap(), 4);
}

#[tokio::test]
async fn a_write_whose_caller_left_the_queue_is_not_made() {
    let store = Embedded::open_simulated(&SimulatedDisk::new(1), &OPTIONS).unwrap();
    put(&store, 1).await.unwrap();
    let (hold, held) = mpsc::channel::<()>();
    let (started, starting) = oneshot::channel();
    let writer = store.clone();
    let blocked = tokio::spawn(async move {
        writer
            .write(move |_| {
                started.send(()).unwrap();
                held.recv().unwrap();
                Ok(())
            })
            .await
    });
    starting.await.unwrap();
    {
        let mut left = Box::pin(put(&store, 2));
        assert!(futures::poll!(&mut left).is_pending());
    }
    hold.send(()).unwrap();
    blocked.await.unwrap().unwrap();
    put(&store, 3).await.unwrap();
    assert_eq!(count(&store).unwrap(), 2);
}

#[tokio::test]
async fn a_failed_write_takes_back_its_own_and_its_neighbours() {
    let store = Embedded::open_simulated(&SimulatedDisk::new(1), &OPTIONS).unwrap();
    put(&store, 1).await.unwrap();
    let wrong = store
        .write(|txn| {
            txn.open_table(ROWS)?.insert(2, [].as_slice())?;
            txn.open_table(TableDefinition::<u64, u64>::new("rows"))?;
            Ok(())
        })
        .await
        .unwrap_err();
    assert!(matches!(wrong, EmbeddedError::Misused(_)), "{wrong}");
    let panicked = store
        .write(|txn| -> Result<(), redb::Error> {
            txn.open_table(ROWS)?.insert(3, [].as_slice())?;
            panic!("on purpose")
        })
        .await
        .unwrap_err();
    assert!(panicked.is_definite());
    assert_eq!(count(&store).unwrap(), 1);
    put(&store, 4).await.unwrap();
    assert_eq!(count(&store).unwrap(), 2);
}

#[tokio::test]
async fn a_full_disk_refuses_until_there_is_space_and_loses_nothing() {
    for options in [OPTIONS, JOURNALED] {
        let disk = SimulatedDisk::new(1);
        let store = Embedded::open_simulated(&disk, &options).unwrap();
        for key in 0..50 {
            put_somehow(&store, key).await.unwrap();
        }
        for fault in [Fault::NoSpace, Fault::Io, Fault::Sync] {
            disk.set_fault(Some(fault));
            let before = Instant::now();
            for key in 100..120 {
                put_somehow(&store, key).await.unwrap_err();
            }
            assert!(
                before.elapsed() < Duration::from_secs(2),
                "refusals are quick"
            );
            disk.set_fault(None);
            healed(&store, 50).await;
            let kept = store.read_now(|txn| {
                let rows = txn.open_table(ROWS)?;
                let is_there = |key: &u64| matches!(rows.get(key), Ok(Some(_)));
                Ok((0..=50).filter(is_there).count())
            });
            assert_eq!(kept.unwrap(), 51);
        }
    }
}

#[tokio::test]
async fn a_store_that_failed_while_nobody_wrote_is_opened_again() {
    let disk = SimulatedDisk::new(1);
    // No page stays in memory, so that reads meet the fault.
    let options = Options {
        cache_bytes: 0,
        ..OPTIONS
    };
    let store = Embedded::open_simulated(&disk, &options).unwrap();
    put(&store, 1).await.unwrap();
    disk.set_fault(Some(Fault::Io));
    count(&store).unwrap_err();
    disk.set_fault(None);
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(&store).is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Cuts the power while 8 callers write; how many acknowledged rows were lost.
async fn lost_by_a_power_cut(seed: u64, syncs_work: bool, options: &Options) -> usize {
    let disk = SimulatedDisk::new(seed);
    let mut store = Embedded::open_simulated(&disk, options).unwrap();
    let mut acknowledged = Vec::new();
    for cut in 0..5 {
        disk.set_syncs_work(syncs_work);
        let done = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (store, done) = (store.clone(), done.clone());
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for n in 0..1_000 {
                        let key = (cut * 8 + writer) * 1_000 + n;
                        if put_somehow(&store, key).await.is_err() {
                            break;
                        }
                        acknowledged.push(key);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    acknowledged
                })
            })
            .collect();
        while done.load(Ordering::Relaxed) < 20 + usize::try_from(seed % 30).unwrap() {
            tokio::task::yield_now().await;
        }
        disk.cut_power();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        drop(store);
        store = match Embedded::open_simulated(&disk, options) {
            Ok(store) => store,
            // Only a disk that lies can do that.
            Err(error) => {
                assert!(!syncs_work, "{error}");
                return acknowledged.len();
            }
        };
    }
    let kept = store.read(move |txn| {
        let rows = txn.open_table(ROWS)?;
        Ok(acknowledged
            .iter()
            .filter(|key| !matches!(rows.get(*key), Ok(Some(row)) if row.value() == [7; 200]))
            .count())
    });
    kept.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_power_cut_loses_an_acknowledged_write() {
    for options in [OPTIONS, JOURNALED] {
        for seed in 0..10 {
            let lost = lost_by_a_power_cut(seed, true, &options).await;
            assert_eq!(lost, 0, "seed {seed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_about_syncs_is_found_out() {
    for options in [OPTIONS, JOURNALED] {
        let mut lost = 0;
        for seed in 0..4 {
            lost += lost_by_a_power_cut(seed, false, &options).await;
        }
        assert!(lost > 0);
    }
}

#[tokio::test]
async fn a_journal_costs_a_sync_for_each_commit_and_is_used_again_when_it_is_full() {
    let disk = SimulatedDisk::new(1);
    let store = Embedded::open_simulated(&disk, &JOURNALED).unwrap();
    put(&store, 0).await.unwrap();
    let before = disk.syncs();
    for key in 1..=1_500 {
        put_journaled(&store, key).await.unwrap();
    }
    let syncs = disk.syncs() - before;
    assert!((1_500..1_520).contains(&syncs), "{syncs} syncs");
    disk.cut_power();
    drop(store);
    let store = Embedded::open_simulated(&disk, &JOURNALED).unwrap();
    assert_eq!(count(&store).unwrap(), 1_501);
}

#[tokio::test]
async fn a_power_cut_in_the_middle_of_opening_loses_nothing() {
    let disk = SimulatedDisk::new(1);
    let store = Embedded::open_simulated(&disk, &OPTIONS).unwrap();
    put(&store, 0).await.unwrap();
    store.close().await;
    let mut rows = 1;
    for _ in 0..4 {
        let mut accesses = 0;
        loop {
            let cuts = disk.cuts();
            disk.cut_power_after(accesses);
            drop(Embedded::open_simulated(&disk, &JOURNALED));
            if disk.cuts() == cuts {
                // It was open before the power would have been cut.
                break;
            }
            accesses += 1;
        }
        assert!(accesses > 4, "{accesses} accesses to open it");
        disk.cut_power();
        let store = Embedded::open_simulated(&disk, &JOURNALED).unwrap();
        assert_eq!(count(&store).unwrap(), rows);
        for _ in 0..3 {
            put_journaled(&store, rows).await.unwrap();
            rows += 1;
        }
        disk.cut_power();
    }
}

#[tokio::test]
async fn what_changes_nothing_is_no_commit() {
    let disk = SimulatedDisk::new(1);
    let store = Embedded::open_simulated(&disk, &JOURNALED).unwrap();
    put(&store, 1).await.unwrap();
    let before = disk.syncs();
    let looked = store.write_journaled(|txn| {
        let found = txn.open_table(ROWS)?.get(1)?.is_some();
        Ok((found, None))
    });
    assert!(looked.await.unwrap());
    assert_eq!(disk.syncs(), before);
}

#[tokio::test]
async fn whoever_is_answered_reads_what_was_written() {
    let store = Embedded::open_simulated(&SimulatedDisk::new(0), &JOURNALED).unwrap();
    for key in 0..2_000 {
        put_journaled(&store, key).await.unwrap();
        assert_eq!(count(&store).unwrap(), key + 1);
    }
}

/// The database and the journal of a store with rows in either, as kill -9 leaves them,
/// and how many rows there are.
async fn killed(path: &Path) -> ([Vec<u8>; 2], u64) {
    let store = Embedded::open(path, &JOURNALED).unwrap();
    let rows = 60;
    for key in 0..rows {
        // The last ones are in the journal alone.
        if key < rows / 2 {
            put_somehow(&store, key).await.unwrap();
        } else {
            put_journaled(&store, key).await.unwrap();
        }
    }
    let files = [path.to_owned(), path.with_extension("journal")];
    (files.map(|file| fs::read(file).unwrap()), rows)
}

#[tokio::test]
async fn no_damage_of_one_block_of_the_journal_loses_anything() {
    let folder = tempfile::tempdir().unwrap();
    let ([database, journal], rows) = killed(&folder.path().join("rows.redb")).await;
    let used = journal.iter().rposition(|byte| *byte != 0).unwrap();
    let path = folder.path().join("damaged.redb");
    let damage = |range: std::ops::Range<usize>| {
        let mut damaged = journal.clone();
        for byte in &mut damaged[range] {
            *byte ^= 0x55;
        }
        fs::write(&path, &database).unwrap();
        fs::write(path.with_extension("journal"), damaged).unwrap();
        Embedded::open(&path, &JOURNALED)
    };
    for block in 0..=used / 4_096 {
        for range in [0..1, 9..10, 17..18, 24..28, 30..31, 0..4_096] {
            let start = block * 4_096;
            let store = damage(start + range.start..start + range.end).unwrap();
            assert_eq!(count(&store).unwrap(), rows, "block {block}, {range:?}");
        }
    }
    // Both copies of a frame, with more behind them, or of the first one.
    for both in [
        0..8_192,
        used / 2 / 8_192 * 8_192..(used / 2 / 8_192 + 1) * 8_192,
    ] {
        let error = damage(both).unwrap_err().to_string();
        assert!(error.contains("damaged.journal is damaged"), "{error}");
    }
}

#[tokio::test]
async fn a_journal_that_is_not_that_of_the_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    let place = path.with_extension("journal");
    let ([database, journal], rows) = killed(&path).await;
    let store = Embedded::open(&path, &JOURNALED).unwrap();
    put_journaled(&store, rows).await.unwrap();
    let later = fs::read(&place).unwrap();
    drop(store);
    let ([_, other], _) = killed(&folder.path().join("other.redb")).await;
    for wrong in [
        &journal[..4_096],
        &vec![0; journal.len()],
        &other,
        &[],
        &later,
    ] {
        fs::write(&path, &database).unwrap();
        fs::write(&place, wrong).unwrap();
        let error = Embedded::open(&path, &JOURNALED).unwrap_err().to_string();
        assert!(error.contains("rows.journal is damaged"), "{error}");
    }
    fs::remove_file(&place).unwrap();
    let error = Embedded::open(&path, &JOURNALED).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    fs::write(&place, &journal).unwrap();
    let store = Embedded::open(&path, &JOURNALED).unwrap();
    assert_eq!(count(&store).unwrap(), rows);
}

#[tokio::test]
async fn a_store_without_a_journal_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    let store = Embedded::open(&path, &OPTIONS).unwrap();
    put(&store, 1).await.unwrap();
    store.close().await;
    for key in 2..5 {
        let store = Embedded::open(&path, &JOURNALED).unwrap();
        put_journaled(&store, key).await.unwrap();
        assert_eq!(count(&store).unwrap(), key);
        store.close().await;
    }
}

#[tokio::test]
async fn a_damaged_file_says_so_and_is_never_opened_with_less_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    let store = Embedded::open(&path, &OPTIONS).unwrap();
    for key in 0..400 {
        put(&store, key).await.unwrap();
    }
    // As kill -9 leaves it, and as a clean stop does.
    let killed = fs::read(&path).unwrap();
    store.close().await;
    drop(store);
    let closed = fs::read(&path).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for (whole, name) in [(killed, "killed"), (closed, "closed")] {
        let damaged = folder.path().join("damaged.redb");
        // The header holds the two commit slots; the rest are pages, many of them free.
        let header = 320;
        let places = (0..header).step_by(3);
        let places = places.chain((header..whole.len()).step_by(whole.len() / 100));
        for place in places {
            let mut content = whole.clone();
            content[place] ^= 1 << (place % 8);
            fs::write(&damaged, &content).unwrap();
            match Embedded::open(&damaged, &OPTIONS) {
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("damaged.redb"), "{error}");
                }
                Ok(store) => {
                    harmless += 1;
                    assert_eq!(count(&store).unwrap(), 400, "byte {place}, {name}");
                }
            }
        }
        for len in [0, 1, 100, 4_096, whole.len() / 2, whole.len() - 1] {
            fs::write(&damaged, &whole[..len]).unwrap();
            let error = Embedded::open(&damaged, &OPTIONS).unwrap_err();
            assert!(
                error.to_string().contains("damaged.redb is damaged"),
                "{len}: {error}"
            );
        }
    }
    assert!(
        refused > 100 && harmless > 0,
        "{refused} refused, {harmless} harmless"
    );
}

#[test]
fn a_data_folder_serves_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let data = DataFolder::open(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let second = DataFolder::open(&path).unwrap_err().to_string();
    assert!(
        second.contains(&format!("is in use by process {}", std::process::id())),
        "{second}"
    );
    drop(data);
    DataFolder::open(&path).unwrap();
}

#[tokio::test]
async fn a_folder_that_lacks_something_is_never_filled_with_new_stores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let fill = async || {
        let data = DataFolder::open(&path).unwrap();
        let store = data.embedded(&OPTIONS).unwrap();
        put(&store, 1).await.unwrap();
        store.close().await;
    };
    fill().await;
    fill().await;
    let (store, manifest) = (path.join("rows.redb"), path.join("manifest.json"));
    let (store_content, manifest_content) = (
        fs::read(&store).unwrap(),
        fs::read_to_string(&manifest).unwrap(),
    );

    fs::remove_file(&store).unwrap();
    assert!(matches!(
        DataFolder::open(&path),
        Err(OpenError::Missing { .. })
    ));
    fs::write(&store, "").unwrap();
    let data = DataFolder::open(&path).unwrap();
    assert!(matches!(
        data.embedded(&OPTIONS),
        Err(OpenError::Damaged { .. })
    ));
    drop(data);
    fs::write(&store, store_content).unwrap();

    fs::remove_file(&manifest).unwrap();
    assert!(matches!(
        DataFolder::open(&path),
        Err(OpenError::Missing { .. })
    ));
    for (from, to) in [
        ("\"format\": 1", "\"format\": 2"),
        ("\"format\": 1", "\"format\": x"),
    ] {
        fs::write(&manifest, manifest_content.replace(from, to)).unwrap();
        let error = DataFolder::open(&path).unwrap_err();
        assert!(error.to_string().contains("manifest.json"), "{error}");
    }

    let other = tempfile::tempdir().unwrap();
    drop(DataFolder::open(other.path()).unwrap());
    fs::copy(&store, other.path().join("rows.redb")).unwrap();
    let data = DataFolder::open(other.path()).unwrap();
    assert!(matches!(
        data.embedded(&OPTIONS),
        Err(OpenError::Foreign { .. })
    ));
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let empty = DataFolder::open(folder.path()).unwrap();
    let manifest = fs::read(folder.path().join("manifest.json")).unwrap();
    fs::write(folder.path().join("rows.new"), "half a file").unwrap();
    empty.embedded(&OPTIONS).unwrap().close().await;
    drop(empty);
    // The store was made, the manifest does not know it yet.
    fs::write(folder.path().join("manifest.json"), manifest).unwrap();
    let data = DataFolder::open(folder.path()).unwrap();
    put(&data.embedded(&OPTIONS).unwrap(), 1).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_and_a_file_of_something_else_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    Embedded::open(&path, &Options::new("rows", 2))
        .unwrap()
        .close()
        .await;
    let error = Embedded::open(&path, &OPTIONS).unwrap_err().to_string();
    assert!(
        error.contains("rows.redb was written by a newer version"),
        "{error}"
    );
    let error = Embedded::open(&path, &Options::new("users", 2))
        .unwrap_err()
        .to_string();
    assert!(error.contains("it holds rows, not users"), "{error}");
}
