"""A stand-in for kubectl, for the stand-in of a Kubernetes in stand_in.py: understands the
commands that RUNBOOK.md uses, with the flags it uses, and refuses everything else, so that
a command that was never tried cannot look as if it had been.

What it prints says less than what kubectl prints, and nothing else.
"""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time

import yaml

from docker_host import Docker
from stand_in import Refused, StandIn, digest

POLL_S = 0.3
REAL = os.environ.get("STAND_IN_REAL_KUBECTL", "kubectl")


def seconds(text):
    """The durations that the runbook uses: 15m, 30s, 1h."""
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


def until(what, condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Refused(f"error: timed out waiting for the condition on {what}")
        time.sleep(POLL_S)


def component_of(selector):
    """The component that a selector selects; the runbook's name nothing else."""
    labels = dict(part.split("=") for part in selector.split(","))
    if not set(labels) <= {"app.kubernetes.io/name", "app.kubernetes.io/component"}:
        raise Refused(f"the stand-in selects by component only, not by {selector}")
    return labels["app.kubernetes.io/component"]


class Kubectl:
    """One command."""

    def __init__(self, stand_in):
        self.cluster = stand_in

    def nodes(self):
        return self.cluster.pods("node")

    # -- Looking

    def get(self, args):
        component = component_of(args.selector) if args.selector else None
        if args.what == "pods":
            with self.cluster.objects() as objects:
                terminating = objects.get("terminating", [])
            pods = self.cluster.pods(component)
            if not pods:
                print(f"No resources found in {self.cluster.namespace} namespace.", file=sys.stderr)
                return
            print(f"{'NAME':<16}{'READY':<8}{'STATUS':<13}RESTARTS")
            for pod, each in pods.items():
                state = each["State"]
                status = "Running" if state["Running"] else "Completed" if state["ExitCode"] == 0 else "Error"
                if pod in terminating:
                    status = "Terminating"
                ready = "1/1" if self.cluster.is_ready(each) else "0/1"
                print(f"{pod:<16}{ready:<8}{status:<13}{each['RestartCount']}")
        elif args.what == "pvc":
            print("NAME               STATUS")
            start = f"{self.cluster.network}-"
            names = self.cluster.docker("volume", "ls", "--quiet", f"--filter=name={start}data-").split()
            for name in sorted(names):
                print(f"{name[len(start):]:<19}Bound")
        else:
            raise Refused(f"the stand-in does not get {args.what}")

    def logs(self, args):
        if args.selector:
            pods = list(self.cluster.pods(component_of(args.selector)))
        else:
            kind, _, name = args.pod.rpartition("/")
            if kind not in ("", "pod", "job"):
                raise Refused(f"the stand-in has no logs of {args.pod}")
            pods = [name]
        since = [f"--since={args.since}"] if args.since else []
        for pod in pods:
            command = ["docker", "logs", *since, self.cluster.container(pod)]
            if not args.prefix:
                subprocess.run(command, stderr=subprocess.STDOUT, check=True)
                continue
            container = self.cluster.pods()[pod]["Config"]["Labels"]["container"]
            logged = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True)
            for line in logged.stdout.splitlines():
                print(f"[pod/{pod}/{container}] {line}")

    def exec(self, args):
        container = self.cluster.container(args.pod)
        interactive = ["--interactive"] if args.stdin else []
        done = subprocess.run(["docker", "exec", *interactive, container, *args.command], check=False)
        sys.exit(done.returncode)

    def port_forward(self, args):
        kind, name = args.target.split("/")
        port = int(args.port)
        if kind == "service":
            self.cluster.get("Service", name)
            ready = [each for each in self.nodes().values() if self.cluster.is_ready(each)]
            if not ready:
                raise Refused(f"error: no pod of {args.target} is ready")
            target = ready[0]
        else:
            target = self.nodes()[name]
        listener = socket.create_server(("127.0.0.1", port))
        print(f"Forwarding from 127.0.0.1:{port} -> {port}", flush=True)
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((self.cluster.address(target), port))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=forward, args=(source, sink), daemon=True).start()

    # -- Changing

    def create(self, args):
        if args.what == "namespace":
            print(f"namespace/{args.name} created")
        elif args.what == "secret":
            # Made by the real one, which needs nobody for it.
            command = [REAL, "create", "secret", args.kind, args.name, f"--from-file={args.from_file}"]
            if args.namespace:
                command.append(f"--namespace={args.namespace}")
            manifest = subprocess.run(
                [*command, "--dry-run=client", "--output=yaml"], check=True, stdout=subprocess.PIPE, text=True,
            ).stdout
            if args.dry_run:
                print(manifest)
            else:
                self.apply_all(manifest)
        elif args.filename:
            with open(args.filename, encoding="utf-8") as file:
                self.apply_all(file.read())
        else:
            raise Refused(f"the stand-in does not create {args.what}")

    def apply(self, args):
        if args.kustomize:
            command = [REAL, "kustomize", args.kustomize]
            self.apply_all(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        else:
            self.apply_all(sys.stdin.read())

    def apply_all(self, manifests):
        # What is mounted is there before those who mount it.
        order = ["ConfigMap", "Secret", "Issuer", "Certificate"]
        documents = [each for each in yaml.safe_load_all(manifests) if each]
        documents.sort(key=lambda each: order.index(each["kind"]) if each["kind"] in order else len(order))
        for each in documents:
            metadata = each["metadata"]
            if "generateName" in metadata:
                metadata["name"] = metadata["generateName"] + secrets.token_hex(3)
            print(f"{each['kind'].lower()}/{metadata['name']} {self.cluster.apply(each)}")

    def change_nodes(self, change):
        """Changes what is wanted of the StatefulSet."""
        with self.cluster.objects() as objects:
            manifest = objects["StatefulSet/perennial"]
            change(manifest)

    def scale(self, args):
        self.expect_nodes(f"{args.what}/{args.name}")

        def change(manifest):
            manifest["spec"]["replicas"] = args.replicas

        self.change_nodes(change)
        print("statefulset.apps/perennial scaled")

    def patch(self, args):
        self.expect_nodes(f"{args.what}/{args.name}")
        if args.type != "merge":
            raise Refused("the stand-in knows merge patches only")

        def change(manifest):
            merge(manifest, json.loads(args.patch))

        self.change_nodes(change)
        print("statefulset.apps/perennial patched")

    def rollout(self, args):
        self.expect_nodes(args.what)
        if args.action == "status":
            until("the rollout", self.is_rolled_out, seconds(args.timeout))
            print("statefulset rolling update complete")
            return

        def restart(manifest):
            template = manifest["spec"]["template"]
            template.setdefault("metadata", {}).setdefault("annotations", {})["restartedAt"] = str(time.time())
            manifest["revisions"].append(template)

        def undo(manifest):
            if len(manifest["revisions"]) < 2:
                raise Refused("error: no last revision to roll back to")
            manifest["revisions"].pop()
            manifest["spec"]["template"] = manifest["revisions"][-1]

        self.change_nodes({"restart": restart, "undo": undo}[args.action])
        print(f"statefulset.apps/perennial {'restarted' if args.action == 'restart' else 'rolled back'}")

    def is_rolled_out(self):
        spec = self.cluster.get("StatefulSet", "perennial")["spec"]
        with self.cluster.objects() as objects:
            terminating = objects.get("terminating", [])
        pods = self.nodes()
        partition = spec["updateStrategy"].get("rollingUpdate", {}).get("partition", 0)
        wanted = [f"perennial-{nr}" for nr in range(spec["replicas"])]
        is_new = {pod: each["Config"]["Labels"]["revision"] == digest(spec["template"]) for pod, each in pods.items()}
        return sorted(pods) == wanted and not terminating and all(
            (nr < partition or is_new[pod]) and self.cluster.is_ready(pods[pod]) for nr, pod in enumerate(wanted)
        )

    @staticmethod
    def expect_nodes(what):
        if what != "statefulset/perennial":
            raise Refused(f"the stand-in does this to statefulset/perennial only, not to {what}")

    def delete(self, args):
        if args.what == "pod":
            spec = self.cluster.get("StatefulSet", "perennial")["spec"]
            if args.name not in self.nodes():
                raise Refused(f'Error from server (NotFound): pods "{args.name}" not found')
            self.cluster.terminate(args.name, spec, args.grace_period).join()
            print(f'pod "{args.name}" deleted')
        elif args.what == "pvc":
            self.delete_disks(args)
        elif args.what == "job":
            with self.cluster.objects() as objects:
                found = objects.pop(f"Job/{args.name}", None)
            if not found and not args.ignore_not_found:
                raise Refused(f'Error from server (NotFound): jobs.batch "{args.name}" not found')
            if found:
                self.cluster.docker("rm", "--force", self.cluster.container(args.name), check=False)
                print(f'job.batch "{args.name}" deleted')
        else:
            raise Refused(f"the stand-in does not delete {args.what}")

    def delete_disks(self, args):
        """A disk in use goes with the pod that uses it."""
        start = f"{self.cluster.network}-"
        if args.name:
            claims = [args.name]
        else:
            component_of(args.selector)
            names = self.cluster.docker("volume", "ls", "--quiet", f"--filter=name={start}data-").split()
            claims = [name[len(start):] for name in names]
        pods = self.nodes()
        for claim in claims:
            print(f'persistentvolumeclaim "{claim}" deleted')
            if claim.removeprefix("data-") in pods:
                with self.cluster.objects() as objects:
                    objects["disks to delete"] = [*objects.get("disks to delete", []), claim]
            else:
                self.cluster.docker("volume", "rm", f"{start}{claim}")
        if args.wait != "false":
            until("the disks", lambda: not self.disks_left(claims), 300)

    def disks_left(self, claims):
        with self.cluster.objects() as objects:
            return set(claims) & set(objects.get("disks to delete", []))

    def wait(self, args):
        kind, _, name = args.what.partition("/")
        timeout_s = seconds(args.timeout)
        if args.condition == "delete" and kind == "pod":
            until("pods", lambda: not self.cluster.pods(component_of(args.selector)), timeout_s)
        elif args.condition == "condition=complete" and kind == "job":
            names = [name] if name else self.jobs(component_of(args.selector))
            if not names:
                raise Refused("error: no matching resources found")
            for each in names:
                until(f"job/{each}", lambda job=each: self.is_complete(job), timeout_s)
                print(f"job.batch/{each} condition met")
        else:
            raise Refused(f"the stand-in does not wait for {args.condition} of {args.what}")

    def jobs(self, component):
        with self.cluster.objects() as objects:
            found = [each for key, each in objects.items() if key.startswith("Job/")]
        labels = [(each["metadata"]["name"], each["metadata"]["labels"]) for each in found]
        return [name for name, each in labels if each["app.kubernetes.io/component"] == component]

    def is_complete(self, job):
        found = self.cluster.pods().get(job)
        if not found or found["State"]["Running"]:
            return False
        if found["State"]["ExitCode"] != 0 and found["State"]["Status"] == "exited":
            policy = found["HostConfig"]["RestartPolicy"]
            if found["RestartCount"] >= policy["MaximumRetryCount"]:
                raise Refused(f"job/{job} failed with {found['State']['ExitCode']}")
        return found["State"]["ExitCode"] == 0 and found["State"]["Status"] == "exited"


def forward(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for each in (source, sink):
            each.close()


def merge(target, patch):
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def parser():
    """What is understood; argparse refuses the rest."""
    top = argparse.ArgumentParser(prog="kubectl", allow_abbrev=False)
    top.add_argument("--namespace")
    commands = top.add_subparsers(dest="command_name", required=True)

    def command(name, *arguments, **flags):
        added = commands.add_parser(name, allow_abbrev=False)
        for argument in arguments:
            optional = argument.endswith("?")
            added.add_argument(argument.rstrip("?"), nargs="?" if optional else None)
        for flag, options in flags.items():
            added.add_argument("--" + flag.replace("_", "-"), dest=flag, **options)
        return added

    text = {"default": None}
    command("get", "what", selector=text, output={"choices": ["wide"]})
    command("logs", "pod?", selector=text, since=text, tail={"choices": ["-1"]},
            prefix={"action": "store_true"})
    command("port-forward", "target", "port")
    command("exec", "pod", container=text, stdin={"action": "store_true"})
    create = command("create", "what?", "kind?", "name?", filename=text, from_file=text, output={"choices": ["yaml"]})
    create.add_argument("--dry-run", choices=["client"])
    command("apply", kustomize=text, filename={"choices": ["-"]})
    command("scale", "what", "name", replicas={"type": int, "required": True})
    command("patch", "what", "name", type=text, patch=text)
    command("rollout", "action", "what", timeout={"default": "10m"})
    command("delete", "what", "name?", selector=text, wait={"choices": ["false"]}, grace_period={"type": int},
            ignore_not_found={"action": "store_true"})
    wait = command("wait", "what", selector=text, timeout={"required": True})
    wait.add_argument("--for", dest="condition", required=True)
    return top


def main():
    # Behind it is what `exec` runs.
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser().parse_args(sys.argv[1:end])
    args.command = sys.argv[end + 1:]
    if args.command_name == "create" and args.what == "namespace":
        args.name = args.kind
    environment = {name: os.environ[f"STAND_IN_{name}"] for name in ("FOLDER", "NETWORK", "NAMESPACE", "IMAGES")}
    cluster = StandIn(
        Docker(), environment["FOLDER"], environment["NETWORK"], environment["NAMESPACE"],
        json.loads(environment["IMAGES"]),
    )
    action = getattr(Kubectl(cluster), args.command_name.replace("-", "_"))
    try:
        action(args)
    except Refused as refused:
        sys.exit(str(refused))
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)


main()
