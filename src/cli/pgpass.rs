//! Passwords from libpq's password file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The connection whose password is sought.
pub struct Wanted<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

/// The password of the first line that fits. A file that others may read is ignored, as by libpq,
/// and a warning says so.
pub fn find(file: &Path, wanted: &Wanted) -> Option<String> {
    let metadata = fs::metadata(file).ok().filter(|metadata| metadata.is_file())?;
    if metadata.mode() & 0o077 != 0 {
        eprintln!("warning: {} is ignored: others can read it (chmod 600)", file.display());
        return None;
    }
    lookup(&fs::read_to_string(file).ok()?, wanted)
}

fn lookup(text: &str, wanted: &Wanted) -> Option<String> {
    let port = wanted.port.to_string();
    let wanted = [wanted.host, &port, wanted.database, wanted.user];
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|fields| {
        let (password, key) = fields.get(4).zip(fields.get(..4))?;
        let fits = key.iter().zip(wanted).all(|(field, value)| field == "*" || field == value);
        fits.then(|| password.clone())
    })
}

/// Splits at colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let literal = match c {
            ':' => {
                fields.push(String::new());
                continue;
            }
            '\\' => chars.next(),
            c => Some(c),
        };
        if let Some(field) = fields.last_mut() {
            field.extend(literal);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let text =
            "# h:1:d:u:no\nh:1:other:u:no\nh\\:x:1:d:u:colon\nh:*:*:u:a\\:b\\\\\n*:*:*:*:last\n";
        let password =
            |host: &str, user: &str| lookup(text, &Wanted { host, port: 1, database: "d", user });
        assert_eq!(password("h", "u").as_deref(), Some("a:b\\"));
        assert_eq!(password("h:x", "u").as_deref(), Some("colon"));
        assert_eq!(password("elsewhere", "v").as_deref(), Some("last"));
        assert_eq!(
            lookup("h:1:d:v:p\nshort", &Wanted { host: "h", port: 1, database: "d", user: "u" }),
            None
        );
    }
}
