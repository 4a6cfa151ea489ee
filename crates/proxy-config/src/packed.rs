//! Bytes at rest: resources of one kind are so alike that each is little more than what tells it from the first ones.

use std::sync::Arc;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

/// Bytes that are shared by what is packed together. Far below LZ4's window of 64 KiB, since every packing reads it once.
const DICTIONARY: usize = 8 << 10;

/// Bytes that were packed by a [`Packer`].
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    bytes: Box<[u8]>,
    /// How much of the dictionary there was then; it only grows.
    seen: usize,
}

/// Packs bytes that are alike, by what the first of them looked like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packer {
    dictionary: Arc<Vec<u8>>,
}

impl Packer {
    pub(crate) fn pack(&mut self, bytes: &[u8]) -> Packed {
        let seen = self.dictionary.len();
        let packed = Packed { bytes: compress_prepend_size_with_dict(bytes, &self.dictionary).into(), seen };
        if seen < DICTIONARY {
            let room = bytes.len().min(DICTIONARY - seen);
            Arc::make_mut(&mut self.dictionary).extend_from_slice(bytes.get(..room).unwrap_or_default());
        }
        packed
    }

    /// `None` when the bytes were packed elsewhere.
    pub(crate) fn unpack(&self, packed: &Packed) -> Option<Vec<u8>> {
        decompress_size_prepended_with_dict(&packed.bytes, self.dictionary.get(..packed.seen)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_takes_little_and_comes_back() {
        let cluster =
            |i: usize| format!("outbound|8080||s{i}.shop.svc.cluster.local {}", "settings ".repeat(100)).into_bytes();
        let mut packer = Packer::default();
        let all: Vec<_> = (0..500).map(|i| packer.pack(&cluster(i))).collect();
        assert!(all.iter().enumerate().all(|(i, packed)| packer.unpack(packed) == Some(cluster(i))));
        assert!(all.iter().skip(20).all(|packed| packed.bytes.len() < 60), "{}", all[20].bytes.len());
        assert_eq!(packer.dictionary.len(), DICTIONARY);
    }

    #[test]
    fn anything_comes_back() {
        let mut packer = Packer::default();
        let odd: [&[u8]; 4] = [b"", b"a", &[0; 100_000], b"\xff\x00"];
        let all: Vec<_> = odd.iter().map(|bytes| packer.pack(bytes)).collect();
        assert!(all.iter().zip(odd).all(|(packed, bytes)| packer.unpack(packed).as_deref() == Some(bytes)));
        assert_eq!(Packer::default().unpack(&all[3]), None);
    }
}
