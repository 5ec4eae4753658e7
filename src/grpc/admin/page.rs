//! Pages over a list that is sorted by a key: a token is the key of the last entry that was sent, so nothing expires.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::grpc::problem::{FieldViolation, Problem};

/// Entries of a page for which none was asked, and at most.
const SIZE_DEFAULT: usize = 100;
const SIZE_MAX: usize = 1_000;

/// A page of `entries`, which come sorted by their unique keys, and the token of the next page; empty = last page.
///
/// # Errors
/// A negative size, or a token that is none of ours.
pub(super) fn page<T>(entries: Vec<(String, T)>, (size, token): (i32, &str)) -> Result<(Vec<T>, String), Problem> {
    let size = match usize::try_from(size) {
        Ok(0) => SIZE_DEFAULT,
        Ok(size) => size.min(SIZE_MAX),
        Err(_) => return Err(invalid("page_size", format!("is {size}; 0 to {SIZE_MAX} is allowed"))),
    };
    let after = if token.is_empty() { None } else { Some(key_of(token)?) };
    let mut rest = entries.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)).peekable();
    let mut last = String::new();
    let mut found = Vec::new();
    for (key, entry) in rest.by_ref().take(size) {
        last = key;
        found.push(entry);
    }
    let next = if rest.peek().is_some() { URL_SAFE_NO_PAD.encode(last) } else { String::new() };
    Ok((found, next))
}

fn key_of(token: &str) -> Result<String, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(Problem::PageTokenExpired)
}

fn invalid(field: &str, description: String) -> Problem {
    Problem::InvalidRequest(vec![FieldViolation { field: field.to_owned(), description }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Vec<(String, char)> {
        ('a'..='e').map(|letter| (letter.to_string(), letter)).collect()
    }

    #[test]
    fn pages_hold_every_entry_once_in_order() {
        let (mut token, mut seen, mut pages) = (String::new(), Vec::new(), 0);
        loop {
            let (entries, next) = page(letters(), (2, &token)).unwrap();
            assert!(entries.len() <= 2);
            seen.extend(entries);
            pages += 1;
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!((seen, pages), (('a'..='e').collect(), 3));
    }

    #[test]
    fn an_entry_that_went_between_two_pages_moves_nothing() {
        let (first, token) = page(letters(), (2, "")).unwrap();
        let without_b = letters().into_iter().filter(|(key, _)| key != "b").collect();
        let (second, _) = page(without_b, (2, &token)).unwrap();
        assert_eq!((first, second), (vec!['a', 'b'], vec!['c', 'd']));
    }

    #[test]
    fn a_full_last_page_has_no_token_and_a_strange_token_is_refused() {
        assert_eq!(page(letters(), (5, "")).unwrap().1, "");
        assert_eq!(page(letters(), (1, "§")).unwrap_err(), Problem::PageTokenExpired);
        assert!(matches!(page(letters(), (-1, "")), Err(Problem::InvalidRequest(_))));
    }
}
