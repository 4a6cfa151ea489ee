//! gRPC messages in a body, counted by their prefixes (one byte of flags, four of length).

/// Counts the messages of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages {
    /// Messages begun so far: a message counts once its prefix is whole.
    pub count: u64,
    /// Bytes of the prefix seen.
    seen: u8,
    length: u32,
    /// Bytes of the current message to come.
    left: u32,
}

impl Messages {
    /// Looks at the next bytes of the body.
    pub fn read(&mut self, mut data: &[u8]) {
        while let [first, rest @ ..] = data {
            if self.left > 0 {
                let skip = data.len().min(self.left as usize);
                // No more than `left`, which is a u32.
                self.left -= u32::try_from(skip).unwrap_or(self.left);
                data = data.get(skip..).unwrap_or_default();
                continue;
            }
            if self.seen > 0 {
                self.length = self.length << 8 | u32::from(*first);
            }
            self.seen += 1;
            data = rest;
            if self.seen == 5 {
                *self = Self { count: self.count + 1, left: self.length, ..Self::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0_u32, 3, 300, 0] {
            body.push(0);
            body.extend(length.to_be_bytes());
            body.extend(vec![9; length as usize]);
        }
        for size in [1, 2, 5, 7, body.len()] {
            let mut messages = Messages::default();
            body.chunks(size).for_each(|piece| messages.read(piece));
            assert_eq!(messages.count, 4, "in pieces of {size}");
        }
    }
}
