//! Reads Rust sources as tokens: comments and texts blanked, paths resolved through imports. Knows no rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::mask;

/// One source file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the top of the repository, with `/`.
    pub(crate) path: String,
    /// As written.
    pub(crate) text: String,
    /// Words and signs outside comments and texts; test modules are left out of files in `src`.
    pub(crate) tokens: Vec<Token>,
    /// Names with `::`, imports taken apart, first names replaced by what they were imported as.
    pub(crate) names: Vec<Name>,
}

/// A word, a lifetime (`'a`), `::`, or any other single sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// As written.
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

/// A path such as `crate::domain::message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// At least one.
    pub(crate) segments: Vec<String>,
    /// From 1.
    pub(crate) line: usize,
}

impl Source {
    /// Takes a text apart, as if it stood at `path`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let blanked = mask::without_comments_and_texts(text);
        let blanked = if path.starts_with("src/") { mask::without_test_modules(&blanked) } else { blanked };
        let tokens = tokens(&blanked);
        let names = resolve(&tokens, &module_of(path));
        Self { path: path.to_owned(), text: text.to_owned(), tokens, names }
    }

    /// All files of the repository that match, sorted by path.
    pub(crate) fn all(folders: &[&str]) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<PathBuf> = folders.iter().flat_map(|folder| rust_files(&root.join(folder))).collect();
        files.sort();
        let read = |file: &PathBuf| {
            let path = file.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            (path, fs::read_to_string(file).unwrap())
        };
        Self::tree(&files.iter().map(read).collect::<Vec<_>>())
    }

    /// Paths and texts taken apart. A file that another declares as a test module has no tokens: tests may do what the rooms
    /// may not.
    pub(crate) fn tree(files: &[(String, String)]) -> Vec<Self> {
        let test_modules = files.iter().filter(|(path, _)| path.starts_with("src/")).flat_map(|(path, text)| {
            let names = mask::declared_test_modules(&mask::without_comments_and_texts(text));
            names.into_iter().map(|name| [module_of(path), vec![name]].concat())
        });
        let test_modules: Vec<Vec<String>> = test_modules.collect();
        let is_test =
            |path: &str| path.starts_with("src/") && test_modules.iter().any(|own| module_of(path).starts_with(own));
        let read = |(path, text): &(String, String)| {
            let source = Self::new(path, text);
            if is_test(path) { Self { tokens: Vec::new(), names: Vec::new(), ..source } } else { source }
        };
        files.iter().map(read).collect()
    }

    /// Lines on which a word stands, followed by `next` if that is not empty.
    pub(crate) fn lines_with(&self, word: &str, next: &str) -> Vec<usize> {
        let pairs = self.tokens.iter().zip(self.tokens.iter().skip(1).map(|token| token.text.as_str()).chain([""]));
        pairs
            .filter(|(token, after)| token.text == word && (next.is_empty() || *after == next))
            .map(|p| p.0.line)
            .collect()
    }
}

fn rust_files(start: &Path) -> Vec<PathBuf> {
    if start.is_file() {
        return vec![start.to_owned()];
    }
    let Ok(entries) = fs::read_dir(start) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let wanted = paths.filter(|path| path.is_dir() || path.extension().is_some_and(|ending| ending == "rs"));
    wanted.flat_map(|path| rust_files(&path)).collect()
}

/// The module of a file below `src`: `src/grpc/wire.rs` is `crate::grpc::wire`.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let parts = inner.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    std::iter::once("crate").chain(parts).map(str::to_owned).collect()
}

