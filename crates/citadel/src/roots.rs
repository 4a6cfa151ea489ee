//! Sets of root certificates as PEM texts.

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a PEM text, each once, without whatever stands between them.
fn certificates(pem: &str) -> Vec<String> {
    let mut all = Vec::new();
    for part in pem.split(BEGIN).skip(1) {
        let Some((body, _)) = part.split_once(END) else { continue };
        let body: Vec<&str> = body.split_whitespace().collect();
        let one = format!("{BEGIN}\n{}\n{END}\n", body.join("\n"));
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

/// The roots of both, those of `first` first.
pub fn union(first: &str, second: &str) -> String {
    let mut all = certificates(first);
    for root in certificates(second) {
        if !all.contains(&root) {
            all.push(root);
        }
    }
    all.concat()
}

/// Whether all roots of `some` are among those of `all`.
pub fn contains(all: &str, some: &str) -> bool {
    let all = certificates(all);
    certificates(some).iter().all(|root| all.contains(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_joined_once_each() {
        let one = format!("# a comment\n{BEGIN}\nAAAA\nBBBB\n{END}\n");
        let same = format!("{BEGIN}\r\nAAAA\r\nBBBB\r\n{END}");
        let other = format!("{BEGIN}\nCCCC\n{END}\n");
        assert_eq!(union(&one, &same), format!("{BEGIN}\nAAAA\nBBBB\n{END}\n"));
        let both = union(&one, &other);
        assert_eq!(both.matches(BEGIN).count(), 2);
        assert!(contains(&both, &same) && contains(&both, &other) && !contains(&one, &other));
    }
}
