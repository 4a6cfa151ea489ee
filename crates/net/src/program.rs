//! The pages of the program itself: what its start read and the rest of its life does not.

use std::io;
use std::ops::Range;

/// Takes the program's code and constants out of this process' memory. What is used comes back from the page cache when it
/// is touched; what only the start used does not. How many bytes were mapped.
///
/// # Errors
/// When the kernel does not say what is mapped, or refuses.
pub fn release_program() -> io::Result<usize> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut mapped = 0;
    for area in areas(&maps, &program.to_string_lossy()) {
        // SAFETY: the kernel has just said that this is a private mapping of a file, which cannot be written to and of
        // which no page was ever copied by a write. To drop its pages changes no byte: each comes back from the file, which
        // the kernel lets nobody write to while it runs.
        let result = unsafe { libc::madvise(area.start as *mut libc::c_void, area.len(), libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        mapped += area.len();
    }
    Ok(mapped)
}

/// Mappings of a file that hold nothing but the file's own bytes.
fn areas(maps: &str, file: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in maps.lines() {
        if let Some((range, about)) = header(line) {
            let own = about.ends_with(file) && about.starts_with("r-") && about.as_bytes().get(3) == Some(&b'p');
            current = own.then_some(range);
        } else if let Some(rest) = line.strip_prefix("Anonymous:") {
            // Pages that a write copied, such as those the loader relocated, are there once.
            let pristine = rest.split_whitespace().next() == Some("0");
            found.extend(current.take().filter(|_| pristine));
        }
    }
    found
}

/// `START-END PERMISSIONS ...` of an area.
fn header(line: &str) -> Option<(Range<usize>, &str)> {
    let (range, about) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?..address(end)?, about))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pristine_pages_of_the_program_are_let_go() {
        let area = |range: &str, about: &str, anonymous: u32| {
            format!(
                "{range} {about}\nSize: 8 kB\nRss: 8 kB\nPrivate_Dirty: 0 kB\nAnonymous: {anonymous} kB\nVmFlags: rd mr\n"
            )
        };
        let maps = [
            area("1000-3000", "r--p 00000000 fe:00 7 /bin/meltemi", 0),
            area("3000-4000", "r-xp 00002000 fe:00 7 /bin/meltemi", 0),
            area("4000-5000", "r--p 00003000 fe:00 7 /bin/meltemi", 4),
            area("5000-6000", "rw-p 00004000 fe:00 7 /bin/meltemi", 0),
            area("6000-7000", "r-xs 00002000 fe:00 7 /bin/meltemi", 0),
            area("7000-8000", "r-xp 00000000 fe:00 8 /lib/libc.so.6", 0),
            area("8000-9000", "rw-p 00000000 00:00 0", 8),
        ];
        assert_eq!(areas(&maps.concat(), "/bin/meltemi"), [0x1000..0x3000, 0x3000..0x4000]);
    }

    #[test]
    fn the_program_runs_on() {
        assert!(release_program().unwrap() > 0);
        assert_eq!(areas("", ""), []);
    }
}
