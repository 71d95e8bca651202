"""As much of a Kubernetes as the runbook needs, over containers: a StatefulSet and its
pods, Jobs, disks, settings, Secrets, and certificates as cert-manager would issue them.

What was applied is kept in a folder; which pods there are is what Docker says. `kubectl.py`
changes the first, and `StandIn.reconcile`, called again and again by who runs the checks,
brings the second there, by the rules of Kubernetes' own controller: missing pods are all
made at once, an update goes from the highest number down, and no further while the pod
before is not ready.

It knows nothing of machines, probes other than readiness, resources, network policies and
disruption budgets. A field of a pod that it does not know is an error, and so is a kind
of object, so that nothing is passed over in silence.
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

from certificates import authority, certificate

# The user of the image and of the manifests.
USER = 65532
# Kept, and of no consequence here.
PASSIVE_KINDS = {
    "Namespace", "ServiceAccount", "Service", "PodDisruptionBudget", "PriorityClass", "NetworkPolicy",
    "PodMonitor", "PrometheusRule", "Issuer",
}
KNOWN_OF_POD = {
    "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "terminationGracePeriodSeconds",
    "securityContext", "topologySpreadConstraints", "priorityClassName", "containers", "volumes", "restartPolicy",
}
KNOWN_OF_CONTAINER = {
    "name", "image", "imagePullPolicy", "args", "env", "ports", "startupProbe", "livenessProbe", "readinessProbe",
    "resources", "securityContext", "volumeMounts",
}
# A kubelet starts what ended again; at first without delay.
RESTART = {"Always": "always", "OnFailure": "on-failure:10", "Never": "no"}


class Refused(Exception):
    """Asked for something that this is not, or that is not there."""


def unknown(what, found, known):
    """Refuses what nothing here would look at."""
    if rest := set(found) - set(known):
        raise Refused(f"the stand-in knows nothing of {what}: {', '.join(sorted(rest))}")


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


class StandIn:
    """One namespace. `images` says by which images here those in the manifests are played."""

    def __init__(self, docker, folder, network, namespace, images):
        self.docker = docker
        self.folder = pathlib.Path(folder)
        self.network = network
        self.namespace = namespace
        self.images = images
        self.folder.mkdir(parents=True, exist_ok=True)

    # -- What was applied

    @contextlib.contextmanager
    def objects(self):
        """All objects, by kind and name; changes are kept."""
        path = self.folder / "objects.json"
        with open(self.folder / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            objects = json.loads(path.read_text()) if path.exists() else {}
            before = json.dumps(objects)
            yield objects
            if json.dumps(objects) != before:
                path.write_text(json.dumps(objects, indent=1))

    def get(self, kind, name):
        with self.objects() as objects:
            found = objects.get(f"{kind}/{name}")
        if not found:
            raise Refused(f'Error from server (NotFound): {kind.lower()} "{name}" not found')
        return found

    def apply(self, manifest):
        """Makes or changes an object; what became of it, in a word."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        key = f"{kind}/{name}"
        with self.objects() as objects:
            before = objects.get(key)
            if before and {**before, "revisions": None} == {**manifest, "revisions": None}:
                return "unchanged"
            if kind == "Job" and before:
                if before["spec"]["template"] != manifest["spec"]["template"]:
                    raise Refused(f'The Job "{name}" is invalid: spec.template: field is immutable')
                return "unchanged"
            if kind == "StatefulSet":
                template = manifest["spec"]["template"]
                self.container_options(manifest["metadata"]["name"] + "-0", template, manifest)
                revisions = (before or {}).get("revisions", [])
                manifest["revisions"] = revisions if template in revisions[-1:] else [*revisions, template]
                if before:
                    # What was patched in and is not in the manifest stays.
                    manifest["spec"]["updateStrategy"] = before["spec"]["updateStrategy"]
            elif kind == "Job":
                self.container_options(name, manifest["spec"]["template"], manifest)
            elif kind in ("ConfigMap", "Secret"):
                self.write_files(manifest)
            elif kind == "Certificate":
                pass
            elif kind not in PASSIVE_KINDS:
                raise Refused(f"the stand-in knows nothing of the kind {kind}")
            objects[key] = manifest
        return "configured" if before else "created"

    def write_files(self, manifest):
        """The files of a ConfigMap or Secret, changed at once, the way a kubelet does."""
        texts = {**manifest.get("data", {}), **manifest.get("stringData", {})}
        if manifest["kind"] == "Secret":
            for key, text in manifest.get("data", {}).items():
                texts[key] = base64.b64decode(text).decode()
        folder = self.folder / manifest["kind"] / manifest["metadata"]["name"]
        folder.mkdir(parents=True, exist_ok=True)
        version = folder / f"..{time.time_ns()}"
        version.mkdir()
        for each in (folder, version):
            each.chmod(0o755)
        for key, text in texts.items():
            file = version / key
            file.write_text(text)
            os.chown(file, 0, USER)
            file.chmod(0o440)
        link = folder / "..data_next"
        link.symlink_to(version.name)
        before = folder / "..data"
        old = before.resolve() if before.exists() else None
        link.replace(before)
        for key in texts:
            if not (folder / key).is_symlink():
                (folder / key).symlink_to(f"..data/{key}")
        if old:
            shutil.rmtree(old)

    # -- cert-manager

    def issue(self):
        """Issues the certificates that are not there yet, authorities first."""
        with self.objects() as objects:
            certificates = [each for key, each in objects.items() if key.startswith("Certificate/")]
        certificates.sort(key=lambda each: not each["spec"].get("isCA"))
        for each in certificates:
            if not (self.folder / "Secret" / each["spec"]["secretName"]).exists():
                self.renew(each["metadata"]["name"])

    def renew(self, name):
        """Issues a certificate, anew if there is one."""
        spec = self.get("Certificate", name)["spec"]
        made = self.folder / "issued" / spec["secretName"]
        if spec.get("isCA"):
            authority(made, spec["commonName"])
            shutil.copy(made / "ca.crt", made / "tls.crt")
            shutil.copy(made / "ca.key", made / "tls.key")
        else:
            issuer = self.get("Issuer", spec["issuerRef"]["name"])
            issued_by = self.folder / "issued" / issuer["spec"]["ca"]["secretName"]
            addresses = [f"IP:{each}" for each in spec.get("ipAddresses", [])]
            certificate(made, issued_by, spec["commonName"], *spec["dnsNames"], *addresses)
        texts = {file: (made / file).read_text() for file in ("ca.crt", "tls.crt", "tls.key")}
        self.write_files({"kind": "Secret", "metadata": {"name": spec["secretName"]}, "stringData": texts})

    # -- Pods

    def container(self, pod):
        return f"{self.network}-{pod}"

    def pods(self, component=None):
        """Every pod that there is, by name, with what Docker says of its container."""
        ids = self.docker("ps", "--all", "--quiet", f"--filter=label=stand-in={self.network}").split()
        if not ids:
            return {}
        # One that goes away meanwhile is not there.
        inspected = self.docker("inspect", *ids, check=False, stderr=subprocess.DEVNULL).stdout
        pods = {}
        for each in json.loads(inspected or "[]"):
            labels = each["Config"]["Labels"]
            if component in (None, labels["component"]):
                pods[labels["pod"]] = each
        return dict(sorted(pods.items()))

    def address(self, inspected):
        return inspected["NetworkSettings"]["Networks"][self.network]["IPAddress"]

    def is_ready(self, inspected):
        """Whether the readiness probe of a node's pod succeeds."""
        if not inspected["State"]["Running"]:
            return False
        try:
            url = f"http://{self.address(inspected)}:7401/readyz"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError, ValueError):
            return False

    def container_options(self, pod, template, manifest):
        """Arguments of `docker run` that a pod's container has."""
        spec = template["spec"]
        unknown("this field of a pod", spec, KNOWN_OF_POD)
        if len(spec["containers"]) != 1:
            raise Refused("the stand-in knows pods with one container only")
        container = spec["containers"][0]
        unknown("this field of a container", container, KNOWN_OF_CONTAINER)
        variables = {}
        for each in container.get("env", []):
            if "value" in each:
                variables[each["name"]] = each["value"]
            else:
                field = each["valueFrom"]["fieldRef"]["fieldPath"]
                variables[each["name"]] = {"metadata.name": pod, "metadata.namespace": self.namespace}[field]
        arguments = []
        for argument in container["args"]:
            for name, value in variables.items():
                argument = argument.replace(f"$({name})", value)
            arguments.append(argument)
        volumes = {each["name"]: each for each in spec.get("volumes", [])}
        claims = {each["metadata"]["name"] for each in manifest["spec"].get("volumeClaimTemplates", [])}
        options = [f"--env={name}={value}" for name, value in variables.items()]
        for mount in container.get("volumeMounts", []):
            unknown("this field of a mount", mount, {"name", "mountPath", "readOnly"})
            name = mount["name"]
            if name in claims:
                options.append(f"--volume={self.disk(name, pod)}:{mount['mountPath']}")
            else:
                options.append(f"--volume={self.mounted(volumes[name])}:{mount['mountPath']}:ro")
        image = container["image"]
        if image not in self.images:
            raise Refused(f"there is no image {image}")
        return options, self.images[image], arguments

    def disk(self, claim, pod):
        return f"{self.network}-{claim}-{pod}"

    def mounted(self, volume):
        """The folder that is mounted for a volume."""
        unknown("this kind of volume", volume, {"name", "configMap", "secret"})
        if "configMap" in volume:
            return self.folder / "ConfigMap" / volume["configMap"]["name"]
        secret = volume["secret"]
        if any(each["key"] != each["path"] for each in secret.get("items", [])):
            raise Refused("the stand-in mounts keys of a Secret under their own names only")
        return self.folder / "Secret" / secret["secretName"]

    def start(self, pod, manifest):
        """Makes a pod of a StatefulSet or a Job, as restricted as the manifests have it."""
        template = manifest["spec"]["template"]
        options, image, arguments = self.container_options(pod, template, manifest)
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        restart = RESTART[template["spec"].get("restartPolicy", "Always")]
        # The names that the headless Service gives it.
        service = manifest["spec"].get("serviceName", "jobs")
        name = f"{pod}.{service}.{self.namespace}.svc"
        self.docker(
            "run", "--detach", "--name", self.container(pod), "--hostname", pod, f"--network={self.network}",
            f"--network-alias={name}", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
            f"--restart={restart}", f"--label=stand-in={self.network}", f"--label=pod={pod}",
            f"--label=component={component}", f"--label=owner={manifest['metadata']['name']}",
            f"--label=container={template['spec']['containers'][0]['name']}",
            f"--label=revision={digest(template)}", f"--user={USER}:{USER}", *options, image, *arguments,
        )

    def remove(self, pod, grace_s):
        """Ends a pod; its disk too, if that was asked for before."""
        self.docker("stop", f"--time={grace_s}", self.container(pod), check=False)
        self.docker("rm", "--force", self.container(pod), check=False)
        with self.objects() as objects:
            asked = objects.get("disks to delete", [])
            ending = [claim for claim in asked if claim.endswith(f"-{pod}")]
            objects["disks to delete"] = [claim for claim in asked if claim not in ending]
        for claim in ending:
            self.docker("volume", "rm", f"{self.network}-{claim}")

    # -- The controller

    def reconcile(self, ready_since):
        """One step towards what was applied. `ready_since` is kept by the caller: when each
        pod was first seen ready."""
        with self.objects() as objects:
            manifests = [each for key, each in objects.items() if key.startswith(("StatefulSet/", "Job/"))]
            terminating = set(objects.get("terminating", []))
        # Nobody else issues, so no two do at once; and the pods found so far were applied
        # after the certificates that they mount.
        self.issue()
        pods = self.pods()
        for manifest in manifests:
            if manifest["kind"] == "Job":
                name = manifest["metadata"]["name"]
                if name not in pods:
                    self.start(name, manifest)
            else:
                self.reconcile_nodes(manifest, pods, terminating, ready_since)

    def reconcile_nodes(self, manifest, pods, terminating, ready_since):
        name, spec = manifest["metadata"]["name"], manifest["spec"]
        wanted = [f"{name}-{nr}" for nr in range(spec["replicas"])]
        revision = digest(spec["template"])
        mine = {pod: each for pod, each in pods.items() if each["Config"]["Labels"]["owner"] == name}
        for pod in mine:
            if self.is_ready(mine[pod]):
                ready_since.setdefault(pod, time.monotonic())
            else:
                ready_since.pop(pod, None)
        for pod in list(ready_since):
            if pod not in mine:
                del ready_since[pod]
        for pod in wanted:
            if pod not in mine:
                self.start(pod, manifest)
        for pod in mine:
            if pod not in wanted and pod not in terminating:
                self.terminate(pod, spec)
        partition = spec["updateStrategy"].get("rollingUpdate", {}).get("partition", 0)
        for pod in reversed(wanted[partition:]):
            if pod not in mine or pod in terminating:
                return
            if mine[pod]["Config"]["Labels"]["revision"] != revision:
                self.terminate(pod, spec)
                return
            if not self.available(pod, spec, ready_since):
                return

    @staticmethod
    def available(pod, spec, ready_since):
        since = ready_since.get(pod)
        return since is not None and time.monotonic() - since >= spec.get("minReadySeconds", 0)

    def terminate(self, pod, spec, grace_s=None):
        """Begins to end a pod; a thread goes on with it."""
        if grace_s is None:
            grace_s = spec["template"]["spec"]["terminationGracePeriodSeconds"]
        with self.objects() as objects:
            objects["terminating"] = [*objects.get("terminating", []), pod]

        def end():
            self.remove(pod, grace_s)
            with self.objects() as objects:
                objects["terminating"] = [each for each in objects["terminating"] if each != pod]

        thread = threading.Thread(target=end)
        thread.start()
        return thread
