use std::collections::BTreeSet;

use super::*;

fn key(name: &str) -> Key {
    Key::of(&[name.as_bytes()])
}

fn store(dir: &Path, budget_bytes: u64) -> Store {
    Store::open(dir, budget_bytes).unwrap()
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set_age(store: &Store, key: &Key, secs: u64) {
    let time = SystemTime::now() - Duration::from_secs(secs);
    File::open(store.path(key)).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn what_was_put_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("made/anew"), 1 << 20);
    assert_eq!(store.get(&key("a")), None);
    store.put(&key("a"), &[b"one", b"", b" two"]).unwrap();
    store.put(&key("empty"), &[]).unwrap();
    assert_eq!(store.get(&key("a")).unwrap(), b"one two");
    assert_eq!(store.get(&key("empty")).unwrap(), b"");
    store.put(&key("a"), &[b"three"]).unwrap();
    assert_eq!(store.get(&key("a")).unwrap(), b"three");
    assert_eq!(store.size(), 2 * HEADER_LEN as u64 + 5);
}

/// Every changed byte and every cut is found, removed, and can be made anew.
#[test]
fn damaged_entries_are_absent_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 20);
    let path = store.path(&key("a"));
    store.put(&key("a"), &[b"content"]).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|len| whole[..len].to_vec()).collect();
    damaged.push([&whole[..], b"x"].concat());
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        damaged.push(changed);
    }
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(store.get(&key("a")), None, "{bytes:?}");
        assert!(!path.exists());
    }
    store.put(&key("a"), &[b"content"]).unwrap();
    // A whole entry under another key is not what that key stands for.
    fs::rename(&path, store.path(&key("b"))).unwrap();
    assert_eq!((store.get(&key("b")), store.size()), (None, 0));
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let content = [7; 100];
    let entry = HEADER_LEN as u64 + 100;
    let store = store(dir.path(), 3 * entry);
    for (name, age) in [("a", 40), ("b", 30), ("c", 20)] {
        store.put(&key(name), &[&content]).unwrap();
        set_age(&store, &key(name), age);
    }
    assert!(store.get(&key("a")).is_some(), "read, and so used last");
    store.put(&key("d"), &[&content]).unwrap();
    let left = |names: &[&str]| -> Vec<bool> { names.iter().map(|name| store.path(&key(name)).exists()).collect() };
    assert_eq!(left(&["a", "b", "c", "d"]), [true, false, true, true]);
    assert_eq!(store.size(), 3 * entry);
    // A smaller budget holds when the store is opened.
    set_age(&store, &key("d"), 50);
    let smaller = Store::open(dir.path(), 2 * entry).unwrap();
    assert_eq!(left(&["a", "c", "d"]), [true, true, false]);
    let error = smaller.put(&key("e"), &[&[0; 1000]]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(left(&["a", "c", "e"]), [true, true, false]);
}

#[test]
fn files_that_are_not_ours_stay() {
    let dir = tempfile::tempdir().unwrap();
    let hex = "0".repeat(64);
    let others = ["notes.txt".to_owned(), hex.clone(), format!("{hex}.entry.bak"), format!("{}.entry", "A".repeat(64))];
    for name in &others {
        fs::write(dir.path().join(name), "keep").unwrap();
    }
    fs::create_dir(dir.path().join(format!("{hex}.entry"))).unwrap();
    let store = store(dir.path(), 200);
    for name in ["a", "b", "c"] {
        store.put(&key(name), &[&[b'x'; 60]]).unwrap();
    }
    assert!(store.size() > 0 && store.size() <= 200);
    assert_eq!(store.clear(), HEADER_LEN as u64 + 60);
    assert_eq!(store.size(), 0);
    let expected: BTreeSet<String> = others.iter().cloned().chain([format!("{hex}.entry")]).collect();
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn what_a_dead_process_left_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join(".trimtab-old"), dir.path().join(".trimtab-new"));
    fs::write(&old, "torn").unwrap();
    fs::write(&new, "being written").unwrap();
    let time = SystemTime::now() - 2 * ABANDONED;
    File::open(&old).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    let store = store(dir.path(), 1 << 20);
    assert_eq!((old.exists(), new.exists(), store.size()), (false, true, 13));
    assert_eq!(store.clear(), 13);
}

/// A full disk and a folder that is gone are errors in words; reading and counting go on.
#[test]
fn a_folder_that_cannot_be_written_costs_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"), 1 << 20);
    store.put(&key("a"), &[b"x"]).unwrap();
    fs::remove_dir_all(store.dir()).unwrap();
    assert!(store.put(&key("a"), &[b"x"]).is_err());
    assert_eq!((store.get(&key("a")), store.size(), store.clear()), (None, 0, 0));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(Store::open(&dir.path().join("file"), 1 << 20).is_err());
}

/// Threads with a store each, as processes have: whatever is read is whole, and the budget holds.
#[test]
fn a_folder_is_shared() {
    let dir = tempfile::tempdir().unwrap();
    let content = |name: u8| vec![name; 1000 + usize::from(name)];
    std::thread::scope(|scope| {
        for worker in 0..4_u8 {
            let (dir, content) = (dir.path(), &content);
            scope.spawn(move || {
                let store = store(dir, 8 * 1100);
                for step in 0..60_u8 {
                    let name = step.wrapping_mul(7).wrapping_add(worker) % 16;
                    if let Some(found) = store.get(&Key([name; 32])) {
                        assert_eq!(found, content(name));
                    }
                    store.put(&Key([name; 32]), &[&content(name)]).unwrap();
                }
            });
        }
    });
    let store = store(dir.path(), 8 * 1100);
    assert!(store.size() <= 8 * 1100 && store.size() > 0);
    assert!(names(dir.path()).iter().all(|name| is_entry_name(name)), "no temporary file is left");
}