fn tokens(blanked: &str) -> Vec<Token> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (index, line) in blanked.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '\'' => 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1),
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            found.push(Token { text: rest[..length].to_owned(), line: index + 1 });
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// All names of a file, with imports and child modules put in the place of their short names.
fn resolve(tokens: &[Token], module: &[String]) -> Vec<Name> {
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut names = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_child_module(&tokens[at..]) {
            let child = tokens[at + 1].text.clone();
            known.insert(child.clone(), [module, &[child]].concat());
            at += 2;
        } else if tokens[at].text == "use" && tokens.get(at + 1).is_some_and(|next| next.text != "<") {
            let end = at + tokens[at..].iter().position(|token| token.text == ";").unwrap_or(tokens.len() - at - 1);
            import(&tokens[at + 1..end], &[], &mut known, &mut names);
            at = end + 1;
        } else if is_name(&tokens[at].text) {
            let (name, end) = name_at(tokens, at);
            // An exported macro stands at the top of the crate, wherever its room is: its name leads to none.
            let of_macro = tokens.get(end).is_some_and(|next| next.text == "!") || at > 0 && tokens[at - 1].text == "$";
            if !(of_macro && name.segments.len() == 2 && name.segments[0] == "crate") {
                names.push(name);
            }
            at = end;
        } else {
            at += 1;
        }
    }
    names.into_iter().map(|name| full(name, &known, module)).collect()
}

/// The name that begins at a token, and where it ends.
fn name_at(tokens: &[Token], start: usize) -> (Name, usize) {
    let mut name = Name { segments: vec![tokens[start].text.clone()], line: tokens[start].line };
    let mut end = start + 1;
    while let Some([colons, next]) = tokens.get(end..end + 2)
        && colons.text == "::"
        && is_name(&next.text)
    {
        name.segments.push(next.text.clone());
        end += 2;
    }
    (name, end)
}

/// `mod child;`, not `mod child { … }`.
fn is_child_module(tokens: &[Token]) -> bool {
    tokens[0].text == "mod" && tokens.get(2).is_some_and(|token| token.text == ";")
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Takes `a::{b, c as d}` apart into `a::b` and `a::c`.
fn import(tree: &[Token], before: &[String], known: &mut BTreeMap<String, Vec<String>>, names: &mut Vec<Name>) {
    let mut segments = before.to_vec();
    let mut at = 0;
    while at < tree.len() {
        match tree[at].text.as_str() {
            "{" => {
                let inner = &tree[at + 1..tree.len().saturating_sub(1).max(at + 1)];
                for branch in branches(inner) {
                    import(branch, &segments, known, names);
                }
                return;
            }
            "as" => break,
            "self" if !segments.is_empty() => {}
            text if is_name(text) => segments.push(text.to_owned()),
            _ => {}
        }
        at += 1;
    }
    let Some(last) = segments.last() else { return };
    let short = if at < tree.len() { tree.last().unwrap().text.clone() } else { last.clone() };
    known.insert(short, segments.clone());
    names.push(Name { segments, line: tree[0].line });
}

/// The parts between commas that are in no inner braces.
fn branches(tree: &[Token]) -> Vec<&[Token]> {
    let mut depth = 0_i32;
    let parts = tree.split(|token| {
        depth += i32::from(token.text == "{") - i32::from(token.text == "}");
        depth == 0 && token.text == ","
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// Puts what the first segment stands for in its place.
fn full(name: Name, known: &BTreeMap<String, Vec<String>>, module: &[String]) -> Name {
    let Name { mut segments, line } = name;
    // An import may rest on another (`use crate::broker;` and `use broker::amqp;`): two steps are plenty.
    for _ in 0..2 {
        if let Some(whole) = known.get(&segments[0]).filter(|whole| whole[0] != segments[0]) {
            segments.splice(0..1, whole.iter().cloned());
        }
    }
    let mut here = module.to_vec();
    if segments[0] == "self" && segments.len() > 1 {
        segments.splice(0..1, here.iter().cloned());
    }
    while segments[0] == "super" {
        here.pop();
        segments.remove(0);
        if segments.first().is_none_or(|next| next != "super") {
            segments.splice(0..0, here.iter().cloned());
        }
        if segments.is_empty() {
            segments.push("crate".to_owned());
        }
    }
    // The binary names the library by its name.
    if segments[0] == "sidebus" && module.len() == 1 {
        "crate".clone_into(&mut segments[0]);
    }
    Name { segments, line }
}
