//! Unix sockets as addresses: `unix:///path` and, of an abstract name, `unix://@name`.

/// What the kernel has room for, with the zero at the end.
const LONGEST: usize = 107;

/// The path of an address that is a Unix socket, or its abstract name with the `@`; `None` for every other address.
pub fn socket_path(address: &str) -> Option<&str> {
    address.strip_prefix("unix://")
}

/// What is wrong with an address that begins with `unix://`.
pub(crate) fn mistake(address: &str) -> Option<String> {
    let path = socket_path(address)?;
    let (named, whole) = (path.len() > 1 && path.starts_with('@'), path.starts_with('/') && !path.ends_with('/'));
    if (named || whole) && path.len() <= LONGEST && !path.contains('\0') {
        return None;
    }
    Some(format!("\"{address}\" is no Unix socket; write unix:///PATH or unix://@NAME, of at most {LONGEST} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_whole_path_or_an_abstract_name() {
        for good in ["unix:///tmp/a", "unix://@a"] {
            assert_eq!(mistake(good), None, "{good}");
        }
        for bad in ["unix://", "unix://a", "unix:///a/", "unix:///", "unix://@", "unix:///a\0b"] {
            assert!(mistake(bad).is_some(), "{bad}");
        }
        assert!(mistake(&format!("unix:///{}", "a".repeat(LONGEST))).is_some());
        assert_eq!(socket_path("127.0.0.1:80"), None);
    }
}
