//! Nested tables of values, each leaf with its origin, and the layers of them that the `config` crate merges.

use config::{Config, ConfigError, Map, Source, Value, ValueKind};

use super::path::KeyPath;

/// A table without entries.
pub(super) fn empty() -> Value {
    Value::new(None, ValueKind::Table(Map::new()))
}

/// A value that knows where it came from.
pub(super) fn leaf(origin: &str, kind: impl Into<ValueKind>) -> Value {
    Value::new(Some(&origin.to_owned()), kind)
}

/// Where a value came from; a merged table has no place of its own and tells its first entry's. Empty = nowhere.
pub(super) fn origin(value: &Value) -> String {
    match value.origin() {
        Some(origin) => origin.to_owned(),
        None => entries(value).first().map(|(_, below)| origin(below)).unwrap_or_default(),
    }
}

/// The entries of a table in a stable order; none if it is no table.
pub(super) fn entries(value: &Value) -> Vec<(&String, &Value)> {
    let ValueKind::Table(table) = &value.kind else { return Vec::new() };
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(word, _)| *word);
    entries
}

/// True for a table.
pub(super) fn is_table(value: &Value) -> bool {
    matches!(value.kind, ValueKind::Table(_))
}

/// What stands at a path.
pub(super) fn get<'a>(tree: &'a Value, path: &KeyPath) -> Option<&'a Value> {
    path.words().iter().try_fold(tree, |node, word| {
        let ValueKind::Table(table) = &node.kind else { return None };
        table.get(word)
    })
}

/// Puts a value at a path, merging tables.
///
/// # Errors
/// The origin of what stands there already.
pub(super) fn insert(tree: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    let Some((word, below)) = path.split_first() else { return merge_into(tree, value) };
    let other = origin(tree);
    let ValueKind::Table(table) = &mut tree.kind else { return Err(other) };
    insert(table.entry(word.clone()).or_insert_with(empty), below, value)
}

fn merge_into(place: &mut Value, value: Value) -> Result<(), String> {
    let is_untouched = is_table(place) && entries(place).is_empty() && place.origin().is_none();
    if is_untouched {
        *place = value;
        return Ok(());
    }
    if !is_table(place) || !is_table(&value) {
        return Err(origin(place));
    }
    let ValueKind::Table(incoming) = value.kind else { return Ok(()) };
    incoming.into_iter().try_for_each(|(word, value)| insert(place, &[word], value))
}

/// Takes out what stands at a path.
pub(super) fn remove(tree: &mut Value, path: &[String]) -> Option<Value> {
    let (word, below) = path.split_first()?;
    let ValueKind::Table(table) = &mut tree.kind else { return None };
    if below.is_empty() { table.remove(word) } else { remove(table.get_mut(word)?, below) }
}

/// One source for the `config` crate. Its own sources guess types and forget origins (the environment's), so ours hands
/// over what was read.
#[derive(Clone)]
struct Layer(Value);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values may be secrets.
        f.debug_struct("Layer").finish_non_exhaustive()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let ValueKind::Table(table) = self.0.kind.clone() else { return Ok(Map::new()) };
        Ok(table)
    }
}

/// Merges layers, later ones over earlier ones: tables key by key, everything else whole.
pub(super) fn merge<'a>(layers: impl IntoIterator<Item = &'a Value>) -> Result<Value, ConfigError> {
    let builder = layers.into_iter().fold(Config::builder(), |builder, layer| builder.add_source(Layer(layer.clone())));
    Ok(builder.build()?.cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str, origin: &str, value: i64) -> Value {
        let mut tree = empty();
        insert(&mut tree, KeyPath::of(path).words(), leaf(origin, value)).unwrap();
        tree
    }

    fn collect_leaves(node: &Value, path: &KeyPath, found: &mut Vec<(String, String, String)>) {
        for (word, below) in entries(node) {
            let path = path.child(word);
            if is_table(below) {
                collect_leaves(below, &path, found);
            } else {
                found.push((path.to_string(), below.to_string(), origin(below)));
            }
        }
    }

    #[test]
    fn later_layers_win_leaf_by_leaf_and_every_leaf_keeps_its_origin() {
        let mut low = tree("bus.a", "file:1", 1);
        insert(&mut low, KeyPath::of("bus.b").words(), leaf("file:2", 2)).unwrap();
        let merged = merge([&low, &tree("bus.b", "BUS__B", 3)]).unwrap();
        let mut found = Vec::new();
        collect_leaves(&merged, &KeyPath::default(), &mut found);
        let row = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(found, [row("bus.a", "1", "file:1"), row("bus.b", "3", "BUS__B")]);
    }

    #[test]
    fn a_place_that_is_taken_names_who_took_it() {
        let mut low = tree("bus.a", "X", 1);
        assert_eq!(insert(&mut low, KeyPath::of("bus.a").words(), leaf("Y", 1)), Err("X".to_owned()));
        assert_eq!(insert(&mut low, KeyPath::of("bus.a.b").words(), leaf("Y", 1)), Err("X".to_owned()));
        assert_eq!(insert(&mut low, KeyPath::of("bus").words(), leaf("Y", 1)), Err("X".to_owned()));
        assert_eq!(insert(&mut low, KeyPath::of("bus.c").words(), leaf("Y", 1)), Ok(()));
    }
}
