//! New inputs from old ones: bytes flipped, cut, doubled, joined, and words of the language put in; resources of xDS are
//! mostly changed field by field.

use std::io;
use std::path::Path;

use fastrand::Rng;

use crate::resource::Resources;

/// Pieces that parsers decide by.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"0",
    b"-1",
    b"+1",
    b"0x1",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"content-length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"transfer-encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n",
    b"expect: 100-continue\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01",
    b"\xff\xff",
    b"\0\0",
    b"{}",
    b"[]",
    b"null",
    b"\"\"",
    b"- ",
    b"&a ",
    b"*a",
    b"|\n",
    b"? ",
    b"---\n",
    b"<<: ",
    b"!!",
    b"%YAML",
    b"{\"@type\":",
    b"1e999",
    b"\"10s\"",
    b"\"-1s\"",
    b"\"0.0000000001s\"",
    b"%",
    b"(",
    b"\\",
];
/// No input grows beyond this.
const LARGEST: usize = 4096;
/// A resource that grows beyond this is given up.
const LARGEST_RESOURCE: usize = 64 * 1024;
/// Inputs kept beside the seeds, so that mutations add up.
const KEPT: usize = 64;

/// Makes inputs for one target.
pub struct Mutator {
    pool: Vec<Vec<u8>>,
    seeds: usize,
    rng: Rng,
    /// For inputs that are xDS resources.
    resources: Option<Resources>,
}

impl Mutator {
    /// Starts from the seeds of a target.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(target: &str, seed: u64) -> io::Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
        let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|f| f.map(|f| f.path())).collect::<Result<_, _>>()?;
        files.sort();
        let pool: Vec<_> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
        if pool.is_empty() {
            return Err(io::Error::other("no seeds"));
        }
        let resources = (target == "xds").then(Resources::new);
        Ok(Self { seeds: pool.len(), pool, rng: Rng::with_seed(seed), resources })
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let input = self.resource().unwrap_or_else(|| self.bytes());
        if self.rng.u32(..100) == 0 {
            if self.pool.len() < self.seeds + KEPT {
                self.pool.push(input.clone());
            } else {
                let at = self.rng.usize(self.seeds..self.pool.len());
                self.pool[at].clone_from(&input);
            }
        }
        input
    }

    /// A resource with some fields changed; `None` once in a while, and for what is no resource.
    fn resource(&mut self) -> Option<Vec<u8>> {
        let resources = self.resources.as_mut().filter(|_| self.rng.u32(..16) != 0)?;
        let input = &self.pool[self.rng.usize(..self.pool.len())];
        let other = &self.pool[self.rng.usize(..self.pool.len())];
        resources.change(input, other, &mut self.rng).filter(|made| made.len() <= LARGEST_RESOURCE)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let mut input = self.pool[self.rng.usize(..self.pool.len())].clone();
        for _ in 0..self.rng.usize(1..8) {
            self.change(&mut input);
        }
        input.truncate(if self.resources.is_some() { LARGEST_RESOURCE } else { LARGEST });
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.usize(..=input.len());
        let to = self.rng.usize(at..=input.len());
        match self.rng.u32(..8) {
            0 if at < input.len() => input[at] ^= 1 << self.rng.u32(..8),
            1 if at < input.len() => input[at] = self.rng.u8(..),
            2 => {
                let word = WORDS[self.rng.usize(..WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            3 => {
                let word = WORDS[self.rng.usize(..WORDS.len())];
                let end = (at + word.len()).min(input.len());
                input.splice(at..end, word.iter().copied());
            }
            4 => {
                let short = to.min(at + 32);
                input.drain(at..short);
            }
            5 => {
                let piece = input[at..to.min(at + 256)].to_vec();
                let place = self.rng.usize(..=input.len());
                input.splice(place..place, piece);
            }
            6 => {
                let other = self.pool[self.rng.usize(..self.pool.len())].clone();
                let from = self.rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at.max(1)),
        }
    }
}
