//! The rules between sections: names, references, addresses, peerings and routes.
//!
//! Called by [`Config::parse`](super::Config::parse) with whatever could be read. A rule that needs a field which was
//! wrong stays silent: the field has its own complaint.

mod links;
mod names;
mod peerings;
mod routes;
mod tunnels;

use ipnet::IpNet;
use toml::Spanned;

use super::draft::Drafts;
use super::{Diagnostics, Source};
use names::Names;

/// Adds a complaint to `mistakes` for every broken rule.
pub(super) fn check(source: &Source, drafts: &Drafts, mistakes: &mut Diagnostics) {
    let mut report = Report { source, mistakes };
    let names = Names::collect(drafts, &mut report);
    names.check_references(drafts, &mut report);
    links::check(drafts, &mut report);
    tunnels::check(drafts, &mut report);
    peerings::check(drafts, &names, &mut report);
    routes::check(drafts, &names, &mut report);
    links::something_is_attached(drafts, &mut report);
}

/// Where the rules complain.
struct Report<'a> {
    source: &'a Source,
    mistakes: &'a mut Diagnostics,
}

impl Report<'_> {
    /// `at` breaks a rule.
    fn wrong<T>(&mut self, at: &Spanned<T>, message: String, help: impl Into<String>) {
        self.mistakes
            .push(self.source.error(at.span(), message, help));
    }

    /// `at` breaks a rule together with `other`, which stands elsewhere and is shown as `label`.
    fn conflict<T, U>(
        &mut self,
        at: &Spanned<T>,
        other: &Spanned<U>,
        label: &str,
        message: String,
        help: impl Into<String>,
    ) {
        let complaint = self.source.error(at.span(), message, help);
        self.mistakes
            .push(complaint.with_related(other.span(), label));
    }
}

/// Pairs of prefixes of which the first contains the second, found by one pass over the sorted prefixes: a prefix
/// overlaps an earlier one only by lying inside it.
fn overlaps<T>(mut prefixes: Vec<(IpNet, T)>) -> Vec<((IpNet, T), (IpNet, T))>
where
    T: Copy,
{
    prefixes.sort_by_key(|(prefix, _)| (prefix.network(), prefix.prefix_len()));
    let mut found = Vec::new();
    let mut cover: Option<(IpNet, T)> = None;
    for item in prefixes {
        match cover {
            Some(outer) if outer.0.contains(&item.0) => found.push((outer, item)),
            _ => cover = Some(item),
        }
    }
    found
}

/// Whether two prefixes share an address.
fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
