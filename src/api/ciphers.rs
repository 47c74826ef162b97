//! `restapi.ciphers`: OpenSSL's list of cipher suites, as far as rustls has suites to choose from.
//! As with OpenSSL the list concerns TLS 1.2; the suites of TLS 1.3 stay.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;

/// OpenSSL's names of rustls' suites of TLS 1.2, in rustls' order, with the words that name them
/// in groups.
const SUITES: &[(&str, &str, &str)] = &[
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "AESGCM AES AES256 ECDSA AECDSA SHA384",
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "AESGCM AES AES128 ECDSA AECDSA SHA256",
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "CHACHA20 ECDSA AECDSA",
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "AESGCM AES AES256 RSA ARSA SHA384",
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "AESGCM AES AES128 RSA ARSA SHA256",
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "CHACHA20 RSA ARSA",
    ),
];

/// Words that name all of them.
const EVERY: &[&str] = &["ALL", "DEFAULT", "HIGH", "TLSV1.2", "ECDHE", "EECDH", "KECDHE", "KEECDH"];

/// The suites that the list leaves, in its order, those of TLS 1.3 first.
///
/// # Errors
/// Nothing is left for TLS 1.2 and none of TLS 1.3 was named.
pub fn suites(list: &str) -> Result<Vec<SupportedCipherSuite>, String> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut named_tls13 = false;
    for item in list.split([':', ',', ' ']).filter(|item| !item.is_empty()) {
        let upper = item.to_ascii_uppercase();
        named_tls13 |= upper.starts_with("TLS_AES") || upper.starts_with("TLS_CHACHA");
        if let Some(words) = upper.strip_prefix(['!', '-']) {
            chosen.retain(|at| !matches(*at, words));
        } else if let Some(words) = upper.strip_prefix('+') {
            // Moved to the end of the list.
            let (last, first): (Vec<_>, Vec<_>) =
                chosen.into_iter().partition(|at| matches(*at, words));
            chosen = [first, last].concat();
        } else if !upper.starts_with('@') {
            let more = (0..SUITES.len()).filter(|at| matches(*at, &upper));
            let more: Vec<usize> = more.filter(|at| !chosen.contains(at)).collect();
            chosen.extend(more);
        }
    }
    if chosen.is_empty() && !named_tls13 {
        let names: Vec<&str> = SUITES.iter().map(|suite| suite.0).collect();
        let have = names.join(", ");
        return Err(format!("`{list}` leaves none of the suites that there are: {have}"));
    }
    let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite());
    let tls13 = ALL_CIPHER_SUITES.iter().filter(|suite| name(suite).starts_with("TLS13_"));
    let older = chosen
        .iter()
        .filter_map(|at| ALL_CIPHER_SUITES.iter().find(|suite| name(suite) == SUITES[*at].1));
    Ok(tls13.chain(older).copied().collect())
}

/// Whether each of the words joined by `+` names this suite.
fn matches(at: usize, words: &str) -> bool {
    let (openssl, iana, groups) = SUITES[at];
    words.split('+').all(|word| {
        word == openssl
            || word == iana
            || EVERY.contains(&word)
            || groups.split(' ').any(|group| group == word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn older(list: &str) -> Vec<String> {
        let names = suites(list).unwrap().into_iter().map(|s| format!("{:?}", s.suite()));
        names.filter(|name| !name.starts_with("TLS13_")).collect()
    }

    #[test]
    fn openssls_lists_choose_among_what_there_is() {
        for (list, count) in [
            ("HIGH", 6),
            ("HIGH:!aNULL:!MD5", 6),
            ("ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL", 6),
            ("ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES256-SHA", 1),
            ("ECDHE+AESGCM:!AES128", 2),
            ("TLS_AES_256_GCM_SHA384", 0),
        ] {
            assert_eq!(older(list).len(), count, "{list}: {:?}", older(list));
        }
        assert_eq!(
            older("ECDHE-RSA-AES128-GCM-SHA256 ECDHE-ECDSA-AES256-GCM-SHA384"),
            ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]
        );
        assert!(suites("HIGH").unwrap().len() > 6);
        for list in ["", "RC4-MD5", "HIGH:!ECDHE"] {
            assert!(suites(list).unwrap_err().contains("none of the suites"), "{list}");
        }
    }
}
