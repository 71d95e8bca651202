"""Writes the custom resources among rendered manifests as a TypeScript program.

No schema of Kubernetes knows them, but their operators' types are published as
declarations for TypeScript, and its compiler refuses a field that a type does not have,
one that is missing, and a value that is none of those allowed.

    custom_resources.py MANIFESTS... >check.ts
"""

import json
import sys

import yaml

# Where the declarations of a group are. A custom resource of another group is an error:
# nothing would have looked at it.
PACKAGES = {
    "cert-manager.io": "@kubernetes-models/cert-manager",
    "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
    "postgresql.cnpg.io": "@kubernetes-models/cloudnative-pg",
}
# What Kubernetes brings itself, and kubernetes-validate looks at.
BUILT_IN = {"", "apps", "batch", "policy", "scheduling.k8s.io", "networking.k8s.io"}


def main(paths):
    found = 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for manifest in yaml.safe_load_all(file):
                group, _, version = manifest["apiVersion"].rpartition("/")
                if group in BUILT_IN:
                    continue
                if group not in PACKAGES:
                    sys.exit(f"{path}: nothing is known of the group {group}")
                kind = manifest["kind"]
                module = f"{PACKAGES[group]}/{group}/{version}/{kind}"
                print(f"import type {{ I{kind} as T{found} }} from {json.dumps(module)};")
                print(f"// {path}: {kind} {manifest['metadata']['name']}")
                print(f"const c{found}: T{found} = {json.dumps(manifest, indent=1)};")
                print(f"void c{found};")
                found += 1
    if found == 0:
        sys.exit("no custom resources were given")


main(sys.argv[1:])
