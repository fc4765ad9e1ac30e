//! Content as a client sees it, in memory and in files.

use super::*;

async fn store(storage: &Storage, bytes: &[u8], announced: Option<u64>) -> Content {
    let mut writer = storage.writer(announced);
    for frame in bytes.chunks(300_000) {
        writer.write(Bytes::copy_from_slice(frame)).await.unwrap();
    }
    writer.finish().await.unwrap()
}

fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn content_comes_back_whole_and_in_slices() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = Storage::open_files(dir.path()).unwrap();
    for storage in [Storage::Memory, files] {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7] {
            let bytes = sample(length);
            for announced in [None, Some(length as u64)] {
                let content = store(&storage, &bytes, announced).await;
                assert_eq!(content.length(), length as u64);
                assert_eq!(content.clone().bytes().await.unwrap(), bytes);
                let (start, end) = (length / 3, length - length / 5);
                let slice = content.slice(start as u64..end as u64);
                assert_eq!(slice.bytes().await.unwrap(), bytes[start..end]);
            }
        }
    }
}

#[tokio::test]
async fn content_of_several_extents_reads_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = Storage::open_files(dir.path()).unwrap();
    for storage in [Storage::Memory, files] {
        let mut whole = Content::default();
        for part in ["alpha", "", "beta", "gamma"] {
            whole.append(store(&storage, part.as_bytes(), None).await);
        }
        assert_eq!(whole.clone().bytes().await.unwrap(), "alphabetagamma");
        assert_eq!(whole.slice(3..11).bytes().await.unwrap(), "habetaga");
        assert_eq!(whole.slice(3..11).slice(2..6).bytes().await.unwrap(), "beta");
    }
}

#[tokio::test]
async fn a_file_lives_as_long_as_anything_holds_a_piece_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = Storage::open_files(dir.path()).unwrap();
    let files = || {
        std::fs::read_dir(dir.path().join("blobs/000000"))
            .unwrap()
            .count()
    };
    let content = store(&storage, b"something", None).await;
    let slice = content.slice(0..4);
    drop(content);
    assert_eq!(files(), 1);
    assert_eq!(slice.clone().bytes().await.unwrap(), "some");
    drop(slice);
    assert_eq!(files(), 0);
}
