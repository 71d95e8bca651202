//! Finds and reads the files of `deploy/`.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A YAML document and where it stands.
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) yaml: Value,
}

impl Document {
    /// The text at `pointer`, or an empty one.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.yaml
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    /// For messages.
    pub(crate) fn shown(&self) -> String {
        format!(
            "{}: {} {}",
            self.path.display(),
            self.text("/kind"),
            self.text("/metadata/name")
        )
    }
}

/// The folder `deploy/`.
pub(crate) fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A file below `deploy/`.
pub(crate) fn read(name: &str) -> String {
    let path = deploy().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of one YAML file below `deploy/`.
pub(crate) fn documents(name: &str) -> Vec<Document> {
    let text = read(name);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
        .unwrap_or_else(|error| panic!("{name} is no YAML: {error}"));
    assert!(!documents.is_empty(), "{name} is empty");
    documents
        .into_iter()
        .map(|yaml| Document {
            path: PathBuf::from(name),
            yaml,
        })
        .collect()
}

/// All documents below `deploy/kubernetes`, patches and kustomizations among them.
pub(crate) fn manifests() -> Vec<Document> {
    let mut names = Vec::new();
    walk(&deploy(), Path::new("kubernetes"), &mut names);
    names.sort();
    names.retain(|name| name.ends_with(".yaml"));
    names.iter().flat_map(|name| documents(name)).collect()
}

/// Names of the files below `deploy/kubernetes` that end so.
pub(crate) fn names_ending(end: &str) -> Vec<String> {
    let mut names = Vec::new();
    walk(&deploy(), Path::new("kubernetes"), &mut names);
    names.retain(|name| name.ends_with(end));
    names
}

fn walk(root: &Path, folder: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, names);
        } else {
            names.push(path.to_str().unwrap().to_owned());
        }
    }
}

/// The one document of a kind and name in a file of base.
pub(crate) fn base(name: &str) -> Document {
    let mut documents = documents(&format!("kubernetes/base/{name}"));
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

/// The list at `pointer`; empty where there is none.
pub(crate) fn list<'a>(yaml: &'a Value, pointer: &str) -> &'a [Value] {
    yaml.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Every mapping in a document, itself included.
pub(crate) fn mappings(yaml: &Value) -> Vec<&serde_json::Map<String, Value>> {
    let mut found = Vec::new();
    let mut open = vec![yaml];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                found.push(map);
                open.extend(map.values());
            }
            Value::Array(values) => open.extend(values),
            _ => {}
        }
    }
    found
}
