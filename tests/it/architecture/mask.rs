//! Blanks what is no code: comments, texts, characters, test modules. Lines and their numbers stay.

/// The text with comments, string and character literals replaced by spaces.
pub(crate) fn without_comments_and_texts(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    let mut previous = ' ';
    while let Some(first) = rest.chars().next() {
        let length = blank_length(rest, previous);
        let (piece, blank) = if length == 0 { (&rest[..first.len_utf8()], false) } else { (&rest[..length], true) };
        kept.extend(piece.chars().map(|c| if blank && c != '\n' { ' ' } else { c }));
        previous = piece.chars().next_back().unwrap_or(' ');
        rest = &rest[piece.len()..];
    }
    kept
}

/// How many bytes from here on are no code; 0 = the first character is.
fn blank_length(rest: &str, previous: char) -> usize {
    let in_word = previous.is_alphanumeric() || previous == '_';
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, 0, '"');
    }
    if !in_word && let Some(prefix) = ["b\"", "c\""].iter().find(|prefix| rest.starts_with(**prefix)) {
        return quoted(rest, prefix.len() - 1, '"');
    }
    if !in_word && let Some(prefix) = ["br", "cr", "r"].iter().find(|prefix| rest.starts_with(**prefix)) {
        return raw(rest, prefix.len());
    }
    if rest.starts_with('\'') && is_character(rest) {
        return quoted(rest, 0, '\'');
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// A literal whose opening mark stands at `start`.
fn quoted(rest: &str, start: usize, mark: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip_while(|(at, _)| *at <= start) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == mark => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`; 0 for a raw word such as `r#type`.
fn raw(rest: &str, start: usize) -> usize {
    let hashes = rest[start..].len() - rest[start..].trim_start_matches('#').len();
    let open = start + hashes;
    if !rest[open..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    rest[open + 1..].find(&close).map_or(rest.len(), |at| open + 1 + at + close.len())
}

/// A character literal and no lifetime: `'a'` or `'\n'`, not `'a`.
fn is_character(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// The mark of a test module.
const TEST: &str = "#[cfg(test)]";

/// The text, already blanked, without `#[cfg(test)] mod … { … }`.
pub(crate) fn without_test_modules(blanked: &str) -> String {
    let mut text = blanked.to_owned();
    let mut from = 0;
    while let Some(start) = text[from..].find(TEST).map(|at| from + at) {
        from = start + 1;
        let item = &text[start + TEST.len()..];
        let Some(open) = item.find(['{', ';']).filter(|_| module_name(item).is_some()) else { continue };
        let length = if item[open..].starts_with('{') { braces(&item[open..]) } else { 1 };
        let end = start + TEST.len() + open + length;
        // Blanked text is compared by lines, so other characters may become narrower.
        let blank: String = text[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        text.replace_range(start..end, &blank);
    }
    text
}

/// The names in `#[cfg(test)] mod name;`: files of their own, elsewhere.
pub(crate) fn declared_test_modules(blanked: &str) -> Vec<String> {
    let items = blanked.split(TEST).skip(1);
    let declared = items.filter_map(|item| {
        let name = module_name(item)?;
        let (_, after) = item.split_once(name)?;
        after.trim_start().starts_with(';').then(|| name.to_owned())
    });
    declared.collect()
}

/// The name, if the item is a module.
fn module_name(item: &str) -> Option<&str> {
    let item = item.trim_start();
    let item = item.strip_prefix("pub").map_or(item, |rest| rest.trim_start_matches("(crate)").trim_start());
    let name = item.strip_prefix("mod ")?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The length of a block, from its opening brace to the closing one.
fn braces(block: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in block.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    block.len()
}
