//! What errors say.

use std::error::Error;

/// An error with all its causes in one line, each once: `error connecting to server: Connection
/// refused (os error 111)`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    #[test]
    fn a_cause_that_was_told_already_is_not_told_again() {
        let refused = Layer("refused", None);
        let told = Layer("connecting: refused", Some(Box::new(refused)));
        assert_eq!(chain(&told), "connecting: refused");
        assert_eq!(
            chain(&Layer("no answer", Some(Box::new(told)))),
            "no answer: connecting: refused"
        );
    }
}
