//! Where pgvigil's answers differ from Patroni's, and are meant to.

use super::mask;
use crate::lab::Product;

pub struct Difference {
    pub id: &'static str,
    /// What is asked.
    pub at: &'static str,
    pub what: &'static str,
    pub why: &'static str,
    /// The answer without the difference; `None` where it does not occur. What it does not
    /// recognize it leaves alone, so that anything else is still found.
    pub mend: fn(&str, Product, &str) -> Option<String>,
}

pub const REST: &[Difference] = &[Difference {
    id: "vigil",
    at: "status documents",
    what: "the object `vigil` stands last",
    why: "what only pgvigil knows: fencing, the rule that fired, its own version",
    mend: |_, product, text| ours(product).and_then(|()| mask::without_vigil(text)),
}];

pub const COMMAND_LINE: &[Difference] = &[];

fn ours(product: Product) -> Option<()> {
    (product == Product::Pgvigil).then_some(())
}
