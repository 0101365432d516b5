//! Hashes of documents, by which equal ones are found.

use blake2b_simd::Params;
use blake2b_simd::many::{HashManyJob, hash_many};

/// The size of a hash, in bytes.
pub const HASH_BYTES: usize = 16;

/// How many documents are hashed together: enough to keep all lanes of the CPU busy.
const GROUP: usize = 64;

/// Return the BLAKE2b hashes of the documents, one after another.
pub fn hashes_of<'a>(documents: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut params = Params::new();
    params.hash_length(HASH_BYTES);
    let mut documents = documents.into_iter().peekable();
    let mut hashes = Vec::new();
    while documents.peek().is_some() {
        let group = documents.by_ref().take(GROUP);
        let mut jobs: Vec<_> = group.map(|one| HashManyJob::new(&params, one)).collect();
        hash_many(&mut jobs);
        for job in &jobs {
            hashes.extend_from_slice(job.to_hash().as_bytes());
        }
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_has_its_own_hash() {
        let documents: Vec<Vec<u8>> = (0..150).map(|n| vec![b'a'; n * 7]).collect();
        let hashes = hashes_of(documents.iter().map(Vec::as_slice));
        let mut params = Params::new();
        params.hash_length(HASH_BYTES);
        for (document, hash) in documents.iter().zip(hashes.chunks(HASH_BYTES)) {
            assert_eq!(params.hash(document).as_bytes(), hash);
        }
        assert_eq!(hashes.len(), 150 * HASH_BYTES);
    }
}
